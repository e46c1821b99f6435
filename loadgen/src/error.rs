//! Errors in targets and options, each with what to do about it.

use crate::metric::Metric;
use std::time::Duration;

/// Every error of this crate: one line that says what to change.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not of the form `METRIC[:pNN][@CLASS]=DURATION`.
    #[error(
        "target {0:?} is not METRIC[:pNN][@CLASS]=DURATION, for example ttft=200ms or tpot:p90@chat=40ms"
    )]
    Grammar(String),
    /// An unknown metric.
    #[error(
        "unknown metric {metric:?} in target {target:?}: {}valid metrics are {}",
        workloads::meant(metric, Metric::ALL.map(Metric::name)), Metric::names()
    )]
    Metric {
        /// As typed.
        metric: String,
        /// As typed.
        target: String,
    },
    /// A number without a unit.
    #[error(
        "{text:?} has no unit in target {target:?}: is it {text} s or {text} ms? Write {target}s or {target}ms"
    )]
    Unit {
        /// The duration as typed.
        text: String,
        /// As typed.
        target: String,
    },
    /// A duration that is not one.
    #[error(
        "{text:?} is not a duration in target {target:?}; write a number and one of ns, us, ms, s, min, h, such as 200ms"
    )]
    Duration {
        /// As typed.
        text: String,
        /// As typed.
        target: String,
    },
    /// Zero or less.
    #[error("target {0:?} can never be met: a latency limit must be above zero")]
    NotPositive(String),
    /// A percentile outside the grammar.
    #[error("{text:?} is not a percentile in target {target:?}; write p50 to p99.9, or mean")]
    Percentile {
        /// As typed.
        text: String,
        /// As typed.
        target: String,
    },
    /// Two limits for the same statistic of the same metric and class.
    #[error("{0} has two targets, {1:?} and {2:?}; keep one")]
    Duplicate(String, Duration, Duration),
    /// A class the trace does not have.
    #[error("unknown class {class:?} in target {target}; the workload's classes are {known}")]
    Class {
        /// As typed.
        class: String,
        /// The target.
        target: String,
        /// Names of the trace's classes.
        known: String,
    },
    /// An attainment that is not a share.
    #[error("{0:?} is not an attainment; write a percentage above 0% and up to 100%, such as 99%")]
    Attainment(String),
    /// An attainment with nothing to attain.
    #[error("an attainment of {0} needs at least one target, such as ttft=200ms")]
    NothingToAttain(String),
    /// A mean makes no sense request by request.
    #[error(
        "target {0} is about a mean, which no single request can meet; leave out :mean when giving an attainment"
    )]
    MeanUnderAttainment(String),
    /// A rate that cannot be replayed.
    #[error(
        "a rate scale of {0} cannot be replayed; it must be above zero (infinity offers everything at once)"
    )]
    RateScale(f64),
    /// A closed-loop turn that waits for itself or for a later one.
    #[error(
        "request {request} of the trace waits for request {previous}; a turn can only wait for an earlier one"
    )]
    Order {
        /// The turn.
        request: u32,
        /// The earlier request that it waits for.
        previous: u32,
    },
    /// Not of the form `METRIC[:pNN]=SHARE`.
    #[error(
        "precision {0:?} is not METRIC[:pNN]=PERCENT of ttft, tpot or e2e, for example ttft:p99=5% or e2e:mean=2%"
    )]
    Precision(String),
    /// Not of the form `i/n`.
    #[error("worker {0:?} is not I/N with I from 0 to N-1, such as 0/4")]
    Worker(String),
    /// Parts of runs that cannot be put together; the text says which, and why.
    #[error("{0}")]
    Merge(String),
    /// Not of the form `KIND[=SHARE]`.
    #[error(
        "fault {0:?} is not KIND[=SHARE]: a status from 400 to 599, cut, hang, drip, not-sse or no-usage, and a share such as 5%"
    )]
    Fault(String),
    /// Options of the mock server that contradict each other.
    #[error("{0}")]
    Mock(String),
    /// A server that cannot be measured; the text names the server, the reason, and the remedy.
    #[error("{0}")]
    Endpoint(String),
    /// No server listens at the address, or its host has no address: the server may not have been
    /// started yet.
    #[error("{0}")]
    Nobody(String),
    /// A server that is there and does not take requests yet: what it says.
    #[error("{0}")]
    NotReady(String),
    /// The system refused something: what was tried, and what it said.
    #[error("{0}: {1}")]
    Io(String, String),
}
