//! One iteration's decision: the sequences it computes, and the tokens of each.

use std::time::Duration;

use crate::sequence::SeqId;

/// Index of a worker: one running list, one KV pool, one executor.
pub type WorkerId = usize;

/// The part of a request's work that a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// All of it.
    #[default]
    Whole,
    /// The prompt; its keys and values are pulled from here.
    Prefill,
    /// Everything after the prompt.
    Decode,
}

/// Tokens of one sequence in one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The sequence.
    pub seq: SeqId,
    /// Tokens of it.
    pub n: u32,
}

/// A worker's next iteration.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// At most one chunk per sequence.
    pub chunks: Vec<Chunk>,
    /// Tokens in `chunks`.
    pub tokens: u32,
    /// Sequences whose KV starts to move to this worker.
    pub pulls: Vec<SeqId>,
    /// True if a sequence was preempted to make it.
    pub preempted: bool,
    /// True if KV ran out while it was made: no sequence may join then.
    pub full: bool,
    /// True if it was made before changes that the next plan will know (see [`crate::state::State::catch_up`]).
    pub behind: bool,
    /// Nothing to do now, but look again then even if nothing arrives.
    pub wake: Option<Duration>,
    /// Every seat is computed up to this many tokens of context (static batches with padding); 0 = no padding.
    pub padded_to: u32,
    /// Seats of a padded batch, those of ended members included.
    pub seats: u32,
}

impl Plan {
    /// Empties it for use again.
    pub fn clear(&mut self) {
        let (mut chunks, mut pulls) =
            (std::mem::take(&mut self.chunks), std::mem::take(&mut self.pulls));
        chunks.clear();
        pulls.clear();
        *self = Self { chunks, pulls, ..Self::default() };
    }

    /// Gives `seq` `n` tokens of this iteration.
    pub fn take(&mut self, seq: SeqId, n: u32) {
        self.tokens += n;
        self.chunks.push(Chunk { seq, n });
    }

    /// Takes back what `seq` was given, if anything.
    pub fn drop_seq(&mut self, seq: SeqId) {
        if let Some(at) = self.chunks.iter().position(|c| c.seq == seq) {
            self.tokens -= self.chunks.remove(at).n;
        }
    }

    /// True if there is nothing to execute.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.chunks.is_empty()
    }
}
