//! Speculative decoding (Leviathan et al., ICML '23): tokens are drafted cheaply, computed in one pass with the next
//! token, and kept as far as the model says the same.
//!
//! A decode is then a chunk of 1 + k tokens: the commit takes what the model says too, and one token more, and the
//! memory of the rest is given back. Drafts are certain proposals (prompt lookup; the likeliest token of a small model),
//! so keeping a drafted token where the model samples the same one is what rejection sampling does, and every token is
//! the one that would have come without drafts, to the bit.

mod acceptance;
mod curves;
mod lookup;

pub use acceptance::{Acceptance, Expected};
pub use curves::{Curve, curve_of};
pub use lookup::PromptLookup;

use crate::choice::choice;
use crate::sequence::{Draft, Sequence};

choice! {
    /// The source of drafted tokens.
    Speculation {
        /// No tokens are drafted.
        Off = "off",
        /// The tokens that followed the last few where those stood before (vLLM's `ngram`).
        PromptLookup = "prompt-lookup",
        /// The model's own draft head, a layer that predicts the token after next.
        Mtp = "mtp",
    }
}

/// Drafts tokens for decoding sequences.
pub trait Drafter: Send {
    /// Fills `draft`, which is empty, with at most `most` tokens that may follow `seq`; returns their number.
    fn draft(&mut self, seq: &Sequence, most: u32, draft: &mut Draft) -> u32;
}
