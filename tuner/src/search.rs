//! Which configuration to run next: screening on a part of the trace, racing on more of it, proof on all of it.
//!
//! Capacity costs some ten runs of the trace; a discard costs one run of a part of it. So: *successive halving* over
//! the head of the trace, and on each head a *race*: a candidate is first tried at the rate that the best of its
//! group holds, less a margin that shrinks as heads grow. Failing there ends it. What survives is measured on the
//! next head; on the whole trace the margin is zero and only what beats the best by a grid step is measured fully.
//! A group (policy on a device) races against itself only, so that each policy is known at its best.
//!
//! Work proceeds in waves whose members depend on earlier results only, never on timing, so that every number of
//! threads makes the same runs. [`exhaustive`] measures everything (the oracle for regret), [`random`] what fits in
//! a given amount of work.

use crate::capacity::{Effort, FLOOR, Knee, Probe};
use crate::evaluate::{Evaluate, Refused};
use crate::progress::Watch;
use crate::verdict;
use engine::Config;
use race::{Race, Task, WAVE};

mod race;

/// A configuration on a device, and what a request/s of it is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Index into [`Contest::devices`].
    pub device: usize,
    /// The configuration, canonical.
    pub config: Config,
    /// Objective per request/s: score = rate x weight. Positive.
    pub weight: f64,
    /// Candidates race within their group.
    pub group: usize,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Not reached (interrupted, or the work allowed was spent).
    Untried,
    /// Cannot run.
    Refused(Refused),
    /// Its roofline bound is below what the group's best holds: never run.
    OutOfReach,
    /// Misses the SLO on an empty machine.
    Infeasible,
    /// Missed the SLO at a rate where the best of its group, less the margin, holds it.
    Beaten,
    /// Behaved to the nanosecond as that entry did, at a rate that holds and one that fails: the other one went on.
    Twin(usize),
    /// Went on to the end, or was measured as far as the search came.
    Measured,
}

/// A candidate and everything known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The candidate.
    pub candidate: Candidate,
    /// What became of it.
    pub standing: Standing,
    /// Everything tried, over all heads.
    pub probes: Vec<Probe>,
    /// Its knee on the largest head where it was bracketed, and that head.
    pub knee: Option<(usize, Knee)>,
}

impl Entry {
    /// The highest passing rate of the whole of `head`, if bracketed there.
    #[must_use]
    pub fn good(&self, head: usize) -> Option<i32> {
        match self.knee {
            Some((h, Knee::Between { lo, .. })) if h == head => Some(lo),
            _ => None,
        }
    }

    /// Requests that it can never serve, of the most it was offered.
    #[must_use]
    pub fn unfit(&self) -> u64 {
        let longest = self.probes.iter().max_by_key(|p| p.head);
        longest.map_or(0, |p| p.observation.unfit.requests)
    }

    /// The probe of `head` at `k`.
    #[must_use]
    pub fn probe(&self, head: usize, k: i32) -> Option<&Probe> {
        self.probes.iter().find(|p| p.head == head && p.k == k)
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Every candidate, in the order given.
    pub entries: Vec<Entry>,
    /// The head on which winners are known: the whole trace unless interrupted.
    pub head: usize,
    /// Best of each group, by group; `None` where nothing holds the SLO.
    pub group_best: Vec<Option<usize>>,
    /// Best of all.
    pub best: Option<usize>,
    /// Whether it was told to end before its time.
    pub interrupted: bool,
}

impl Found {
    /// Of everything that missed the SLO on an empty machine, the run that came closest: its candidate, and the run.
    #[must_use]
    pub fn nearest_miss(&self) -> Option<(usize, &Probe)> {
        let floors = self.entries.iter().enumerate().filter_map(|(i, e)| {
            let floor = e.probes.iter().filter(|p| p.k == FLOOR && !p.passes());
            Some((i, floor.max_by_key(|p| p.head)?))
        });
        // Only runs of the same head compare.
        floors.min_by(|a, b| {
            let worst = |p: &Probe| verdict::worst(&p.observation);
            b.1.head.cmp(&a.1.head).then(worst(a.1).total_cmp(&worst(b.1)))
        })
    }

    /// Runs made.
    #[must_use]
    pub fn trials(&self) -> u64 {
        self.entries.iter().map(|e| e.probes.len() as u64).sum()
    }

    /// Requests simulated.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.entries.iter().flat_map(|e| &e.probes).map(|p| p.observation.summary.requests).sum()
    }
}

/// Who takes part, and where.
pub struct Contest<'a> {
    /// One evaluation per device; all replay the same trace.
    pub devices: &'a [&'a dyn Evaluate],
    /// Who takes part.
    pub candidates: Vec<Candidate>,
    /// Whom to tell, and when to end.
    pub watch: Watch<'a>,
}

/// One head of the halving.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    /// Share of the trace.
    pub share: f64,
    /// How far below the group's best a survivor may be, grid steps.
    pub margin: i32,
    /// Most survivors per group.
    pub keep: usize,
}

/// The default schedule. Short heads flatter what fills up slowly (seats, KV), hence wide margins at first.
pub const RUNGS: &[Rung] = &[
    Rung { share: 0.125, margin: 36, keep: 48 },
    Rung { share: 0.25, margin: 22, keep: 24 },
    Rung { share: 0.5, margin: 10, keep: 12 },
    Rung { share: 1.0, margin: 0, keep: usize::MAX },
];

/// Successive halving over `rungs` with a race on each.
#[must_use]
pub fn halving(contest: &Contest<'_>, rungs: &[Rung]) -> Found {
    Race::new(contest).halve(rungs)
}

/// As [`halving`], where the first candidate is `known` from an earlier search on the same trace.
#[must_use]
pub(crate) fn halving_from(contest: &Contest<'_>, rungs: &[Rung], known: &Entry) -> Found {
    let mut race = Race::new(contest);
    if let Some(first) = race.entries.first_mut() {
        (first.probes, first.knee, first.standing) =
            (known.probes.clone(), known.knee, known.standing.clone());
    }
    race.halve(rungs)
}

/// Measures every candidate on the whole trace.
#[must_use]
pub fn exhaustive(contest: &Contest<'_>) -> Found {
    let order: Vec<usize> = (0..contest.candidates.len()).collect();
    measure_all(contest, &order, u64::MAX)
}

/// Measures candidates drawn uniformly without replacement until `work` requests were simulated.
#[must_use]
pub fn random(contest: &Contest<'_>, seed: u64, work: u64) -> Found {
    let mut order: Vec<usize> = (0..contest.candidates.len()).collect();
    // A hash per candidate is a uniform permutation that needs no state.
    order.sort_by_key(|i| splitmix(seed ^ splitmix(*i as u64)));
    measure_all(contest, &order, work)
}

fn splitmix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn measure_all(contest: &Contest<'_>, order: &[usize], work: u64) -> Found {
    let head = contest.devices.first().map_or(0, |d| d.requests());
    let mut race = Race::new(contest);
    let (mut spent, mut done) = (0, 0);
    for wave in order.chunks(WAVE.0) {
        if spent >= work || contest.watch.cancelled() {
            break;
        }
        let tasks: Vec<Task> = wave.iter().map(|i| race.measure(*i, head, Effort::FINAL)).collect();
        spent += race.run(&tasks);
        done += wave.len();
        race.tell("measuring every configuration", head, done, order.len());
    }
    race.finish(head)
}

#[cfg(test)]
mod tests;
