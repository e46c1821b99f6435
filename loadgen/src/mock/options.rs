//! The settings of a mock, and the count of its work.

use std::time::Duration;

use super::fault::FaultShare;
use crate::error::Error;

/// The behaviour that the mock pretends.
#[derive(Debug, Clone, PartialEq)]
pub struct MockOptions {
    /// The model it serves; a request for another one is a 404.
    pub model: String,
    /// From getting a slot to the first token.
    pub ttft: Duration,
    /// From token to token.
    pub itl: Duration,
    /// Requests served at once; further ones queue, first come, first served. None: no limit.
    pub slots: Option<u32>,
    /// Tokens of a response when the request does not say.
    pub output: u32,
    /// Times after the start at which everything stands still, and for how long. Sorted, not overlapping.
    pub stalls: Vec<(Duration, Duration)>,
    /// Until so long after the start it answers 503 to everything.
    pub ready_after: Duration,
    /// The faults to make, each with its share.
    pub faults: Vec<FaultShare>,
    /// The wait that 429 and 503 ask for.
    pub retry_after: Duration,
    /// The key clients must send, where one is needed.
    pub api_key: Option<String>,
    /// Seed of the choice of requests that faults befall.
    pub seed: u64,
    /// True where the log holds prompts and answers.
    pub log_prompts: bool,
}

impl Default for MockOptions {
    fn default() -> Self {
        Self {
            model: "mock".to_owned(),
            ttft: Duration::ZERO,
            itl: Duration::ZERO,
            slots: None,
            output: 16,
            stalls: Vec::new(),
            ready_after: Duration::ZERO,
            faults: Vec::new(),
            retry_after: Duration::from_secs(1),
            api_key: None,
            seed: 1,
            log_prompts: false,
        }
    }
}

impl MockOptions {
    /// Refuses options that contradict each other.
    pub(super) fn check(&self) -> Result<(), Error> {
        let shares: f64 = self.faults.iter().map(|f| f.share).sum();
        if shares > 1.0 + 1e-9 {
            return Err(Error::Mock("the shares of all faults together exceed 100%".to_owned()));
        }
        let ends = self.stalls.iter().map(|s| s.0 + s.1);
        if ends.zip(self.stalls.iter().skip(1)).any(|(end, next)| next.0 < end) {
            return Err(Error::Mock("stalls overlap or are not in order of time".to_owned()));
        }
        if self.slots == Some(0) {
            return Err(Error::Mock("0 slots serve no request; give at least 1".to_owned()));
        }
        Ok(())
    }
}

/// Counts of the mock's work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// Connections accepted.
    pub connections: u64,
    /// Completions and chats asked for.
    pub requests: u64,
    /// Of these, answered to the end.
    pub completed: u64,
    /// Tokens handed to sockets.
    pub tokens: u64,
    /// Most streams open at once.
    pub peak_streams: u64,
}
