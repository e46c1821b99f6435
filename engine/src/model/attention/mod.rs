//! Kinds of attention. Each kind is a file: its figures, its operators, and what it keeps of a sequence.

mod full;
mod gated_delta;
mod latent;
mod mamba;
mod sparse;

pub use full::Full;
pub use gated_delta::GatedDelta;
pub use latent::Latent;
pub use mamba::Mamba;
pub use sparse::Index;

use super::operators::Operators;
use crate::config::KvDtype;

/// The way in which a layer mixes the tokens of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attention {
    /// Queries over the keys and values of every token, or of a window.
    Full(Full),
    /// Keys and values from one small latent per token (multi-head latent attention), all of them or an indexer's choice.
    Latent(Latent),
    /// A gated delta net: a matrix per head and sequence.
    GatedDelta(GatedDelta),
    /// Mamba 2: a state per head and sequence.
    Mamba(Mamba),
}

impl Attention {
    /// In words, with its figures.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Full(full) => full.describe(),
            Self::Latent(latent) => latent.describe(),
            Self::GatedDelta(delta) => delta.describe(),
            Self::Mamba(mamba) => mamba.describe(),
        }
    }

    /// The operators it consists of, its norms apart, on each of `tp` ranks, in a model of width `hidden`.
    #[must_use]
    pub fn operators(&self, hidden: u32, tp: u32) -> Operators {
        match self {
            Self::Full(full) => full.operators(hidden, tp),
            Self::Latent(latent) => latent.operators(hidden, tp),
            Self::GatedDelta(delta) => delta.operators(hidden, tp),
            Self::Mamba(mamba) => mamba.operators(hidden, tp),
        }
    }

    /// Bytes that it keeps of every token on one of `tp` ranks.
    #[must_use]
    pub fn kv_bytes(&self, kv: KvDtype, tp: u32) -> u64 {
        match self {
            Self::Full(full) => full.kv_bytes(kv, tp),
            Self::Latent(latent) => {
                let own = latent.index.as_ref().filter(|index| index.own);
                latent.kv_bytes(kv) + own.map_or(0, Index::key_bytes)
            }
            Self::GatedDelta(_) | Self::Mamba(_) => 0,
        }
    }

    /// Bytes that it keeps of every sequence, however long, on one of `tp` ranks.
    #[must_use]
    pub fn state_bytes(&self, tp: u32) -> u64 {
        match self {
            Self::Full(_) | Self::Latent(_) => 0,
            Self::GatedDelta(delta) => delta.state_bytes(tp),
            Self::Mamba(mamba) => mamba.state_bytes(tp),
        }
    }

    /// Tokens that a query sees at most, those of a window or an indexer's choice; none where it sees all.
    #[must_use]
    pub fn seen(&self) -> Option<u32> {
        match self {
            Self::Latent(latent) => latent.index.as_ref().map(|index| index.top_k),
            _ => self.window(),
        }
    }

    /// The latest tokens, which a query sees and earlier ones not; none where it sees all.
    #[must_use]
    pub fn window(&self) -> Option<u32> {
        match self {
            Self::Full(full) => full.window,
            _ => None,
        }
    }

    /// Heads that tensor-parallel ranks share out evenly, and heads of which ranks may hold copies.
    #[must_use]
    pub fn heads(&self) -> (u32, u32) {
        match self {
            Self::Full(full) => (full.heads, full.kv_heads),
            // One latent, which every rank holds.
            Self::Latent(latent) => (latent.heads, 1),
            Self::GatedDelta(delta) => (delta.value_heads, delta.key_heads),
            Self::Mamba(mamba) => (mamba.heads, mamba.groups),
        }
    }

    /// Query-key products of one query and one token, and of a value, multiplied and added: elements over all heads.
    #[must_use]
    pub fn pair_elements(&self) -> u64 {
        match self {
            Self::Full(full) => 2 * u64::from(full.heads) * u64::from(full.head_dim),
            Self::Latent(latent) => latent.pair_elements(),
            Self::GatedDelta(_) | Self::Mamba(_) => 0,
        }
    }

    /// Figures that no model can have, in words.
    pub(super) fn fault(&self) -> Option<String> {
        let (heads, shared) = self.heads();
        let fields = match self {
            Self::Full(full) => full.fields(),
            Self::Latent(latent) => latent.fields(),
            Self::GatedDelta(delta) => delta.fields(),
            Self::Mamba(mamba) => mamba.fields(),
        };
        super::bounds::out_of_range(&fields).or_else(|| {
            let (first, second) = (fields[0].0, fields[1].0);
            (!heads.is_multiple_of(shared))
                .then(|| format!("{first} = {heads} must be a multiple of {second} = {shared}"))
        })
    }
}
