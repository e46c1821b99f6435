//! The cost of attention, by kinds of layers.

mod kernel;

use kernel::Kernel;

use crate::config::KvDtype;
use crate::format::Format;
use crate::model::attention as kinds;
use crate::profile::{Delta, DeltaTimes, DeviceProfile, Heads, Index, Latent, LatentTimes};
use crate::shape::Shape;

/// One layer's attention on one rank.
#[derive(Debug, Clone)]
pub(super) enum Attention {
    /// Over keys and values of every token or of a window.
    Full(Kernel),
    /// Over latents, with its projections.
    Latent(LatentTimes),
    /// A state per sequence.
    State(DeltaTimes, Net),
}

/// The kinds of attention that keep a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Net {
    GatedDelta,
    Mamba,
}

impl Attention {
    /// That of `kind` in a model of width `hidden` on one of `tp` ranks; projections in `format`, where they are a part
    /// of it.
    pub(super) fn new(
        device: &DeviceProfile,
        kind: &kinds::Attention,
        (hidden, tp): (u32, u32),
        (format, kv): (Format, KvDtype),
    ) -> Self {
        match kind {
            kinds::Attention::Full(full) => Self::Full(Kernel::new(device, heads(full, tp), kv)),
            kinds::Attention::Latent(latent) => {
                let block = block(latent, hidden, tp);
                Self::Latent(device.latent_attention(block, format, kv))
            }
            kinds::Attention::GatedDelta(delta) => {
                let net = Delta {
                    key_heads: delta.key_heads.div_ceil(tp),
                    value_heads: delta.value_heads.div_ceil(tp),
                    key_dim: delta.key_dim,
                    value_dim: delta.value_dim,
                };
                Self::State(device.delta_net(net), Net::GatedDelta)
            }
            // No table has it: it is priced as the net that keeps and changes as large a state.
            kinds::Attention::Mamba(mamba) => {
                let net = Delta {
                    key_heads: mamba.groups.div_ceil(tp),
                    value_heads: mamba.heads.div_ceil(tp),
                    key_dim: mamba.state,
                    value_dim: mamba.head_dim,
                };
                Self::State(device.delta_net(net), Net::Mamba)
            }
        }
    }

    /// True where its projections are timed with it.
    pub(super) fn holds_projections(&self) -> bool {
        matches!(self, Self::Latent(_))
    }

    /// The parts of it that were not measured, in words.
    pub(super) fn borrowed(&self) -> Vec<String> {
        let (what, basis) = match self {
            Self::Full(kernel) => ("attention", kernel.basis()),
            Self::Latent(times) => ("latent attention", times.basis()),
            Self::State(_, Net::Mamba) => {
                return vec!["Mamba is not measured: it is priced as a gated delta net".to_owned()];
            }
            Self::State(times, Net::GatedDelta) => ("the gated delta net", times.basis()),
        };
        let phases = ["prompts", "decodes"].into_iter().zip(basis);
        let borrowed = phases.filter(|(_, basis)| basis.is_borrowed());
        borrowed.map(|(phase, basis)| format!("{what} of {phase} is {basis}")).collect()
    }

    /// Seconds of prompt chunks and of decodes, which share a kernel's start or all of the kernel.
    pub(super) fn parts(&self, shape: &Shape) -> (f64, f64) {
        match self {
            Self::Full(kernel) => kernel.parts(shape),
            Self::Latent(times) => (times.prefill(shape), times.decode(shape)),
            Self::State(times, _) => (times.prefill(shape), times.decode(shape)),
        }
    }
}

/// Heads of full attention on one of `tp` ranks.
pub(super) fn heads(full: &kinds::Full, tp: u32) -> Heads {
    Heads {
        query: full.heads.div_ceil(tp),
        kv: full.rank_kv_heads(tp),
        dim: full.head_dim,
        window: full.window.unwrap_or(0),
    }
}

/// A latent block as tables know it. Layers that take the choice of an earlier layer's indexer have none of their own.
fn block(latent: &kinds::Latent, hidden: u32, tp: u32) -> Latent {
    let index = latent.index.as_ref().map(|index| Index {
        heads: index.heads,
        dim: index.head_dim,
        top: index.top_k,
        reused: !index.own,
    });
    Latent {
        heads: latent.heads.div_ceil(tp),
        hidden,
        query_rank: latent.query_rank,
        kv_rank: latent.kv_rank,
        nope: latent.nope_dim,
        rope: latent.rope_dim,
        value: latent.value_dim,
        index,
    }
}
