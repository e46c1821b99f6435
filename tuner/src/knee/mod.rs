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

mod grid;
mod guess;
pub mod pace;
pub mod verdict;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::Config;

use crate::knee::pace::Paces;
use crate::subject::observation::Observation;
use crate::subject::{Length, Relax, Stop, Subject, Trial};

pub use grid::{FLOOR, STEP, place_above, place_of, rate_at};

/// One rate that was tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Its place on the grid.
    pub k: i32,
    /// Requests of the trace that it was tried on.
    pub head: usize,
    /// True where it was offered for as long as it takes to show that it holds: not just looked at.
    pub whole: bool,
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

    /// True where its holding says that the rate could be held for ever.
    #[must_use]
    pub fn tells(&self) -> bool {
        self.observation.outside.as_ref().is_none_or(|o| o.steady)
    }
}

/// The evidence that it takes to believe that a rate fails. A single run shows that it holds: other
/// work on a machine may break a target, and never helps to hold one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Evidence {
    /// Failures while the machine was as fast as usual.
    fair: usize,
    /// Slow runs in a row after which the search no longer waits for the machine's usual pace.
    slow: usize,
}

impl Evidence {
    /// For a step on the way.
    const STEP: Self = Self { fair: 1, slow: 5 };
    /// For what bounds the answer.
    const BOUND: Self = Self { fair: 2, slow: 8 };
}

/// The effort of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Grid steps between the bounds at which bisection ends; 1 = the grid itself.
    pub resolution: i32,
    /// First stride away from the starting rate, in grid steps; it doubles. About 10 where a neighbour's capacity is
    /// known, 70 (a factor of two) where nothing is.
    pub stride: i32,
    /// True where each stride is twice the one before.
    pub widening: bool,
    /// Places below the capacity found that must pass too, in grid steps.
    pub confirm: &'static [i32],
    /// Try the failure that bounds the answer once more, and go on if it passes then. (A run that fails on a machine
    /// slower than usual is made again in any case.)
    pub repeat: bool,
    /// Hold capacity to the rate at which everything is completed that is offered at once; one run more.
    pub bounded: bool,
}

impl Effort {
    const USUAL: Self = Self {
        resolution: 1,
        stride: 64,
        widening: true,
        confirm: &[],
        repeat: false,
        bounded: true,
    };
    /// Nothing is known: wide strides.
    pub const COLD: Self = Self::USUAL;
    /// A good guess is known, and the answer only ranks. (Most of a short head that is offered at once is its end, when
    /// few are left to make a batch.)
    pub const WARM: Self = Self { stride: 8, bounded: false, ..Self::USUAL };
    /// For a real engine: a run costs what it lasts, and does not repeat closer than 3 %. Other
    /// work on its machine may break a target, and never helps to hold one. (Of a decision, the
    /// winner alone is bounded, at its end.)
    pub const REAL: Self =
        Self { resolution: 3, stride: 8, repeat: true, bounded: false, ..Self::USUAL };
    /// For a server, which is driven in real time: the rate doubles until it fails, and the answer
    /// is known to 2 %. Its throughput under too much load bounds it already.
    pub const SERVER: Self = Self {
        resolution: 2,
        stride: OCTAVE,
        widening: false,
        repeat: true,
        bounded: false,
        ..Self::USUAL
    };
    /// For results that are shown: lower rates are tried as well, 5, 15 and 40 % below.
    pub const FINAL: Self = Self { stride: 4, confirm: &[5, 16, 51], ..Self::USUAL };
}

