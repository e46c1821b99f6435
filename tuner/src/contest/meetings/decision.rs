//! The rule of a decision: the leader's knee, then a meeting of all at the rate where it fails, and so on; and the answer.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::finalists::{SLACK, finalists};
use crate::contest::entry::{Candidate, Entry, expected_too_little};
use crate::contest::progress::{Status, Watch};
use crate::contest::race::{Race, Task};
use crate::knee::pace::Paces;
use crate::knee::{Effort, FLOOR, Knee, Probe, place_of, rate_at};
use crate::result::{Answer, Contender, Source, Standing, Tried, TuneResult};
use crate::subject::{Stop, Subject};

/// The most meetings at one rate, while no finalist holds and the machine is slower than usual.
const MEETINGS: usize = 5;

/// The finalists that may still win, on one machine.
pub(super) struct Decision<'a> {
    race: Race<'a>,
    /// For runs.
    budget: Duration,
    /// The part of it that is spent.
    took: Duration,
    out_of_time: bool,
    /// The finalists that no other has beaten, most promising first.
    left: Vec<usize>,
    /// The last leader, and the place where it failed.
    led: Option<(usize, i32)>,
    /// True once the winner was run with everything offered at once.
    saturated: bool,
    /// True where that run, not the targets, bounds the winner.
    bounded: bool,
    /// Of the simulation, where it is not the profile's.
    pace: Option<f64>,
}

impl<'a> Decision<'a> {
    pub(super) fn new(real: &'a [&'a dyn Subject; 1], budget: Duration, watch: Watch<'a>) -> Self {
        Self {
            race: Race::new(real, Vec::new(), watch),
            budget,
            took: Duration::ZERO,
            out_of_time: false,
            left: Vec::new(),
            led: None,
            saturated: false,
            bounded: false,
            pace: None,
        }
    }

    /// Continues with the recommendations of `screened`, simulated at `pace`. Runs to the end, or
    /// until the machine turns out to have another pace than its profile; that pace is returned.
    /// Results so far are kept when the time is up or the user stops the search.
    pub(super) fn run(
        &mut self,
        screened: &TuneResult,
        pace: Option<f64>,
    ) -> Result<Option<f64>, Stop> {
        self.pace = pace;
        self.enter(screened);
        let began = Instant::now();
        self.race.until = Some(began + self.budget.saturating_sub(self.took));
        let ended = self.contest().and_then(|pace| match pace {
            Some(pace) => Ok(Some(pace)),
            None => self.saturate().map(|()| None),
        });
        self.took += began.elapsed();
        self.out_of_time = ended == Err(Stop::Cancelled) && !self.race.watch.cancelled();
        match ended {
            Err(Stop::Cancelled) if self.out_of_time || self.race.best.is_some() => Ok(None),
            ended => ended,
        }
    }

    /// The finalists of `screened` stand, and the leader, if it holds anything.
    fn enter(&mut self, screened: &TuneResult) {
        self.led = self.led.filter(|_| self.race.best.is_some());
        self.race.entries.iter_mut().for_each(|e| e.predicted_rps = None);
        for (config, predicted) in finalists(screened) {
            let known = self.race.entries.iter().position(|e| e.candidate.config == config);
            let at = known.unwrap_or_else(|| {
                let candidate = Candidate { device: 0, config, group: 0 };
                self.race.entries.push(Entry::new(candidate));
                self.race.entries.len() - 1
            });
            self.race.entries[at].predicted_rps = Some(predicted);
        }
        let predicted = |i: usize| self.race.entries[i].predicted_rps;
        let all = 0..self.race.entries.len();
        let first = all.clone().filter_map(predicted).fold(0.0, f64::max);
        let promising = |i: &usize| predicted(*i).is_some_and(|rps| rps * SLACK >= first);
        let leads = |i: &usize| self.led.is_some_and(|(leader, _)| leader == *i);
        self.left = all.filter(|i| promising(i) || leads(i)).collect();
        self.left.sort_by(|a, b| more_promising(&self.race.entries[*a], &self.race.entries[*b]));
    }

    /// Leads and meetings in turn, until no finalist is left to meet.
    fn contest(&mut self) -> Result<Option<f64>, Stop> {
        while let Some(&first) = self.left.first()
            && self.led.is_none_or(|(leader, _)| self.left != [leader])
        {
            let (leader, start) = match self.led {
                None => {
                    let predicted = self.race.entries[first].predicted_rps;
                    let start = predicted.map_or(FLOOR, place_of);
                    if self.pace.is_none() {
                        // It is the first run of the search, too.
                        let (holds, _) = self.ask(&[first], start)?;
                        self.race.best = holds.first().map(|i| (*i, start));
                        if let Some(pace) = self.misjudged() {
                            return Ok(Some(pace));
                        }
                    }
                    (first, start)
                }
                Some((_, bound)) => {
                    self.left = self.meet(bound)?;
                    let Some(&first) = self.left.first() else { break };
                    self.race.best = Some((first, bound));
                    (first, bound)
                }
            };
            let bound = match self.lead(leader, start)? {
                Knee::Between { hi: None, .. } => break,
                Knee::Between { hi: Some(hi), .. } => hi,
                Knee::Nowhere => FLOOR,
            };
            let first = self.led.replace((leader, bound)).is_none();
            if let Some(pace) = self.misjudged().filter(|_| first) {
                return Ok(Some(pace));
            }
        }
        Ok(None)
    }

    /// The pace of the machine, where it is not what was simulated.
    fn misjudged(&self) -> Option<f64> {
        let usual = self.race.paces.usual();
        (self.pace.is_none() && !(1.0 / SLACK..=SLACK).contains(&usual)).then_some(usual)
    }

    /// Searches the knee of `leader` from `start`.
    fn lead(&mut self, leader: usize, start: i32) -> Result<Knee, Stop> {
        self.tell();
        let task = Task { entry: leader, start, rivals: None, effort: Effort::REAL };
        let best = self.race.best;
        let Some(report) = self.race.apart(&[task]).pop() else { return Ok(Knee::Nowhere) };
        // A rate that held counts even where the search was broken off.
        let holds = report.holds.map(|k| (leader, k));
        self.race.best = holds.filter(|(_, k)| best.is_none_or(|(_, best)| *k >= best)).or(best);
        report.knee.map(|knee| knee.unwrap_or(Knee::Nowhere))
    }

    /// Holds the winner to what it completes per second with everything offered at once: one run more.
    fn saturate(&mut self) -> Result<(), Stop> {
        let Some((winner, k)) = self.race.best else { return Ok(()) };
        let most = self.race.most(winner)?;
        (self.saturated, self.bounded) = (true, most < k);
        self.race.best = Some((winner, k.min(most)));
        Ok(())
    }

    /// Tries all that are left at `k` in the same minutes. Returns those that hold.
    fn meet(&mut self, k: i32) -> Result<Vec<usize>, Stop> {
        let left = self.left.clone();
        for _ in 0..MEETINGS {
            let (holders, slow) = self.ask(&left, k)?;
            if !holders.is_empty() || !slow {
                return Ok(holders);
            }
        }
        Ok(Vec::new())
    }

    /// Runs each of `who` once at `k`. Returns those that hold, and true if the machine was slower
    /// than usual.
    fn ask(&mut self, who: &[usize], k: i32) -> Result<(Vec<usize>, bool), Stop> {
        self.tell();
        self.race.together(who, k)
    }

    fn tell(&self) {
        let best = self.race.leader();
        let total = self.race.entries.len();
        let phase = "deciding on this machine".to_owned();
        let done = total - self.left.len();
        self.race.watch.progress.update(&Status { phase, done, total, best });
    }

    pub(super) fn answer(self, on: String) -> Answer {
        let cancelled = self.race.watch.cancelled();
        let Self { race: Race { mut entries, best, paces, .. }, left, .. } = self;
        for (i, entry) in entries.iter_mut().enumerate() {
            entry.standing = match entry.predicted_rps {
                Some(predicted) if entry.probes.is_empty() => {
                    Standing::Untried(Some(if left.contains(&i) {
                        "the search ended before its turn".to_owned()
                    } else {
                        expected_too_little(predicted)
                    }))
                }
                _ => standing(i, &entry.probes, best),
            };
        }
        // Of what only the first simulation recommended, none but its leader was tried.
        let known = |e: &Entry| e.predicted_rps.is_some() || !e.probes.is_empty();
        let mut order: Vec<usize> = (0..entries.len()).filter(|i| known(&entries[*i])).collect();
        order.sort_by(|a, b| more_promising(&entries[*a], &entries[*b]));
        let tell = |probe: &Probe| tried(probe, &paces);
        let mut contenders: Vec<Contender> =
            order.iter().map(|i| entries[*i].contender(tell)).collect();
        let winner = best.and_then(|(winner, _)| order.iter().position(|i| *i == winner));
        if let (Some(at), Some((winner, k))) = (winner, best) {
            // A failure of the winner below a rate that it held was due to a slow machine.
            let led = self.led.filter(|(leader, bound)| *leader == winner && *bound > k);
            contenders[at].fails_at_rps = led.map(|(_, bound)| rate_at(bound));
        }
        let residual = |(i, k): (usize, i32)| Some(rate_at(k) / entries[i].predicted_rps?);
        let answer = Answer::new(Source { simulated: false, on }, contenders, winner);
        Answer {
            residual: best.and_then(residual),
            bounded: self.bounded,
            runs: answer.runs + u64::from(self.saturated),
            load_s: self.took.as_secs_f64(),
            out_of_time: self.out_of_time,
            interrupted: cancelled,
            pace: self.pace,
            ..answer
        }
    }
}

