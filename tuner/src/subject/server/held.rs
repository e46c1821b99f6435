//! A run of a server at a rate, with everything that it takes to report it.

use loadgen::LiveRun;
use workloads::Trace;

/// A rate that held.
pub struct Held {
    /// Requests (or sessions) per second offered.
    pub rate_rps: f64,
    /// The run.
    pub run: LiveRun,
    /// The requests that were sent: the trace, over and over. The run's records count through them.
    pub sent: Trace,
}
