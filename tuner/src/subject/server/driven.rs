//! A server as a subject: every rate that a search asks for is offered in real time, for as long as it takes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::Config;

use super::held::Held;
use super::memory::Memory;
use super::range::{CROWDED, MOST, Range, natural_starts};
use crate::knee::verdict::Verdict;
use crate::knee::{place_above, rate_at};
use crate::result::Tried;
use crate::subject::observation::Observation;
use crate::subject::unfit::Unfit;
use crate::subject::{Length, Refused, Stop, Subject, Trial};

/// The share of a lengthened probe that requests are to last, if they lasted more than [`CROWDED`]
/// of the shorter one.
const ROOMY: f64 = 0.25;
/// The same of a probe that held its targets and yet seems to fall behind: while a server fills up, its first requests
/// are quicker than any later ones will ever be.
const FILLED: f64 = 0.125;

/// A server, and what a search has seen of it.
pub(super) struct Driven<'s, 'a> {
    range: &'s Range<'a>,
    /// The time for which a rate must hold.
    probe: Duration,
    /// The time for which a probe may become where requests outlast it; zero where its length was asked for.
    longest: Duration,
    /// Load to spend at most.
    budget: Duration,
    /// Seconds that it takes for a request when idle.
    unhurried: f64,
    seen: Mutex<Seen<'s>>,
}

/// The runs so far, and the callbacks that hear of them.
struct Seen<'s> {
    say: &'s mut (dyn FnMut(&Tried) + Send),
    watch: &'s mut (dyn FnMut() -> bool + Send),
    /// The time for which the next rate is offered at least: as long as the one before had to be.
    whole: Duration,
    load_s: f64,
    tried: Vec<Tried>,
    /// The last run at each place that held.
    held: BTreeMap<i32, Held>,
}

impl<'s, 'a> Driven<'s, 'a> {
    /// `times` are how long a rate must hold, and how long that may become.
    pub(super) fn new(
        range: &'s Range<'a>,
        (probe, longest): (Duration, Duration),
        budget: Duration,
        unhurried: f64,
        say: &'s mut (dyn FnMut(&Tried) + Send),
        watch: &'s mut (dyn FnMut() -> bool + Send),
    ) -> Self {
        let (tried, held) = (Vec::new(), BTreeMap::new());
        let seen = Mutex::new(Seen { say, watch, whole: probe, load_s: 0.0, tried, held });
        Self { range, probe, longest, budget, unhurried, seen }
    }

    /// Every rate, in the order tried, and the runs that held, by their places.
    pub(super) fn into_seen(self) -> (Vec<Tried>, BTreeMap<i32, Held>) {
        let seen = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        (seen.tried, seen.held)
    }

    /// One run at `rate`, from memory if it was made before; whether it was made now.
    fn once(
        &self,
        rate: f64,
        time: Duration,
        watch: &mut dyn FnMut() -> bool,
    ) -> Result<(Observation, Held, bool), Stop> {
        let memory = self.range.memory.as_ref();
        let asked = memory.map(|memory| (memory, memory.offered(rate, time)));
        if let Some((_, (_, Some((observation, held))))) = asked {
            return Ok((observation, held, false));
        }
        let (observation, held) = self.range.offer(rate, time, watch).map_err(Stop::Gone)?;
        if let Some((memory, (what, _))) = asked.filter(|_| watch()) {
            Memory::keep_offered(memory, &what, &observation, &held, &self.range.options);
        }
        Ok((observation, held, true))
    }
}

