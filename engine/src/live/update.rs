//! News of a request on its way to a client.

use std::time::Duration;

use crate::request::Token;
use crate::sample::Logprobs;

/// The reason why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A token or string that ends it.
    Stop,
    /// As many tokens as were asked for.
    Length,
}

/// News of a request. Times are since the engine's start.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// It left the queue for the first time.
    Admitted {
        /// Prompt tokens found in the prefix cache.
        cached: u32,
        /// When the iteration that admitted it began.
        at: Duration,
    },
    /// A branch of it got a token, or ended.
    Step(Step),
}

/// One token of one branch.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its place among the request's completions.
    pub branch: u16,
    /// The token; none only where a request ends without any.
    pub token: Option<Token>,
    /// Text that is certain now: whole characters, and nothing that may be the beginning of a stop string.
    pub text: String,
    /// Log probabilities, if they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Set on the branch's last.
    pub finish: Option<Finish>,
    /// When its iteration ended.
    pub at: Duration,
}
