//! The highest rate at which a real server holds its targets, found with as little load as possible.
//!
//! A second of a real server is a second, so a rate is given up as soon as it cannot hold any more: when more
//! requests have missed their targets than the whole run may. Rates double until one fails; what a server finishes
//! per second while it is overloaded is an estimate of where it stops keeping up, and the next rate tried is just
//! below, then just above it; bisection does the rest. A failing rate costs a glimpse, a passing one the whole of a
//! probe, because a rate that overloads a server by a share e is late by e times the time it has lasted: only a
//! probe that lasts slack / e tells.

use std::time::Duration;

use loadgen::{BoundSlo, Live, LiveOptions, LiveRun, Statistic, Summary, Sustain};
use serde::{Deserialize, Serialize};
use workloads::{Arrival, Trace};

/// Largest share of overdue work in a rate that passes, as in [`Sustain`].
const OVERDUE: f64 = 0.03;
/// How far from an estimate the rates beside it are tried.
const BESIDE: f64 = 0.01;
/// How far from an estimate a bound may be for the other to be looked for right beside it.
const NEAR: f64 = 0.05;
/// Fewer requests than this show nothing.
const FEWEST: usize = 10;

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

/// One rate tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shot {
    /// Requests (or sessions) per second offered.
    pub rate_rps: f64,
    /// Whether the targets held and the load could have gone on.
    pub passed: bool,
    /// How long it took.
    pub seconds: f64,
    /// Requests per second that the server finished, by its tokens, in the second half.
    pub finished_rps: Option<f64>,
    /// What it failed by.
    pub why: String,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The highest rate that held with none below it failing; none where even the lowest failed.
    pub capacity_rps: Option<f64>,
    /// The lowest rate that failed; none where the search ended before one did.
    pub fails_at_rps: Option<f64>,
    /// Every rate, in the order tried.
    pub shots: Vec<Shot>,
    /// Seconds of load.
    pub load_s: f64,
}

/// Searches from `start` requests/s; `shoot` offers a rate for so long.
///
/// # Errors
/// Whatever `shoot` fails with.
pub fn seek<E>(
    start: f64,
    effort: Effort,
    mut shoot: impl FnMut(f64, Duration) -> Result<Shot, E>,
) -> Result<Found, E> {
    let mut found =
        Found { capacity_rps: None, fails_at_rps: None, shots: Vec::new(), load_s: 0.0 };
    let mut next = start;
    while found.load_s < effort.budget.as_secs_f64() {
        let doubling = found.fails_at_rps.is_none();
        // While doubling, a rate need not be shown to hold for ever: the first to fail says where to look.
        let time = if doubling { effort.glimpse() } else { effort.probe };
        let shot = shoot(next, time)?;
        found.load_s += shot.seconds;
        found.shots.push(shot);
        found.settle();
        let Some(rate) = found.next(start, effort) else { break };
        next = rate;
    }
    Ok(found)
}

impl Found {
    /// What a search that was broken off had found.
    #[must_use]
    pub fn of(shots: Vec<Shot>) -> Self {
        let load_s = shots.iter().map(|s| s.seconds).sum();
        let mut found = Self { capacity_rps: None, fails_at_rps: None, shots, load_s };
        found.settle();
        found
    }

    /// Takes the last shot in.
    fn settle(&mut self) {
        let failures = self.shots.iter().filter(|s| !s.passed).map(|s| s.rate_rps);
        self.fails_at_rps = failures.min_by(f64::total_cmp);
        let below = |r: f64| self.fails_at_rps.is_none_or(|f| r < f);
        let passes = self.shots.iter().filter(|s| s.passed && below(s.rate_rps));
        self.capacity_rps = passes.map(|s| s.rate_rps).max_by(f64::total_cmp);
    }

