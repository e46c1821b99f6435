//! The settings of a run against a server, and its progress.

use std::time::{Duration, SystemTime};

use crate::steady::Wanted;
use crate::worker::Worker;

/// The settings of a run against a server.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveOptions {
    /// Arrival times are divided by it.
    pub rate_scale: f64,
    /// Keep so many requests (or sessions) under way instead, whatever their arrival times.
    pub streams: Option<u32>,
    /// Hold requests back while so many are under way. Their latencies count from when they were due all the same.
    pub most_in_flight: Option<u32>,
    /// See [`ReplayOptions`](crate::ReplayOptions).
    pub lift_session_cap: bool,
    /// Send nothing later than this; what is under way then is waited for.
    pub duration: Option<Duration>,
    /// Requests due before this are sent and not counted.
    pub warmup: Duration,
    /// From when a request was due to when it is given up.
    pub timeout: Duration,
    /// Time before a send at which waiting turns into polling.
    pub spin: Duration,
    /// First-token and token-to-token times of the fluidity index.
    pub fluid: Option<(Duration, Duration)>,
    /// A number that makes this run's prompts different from any other's.
    pub salt: u64,
    /// True where prefixes that the trace shares are shared on the wire.
    pub shared_prefixes: bool,
    /// True where every gap between tokens is kept, by request (8 bytes a token).
    pub keep_gaps: bool,
    /// Only this worker's share is sent.
    pub worker: Option<Worker>,
    /// When the trace begins; at once without.
    pub start_at: Option<SystemTime>,
    /// Send nothing more once all these figures are known so well; see [`Wanted`].
    pub until: Vec<Wanted>,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self {
            rate_scale: 1.0,
            streams: None,
            most_in_flight: None,
            lift_session_cap: false,
            duration: None,
            warmup: Duration::ZERO,
            timeout: Duration::from_secs(600),
            spin: Duration::from_micros(50),
            fluid: None,
            salt: 0,
            shared_prefixes: true,
            keep_gaps: false,
            worker: None,
            start_at: None,
            until: Vec::new(),
        }
    }
}

/// The progress of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since the run's origin.
    pub elapsed: Duration,
    /// Requests that have come due.
    pub due: u64,
    /// Requests sent.
    pub sent: u64,
    /// Requests completed.
    pub completed: u64,
    /// Requests failed, in whatever way.
    pub failed: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Token events received.
    pub tokens: u64,
    /// Requests that ended without meeting every target.
    pub missed: u64,
    /// Requests under way whose first token is later than any target allows.
    pub missing: u64,
}