impl Subject for Driven<'_, '_> {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Seen { say, watch, whole, load_s, tried, held: kept } = &mut *seen;
        let natural = self.natural_rate(self.requests());
        // The rate to the bit, whatever became of it on the way.
        let k = place_above(trial.scale * natural * (1.0 - 1e-9));
        let rate = rate_at(k);
        let mut time = match trial.length {
            Length::Time(time) if time < self.probe => time,
            _ => *whole,
        };
        let mut shorter_s = 0.0;
        loop {
            let (mut observation, held, fresh) = self.once(rate, time, watch)?;
            if !watch() {
                return Err(Stop::Cancelled);
            }
            let verdict = Verdict::of(&observation);
            let (passed, overdue) = (verdict == Verdict::Held, verdict == Verdict::NotSustainable);
            let lasted = (observation.sustain.request_share, overdue);
            let outside = observation.outside.get_or_insert_default();
            let whole_s = self.range.offerable(rate, self.probe).as_secs_f64();
            let probed = outside.offered_s >= 0.99 * whole_s;
            let probed = probed && (passed || overdue);
            let longest = self.range.offerable(rate, self.longest).as_secs_f64();
            let longer = longer(outside.offered_s, lasted, longest);
            outside.steady |= probed && longer.is_none();
            *load_s += outside.took_s;
            let took_s = outside.took_s;
            outside.took_s += shorter_s;
            let line = Tried { seconds: took_s, ..Tried::of(rate, &observation) };
            say(&line);
            let longer = longer.filter(|_| probed && *load_s < self.budget.as_secs_f64());
            if passed || longer.is_none() {
                tried.push(line);
            }
            if passed {
                kept.insert(k, held);
                *whole = (*whole).max(time.min(MOST));
            } else if fresh {
                self.range.recover(self.unhurried, watch).map_err(Stop::Gone)?;
            }
            let Some(longer) = longer else { return Ok(observation) };
            shorter_s += took_s;
            time = Duration::from_secs_f64(longer);
        }
    }

    fn requests(&self) -> usize {
        self.range.trace.requests.len()
    }

    fn natural_rate(&self, _: usize) -> f64 {
        self.range.trace.offered_rate()
    }

    fn output_tokens_per_request(&self) -> f64 {
        let output: f64 = self.range.trace.requests.iter().map(|r| f64::from(r.output)).sum();
        output / natural_starts(self.range.trace)
    }

    fn served_tokens_per_request(&self, _: &Config) -> Result<f64, Refused> {
        Ok(self.output_tokens_per_request())
    }

    fn ceiling(&self, _: &Config) -> Result<f64, Refused> {
        Ok(f64::INFINITY)
    }

    fn unfit(&self, _: &Config) -> Result<Unfit, Refused> {
        Ok(Unfit::default())
    }
}

/// The length that a probe should have, s, if its requests lasted the share `lasted` of the time
/// that the rate was offered, and some were overdue if `overdue`. None if that time was long
/// enough, or is as long as it may be.
fn longer(offered_s: f64, (lasted, overdue): (f64, bool), longest_s: f64) -> Option<f64> {
    let (most, aim) = if overdue { (ROOMY, FILLED) } else { (CROWDED, ROOMY) };
    let wanted = (offered_s * lasted / aim).min(longest_s);
    (lasted > most && wanted > offered_s).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_its_requests_outlast_is_lengthened_once() {
        let held = |lasted| (lasted, false);
        assert_eq!(longer(8.0, held(0.3), 120.0), None);
        let s = longer(8.0, held(0.8), 120.0).unwrap();
        // The same requests in the longer probe leave it as it is.
        assert_eq!((s, longer(s, held(0.8 * 8.0 / s), 120.0)), (25.6, None));
        assert_eq!(longer(8.0, held(0.8), 16.0), Some(16.0), "as far as probes go");
        assert_eq!(longer(16.0, held(0.8), 16.0), None);
        assert_eq!(longer(160.0, held(0.8), 120.0), None, "rare requests are offered for longer");
        assert_eq!(longer(8.0, held(0.8), 0.0), None, "a length that was asked for stays");
        let s = longer(16.0, (0.35, true), 120.0).unwrap();
        assert_eq!((s, longer(s, (0.35 * 16.0 / s, true), 120.0)), (44.8, None));
    }
}