    /// The rate to try next; none when it is known well enough.
    fn next(&self, start: f64, effort: Effort) -> Option<f64> {
        let (last, precision) = (self.shots.last()?, effort.precision);
        let Some(hi) = self.fails_at_rps else { return Some(2.0 * last.rate_rps) };
        let Some(lo) = self.capacity_rps else {
            let lowest = self.shots.iter().map(|s| s.rate_rps).fold(f64::INFINITY, f64::min);
            let guess = last.finished_rps.map_or(lowest / 2.0, |f| f.min(lowest / 2.0));
            // Where requests rarely meet, fewer of them change nothing, unless the server is known to be slower.
            let floor = if last.finished_rps.is_some() { start / 1024.0 } else { start / 8.0 };
            return (lowest > floor).then_some(guess.max(floor));
        };
        if hi <= lo * (1.0 + precision) {
            // A rate that only passed a glimpse has not been shown to hold.
            let long = effort.probe.as_secs_f64() * 0.99;
            let held = |s: &Shot| s.passed && s.rate_rps == lo && s.seconds >= long;
            return (!self.shots.iter().any(held)).then_some(lo);
        }
        let inside =
            |r: &f64| *r > lo * (1.0 + precision / 4.0) && *r < hi * (1.0 - precision / 4.0);
        let estimate = self.shots.iter().rev().filter(|s| !s.passed).find_map(|s| s.finished_rps);
        let near = |r: f64| estimate.is_some_and(|e| (r / e - 1.0).abs() < NEAR);
        // The last step, taken first where the estimate says that it is the last.
        let step = 1.0 + 0.95 * precision;
        let beside = estimate.into_iter().flat_map(|e| [e * (1.0 - BESIDE), e * (1.0 + BESIDE)]);
        let last_step = [near(lo).then_some(lo * step), near(hi).then_some(hi / step)];
        let middle = (lo * hi).sqrt();
        beside.chain(last_step.into_iter().flatten()).find(inside).or(Some(middle))
    }
}

/// A server under search.
pub struct Range<'a> {
    /// The server.
    pub live: &'a Live,
    /// The traffic.
    pub trace: &'a Trace,
    /// The targets.
    pub slo: &'a BoundSlo,
    /// How it is driven; rate and duration are the search's.
    pub options: LiveOptions,
    /// How long a rate that fails is watched, for what the server finishes under overload.
    pub glimpse: Duration,
}