/// Grid steps to twice a rate.
const OCTAVE: i32 = 70;

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
    subject: &'a dyn Subject,
    config: &'a Config,
    relax: Relax,
    head: usize,
    /// The time for which a rate is offered to a server: while none has failed, and from then on.
    times: Option<(Duration, Duration)>,
    /// The lowest place tried.
    floor: i32,
    cancel: &'a AtomicBool,
    /// Until when runs may begin.
    until: Option<Instant>,
    /// Seconds of load that may still be spent.
    left_s: f64,
    /// The runs at each place, in order, never none: the last one decides.
    probes: BTreeMap<i32, Vec<Probe>>,
    /// Runs that say nothing any more.
    aside: Vec<Probe>,
    paces: Paces,
    ceiling: i32,
    /// The answer of [`Self::most`].
    most: Option<i32>,
    /// Requests per second that a server finished in the last run that failed.
    finished: Option<f64>,
}

impl<'a> Prober<'a> {
    /// Nothing tried yet. The configuration's ceiling is taken from `subject` unless something is relaxed.
    pub fn new(
        subject: &'a dyn Subject,
        config: &'a Config,
        relax: Relax,
        head: usize,
        cancel: &'a AtomicBool,
    ) -> Result<Self, Stop> {
        let bound = subject.ceiling(config).map_err(Stop::Refused)?;
        let bound = if relax == Relax::Nothing { bound } else { f64::INFINITY };
        // A simulator needs no rate beyond everything arriving at once.
        let ceiling = if bound.is_finite() { place_of(bound) + 1 } else { place_of(1e9) };
        let ceiling = ceiling.max(FLOOR);
        Ok(Self {
            subject,
            config,
            relax,
            head,
            times: None,
            floor: FLOOR,
            cancel,
            until: None,
            left_s: f64::INFINITY,
            probes: BTreeMap::new(),
            aside: Vec::new(),
            paces: Paces::default(),
            ceiling,
            most: None,
            finished: None,
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

    /// The same of a server: rates are offered for `glimpse` while none has failed, since the first to fail only says
    /// where to look, and for `whole` from then on; none below `floor`, and for `load_s` seconds at most in all.
    #[must_use]
    pub fn in_real_time(
        mut self,
        (glimpse, whole): (Duration, Duration),
        floor: i32,
        load_s: f64,
    ) -> Self {
        (self.times, self.floor, self.left_s) = (Some((glimpse, whole)), floor.max(FLOOR), load_s);
        self
    }

    /// Goes on from what was tried at this head before.
    #[must_use]
    pub fn knowing<'p>(mut self, probes: impl IntoIterator<Item = &'p Probe>) -> Self {
        // Of a run that ended early only the verdict is known: where a rate is asked for, it is tried again.
        let in_full = |p: &&Probe| p.whole || self.times.is_some();
        let own = probes.into_iter().filter(|p| p.head == self.head).filter(in_full);
        for probe in own.collect::<Vec<_>>() {
            self.probes.entry(probe.k).or_default().push(probe.clone());
        }
        self
    }

    /// True where the SLO holds at `k`.
    pub fn passes(&mut self, k: i32) -> Result<bool, Stop> {
        let whole = self.times.is_none() || self.lowest_failure().is_some();
        self.settle(k, Evidence::STEP, whole)
    }

    /// The same where nothing else will be asked of a rate that fails: its run may end early.
    pub fn is_up_to(&mut self, k: i32) -> Result<bool, Stop> {
        if self.times.is_some() || k <= self.floor || self.probes.contains_key(&k) {
            return self.passes(k);
        }
        let probe = self.run(k, false)?;
        let passes = probe.passes();
        self.probes.entry(k).or_default().push(Probe { whole: passes, ..probe });
        self.passes(k)
    }

    /// True where it holds at `k`, and keeps holding: tried as often as it takes to believe that it does not.
    pub fn stays(&mut self, k: i32) -> Result<bool, Stop> {
        self.settle(k, Evidence::BOUND, true)
    }

    /// Tries `k`, for as long as it takes to show that it holds or just for a look, until there is enough evidence.
    fn settle(&mut self, k: i32, enough: Evidence, whole: bool) -> Result<bool, Stop> {
        loop {
            let tries = self.probes.get(&k).map_or(&[][..], Vec::as_slice);
            if let Some(last) = tries.last() {
                // That requests are too few for a rate is no accident.
                let settled = (last.passes() && (last.whole || !whole))
                    || verdict::too_short(&last.observation);
                let slow = |p: &&Probe| self.paces.is_slow(p.observation.pace());
                let fair = tries.iter().filter(|p| !p.passes() && !slow(p)).count();
                let waited = tries.iter().rev().take_while(slow).count();
                let failed = !last.passes() && (fair >= enough.fair || waited >= enough.slow);
                if settled || failed {
                    return Ok(last.passes());
                }
            }
            let probe = self.run(k, whole)?;
            self.probes.entry(k).or_default().push(probe);
        }
    }

    /// One run, `scale` times as fast as recorded.
    fn offer(&mut self, scale: f64, whole: bool) -> Result<Observation, Stop> {
        let time_is_up = self.until.is_some_and(|until| Instant::now() >= until);
        if time_is_up || self.left_s <= 0.0 || self.cancel.load(Ordering::Relaxed) {
            return Err(Stop::Cancelled);
        }
        let length = match self.times {
            None => Length::Requests(self.head),
            Some((glimpse, long)) => Length::Time(if whole { long } else { glimpse }),
        };
        let (config, relax) = (self.config, self.relax);
        let verdict_only = self.times.is_none() && !whole;
        let observation =
            self.subject.run(&Trial { config, relax, length, scale, verdict_only })?;
        self.left_s -= observation.outside.as_ref().map_or(0.0, |o| o.took_s);
        Ok(observation)
    }

    fn run(&mut self, k: i32, whole: bool) -> Result<Probe, Stop> {
        let head = self.head;
        let observation = self.offer(rate_at(k) / self.subject.natural_rate(head), whole)?;
        self.paces.note(observation.pace());
        let probe = Probe { k, head, whole, observation };
        if let Some(outside) = probe.observation.outside.as_ref().filter(|_| !probe.passes()) {
            self.finished = outside.finished_rps;
        }
        if self.holds_fairly(&probe) {
            self.forget_slow_failures();
        }
        Ok(probe)
    }

    /// True where it passed on a machine as fast as usual.
    fn holds_fairly(&self, probe: &Probe) -> bool {
        probe.passes() && !self.paces.is_slow(probe.observation.pace())
    }

    /// The machine is itself again: a rate that failed, and was only ever tried on a slower one, bounds nothing now.
    fn forget_slow_failures(&mut self) {
        let slow = |p: &Probe| {
            let settled = p.passes() || verdict::too_short(&p.observation);
            !settled && self.paces.is_slow(p.observation.pace())
        };
        let all = std::mem::take(&mut self.probes).into_iter();
        let (slow, known) = all.partition::<BTreeMap<_, _>, _>(|(_, tries)| tries.iter().all(slow));
        self.probes = known;
        self.aside.extend(slow.into_values().flatten());
    }

    /// Finds the knee, beginning at `start`.
    pub fn knee(&mut self, start: i32, effort: Effort) -> Result<Knee, Stop> {
        let start = start.clamp(self.floor, self.ceiling);
        if self.probes.values().flatten().any(|probe| self.holds_fairly(probe)) {
            self.forget_slow_failures();
        }
        let mut lo = if self.passes(start)? {
            start
        } else {
            let known = self.highest_good().filter(|_| self.times.is_some());
            match known.map_or_else(|| self.descend(start, effort), |k| Ok(Some(k)))? {
                Some(k) => k,
                None => return Ok(Knee::Nowhere),
            }
        };
        loop {
            self.climb(lo, effort)?;
            let Some(good) = self.bisect(lo, effort.resolution)? else {
                // Rates that a server was only offered for a while hold nothing yet.
                match self.descend(self.lowest_failure().unwrap_or(lo), effort)? {
                    Some(k) => lo = k,
                    None => return Ok(Knee::Nowhere),
                }
                continue;
            };
            lo = good;
            if !self.settle(lo, Evidence::STEP, true)? {
                continue;
            }
            match self.lowest_failure() {
                // On the way it turned out that none of them said anything.
                None if lo < self.ceiling => continue,
                Some(hi) if effort.repeat && self.stays(hi)? => {
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

    /// The same, if it lies beyond `beat`, which is tried first: what fails there twice is left alone.
    pub fn overtake(
        &mut self,
        beat: Option<i32>,
        start: i32,
        effort: Effort,
    ) -> Result<Knee, Stop> {
        match beat {
            Some(k) if !self.stays(k)? => Ok(Knee::Nowhere),
            _ => self.knee(start, effort),
        }
    }

    /// The highest place whose rate is completed per second when everything is offered at once. Of requests that wait
    /// for others' responses not everything can be; and a machine slower than usual completes less than it can.
    pub(crate) fn most(&mut self) -> Result<i32, Stop> {
        if let Some(most) = self.most {
            return Ok(most);
        }
        let observation = self.offer(f64::INFINITY, true)?;
        let (all, slow) = (&observation.summary, self.paces.is_slow(observation.pace()));
        let rate = all.request_throughput_rps();
        let bounds = all.offered.is_none() && rate > 0.0 && !slow;
        let most = if bounds { place_of(rate).max(FLOOR) } else { i32::MAX };
        self.most = Some(most);
        Ok(most)
    }

    /// Up from a passing place until one fails or the ceiling passes.
    fn climb(&mut self, from: i32, effort: Effort) -> Result<(), Stop> {
        let (mut at, mut stride) = (from, effort.stride);
        while at < self.ceiling && self.lowest_failure().is_none() {
            // A look that tells nothing costs more than one that fails: fewer of them.
            let octaves = if self.probe(at).is_none_or(Probe::tells) { 1 } else { 2 };
            at = (at + octaves * stride).min(self.ceiling);
            stride *= if effort.widening { 2 } else { 1 };
            self.passes(at)?;
        }
        Ok(())
    }

    /// Down from a failing place to one that passes; none if even the floor fails.
    fn descend(&mut self, from: i32, effort: Effort) -> Result<Option<i32>, Stop> {
        let (mut at, mut stride) = (from, effort.stride);
        while at > self.floor {
            // Far below a failure, ask first whether an empty machine can do it at all. A server was asked before,
            // and one that finishes nothing at an eighth of the rate will not at less.
            let far = from - at;
            let hopeless = match self.times {
                None => far >= 2 * 64 && !self.passes_floor(effort)?,
                Some(_) => far >= 3 * OCTAVE && self.finished.is_none(),
            };
            if hopeless {
                return Ok(None);
            }
            at = guess::below(at, stride, self.finished).max(self.floor);
            stride *= if effort.widening { 2 } else { 1 };
            if at == self.floor && !self.passes_floor(effort)? {
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
        let enough = if effort.repeat { Evidence::BOUND } else { Evidence::STEP };
        self.settle(self.floor, enough, true)
    }

    /// Narrows the gap between the highest good place and the lowest failure; returns the former, if there is one.
    fn bisect(&mut self, from: i32, resolution: i32) -> Result<Option<i32>, Stop> {
        loop {
            let lo = match self.highest_good() {
                Some(lo) => lo,
                None if self.times.is_none() => from,
                None => return Ok(None),
            };
            match self.lowest_failure() {
                Some(hi) if hi - lo > resolution => {
                    self.passes(guess::between(lo, hi, resolution, self.finished))?
                }
                _ => return Ok(Some(lo)),
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
        self.last().take_while(|p| p.passes()).filter(|p| p.tells()).last().map(|p| p.k)
    }

    /// The same, or else the highest that passed as long as it was looked at.
    #[must_use]
    pub fn best_known(&self) -> Option<i32> {
        let looked = || self.last().take_while(|p| p.passes()).last().map(|p| p.k);
        self.highest_good().or_else(looked)
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
mod tests;
