//! The engine's events: everything a client, a recorder or a report may want to know.

use std::time::Duration;

use crate::plan::WorkerId;
use crate::request::{RequestId, Token};
use crate::shape::Shape;

/// Something that happened to a request at the end of an iteration (or when it was submitted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It left the queue for the first time, with so many prompt tokens found in the prefix cache.
    Admitted {
        /// The request.
        request: RequestId,
        /// Prompt tokens found computed.
        hit: u32,
        /// When the iteration that admitted it began.
        at: Duration,
    },
    /// It gave way and will be computed again.
    Preempted {
        /// The request.
        request: RequestId,
    },
    /// Its last token was generated.
    Finished {
        /// The request.
        request: RequestId,
    },
}

/// A token of a branch other than a request's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchToken {
    /// The request.
    pub request: RequestId,
    /// The branch of it, from 1.
    pub branch: u16,
    /// The token.
    pub token: Token,
}

/// A committed iteration, or a stretch of identical ones in which every sequence decoded one token per step.
#[derive(Debug, Clone, Default)]
pub struct Iteration {
    /// The worker that ran it.
    pub worker: WorkerId,
    /// When it began.
    pub start: Duration,
    /// When each step ended; one entry unless it is a stretch.
    pub ends: Vec<Duration>,
    /// Requests whose first branch got a token at every one of `ends`; once for each token, where it got several at once.
    pub emitted: Vec<RequestId>,
    /// Sampled tokens, when they are real: one per entry of `emitted`.
    pub tokens: Vec<Token>,
    /// Tokens that other branches of requests got.
    pub branch_tokens: u32,
    /// The tokens themselves, when they are real.
    pub branches: Vec<BranchToken>,
    /// Requests whose branches go on together and are all computed: they wait for [`crate::Engine::choose`].
    pub settled: Vec<RequestId>,
    /// Other events, in order: those of planning (admissions, preemptions), then those at the last of `ends`.
    pub events: Vec<Event>,
    /// Drafted tokens that were computed.
    pub drafted: u32,
    /// Of these, those that the model said too.
    pub accepted: u32,
    /// The work of the first step.
    pub shape: Shape,
}

impl Iteration {
    /// Empties it for use again.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.emitted.clear();
        self.tokens.clear();
        self.branches.clear();
        self.settled.clear();
        self.events.clear();
        (self.branch_tokens, self.drafted, self.accepted) = (0, 0, 0);
    }
}
