//! The whole search of a server's capacity: how long its probes are, where it begins, and what it found.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use engine::Config;

use super::driven::Driven;
use super::held::Held;
use super::memory::Memory;
use super::range::{MOST, Range};
use crate::knee::{Effort, FLOOR, Prober, place_above, place_of, rate_at};
use crate::result::{Contender, Standing, Tried};
use crate::subject::{Relax, Stop};

/// A probe lasts so many unhurried requests, but not less than the least or more than the most that a rate is offered.
const LIFETIMES: f64 = 4.0;
const LEAST: Duration = Duration::from_secs(8);
/// Requests in flight at the first rate, where no other is expected (Little's law): nearly every server takes as many,
/// and slower rates cost the most seconds to offer.
const FIRST: f64 = 4.0;
/// The step from a rate that holds to the next one, if nothing else says where to look.
const AHEAD: f64 = 1.25;
/// The time for which a rate is looked at that is most likely far from the answer, as a share of a probe.
const GLIMPSE: f64 = 0.4;
/// The lowest rate tried, as a share of the first.
const LOWEST: f64 = 1.0 / 1024.0;

/// The aim of a search. The default is to search in full, wherever the answer is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aim {
    /// The time for which a rate must hold; none: four unhurried requests, 8 s at least, and longer where requests
    /// under load outlast that.
    pub probe: Option<Duration>,
    /// Load to spend at most.
    pub budget: Duration,
    /// The rate to hold for the search to go on at all.
    pub beat: Option<f64>,
    /// The expected answer, requests/s.
    pub expected: Option<f64>,
}

impl Default for Aim {
    fn default() -> Self {
        Self { probe: None, budget: Duration::MAX, beat: None, expected: None }
    }
}

/// The result of a search of a server, with the run at the rate found.
pub struct Searched {
    /// The highest rate that held with none below it failing, under steady load if any did; or what became of it.
    pub standing: Standing,
    /// The lowest rate that failed, at its last try; none where the search ended before one did.
    pub fails_at_rps: Option<f64>,
    /// Every rate, in the order tried.
    pub tried: Vec<Tried>,
    /// Why the search ended before it was done, if it did.
    pub note: Option<String>,
    /// The run at the rate found.
    pub best: Option<Held>,
}

impl Searched {
    /// `contender` as the search found it, and the run at its capacity.
    #[must_use]
    pub fn of(self, contender: Contender) -> (Contender, Option<Held>) {
        let Self { standing, fails_at_rps, tried, note, best } = self;
        (Contender { standing, fails_at_rps, tried, note, ..contender }, best)
    }
}

impl Range<'_> {
    /// The highest rate that holds. If there is a rate to beat, it is tried first and decides
    /// whether the search goes on. Results are kept if `watch` says no, or if the server can no
    /// longer be measured.
    ///
    /// # Errors
    /// When the idle server completes nothing, or the client cannot even begin.
    pub fn search(
        &mut self,
        aim: &Aim,
        say: &mut (dyn FnMut(&Tried) + Send),
        watch: &mut (dyn FnMut() -> bool + Send),
    ) -> Result<Searched, String> {
        let (unhurried, misses) = match self.memory.as_ref().and_then(Memory::unhurried) {
            Some(known) => known,
            None => {
                let seen = self.awake(watch)?;
                self.memory.iter().filter(|_| watch()).for_each(|m| m.keep_unhurried(&seen));
                seen
            }
        };
        if let Some(misses) = misses {
            // Targets that one request at a time misses, every rate misses.
            let note = Some(format!("one request at a time misses the targets: {misses}"));
            return Ok(Searched {
                standing: Standing::Nothing,
                fails_at_rps: None,
                tried: Vec::new(),
                note,
                best: None,
            });
        }
        let typical = Duration::from_secs_f64(LIFETIMES * unhurried).clamp(LEAST, MOST);
        let probe = aim.probe.unwrap_or(typical);
        self.glimpse = probe.mul_f64(GLIMPSE);
        let first = match aim.beat {
            None => aim.expected.unwrap_or(FIRST / unhurried),
            Some(beat) => aim.expected.filter(|e| *e > AHEAD * beat).unwrap_or(AHEAD * beat),
        };
        let longest = if aim.probe.is_some() { Duration::ZERO } else { MOST };
        let (glimpse, times) = (self.glimpse, (probe, longest));
        let driven = Driven::new(self, times, aim.budget, unhurried, say, watch);
        // The server has its configuration already.
        let (any, never) = (Config::default(), AtomicBool::new(false));
        let requests = self.trace.requests.len();
        let floor = place_of(first * LOWEST).max(FLOOR);
        let search = Prober::new(&driven, &any, Relax::Nothing, requests, &never);
        let mut search = search.map_err(|stop| stop.to_string())?.in_real_time(
            (glimpse, probe),
            floor,
            aim.budget.as_secs_f64(),
        );
        let ended = search.overtake(aim.beat.map(place_above), place_of(first), Effort::SERVER);
        let (capacity, fails_at) = (search.best_known(), search.lowest_failure());
        let (tried, mut held) = driven.into_seen();
        let note = match ended {
            Err(Stop::Gone(why)) if tried.is_empty() || self.live.is_none() => return Err(why),
            Err(Stop::Gone(why)) => Some(why),
            _ => None,
        };
        let first_failed = tried.first().is_some_and(|t| !t.held);
        let standing = match (capacity, aim.beat) {
            (Some(k), _) => Standing::Carries(rate_at(k)),
            (None, Some(beat)) if first_failed => Standing::Beaten(beat),
            (None, _) => Standing::Nothing,
        };
        let best = capacity.and_then(|k| held.remove(&k));
        Ok(Searched { standing, fails_at_rps: fails_at.map(rate_at), tried, note, best })
    }
}
