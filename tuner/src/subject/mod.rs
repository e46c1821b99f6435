//! The one question the search asks: what happens when this configuration is offered this much of the trace this
//! fast? Everything above it (capacity, search, why) is the same for a simulator, an analytic model in a test, a
//! study store that remembers, and one day a real server.

pub mod bed;
#[cfg(test)]
pub(crate) mod fake;
pub mod launched;
pub mod observation;
pub mod server;
pub mod study;
pub mod unfit;
pub mod wrapper;

use crate::subject::observation::Observation;
use crate::subject::unfit::Unfit;
use engine::Config;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// One run to make.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The relaxation of the hardware's limits ([`Relax::Nothing`] but for attributions).
    pub relax: Relax,
    /// The part of the trace that is offered.
    pub length: Length,
    /// Arrival times are divided by it: 2 = twice the trace's own rate, infinity = all at once. Think times are not
    /// scaled.
    pub scale: f64,
    /// True where nothing but the verdict is asked: a run that certainly fails need not be played to its end.
    pub verdict_only: bool,
}

/// A part of a trace that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Its first so many requests, 1..=`Subject::most()`.
    Requests(usize),
    /// The requests that come within such a time. Servers are driven so: their time is ours.
    Time(Duration),
}

impl Trial<'_> {
    /// Requests of the trace that `subject` plays for it.
    #[must_use]
    pub fn head(&self, subject: &(impl Subject + ?Sized)) -> usize {
        match self.length {
            Length::Requests(n) => n,
            Length::Time(time) => {
                let rate = self.scale * subject.natural_rate(subject.requests());
                ((rate * time.as_secs_f64()).ceil() as usize).clamp(1, subject.most())
            }
        }
    }
}

/// A hypothetical: one resource of the device doubled, to see whether it was what limited a configuration; or
/// iterations that take another time than predicted.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Relax {
    /// The device as it is.
    #[default]
    Nothing,
    /// Twice the KV slots per worker, all else equal.
    KvMemory,
    /// Twice the arithmetic throughput.
    Compute,
    /// Twice the memory bandwidth.
    Bandwidth,
    /// Communication between GPUs (all-reduce, pipeline, KV transfer) in half the time.
    Interconnect,
    /// Fixed and per-sequence host overhead in half the time.
    Host,
    /// Every iteration in so many thousandths of its time.
    Pace(u32),
}

impl Relax {
    /// Its name in stores and reports.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Nothing => "nothing",
            Self::KvMemory => "kv-memory",
            Self::Compute => "compute",
            Self::Bandwidth => "bandwidth",
            Self::Interconnect => "interconnect",
            Self::Host => "host",
            Self::Pace(per_mille) => return Cow::Owned(format!("pace {per_mille}")),
        })
    }
}

/// Why a configuration cannot run at all: a line that says by how much and what to change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// The line.
    pub reason: String,
}

/// Why a question about a configuration has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// It cannot run.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The subject can be measured no more: a server that died, or completes nothing.
    #[error("{0}")]
    Gone(String),
    /// The search was told to end, or its time was up.
    #[error("interrupted before the first result")]
    Cancelled,
}

/// Runs one configuration at one rate. The same trial must give the same observation at any time
/// and to any caller.
pub trait Subject: Sync {
    /// Runs `trial`, at least until it is certain that the SLO does not hold; to its end where all is offered at once.
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop>;

    /// Runs `trials` to compare them: what disturbs one of them disturbs all, where that can be had.
    fn run_together(&self, trials: &[Trial<'_>]) -> Result<Vec<Observation>, Stop> {
        trials.iter().map(|trial| self.run(trial)).collect()
    }

    /// Requests in the whole trace.
    fn requests(&self) -> usize;

    /// Requests that it can be made longer to, where a rate needs more: at least those of the whole trace.
    fn most(&self) -> usize {
        self.requests()
    }

    /// Requests (or session starts) per second of the first `head` requests at scale 1; at scale s it is s times as
    /// much. Positive and finite.
    fn natural_rate(&self, head: usize) -> f64;

    /// Mean output tokens per request (or per session) of the whole trace.
    fn output_tokens_per_request(&self) -> f64;

    /// The same without the output of requests that `config` can never serve, or why it cannot run; cheap.
    fn served_tokens_per_request(&self, config: &Config) -> Result<f64, Refused>;

    /// A rate (requests/s, whole deployment) that `config` certainly cannot exceed, or why it cannot run; cheap.
    fn ceiling(&self, config: &Config) -> Result<f64, Refused>;

    /// Requests of the whole trace that `config` can never serve, or why it cannot run; cheap.
    fn unfit(&self, config: &Config) -> Result<Unfit, Refused>;
}
