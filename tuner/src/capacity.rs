//! The knee of one configuration: the highest rate up to which every rate that was tried holds the SLO.
//!
//! Rates are tried on one geometric grid shared by every configuration, head and device: rate = step^k requests/s. So
//! two configurations are always compared at the very same rates (and, the trace being only time-scaled, the very
//! same requests), a result does not depend on where its search began, and equal is equal. Latency percentiles are
//! not monotone in the rate; when a lower rate that was tried fails, capacity is below it, and [`Effort::confirm`]
//! tries some lower rates on purpose.
//!
//! A capacity never exceeds what the deployment completes per second with everything offered at once
//! ([`Effort::bounded`]): a finite trace that comes a little faster than that is worked off soon after its end, so
//! that latencies and backlog alone would let it pass.

use crate::evaluate::{Evaluate, Refused, Relax, Trial};
use crate::observation::Observation;
use crate::pace::Paces;
use crate::verdict;
use engine::Config;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Ratio of neighbouring rates of the grid: the relative tolerance of every capacity.
pub const STEP: f64 = 1.01;

/// The rate of a place on the grid, requests/s; the same to the bit on every machine.
#[must_use]
pub fn rate_at(k: i32) -> f64 {
    libm::pow(STEP, f64::from(k))
}

/// The highest place on the grid whose rate is at most `rate`, which is positive.
#[must_use]
pub fn place_of(rate: f64) -> i32 {
    let k = (libm::log(rate) / libm::log(STEP)).floor() as i32;
    // The logarithm may be off by one in its last digit.
    if rate_at(k + 1) <= rate { k + 1 } else { k - i32::from(rate_at(k) > rate) }
}

/// Lowest rate tried: one request in a thousand seconds. There requests meet only if the trace sends them at once.
pub const FLOOR: i32 = -694;

/// One rate that was tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Its place on the grid.
    pub k: i32,
    /// Requests offered.
    pub head: usize,
    /// The run.
    pub observation: Observation,
}

impl Probe {
    /// Requests/s offered.
    #[must_use]
    pub fn rate(&self) -> f64 {
        rate_at(self.k)
    }

    /// True where the SLO held and the load could have gone on.
    #[must_use]
    pub fn passes(&self) -> bool {
        verdict::holds(&self.observation)
    }
}

/// The evidence that it takes to believe that a rate fails. A single run shows that it holds: other work on a machine may
/// break a target, and helps nobody to hold one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Evidence {
    /// Failures while the machine was as fast as usual.
    fair: usize,
    /// Slow runs in a row after which nobody waits any longer for the machine to be itself again.
    slow: usize,
}

impl Evidence {
    /// For a step on the way.
    const STEP: Self = Self { fair: 1, slow: 5 };
    /// For what bounds the answer.
    const BOUND: Self = Self { fair: 2, slow: 8 };
}

/// Why a question about a configuration has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// It cannot run.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The search was told to end, or its time was up.
    #[error("interrupted before there was anything to show")]
    Cancelled,
}

/// The effort of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Grid steps between the bounds at which bisection ends; 1 = the grid itself.
    pub resolution: i32,
    /// First stride away from the starting rate, in grid steps; it doubles. About 10 where a neighbour's capacity is
    /// known, 70 (a factor of two) where nothing is.
    pub stride: i32,
    /// Places below the capacity found that must pass too, in grid steps.
    pub confirm: &'static [i32],
    /// Try the failure that bounds the answer once more, and go on if it passes then. (A run that fails on a machine
    /// slower than usual is made again in any case.)
    pub repeat: bool,
    /// Hold capacity to the rate at which everything is completed that is offered at once; one run more.
    pub bounded: bool,
}