impl Range<'_> {
    /// A few requests one after the other: seconds that an unhurried server takes for one, and whether the targets
    /// hold at least there.
    ///
    /// # Errors
    /// When nothing completes.
    pub fn unhurried(&self, watch: &mut dyn FnMut() -> bool) -> Result<(f64, bool), String> {
        let trace = self.trace.head(3);
        let options =
            LiveOptions { streams: Some(1), salt: self.options.salt ^ 1, ..self.options.clone() };
        let run =
            self.live.run(&trace, &options, self.slo, |_| watch()).map_err(|e| e.to_string())?;
        let took: Vec<f64> =
            run.from_send.records.iter().filter_map(|r| Some(r.e2e()?.as_secs_f64())).collect();
        if took.is_empty() {
            let why =
                run.failures.values().next().map_or("it was interrupted", |f| f.cause.as_str());
            return Err(format!("no request completed on the idle server: {why}"));
        }
        let met = Summary::new(&run.from_send, self.slo).verdict.met;
        Ok((took.iter().sum::<f64>() / took.len() as f64, met))
    }

    /// Waits until the server is as quick again as it was when nobody hurried it, for half a minute at most.
    ///
    /// # Errors
    /// When nothing completes.
    pub fn recover(&self, unhurried: f64, watch: &mut dyn FnMut() -> bool) -> Result<(), String> {
        let began = std::time::Instant::now();
        while watch() && self.unhurried(watch)?.0 > 1.5 * unhurried + 0.01 {
            if began.elapsed() > Duration::from_secs(30) {
                break;
            }
        }
        Ok(())
    }

    /// Offers `rate` for `time`, or until it has failed.
    ///
    /// # Errors
    /// What the client cannot do; a server's failures are failures of the rate.
    pub fn shoot(
        &self,
        rate: f64,
        time: Duration,
        watch: &mut dyn FnMut() -> bool,
    ) -> Result<(Shot, LiveRun), String> {
        let natural = self.trace.offered_rate();
        let needed = (rate * time.as_secs_f64() * 1.05).ceil() as usize + 8;
        let trace = lengthened(self.trace, needed);
        let options = LiveOptions {
            rate_scale: rate / natural,
            duration: Some(time),
            salt: self.options.salt ^ rate.to_bits(),
            ..self.options.clone()
        };
        let planned = rate * time.as_secs_f64();
        let allowed = allowed(self.slo) * planned;
        let (mut half, mut last, mut hopeless) = (None, (0.0, 0), false);
        let run = self.live.run(&trace, &options, self.slo, |p| {
            last = (p.elapsed.as_secs_f64(), p.tokens);
            if half.is_none() && p.elapsed >= self.glimpse / 2 {
                half = Some(last);
            }
            hopeless |= (p.missed + p.missing) as f64 > allowed;
            watch() && !(hopeless && p.elapsed >= self.glimpse * 3 / 4)
        });
        let run = run.map_err(|e| e.to_string())?;
        let summary = Summary::new(&run.recording, self.slo);
        let sustain = Sustain::new(&trace, &run.recording.records);
        let offered = run.recording.records.len();
        let why = if hopeless || !summary.verdict.met {
            missed(&summary)
        } else if offered < FEWEST {
            format!("{offered} requests in {time:?} show nothing: give a longer --probe")
        } else if sustain.overdue > OVERDUE {
            sustain.reason
        } else {
            String::new()
        };
        let output = self.trace.requests.iter().map(|r| f64::from(r.output)).sum::<f64>();
        let per_start = output / natural_starts(self.trace);
        let pace =
            |(t, n): (f64, u64)| (last.1.saturating_sub(n)) as f64 / (last.0 - t) / per_start;
        let finished_rps = half.filter(|h| last.0 > h.0 + 0.3).map(pace).filter(|r| *r > 0.0);
        let seconds = last.0;
        Ok((Shot { rate_rps: rate, passed: why.is_empty(), seconds, finished_rps, why }, run))
    }
}

/// The share of requests that may miss targets, for all targets together.
fn allowed(slo: &BoundSlo) -> f64 {
    if let Some(share) = slo.slo().attainment() {
        return 1.0 - share.fraction();
    }
    let of = |s: Statistic| match s {
        Statistic::Mean => 1.0,
        Statistic::Percentile(p) => 1.0 - p.fraction(),
    };
    slo.slo().targets().iter().map(|t| of(t.statistic)).sum::<f64>().min(1.0)
}

/// The targets missed, in words.
fn missed(summary: &Summary) -> String {
    let words: Vec<String> = summary
        .verdict
        .targets
        .iter()
        .filter(|j| !j.met)
        .map(|j| format!("{} of {:.1}", j.measured, j.value))
        .collect();
    if words.is_empty() {
        "too many requests missed their targets".to_owned()
    } else {
        words.join(", ")
    }
}

fn natural_starts(trace: &Trace) -> f64 {
    trace.requests.iter().filter(|r| matches!(r.arrival, Arrival::At(_))).count().max(1) as f64
}

