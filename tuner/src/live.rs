//! The highest rate at which a real server holds its targets, found with as little load as possible.
//!
//! A second of a real server is a second, so a rate is given up as soon as it cannot hold any more: when more
//! requests have missed their targets than the whole run may. Rates double until one fails; what a server finishes
//! per second while it is overloaded is an estimate of where it stops keeping up, and the next rate tried is just
//! below, then just above it; bisection does the rest. A failing rate costs a glimpse, a passing one the whole of a
//! probe, because a rate that overloads a server by a share e is late by e times the time it has lasted: only a
//! probe that lasts slack / e tells. One whose requests outlast it tells nothing at all: the server has not yet got
//! what it would be given for ever.

mod idle;
mod memory;
mod range;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use memory::{LiveStudy, Measured, Memory, Offered, Ready};
pub use range::{Aim, Held, Range, Searched, lengthened};

/// How far from an estimate the rates beside it are tried.
const BESIDE: f64 = 0.01;
/// How far from an estimate a bound may be for the other to be looked for right beside it.
const NEAR: f64 = 0.05;

/// How a search is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// The answer and the lowest rate that failed differ by this share at most.
    pub precision: f64,
    /// How long a rate must hold.
    pub probe: Duration,
    /// Seconds of load after which the search ends with what it has.
    pub budget: Duration,
}

impl Default for Effort {
    fn default() -> Self {
        Self { precision: 0.02, probe: Duration::from_secs(8), budget: Duration::from_secs(600) }
    }
}

impl Effort {
    /// How long a rate is looked at that is most likely far from the answer.
    #[must_use]
    pub fn glimpse(self) -> Duration {
        self.probe.mul_f64(0.4)
    }
}

/// What keeps a rate from holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Requests take longer than the targets allow.
    Latency,
    /// Work is left over: it could not go on for ever.
    Throughput,
    /// The server refuses requests (429, 503, resets): those that it takes may be as quick as ever.
    Admission,
    /// Requests fail in other ways.
    Failures,
    /// What was measured does not tell.
    Unknown,
}

impl Limit {
    /// The same in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
            Self::Admission => "admission, not latency: the server refuses requests",
            Self::Failures => "failures, not latency",
            Self::Unknown => "not known",
        }
    }
}

/// One rate tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shot {
    /// Requests (or sessions) per second offered.
    pub rate_rps: f64,
    /// Whether the targets held and the load could have gone on.
    pub passed: bool,
    /// How long it was offered, s.
    pub offered_s: f64,
    /// Whether that was long enough beside its requests for its holding to say that it would hold for ever; or as long as
    /// any rate is offered.
    pub steady: bool,
    /// How long it took until the last answer, s; with shorter probes that it held before this one.
    pub seconds: f64,
    /// Requests per second that the server finished, by its tokens, in the second half.
    pub finished_rps: Option<f64>,
    /// What it failed by.
    pub why: String,
    /// The same as a kind; none of a rate that held.
    #[serde(default)]
    pub limit: Option<Limit>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The highest rate that held with none below it failing, under steady load if any did; none where even the lowest
    /// failed.
    pub capacity_rps: Option<f64>,
    /// The lowest rate that failed, at its last try; none where the search ended before one did.
    pub fails_at_rps: Option<f64>,
    /// Every rate, in the order tried.
    pub shots: Vec<Shot>,
    /// Seconds of load.
    pub load_s: f64,
    /// Why the search ended before it was done, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Searches from `start` requests/s; `shoot` offers a rate for so long. The failure that bounds the answer is tried twice.
///
/// # Errors
/// Whatever `shoot` fails with.
pub fn seek<E>(
    start: f64,
    effort: Effort,
    shoot: impl FnMut(f64, Duration) -> Result<Shot, E>,
) -> Result<Found, E> {
    go_on(Found::of(Vec::new()), start, effort, shoot)
}