impl Effort {
    /// Nothing is known: wide strides.
    pub const COLD: Self =
        Self { resolution: 1, stride: 64, confirm: &[], repeat: false, bounded: true };
    /// A good guess is known, and the answer only ranks. (Most of a short head that is offered at once is its end, when
    /// few are left to make a batch.)
    pub const WARM: Self =
        Self { resolution: 1, stride: 8, confirm: &[], repeat: false, bounded: false };
    /// For a real engine: a run costs what it lasts, and does not repeat closer than 3 %. What else its machine does may
    /// break a target, and helps nobody to hold one. (Of a decision, the winner alone is bounded, at its end.)
    pub const REAL: Self =
        Self { resolution: 3, stride: 8, confirm: &[], repeat: true, bounded: false };
    /// For results that are shown: lower rates are tried as well, 5, 15 and 40 % below.
    pub const FINAL: Self =
        Self { resolution: 1, stride: 4, confirm: &[5, 16, 51], repeat: false, bounded: true };
}

/// The rates between which the SLO stops holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knee {
    /// It holds at `lo`; it fails at `hi`, the lowest known failure (`None`: beyond the configuration's ceiling).
    Between {
        /// Highest passing place with no failure below.
        lo: i32,
        /// Lowest failing place.
        hi: Option<i32>,
    },
    /// It fails even at the lowest rate tried.
    Nowhere,
}

/// Everything tried on one configuration at one head of the trace.
pub struct Prober<'a> {
    evaluate: &'a dyn Evaluate,
    config: &'a Config,
    relax: Relax,
    head: usize,
    cancel: &'a AtomicBool,
    /// Until when runs may begin.
    until: Option<Instant>,
    /// The runs at each place, in order, never none: the last one decides.
    probes: BTreeMap<i32, Vec<Probe>>,
    /// Runs that say nothing any more.
    aside: Vec<Probe>,
    paces: Paces,
    ceiling: i32,
    /// The answer of [`Self::most`].
    most: Option<i32>,
}

impl<'a> Prober<'a> {
    /// Nothing tried yet. The configuration's ceiling is taken from `evaluate` unless something is relaxed.
    pub fn new(
        evaluate: &'a dyn Evaluate,
        config: &'a Config,
        relax: Relax,
        head: usize,
        cancel: &'a AtomicBool,
    ) -> Result<Self, Stop> {
        let bound = evaluate.ceiling(config).map_err(Stop::Refused)?;
        let bound = if relax == Relax::Nothing { bound } else { f64::INFINITY };
        // A simulator needs no rate beyond everything arriving at once.
        let ceiling = if bound.is_finite() { place_of(bound) + 1 } else { place_of(1e9) };
        let ceiling = ceiling.max(FLOOR);
        Ok(Self {
            evaluate,
            config,
            relax,
            head,
            cancel,
            until: None,
            probes: BTreeMap::new(),
            aside: Vec::new(),
            paces: Paces::default(),
            ceiling,
            most: None,
        })
    }

    /// The same on a machine whose runs went at `paces` before.
    #[must_use]
    pub fn on_machine(mut self, paces: Paces) -> Self {
        self.paces = paces;
        self
    }

    /// The same with an end: no run begins after `instant`.
    #[must_use]
    pub fn until(mut self, instant: Instant) -> Self {
        self.until = Some(instant);
        self
    }