/// `trace`, over and over, until it has `n` requests that wait for nobody. Copies share no blocks.
fn lengthened(trace: &Trace, n: usize) -> Trace {
    let (starts, own) = (natural_starts(trace) as usize, trace.requests.len() as u32);
    let copies = n.div_ceil(starts).max(1);
    let mut long = trace.clone();
    let gap = Duration::from_secs_f64(1.0 / trace.offered_rate().max(1e-9));
    let sessions = trace.requests.iter().filter_map(|r| r.session).max().map_or(0, |s| s + 1);
    let blocks = trace.block_ids.len() as u32;
    for copy in 1..copies as u32 {
        let later = (trace.span() + gap) * copy;
        long.requests.extend(trace.requests.iter().map(|r| {
            let mut r = *r;
            r.arrival = match r.arrival {
                Arrival::At(at) => Arrival::At(at + later),
                Arrival::After { previous, think } => {
                    Arrival::After { previous: previous + copy * own, think }
                }
            };
            r.session = r.session.map(|s| s + copy * sessions);
            r.blocks.start += copy * blocks;
            r
        }));
        let fresh = |id: &u64| id ^ (u64::from(copy) << 40);
        long.block_ids.extend(trace.block_ids.iter().map(fresh));
    }
    long
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server that finishes `capacity` requests per second, offered more than that: late after a while.
    fn fluid(capacity: f64, slack: f64) -> impl FnMut(f64, Duration) -> Result<Shot, ()> {
        move |rate, time| {
            let (time, over) = (time.as_secs_f64(), rate / capacity - 1.0);
            // Of what is offered over t, over * t is the delay; a hundredth may be beyond the slack.
            let passed = over <= 0.0 || over * time * 0.99 <= slack;
            let seconds = if passed { time } else { (slack / over).clamp(2.4, time) };
            let finished_rps = Some(rate.min(capacity));
            Ok(Shot { rate_rps: rate, passed, seconds, finished_rps, why: String::new() })
        }
    }

    proptest! {
        #[test]
        fn a_known_capacity_is_found_in_a_minute(capacity in 1.0..5_000.0f64, start in 0.01..1.0f64) {
            let start = (capacity * start).max(capacity / 64.0);
            let found = seek(start, Effort::default(), fluid(capacity, 0.1)).unwrap();
            let (lo, hi) = (found.capacity_rps.unwrap(), found.fails_at_rps.unwrap());
            prop_assert!((lo / capacity - 1.0).abs() < 0.03, "{lo} of {capacity}");
            prop_assert!(hi <= lo * 1.021 && found.load_s <= 65.0, "{hi} {} s", found.load_s);
            prop_assert!(found.shots.iter().any(|s| s.passed && s.rate_rps == lo && s.seconds >= 8.0));
        }

        #[test]
        fn a_start_above_capacity_comes_down(capacity in 1.0..100.0f64, start in 1.0..50.0f64) {
            let found = seek(capacity * start, Effort::default(), fluid(capacity, 0.1)).unwrap();
            prop_assert!((found.capacity_rps.unwrap() / capacity - 1.0).abs() < 0.03);
        }
    }

    #[test]
    fn targets_that_nothing_meets_end_the_search() {
        let mut shots = 0;
        let found = seek(10.0, Effort::default(), |rate_rps, _| {
            shots += 1;
            let why = "late".to_owned();
            Ok::<_, ()>(Shot { rate_rps, passed: false, seconds: 1.0, finished_rps: None, why })
        });
        let found = found.unwrap();
        assert_eq!((found.capacity_rps, shots), (None, 4));
    }

    #[test]
    fn a_longer_trace_is_the_same_trace_again() {
        let preset = workloads::preset("agentic").unwrap();
        let trace = workloads::synthesise(&preset, None).unwrap().head(40);
        let starts = natural_starts(&trace) as usize;
        let long = lengthened(&trace, starts * 3);
        assert_eq!(long.requests.len(), 120);
        assert!((long.offered_rate() / trace.offered_rate() - 1.0).abs() < 0.2);
        for (i, r) in long.requests.iter().enumerate() {
            let first = &trace.requests[i % 40];
            assert_eq!((r.input, r.output), (first.input, first.output));
            assert_eq!(long.blocks_of(r).len(), trace.blocks_of(first).len());
            match r.arrival {
                Arrival::After { previous, .. } => assert_eq!(previous as usize / 40, i / 40),
                Arrival::At(_) => assert!(i < 40 || r.arrival != first.arrival),
            }
        }
        let shared = |a: usize, b: usize| {
            let ids = long.blocks_of(&long.requests[a]);
            long.blocks_of(&long.requests[b]).iter().any(|id| ids.contains(id))
        };
        assert!(!shared(0, 40), "copies share nothing");
    }
}
