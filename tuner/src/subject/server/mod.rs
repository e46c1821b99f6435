//! A server as the subject of a search: what of a rate it held, with as little load as possible.
//!
//! A second of a real server is a second, so a rate is given up as soon as it cannot hold any more: when more
//! requests have missed their targets than the whole run may. A failing rate costs a glimpse, a passing one the whole
//! of a probe, because a rate that overloads a server by a share e is late by e times the time it has lasted: only a
//! probe that lasts slack / e tells. One whose requests outlast it tells nothing at all: the server has not yet got
//! what it would be given for ever. [`crate::knee`] chooses the rates.
//!
//! A capacity found so is bounded by what the server completes per second, and needs no run with everything offered at
//! once: a rate beyond it leaves work overdue, and a probe of which more than 3 % is overdue fails
//! ([`loadgen::Sustain`]).

mod driven;
mod held;
mod idle;
mod memory;
mod range;
mod search;

use serde::{Deserialize, Serialize};

use crate::knee::verdict::{Limit, Verdict};
use crate::result::broke;
use crate::subject::observation::Observation;

pub use held::Held;
pub use memory::{LiveStudy, Measured, Memory, Offered, Ready};
pub use range::{Range, lengthened};
pub use search::{Aim, Searched};

/// One rate tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shot {
    /// Requests (or sessions) per second offered.
    pub rate_rps: f64,
    /// True where the targets held and the load could have gone on.
    pub passed: bool,
    /// How long it was offered, s.
    pub offered_s: f64,
    /// True where that was long enough beside its requests for its holding to say that it would hold for ever; or as
    /// long as any rate is offered.
    pub steady: bool,
    /// The time it took until the last answer, s; with shorter probes that it held before this one.
    pub seconds: f64,
    /// Requests per second that the server finished, by its tokens, in the second half.
    pub finished_rps: Option<f64>,
    /// The reason for its failure.
    pub why: String,
    /// The same as a kind; none of a rate that held.
    #[serde(default)]
    pub limit: Option<Limit>,
}

impl Shot {
    /// The line for `observation` at `rate_rps`.
    #[must_use]
    pub fn of(rate_rps: f64, observation: &Observation) -> Self {
        let verdict = Verdict::of(observation);
        let passed = verdict == Verdict::Held;
        let outside = observation.outside.clone().unwrap_or_default();
        Self {
            rate_rps,
            passed,
            offered_s: outside.offered_s,
            steady: outside.steady,
            seconds: outside.took_s,
            finished_rps: outside.finished_rps,
            why: if passed { String::new() } else { broke(observation) },
            limit: verdict.limit(),
        }
    }
}

/// The result of a search.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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

impl Found {
    /// The last try of the lowest rate that failed.
    #[must_use]
    pub fn first_to_fail(&self) -> Option<&Shot> {
        let rate = self.fails_at_rps?;
        self.shots.iter().rev().find(|s| !s.passed && s.rate_rps == rate)
    }
}
