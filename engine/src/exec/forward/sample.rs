//! From logits to a token: the seam between a model and how it is asked to speak.

use kernels::cpu::{Isa, argmax};
use kernels::cuda::Draw;

use crate::request::Token;
use crate::sequence::{SeqId, Sequence};
use crate::state::State;

/// Chooses the next token of a sequence.
pub trait Sample: Send {
    /// The token that follows `seq` and the first `drafted` of its drafted tokens on `branch` (which differs from the
    /// sequence's own when it is about to fork), given one logit per token of the vocabulary; they may be overwritten.
    fn sample(&mut self, seq: &Sequence, drafted: u32, branch: u16, logits: &mut [f32]) -> Token;

    /// The way in which a device may choose that token without its logits being seen; none where they have to be.
    fn on_device(&mut self, _seq: &Sequence, _branch: u16) -> Option<Draw> {
        None
    }
}

/// A worker's sampler, and room for a row of logits that several branches want.
pub(in crate::exec) struct Chooser {
    sampler: Box<dyn Sample>,
    copy: Vec<f32>,
}

impl Chooser {
    pub(in crate::exec) fn new(sampler: Box<dyn Sample>) -> Self {
        Self { sampler, copy: Vec::new() }
    }

    /// The draws by which a device may choose the tokens after `sampled` without their logits being seen; `draws` is
    /// not whole, and false is returned, where it cannot.
    pub(in crate::exec) fn on_device(
        &mut self,
        state: &State,
        sampled: &[(SeqId, u32)],
        draws: &mut Vec<Draw>,
    ) -> bool {
        draws.clear();
        sampled.iter().all(|&(id, _)| {
            let seq = state.seq(id);
            let draw = if seq.forks() || seq.drafted > 0 {
                None
            } else {
                self.sampler.on_device(seq, seq.branch)
            };
            draw.map(|draw| draws.push(draw)).is_some()
        })
    }

    /// The tokens after `sampled`, given a row of `logits` for each, which may be overwritten. After a drafted token that
    /// is not what the model says, nothing is asked of that sequence any more.
    pub(in crate::exec) fn choose<'a>(
        &mut self,
        state: &State,
        sampled: &[(SeqId, u32)],
        logits: impl Iterator<Item = &'a mut [f32]>,
        tokens: &mut Vec<Token>,
    ) {
        let mut right = true;
        for (&(seq, drafted), logits) in sampled.iter().zip(logits) {
            let seq = state.seq(seq);
            right |= drafted == 0;
            if !right {
                continue;
            }
            if !seq.forks() {
                let token = self.sampler.sample(seq, drafted, seq.branch, logits);
                right = seq.draft.tokens.get(drafted as usize) == Some(&token);
                tokens.push(token);
                continue;
            }
            for branch in 0..seq.width {
                self.copy.clear();
                self.copy.extend_from_slice(logits);
                tokens.push(self.sampler.sample(seq, 0, branch, &mut self.copy));
            }
        }
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
    fn sample(
        &mut self,
        _seq: &Sequence,
        _drafted: u32,
        _branch: u16,
        logits: &mut [f32],
    ) -> Token {
        self.choose(logits)
    }

    fn on_device(&mut self, _seq: &Sequence, _branch: u16) -> Option<Draw> {
        Some(Draw::GREEDY)
    }
}
