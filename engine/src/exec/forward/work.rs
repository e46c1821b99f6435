//! Batches that are timed, and their times: the raw material of a profile.

use super::Spent;

/// Tokens that a sequence's room is rounded up to.
pub(in crate::exec) const BLOCK: u32 = 16;

/// A batch: `prompts` chunks of `tokens` each after `history`, and `decodes` sequences of `length` tokens each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Chunks of prompts.
    pub prompts: u32,
    /// New tokens of each.
    pub tokens: u32,
    /// Tokens of each that were computed before.
    pub history: u32,
    /// Sequences that decode.
    pub decodes: u32,
    /// Tokens of each, the new one included.
    pub length: u32,
}

impl Work {
    /// Rows: new tokens of all sequences.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.prompts * self.tokens + self.decodes
    }

    /// True where no sequence is longer than `most` tokens, and all have room in `slots`, in whole blocks.
    pub(in crate::exec) fn fits(&self, most: u32, slots: u32) -> bool {
        let (prompt, decode) = (self.tokens + self.history, self.length);
        let room = |n: u32, len: u32| n * len.next_multiple_of(BLOCK);
        let longest = if self.prompts > 0 { prompt.max(decode) } else { decode };
        longest <= most && room(self.prompts, prompt) + room(self.decodes, decode) <= slots
    }
}

/// A batch and its time.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// The operator that was run.
    pub work: Work,
    /// Layers it ran through.
    pub layers: u32,
    /// Rows that went through the vocabulary head.
    pub sampled: u32,
    /// Time by operator, over these layers: of the pass in the middle of those timed.
    pub spent: Spent,
}