/// Goes on with a search from what it `found` so far, next at `start` requests/s.
///
/// # Errors
/// Whatever `shoot` fails with.
pub fn go_on<E>(
    mut found: Found,
    start: f64,
    effort: Effort,
    mut shoot: impl FnMut(f64, Duration) -> Result<Shot, E>,
) -> Result<Found, E> {
    let mut next = start;
    let long = effort.probe.as_secs_f64() * 0.99;
    // Rates that were offered for a whole probe, or for as long as they can be.
    let whole = found.shots.iter().filter(|s| s.offered_s >= long);
    let mut probed: Vec<f64> = whole.map(|s| s.rate_rps).collect();
    while found.load_s < effort.budget.as_secs_f64() {
        let doubling = found.fails_at_rps.is_none();
        // While doubling, a rate need not be shown to hold for ever: the first to fail says where to look.
        let time = if doubling { effort.glimpse() } else { effort.probe };
        let shot = shoot(next, time)?;
        probed.extend((!doubling || shot.offered_s >= long).then_some(next));
        found.load_s += shot.seconds;
        found.shots.push(shot);
        found.take_stock();
        let Some(rate) = found.next(start, effort, &probed) else { break };
        next = rate;
    }
    Ok(found)
}

/// Searches beyond a rate to `beat`, next at `start` requests/s, if that holds. What else a machine does may break a
/// target once; a rate that fails twice is too much.
///
/// # Errors
/// Whatever `shoot` fails with.
pub fn overtake<E>(
    beat: f64,
    start: f64,
    effort: Effort,
    mut shoot: impl FnMut(f64, Duration) -> Result<Shot, E>,
) -> Result<Found, E> {
    let mut shots = vec![shoot(beat, effort.probe)?];
    if !shots[0].passed && shots[0].seconds < effort.budget.as_secs_f64() {
        shots.push(shoot(beat, effort.probe)?);
    }
    let found = Found::of(shots);
    if found.capacity_rps.is_some() { go_on(found, start, effort, shoot) } else { Ok(found) }
}

impl Found {
    /// What a search that was broken off had found.
    #[must_use]
    pub fn of(shots: Vec<Shot>) -> Self {
        let load_s = shots.iter().map(|s| s.seconds).sum();
        let mut found = Self { capacity_rps: None, fails_at_rps: None, shots, load_s, note: None };
        found.take_stock();
        found
    }

    /// The last try of the lowest rate that failed.
    #[must_use]
    pub fn first_to_fail(&self) -> Option<&Shot> {
        let rate = self.fails_at_rps?;
        self.shots.iter().rev().find(|s| !s.passed && s.rate_rps == rate)
    }

    /// Draws the bounds from all shots.
    fn take_stock(&mut self) {
        let failures = self.latest().filter(|s| !s.passed).map(|s| s.rate_rps);
        self.fails_at_rps = failures.min_by(f64::total_cmp);
        self.capacity_rps = self.highest(|s| s.steady).or_else(|| self.highest(|_| true));
    }

    /// Of several tries at a rate, the last.
    fn latest(&self) -> impl Iterator<Item = &Shot> {
        let again = |(i, s): (usize, &Shot)| {
            self.shots[i + 1..].iter().any(|later| later.rate_rps == s.rate_rps)
        };
        self.shots.iter().enumerate().filter(move |shot| !again(*shot)).map(|(_, s)| s)
    }

    /// The highest rate that held as `how` asks, with none below it failing.
    fn highest(&self, how: impl Fn(&Shot) -> bool) -> Option<f64> {
        let below = |r: f64| self.fails_at_rps.is_none_or(|f| r < f);
        let passes = self.latest().filter(|s| s.passed && how(s) && below(s.rate_rps));
        passes.map(|s| s.rate_rps).max_by(f64::total_cmp)
    }

