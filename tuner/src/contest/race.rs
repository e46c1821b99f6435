//! A contest under way, whatever the rule by which contenders meet: the contenders and how each stands, what was seen of
//! them, who leads, at which pace the machine goes, and until when runs may begin.
//!
//! A rule says who is asked next, at which rates and how hard ([`Task`]). It asks them each by itself
//! ([`Race::apart`]), or all in the same minutes ([`Race::together`]).

use std::time::Instant;

use rayon::prelude::*;

use super::entry::Entry;
use super::progress::Watch;
use crate::knee::pace::Paces;
use crate::knee::{Effort, Knee, Probe, Prober, rate_at};
use crate::result::{Failure, Standing};
use crate::subject::{Length, Relax, Stop, Subject, Trial};

/// A contest under way.
pub(super) struct Race<'a> {
    /// One per device.
    subjects: &'a [&'a dyn Subject],
    /// Whom to tell, and when to end.
    pub(super) watch: Watch<'a>,
    /// Until when runs may begin.
    pub(super) until: Option<Instant>,
    /// The contenders.
    pub(super) entries: Vec<Entry>,
    /// Requests of the trace that they are tried on.
    pub(super) head: usize,
    /// The leader on that head, and the highest place that it holds.
    pub(super) best: Option<(usize, i32)>,
    /// Those of the machine, where runs are measured: then one task at a time.
    pub(super) paces: Paces,
}

/// The task that one contender is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub(super) entry: usize,
    /// The place to begin at without a rival.
    pub(super) start: i32,
    /// The place that must be passed to stay, and the one that beats the best.
    pub(super) rivals: Option<(i32, i32)>,
    pub(super) effort: Effort,
}

/// The course of a task.
pub(super) struct Report {
    /// The knee, if it was bracketed, or what broke the search off.
    pub(super) knee: Result<Option<Knee>, Stop>,
    /// The highest place that it is known to hold, also where the search was broken off.
    pub(super) holds: Option<i32>,
    /// Requests offered for it.
    pub(super) work: u64,
}

/// The findings of a task, before they are noted.
struct Found {
    standing: Standing,
    knee: Result<Option<Knee>, Stop>,
    /// The highest place that holds, the machine's paces, and all that was tried on this head; none where nothing was.
    seen: Option<(Option<i32>, Paces, Vec<Probe>)>,
}

