//! From logits to a token: the seam between a model and how it is asked to speak.

use kernels::cpu::{Isa, argmax};

use crate::request::Token;
use crate::sequence::Sequence;

/// Chooses the next token of a sequence.
pub trait Sample: Send {
    /// The token that follows `seq` on `branch` (which differs from the sequence's own when it is about to fork), given
    /// one logit per token of the vocabulary; they may be overwritten.
    fn sample(&mut self, seq: &Sequence, branch: u16, logits: &mut [f32]) -> Token;
}

/// Always the likeliest token, the first of several.
#[derive(Debug, Clone, Copy)]
pub struct Greedy(Isa);

impl Default for Greedy {
    fn default() -> Self {
        Self(Isa::best())
    }
}

impl Sample for Greedy {
    fn sample(&mut self, _seq: &Sequence, _branch: u16, logits: &mut [f32]) -> Token {
        argmax(self.0, logits) as Token
    }
}