    /// Goes on from what was tried at this head before.
    #[must_use]
    pub fn knowing<'p>(mut self, probes: impl IntoIterator<Item = &'p Probe>) -> Self {
        for probe in probes.into_iter().filter(|p| p.head == self.head) {
            self.probes.entry(probe.k).or_default().push(probe.clone());
        }
        self
    }

    /// True where the SLO holds at `k`.
    pub fn passes(&mut self, k: i32) -> Result<bool, Stop> {
        self.settle(k, Evidence::STEP)
    }

    /// The same, tried until there is enough evidence.
    fn settle(&mut self, k: i32, enough: Evidence) -> Result<bool, Stop> {
        loop {
            let tries = self.probes.get(&k).map_or(&[][..], Vec::as_slice);
            if let Some(last) = tries.last() {
                // That requests are too few for a rate is no accident.
                let settled = last.passes() || verdict::too_short(&last.observation);
                let slow = |p: &&Probe| self.paces.is_slow(p.observation.work.pace);
                let fair = tries.len() - tries.iter().filter(slow).count();
                let waited = tries.iter().rev().take_while(slow).count();
                if settled || fair >= enough.fair || waited >= enough.slow {
                    return Ok(last.passes());
                }
            }
            let probe = self.run(k)?;
            self.probes.entry(k).or_default().push(probe);
        }
    }

    /// One run, `scale` times as fast as recorded.
    fn offer(&self, scale: f64) -> Result<Observation, Stop> {
        let time_is_up = self.until.is_some_and(|until| Instant::now() >= until);
        if time_is_up || self.cancel.load(Ordering::Relaxed) {
            return Err(Stop::Cancelled);
        }
        let (config, relax, head) = (self.config, self.relax, self.head);
        self.evaluate.run(&Trial { config, relax, head, scale }).map_err(Stop::Refused)
    }

    fn run(&mut self, k: i32) -> Result<Probe, Stop> {
        let head = self.head;
        let observation = self.offer(rate_at(k) / self.evaluate.natural_rate(head))?;
        self.paces.note(observation.work.pace);
        let probe = Probe { k, head, observation };
        if self.holds_fairly(&probe) {
            self.forget_slow_failures();
        }
        Ok(probe)
    }

    /// True where it passed on a machine as fast as usual.
    fn holds_fairly(&self, probe: &Probe) -> bool {
        probe.passes() && !self.paces.is_slow(probe.observation.work.pace)
    }

    /// The machine is itself again: a rate that failed, and was only ever tried on a slower one, bounds nothing now.
    fn forget_slow_failures(&mut self) {
        let slow = |p: &Probe| {
            let settled = p.passes() || verdict::too_short(&p.observation);
            !settled && self.paces.is_slow(p.observation.work.pace)
        };
        let all = std::mem::take(&mut self.probes).into_iter();
        let (slow, known) = all.partition::<BTreeMap<_, _>, _>(|(_, tries)| tries.iter().all(slow));
        self.probes = known;
        self.aside.extend(slow.into_values().flatten());
    }

    /// Finds the knee, beginning at `start`.
    pub fn knee(&mut self, start: i32, effort: Effort) -> Result<Knee, Stop> {
        let start = start.clamp(FLOOR, self.ceiling);
        if self.probes.values().flatten().any(|probe| self.holds_fairly(probe)) {
            self.forget_slow_failures();
        }
        let mut lo = if self.passes(start)? {
            start
        } else {
            match self.descend(start, effort)? {
                Some(k) => k,
                None => return Ok(Knee::Nowhere),
            }
        };
        loop {
            self.climb(lo, effort.stride)?;
            lo = self.bisect(lo, effort.resolution)?;
            match self.lowest_failure() {
                // On the way it turned out that none of them said anything.
                None if lo < self.ceiling => continue,
                Some(hi) if effort.repeat && self.settle(hi, Evidence::BOUND)? => {
                    lo = hi;
                    continue;
                }
                _ => {}
            }
            if effort.bounded {
                lo = lo.min(self.most()?);
            }
            let broken = [0]
                .iter()
                .chain(effort.confirm)
                .map(|d| lo - d)
                .filter(|k| *k > FLOOR)
                .try_fold(None, |lowest, k| {
                    self.passes(k).map(|ok| if ok { lowest } else { Some(k) })
                })?;
            match broken {
                None => return Ok(Knee::Between { lo, hi: self.lowest_failure() }),
                Some(k) => match self.descend(k, effort)? {
                    Some(k) => lo = k,
                    None => return Ok(Knee::Nowhere),
                },
            }
        }
    }

    /// The highest place whose rate is completed per second when everything is offered at once. Of requests that wait
    /// for others' responses not everything can be; and a machine slower than usual completes less than it can.
    pub(crate) fn most(&mut self) -> Result<i32, Stop> {
        if let Some(most) = self.most {
            return Ok(most);
        }
        let Observation { summary: all, work, .. } = self.offer(f64::INFINITY)?;
        let rate = all.request_throughput_rps();
        let slow = self.paces.is_slow(work.pace);
        let bounds = all.offered.is_none() && rate > 0.0 && !slow;
        let most = if bounds { place_of(rate).max(FLOOR) } else { i32::MAX };
        self.most = Some(most);
        Ok(most)
    }

    /// Up from a passing place until one fails or the ceiling passes.
    fn climb(&mut self, from: i32, stride: i32) -> Result<(), Stop> {
        let (mut at, mut stride) = (from, stride);
        while at < self.ceiling && self.lowest_failure().is_none() {
            at = (at + stride).min(self.ceiling);
            stride *= 2;
            self.passes(at)?;
        }
        Ok(())
    }

    /// Down from a failing place to one that passes; none if even the floor fails.
    fn descend(&mut self, from: i32, effort: Effort) -> Result<Option<i32>, Stop> {
        let (mut at, mut stride) = (from, effort.stride);
        while at > FLOOR {
            // Far below a failure, ask first whether an empty machine can do it at all.
            if from - at >= 2 * 64 && !self.passes_floor(effort)? {
                return Ok(None);
            }
            at = (at - stride).max(FLOOR);
            stride *= 2;
            if at == FLOOR && !self.passes_floor(effort)? {
                return Ok(None);
            }
            if self.passes(at)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// True where the lowest rate of all holds: a failure there ends the search.
    fn passes_floor(&mut self, effort: Effort) -> Result<bool, Stop> {
        self.settle(FLOOR, if effort.repeat { Evidence::BOUND } else { Evidence::STEP })
    }

    /// Narrows the gap between the highest good place and the lowest failure; returns the former.
    fn bisect(&mut self, from: i32, resolution: i32) -> Result<i32, Stop> {
        loop {
            let lo = self.highest_good().unwrap_or(from);
            match self.lowest_failure() {
                Some(hi) if hi - lo > resolution => self.passes(lo + (hi - lo) / 2)?,
                _ => return Ok(lo),
            };
        }
    }

    /// The last run at `k`, if there was one.
    #[must_use]
    pub fn probe(&self, k: i32) -> Option<&Probe> {
        self.probes.get(&k)?.last()
    }

    /// The run that decides at each place, from the lowest.
    fn last(&self) -> impl Iterator<Item = &Probe> {
        self.probes.values().filter_map(|tries| tries.last())
    }

    /// The paces of the machine, as far as they are known now.
    #[must_use]
    pub fn paces(&self) -> &Paces {
        &self.paces
    }

    /// The lowest place known to fail.
    #[must_use]
    pub fn lowest_failure(&self) -> Option<i32> {
        self.last().find(|p| !p.passes()).map(|p| p.k)
    }

    /// The highest place known to pass with no known failure below it.
    #[must_use]
    pub fn highest_good(&self) -> Option<i32> {
        self.last().take_while(|p| p.passes()).last().map(|p| p.k)
    }

    /// Highest place worth trying.
    #[must_use]
    pub fn ceiling(&self) -> i32 {
        self.ceiling
    }

    /// Everything tried, by rate; several tries at one in the order in which they were made.
    #[must_use]
    pub fn into_probes(self) -> Vec<Probe> {
        let mut all = self.aside;
        all.extend(self.probes.into_values().flatten());
        all.sort_by_key(|probe| probe.k);
        all
    }

    /// Requests simulated so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let all = self.probes.values().flatten().chain(&self.aside);
        all.map(|p| p.observation.summary.requests).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Shared};
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::sync::Mutex;

    static GO_ON: AtomicBool = AtomicBool::new(false);

    fn prober<'a>(fake: &'a Fake, config: &'a Config) -> Prober<'a> {
        Prober::new(fake, config, Relax::Nothing, fake.requests, &GO_ON).unwrap()
    }

    #[test]
    fn places_and_rates_are_inverse() {
        for k in FLOOR..2000 {
            assert_eq!(place_of(rate_at(k)), k);
            assert_eq!(place_of(rate_at(k) * 1.005), k);
        }
        assert!((0.99e-3..1.01e-3).contains(&rate_at(FLOOR)));
    }

    /// The oracle: every place of the grid, from the floor up.
    fn scan(fake: &Fake, config: &Config) -> Option<i32> {
        let mut all = prober(fake, config);
        let top = all.ceiling();
        (FLOOR..=top).take_while(|k| all.passes(*k).unwrap()).last()
    }

    fn config(policy: &str, seqs: u32, budget: u32) -> Config {
        let mut c = Config { max_seqs: seqs, max_batch_tokens: budget, ..Config::default() };
        c.set("policy", policy).unwrap();
        space::canonical(&c)
    }
    use crate::space;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_monotone_knee_is_found_exactly_from_anywhere(
            start in -800..1200_i32, seqs in 3..11_u32, budget in 8..15_u32,
            policy in proptest::sample::select(vec!["static", "continuous", "paged", "chunked"]),
            stride in 1..100_i32,
        ) {
            let fake = Fake::new(&["ttft=200ms", "tpot=40ms"]);
            let config = config(policy, 1 << seqs, 1 << budget);
            let mut prober = prober(&fake, &config);
            let knee = prober.knee(start, Effort { stride, ..Effort::FINAL }).unwrap();
            match scan(&fake, &config) {
                None => prop_assert_eq!(knee, Knee::Nowhere),
                Some(k) => {
                    let Knee::Between { lo, hi } = knee else { panic!("{knee:?}") };
                    prop_assert_eq!(lo, k);
                    prop_assert!(hi == Some(k + 1) || k == prober.ceiling());
                }
            }
            prop_assert!(prober.into_probes().len() < 40);
        }

        #[test]
        fn every_rate_tried_below_a_capacity_passed(start in 0..500_i32, seed in 0..50_u64) {
            let fake = Fake { jitter: 0.2, seed, ..Fake::new(&["ttft=200ms", "tpot=30ms"]) };
            let config = config("chunked", 256, 512);
            let mut prober = prober(&fake, &config);
            let knee = prober.knee(start, Effort::FINAL).unwrap();
            let probes = prober.into_probes();
            let Knee::Between { lo, hi } = knee else { panic!("{knee:?}") };
            prop_assert!(probes.iter().filter(|p| p.k <= lo).all(Probe::passes));
            prop_assert_eq!(probes.iter().find(|p| !p.passes()).map(|p| p.k), hi);
            prop_assert!(hi.is_none_or(|hi| hi == lo + 1));
            for below in Effort::FINAL.confirm {
                prop_assert!(probes.iter().any(|p| p.k == lo - below));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_disturbs_one_run_does_not_decide(seed: u64, start in -50..400_i32) {
            let config = config("chunked", 256, 512);
            let fake = Fake::new(&["ttft=200ms", "tpot=40ms"]);
            let truth = scan(&fake, &config).unwrap();
            // Some rates fail at first, though they hold.
            let seen = Mutex::new(HashSet::new());
            let run = |fake: &Fake, trial: &Trial<'_>, _| {
                let mut observation = fake.run(trial).unwrap();
                let scale = trial.scale.to_bits();
                let first = seen.lock().unwrap().insert(scale);
                if first && (scale ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0 {
                    observation.summary.verdict.met = false;
                }
                observation
            };
            let disturbed = Shared::new(fake, run);
            let before = disturbed.fake.runs.load(Ordering::Relaxed);
            let requests = disturbed.requests();
            let mut prober =
                Prober::new(&disturbed, &config, Relax::Nothing, requests, &GO_ON).unwrap();
            let Knee::Between { lo, hi } = prober.knee(start, Effort::REAL).unwrap() else {
                panic!("it holds something")
            };
            prop_assert!(lo <= truth && truth < lo + Effort::REAL.resolution, "{lo} of {truth}");
            let probes = prober.into_probes();
            prop_assert!(probes.is_sorted_by_key(|p| p.k));
            let at = |k| probes.iter().filter(move |p| p.k == k);
            prop_assert_eq!(at(hi.unwrap()).count(), 2, "who says where it ends said so twice");
            let made = disturbed.fake.runs.load(Ordering::Relaxed) - before;
            prop_assert_eq!(probes.len() as u64, made, "every run is told of");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// As long as the machine is itself again before the search stops waiting for it.
        #[test]
        fn a_slow_machine_does_not_decide(
            from in 0..12_u64, long in 0..8_u64, between in 2..6_u64, start in -50..400_i32,
        ) {
            let config = config("chunked", 256, 512);
            let fake = Fake::new(&["ttft=200ms", "tpot=40ms"]);
            let truth = scan(&fake, &config).unwrap();
            let before = fake.runs.load(Ordering::Relaxed);
            let run = |fake: &Fake, trial: &Trial<'_>, n| {
                let mut observation = fake.run(trial).unwrap();
                let slow = n >= from && (n - from) % (long + between) < long;
                observation.work.pace = Some(if slow { 1.5 } else { 1.05 });
                observation.summary.verdict.met &= !slow;
                observation
            };
            let moody = Shared::new(fake, run);
            let requests = moody.requests();
            let mut prober =
                Prober::new(&moody, &config, Relax::Nothing, requests, &GO_ON).unwrap();
            let Knee::Between { lo, hi } = prober.knee(start, Effort::REAL).unwrap() else {
                panic!("it holds something")
            };
            prop_assert!(lo <= truth && truth < lo + Effort::REAL.resolution, "{lo} of {truth}");
            let probes = prober.into_probes();
            let fair = |p: &&Probe| Some(p.k) == hi && p.observation.work.pace == Some(1.05);
            prop_assert_eq!(probes.iter().filter(fair).count(), 2);
            let made = moody.fake.runs.load(Ordering::Relaxed) - before;
            prop_assert_eq!(probes.len() as u64, made, "every run is told of");
        }
    }

    #[test]
    fn a_target_no_machine_meets_is_known_after_a_few_runs() {
        let fake = Fake::new(&["ttft=1ms"]);
        let config = config("chunked", 256, 2048);
        let mut prober = prober(&fake, &config);
        assert_eq!(prober.knee(300, Effort::COLD).unwrap(), Knee::Nowhere);
        let probes = prober.into_probes();
        assert_eq!(probes[0].k, FLOOR);
        assert!(probes.len() <= 4, "{}", probes.len());
    }

    #[test]
    fn what_cannot_run_and_what_is_cancelled_stop() {
        let fake = Fake::new(&["ttft=1s"]);
        let tiny = Config { kv_fraction: 0.1, ..Config::default() };
        let stop = Prober::new(&fake, &tiny, Relax::Nothing, 100, &GO_ON).err();
        let reason = "weights need 20 % of memory".to_owned();
        assert_eq!(stop, Some(Stop::Refused(Refused { reason })));
        let (cancel, config) = (AtomicBool::new(true), Config::default());
        let mut prober = Prober::new(&fake, &config, Relax::Nothing, 100, &cancel).unwrap();
        assert_eq!(prober.knee(0, Effort::COLD), Err(Stop::Cancelled));
    }

    #[test]
    fn a_knee_is_not_above_what_is_completed_with_all_offered_at_once() {
        let (fake, config) = (Fake::new(&[]), Config::default());
        let free = Effort { bounded: false, ..Effort::FINAL };
        let Knee::Between { lo: most, .. } = prober(&fake, &config).knee(200, free).unwrap() else {
            panic!("no target, so some rate holds");
        };
        // A finite trace passes at 6 % more than that.
        let slower = Shared::new(Fake::new(&[]), |fake: &Fake, trial: &Trial<'_>, _| {
            let mut seen = fake.run(trial).unwrap();
            seen.summary.duration_s *= 1.06;
            seen
        });
        for start in [most - 100, most, most + 100] {
            let requests = slower.requests();
            let mut prober =
                Prober::new(&slower, &config, Relax::Nothing, requests, &GO_ON).unwrap();
            let Knee::Between { lo, hi } = prober.knee(start, Effort::FINAL).unwrap() else {
                panic!("it holds below");
            };
            assert!(
                (6..=7).contains(&(most - lo)) && hi == Some(most + 1),
                "{lo} of {most}, {hi:?}"
            );
            assert!(prober.probe(lo).is_some_and(Probe::passes));
        }
    }
}