impl<'a> Race<'a> {
    /// A contest of `entries` on the whole trace, of which nothing is known.
    pub(super) fn new(
        subjects: &'a [&'a dyn Subject],
        entries: Vec<Entry>,
        watch: Watch<'a>,
    ) -> Self {
        let first = entries.first().map_or(0, |e| e.candidate.device);
        let head = subjects.get(first).map_or(0, |subject| subject.requests());
        let (until, best, paces) = (None, None, Paces::default());
        Self { subjects, watch, until, entries, head, best, paces }
    }

    /// The subject that `entry` is asked of.
    pub(super) fn subject(&self, entry: usize) -> &'a dyn Subject {
        self.subjects[self.entries[entry].candidate.device]
    }

    /// True where no further run may begin.
    fn is_over(&self) -> bool {
        self.watch.cancelled() || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// The leader, as progress tells it.
    pub(super) fn leader(&self) -> Option<(f64, String)> {
        self.best.map(|(i, k)| (rate_at(k), self.entries[i].label()))
    }

    /// `entry` leads, if it holds more than whatever led.
    pub(super) fn lead(&mut self, entry: usize) {
        if let Some(k) = self.entries[entry].good(self.head)
            && self.best.is_none_or(|(_, at)| k > at)
        {
            self.best = Some((entry, k));
        }
    }

    /// Asks each by itself, side by side, and notes what was found in the order of `tasks`.
    pub(super) fn apart(&mut self, tasks: &[Task]) -> Vec<Report> {
        let shared = &*self;
        let found: Vec<Found> = match tasks {
            // A real engine is asked from this thread.
            [only] => vec![shared.search(only)],
            _ => tasks.par_iter().with_max_len(1).map(|task| shared.search(task)).collect(),
        };
        tasks.iter().zip(found).map(|(task, found)| self.note(task.entry, found)).collect()
    }

    /// Searches one contender from what is known of it.
    fn search(&self, task: &Task) -> Found {
        let entry = &self.entries[task.entry];
        let (course, seen) = match self.prober(task.entry) {
            Err(stop) => (Err(stop), None),
            Ok(prober) => {
                let mut prober = prober.knowing(&entry.probes);
                let course = attempt(&mut prober, task);
                let (holds, paces) = (prober.highest_good(), prober.paces().clone());
                (course, Some((holds, paces, prober.into_probes())))
            }
        };
        let (standing, knee) = match course {
            Ok((standing, knee)) => (standing, Ok(knee)),
            Err(stop) => (after(&stop, &entry.standing), Err(stop)),
        };
        Found { standing, knee, seen }
    }

    /// The highest place whose rate `entry` completes per second when everything is offered at once: one run more.
    pub(super) fn most(&self, entry: usize) -> Result<i32, Stop> {
        self.prober(entry)?.most()
    }

    /// Asks `entry` on this head, of which nothing is known.
    fn prober(&self, entry: usize) -> Result<Prober<'_>, Stop> {
        let config = &self.entries[entry].candidate.config;
        let (subject, cancel) = (self.subject(entry), self.watch.cancel);
        let prober = Prober::new(subject, config, Relax::Nothing, self.head, cancel)?;
        let prober = prober.on_machine(self.paces.clone());
        Ok(match self.until {
            Some(until) => prober.until(until),
            None => prober,
        })
    }

    fn note(&mut self, i: usize, found: Found) -> Report {
        let (head, entry) = (self.head, &mut self.entries[i]);
        entry.standing = found.standing;
        let (mut holds, mut work) = (None, 0);
        if let Some((good, paces, probes)) = found.seen {
            let here = |p: &&Probe| p.head == head;
            let requests = |p: &Probe| p.observation.summary.requests;
            let known = entry.probes.iter().filter(here).filter(|p| p.whole);
            let before: u64 = known.map(requests).sum();
            work = probes.iter().map(requests).sum::<u64>() - before;
            entry.probes.retain(|p| p.head != head);
            entry.probes.extend(probes);
            (holds, self.paces) = (good, paces);
        }
        if let Ok(Some(knee)) = found.knee {
            entry.knee = Some((head, knee));
        }
        self.lead(i);
        Report { knee: found.knee, holds, work }
    }

    /// Asks each of `who` once at `k`, in the same minutes. Returns those that hold, and true if the machine was slower
    /// than usual.
    pub(super) fn together(&mut self, who: &[usize], k: i32) -> Result<(Vec<usize>, bool), Stop> {
        if self.is_over() {
            return Err(Stop::Cancelled);
        }
        let Some(subject) = who.first().map(|i| self.subject(*i)) else {
            return Ok((Vec::new(), false));
        };
        let head = self.head;
        let scale = rate_at(k) / subject.natural_rate(head);
        let trial = |i: &usize| {
            let config = &self.entries[*i].candidate.config;
            let (relax, length) = (Relax::Nothing, Length::Requests(head));
            Trial { config, relax, length, scale, verdict_only: false }
        };
        let trials: Vec<Trial<'_>> = who.iter().map(trial).collect();
        let seen = subject.run_together(&trials)?;
        seen.iter().for_each(|observation| self.paces.note(observation.pace()));
        let slow = seen.iter().any(|observation| self.paces.is_slow(observation.pace()));
        let mut holders = Vec::new();
        for (&i, observation) in who.iter().zip(seen) {
            let probe = Probe { k, head, whole: true, observation };
            if probe.passes() {
                holders.push(i);
            }
            self.entries[i].probes.push(probe);
        }
        Ok((holders, slow))
    }
}

/// The standing after `stop` of what stood `before`.
fn after(stop: &Stop, before: &Standing) -> Standing {
    match stop {
        Stop::Refused(refused) => Standing::Failed(Failure::of(refused.reason.clone())),
        Stop::Cancelled | Stop::Gone(_) => before.clone(),
    }
}

/// Races or measures.
fn attempt(prober: &mut Prober<'_>, task: &Task) -> Result<(Standing, Option<Knee>), Stop> {
    if let Some((stay, beat)) = task.rivals {
        if prober.ceiling() < stay {
            let why = "by its roofline it carries less than the best of its kind holds";
            return Ok((Standing::Untried(Some(why.to_owned())), None));
        }
        if !prober.is_up_to(stay)? {
            return Ok((Standing::Beaten(rate_at(stay)), None));
        }
        if stay < beat && !prober.passes(beat)? {
            // Good enough to stay; just where its knee is does not matter yet.
            let effort = Effort { resolution: i32::MAX, ..task.effort };
            let knee = prober.knee(stay, effort)?;
            return Ok((fate(&knee), Some(knee)));
        }
    }
    let knee = prober.knee(task.start, task.effort)?;
    Ok((fate(&knee), Some(knee)))
}

/// The standing of what was measured as far as `knee` says.
fn fate(knee: &Knee) -> Standing {
    match knee {
        Knee::Nowhere => Standing::Nothing,
        Knee::Between { lo, .. } => Standing::Carries(rate_at(*lo)),
    }
}
