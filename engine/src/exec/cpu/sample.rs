//! From logits to a token: the seam between a model and how it is asked to speak.

use kernels::cpu::{Isa, argmax};
use kernels::cuda::Draw;

use crate::request::Token;
use crate::sequence::Sequence;

/// Chooses the next token of a sequence.
pub trait Sample: Send {
    /// The token that follows `seq` on `branch` (which differs from the sequence's own when it is about to fork), given
    /// one logit per token of the vocabulary; they may be overwritten.
    fn sample(&mut self, seq: &Sequence, branch: u16, logits: &mut [f32]) -> Token;

    /// How a device may choose that token without its logits being seen; none where they have to be.
    fn on_device(&mut self, _seq: &Sequence, _branch: u16) -> Option<Draw> {
        None
    }
}

/// Always the likeliest token, the first of several.
#[derive(Debug, Clone, Copy)]
pub struct Greedy(Isa);

impl Default for Greedy {
    fn default() -> Self {
        Self(Isa::best())
    }
}

impl Greedy {
    /// The first of the likeliest tokens.
    #[must_use]
    pub fn choose(self, logits: &[f32]) -> Token {
        argmax(self.0, logits) as Token
    }
}

impl Sample for Greedy {
    fn sample(&mut self, _seq: &Sequence, _branch: u16, logits: &mut [f32]) -> Token {
        self.choose(logits)
    }

    fn on_device(&mut self, _seq: &Sequence, _branch: u16) -> Option<Draw> {
        Some(Draw::GREEDY)
    }
}