    /// The rate to try next; none when it is known well enough. `probed` are the rates that were offered for long enough.
    fn next(&self, start: f64, effort: Effort, probed: &[f64]) -> Option<f64> {
        let (last, precision) = (self.shots.last()?, effort.precision);
        let Some(hi) = self.fails_at_rps else {
            // A glimpse that tells nothing costs more than one that fails: fewer of them.
            return Some(if last.steady { 2.0 } else { 4.0 } * last.rate_rps);
        };
        let Some(lo) = self.highest(|s| s.steady) else {
            let guess = last.finished_rps.map_or(hi / 2.0, |f| f.min(hi / 2.0));
            // Where requests rarely meet, fewer of them change nothing, unless the server is known to be slower.
            let floor = if last.finished_rps.is_some() { start / 1024.0 } else { start / 8.0 };
            return (hi > floor).then_some(guess.max(floor));
        };
        if hi <= lo * (1.0 + precision) {
            // A rate that only passed a glimpse has not been shown to hold.
            if !probed.contains(&lo) {
                return Some(lo);
            }
            let failed = self.shots.iter().filter(|s| s.rate_rps == hi && !s.passed).count();
            return (failed < 2).then_some(hi);
        }
        let inside =
            |r: &f64| *r > lo * (1.0 + precision / 4.0) && *r < hi * (1.0 - precision / 4.0);
        let estimate = self.latest().filter(|s| !s.passed).filter_map(|s| s.finished_rps).last();
        let near = |r: f64| estimate.is_some_and(|e| (r / e - 1.0).abs() < NEAR);
        // The last step, taken first where the estimate says that it is the last. Up, only until a rate above the
        // estimate holds: it was too low then, and every rate that holds costs a whole probe.
        let step = 1.0 + 0.95 * precision;
        let below = estimate.is_some_and(|e| lo <= e);
        let beside = estimate.into_iter().flat_map(|e| [e * (1.0 - BESIDE), e * (1.0 + BESIDE)]);
        let last_step = [(below && near(lo)).then_some(lo * step), near(hi).then_some(hi / step)];
        let middle = (lo * hi).sqrt();
        beside.chain(last_step.into_iter().flatten()).find(inside).or(Some(middle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server that finishes `capacity` requests per second, offered more than that: late after a while. A request
    /// takes `drain` s, and the server any rate until then; a whole probe is lengthened to that of two.
    fn fluid(
        capacity: f64,
        slack: f64,
        drain: f64,
    ) -> impl FnMut(f64, Duration) -> Result<Shot, ()> {
        move |rate, time| {
            let whole = time >= Effort::default().probe;
            let (time, over) = (time.as_secs_f64(), rate / capacity - 1.0);
            let time = if whole { time.max(2.0 * drain) } else { time };
            let steady = time >= 2.0 * drain;
            // Of what is offered over t, over * t is the delay; a hundredth may be beyond the slack. Requests under way
            // hide it for a while.
            let delay = 0.99 * (over * (time - drain)).max(over * time - drain);
            let passed = over <= 0.0 || delay <= slack;
            let seconds =
                if passed { time } else { (drain + slack / over).clamp(2.4_f64.min(time), time) };
            let finished_rps = Some(rate.min(capacity));
            // Requests under way at the end are waited for.
            let (offered_s, seconds) = (seconds, if passed { seconds + drain } else { seconds });
            let (why, limit) = (String::new(), None);
            Ok(Shot {
                rate_rps: rate,
                passed,
                offered_s,
                steady,
                seconds,
                finished_rps,
                why,
                limit,
            })
        }
    }

    proptest! {
        #[test]
        fn a_known_capacity_is_found_in_75_seconds(capacity in 1.0..5_000.0f64, start in 0.01..1.0f64) {
            let start = (capacity * start).max(capacity / 64.0);
            let found = seek(start, Effort::default(), fluid(capacity, 0.1, 0.0)).unwrap();
            let (lo, hi) = (found.capacity_rps.unwrap(), found.fails_at_rps.unwrap());
            prop_assert!((lo / capacity - 1.0).abs() < 0.03, "{lo} of {capacity}");
            prop_assert!(hi <= lo * 1.021 && found.load_s <= 75.0, "{hi} {} s", found.load_s);
            prop_assert!(found.shots.iter().any(|s| s.passed && s.rate_rps == lo && s.offered_s >= 8.0));
        }

        #[test]
        fn a_start_above_capacity_comes_down(capacity in 1.0..100.0f64, start in 1.0..50.0f64) {
            let found = seek(capacity * start, Effort::default(), fluid(capacity, 0.1, 6.0)).unwrap();
            let lo = found.capacity_rps.unwrap();
            prop_assert!((lo / capacity - 1.0).abs() < 0.03);
            let whole = |s: &Shot| s.passed && s.rate_rps == lo && s.offered_s >= 8.0;
            prop_assert!(found.shots.iter().any(whole), "waiting for the last answers is no probe");
        }

        #[test]
        fn a_rate_held_only_while_nothing_had_ended_is_none(
            capacity in 1.0..100.0f64, start in 0.05..8.0f64, drain in 4.0..20.0f64,
        ) {
            let fluid = fluid(capacity, 0.1, drain);
            let found = seek(capacity * start, Effort::default(), fluid).unwrap();
            let (lo, hi) = (found.capacity_rps.unwrap(), found.fails_at_rps.unwrap());
            prop_assert!((lo / capacity - 1.0).abs() < 0.03, "{lo} of {capacity}");
            prop_assert!(hi <= lo * 1.021);
            prop_assert!(found.shots.iter().any(|s| s.steady && s.rate_rps == lo));
        }
    }

    proptest! {
        #[test]
        fn what_disturbs_one_probe_does_not_decide(
            capacity in 1.0..1_000.0f64, start in 0.05..1.0f64, seed: u64,
        ) {
            let mut fluid = fluid(capacity, 0.1, 0.0);
            let mut tried = std::collections::HashSet::new();
            let found = seek(capacity * start, Effort::default(), |rate, time| {
                let mut shot = fluid(rate, time)?;
                let luck = (rate.to_bits() ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62;
                shot.passed &= !tried.insert(rate.to_bits()) || luck > 0;
                Ok::<_, ()>(shot)
            });
            let lo = found.unwrap().capacity_rps.unwrap();
            prop_assert!((lo / capacity - 1.0).abs() < 0.03, "{lo} of {capacity}");
        }
    }

    proptest! {
        #[test]
        fn traffic_that_is_over_before_a_probe_is_offered_for_as_long_as_it_lasts(
            capacity in 1.0..1_000.0f64, start in 0.05..1.0f64, requests in 1.0..6_000.0f64,
        ) {
            let mut fluid = fluid(capacity, 0.02, 0.0);
            let found = seek(capacity * start, Effort::default(), |rate, time: Duration| {
                fluid(rate, time.min(Duration::from_secs_f64(requests / rate)))
            });
            let found = found.unwrap();
            let (lo, hi) = (found.capacity_rps, found.fails_at_rps);
            prop_assert!(found.shots.len() < 40, "{} tries", found.shots.len());
            prop_assert!(lo.zip(hi).is_none_or(|(lo, hi)| hi <= 1.021 * lo), "{lo:?} {hi:?}");
        }
    }

    #[test]
    fn targets_that_nothing_meets_end_the_search() {
        let mut shots = 0;
        let found = seek(10.0, Effort::default(), |rate_rps, _| {
            shots += 1;
            let why = "late".to_owned();
            let (passed, offered_s, seconds) = (false, 1.0, 1.0);
            Ok::<_, ()>(Shot {
                rate_rps,
                passed,
                offered_s,
                steady: true,
                seconds,
                finished_rps: None,
                why,
                limit: Some(Limit::Latency),
            })
        });
        let found = found.unwrap();
        assert_eq!((found.capacity_rps, shots), (None, 4));
    }
}