/// The order of predictions, best first; what is recommended no more comes last.
fn more_promising(one: &Entry, other: &Entry) -> Ordering {
    let predicted = |e: &Entry| e.predicted_rps.unwrap_or(0.0);
    predicted(other).total_cmp(&predicted(one))
}

/// The fate of finalist `i`, whose runs were `probes`: of several at one rate the last counts, and what failed below a
/// rate that held met a slow machine.
fn standing(i: usize, probes: &[Probe], best: Option<(usize, i32)>) -> Standing {
    let mut probes: Vec<&Probe> = probes.iter().collect();
    probes.sort_by_key(|probe| probe.k);
    let places = probes.chunk_by(|a, b| a.k == b.k).filter_map(|tries| tries.last());
    let above = places.rev().take_while(|probe| !probe.passes()).last();
    match (best, probes.last()) {
        (_, None) => Standing::Untried(None),
        (None, _) => Standing::Nothing,
        (Some((winner, k)), _) if winner == i => Standing::Carries(rate_at(k)),
        (_, Some(last)) => above
            .map_or_else(|| Standing::Carries(last.rate()), |probe| Standing::Beaten(probe.rate())),
    }
}

/// `probe` as an answer tells it.
fn tried(probe: &Probe, paces: &Paces) -> Tried {
    let slow_machine = paces.is_slow(probe.observation.pace());
    Tried { slow_machine, ..Tried::of(probe.rate(), &probe.observation) }
}
