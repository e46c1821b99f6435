//! What attention costs, by kinds of layers.
//!
//! Kinds are made of two things: [`Kernel`], attention over keys and values, and [`Recurrence`], a state that tokens
//! pass through. A window or an indexer's choice bounds what a kernel sees.

mod kernel;
mod recurrence;

use kernel::Kernel;
use recurrence::Recurrence;

use crate::config::KvDtype;
use crate::model::attention as kinds;
use crate::model::kv_element_bytes;
use crate::profile::{DeviceProfile, Heads};
use crate::shape::Shape;

/// One layer's attention on one rank.
#[derive(Debug, Clone)]
pub(super) enum Attention {
    /// Over all tokens.
    Full(Kernel),
    /// Over at most this many tokens for each query: a window, or what an earlier layer's indexer chose.
    Bounded(Kernel, u32),
    /// Over the tokens that an indexer, which scores all of them, chooses for each query.
    Indexed(Kernel, u32, Kernel),
    /// Through a state.
    State(Recurrence),
}

impl Attention {
    pub(super) fn new(
        device: &DeviceProfile,
        attention: &kinds::Attention,
        tp: u32,
        kv: KvDtype,
    ) -> Self {
        let element = kv_element_bytes(kv) as f64;
        match attention {
            kinds::Attention::Full(full) => {
                let kernel = Kernel::new(device, heads(full, tp), element);
                match full.window {
                    Some(window) => Self::Bounded(kernel, window),
                    None => Self::Full(kernel),
                }
            }
            kinds::Attention::Latent(latent) => {
                let kernel = Kernel::of_latent(device, latent, tp, kv);
                match &latent.index {
                    None => Self::Full(kernel),
                    Some(index) if index.own => {
                        Self::Indexed(kernel, index.top_k, Kernel::of_index(device, index))
                    }
                    Some(index) => Self::Bounded(kernel, index.top_k),
                }
            }
            kinds::Attention::GatedDelta(_) | kinds::Attention::Mamba(_) => {
                Self::State(Recurrence::new(device, attention.state_bytes(tp)))
            }
        }
    }

    /// Seconds of prompt chunks and of decodes, which share a kernel's start or all of the kernel.
    pub(super) fn parts(&self, shape: &Shape) -> (f64, f64) {
        match self {
            Self::Full(kernel) => kernel.parts(shape),
            Self::Bounded(kernel, seen) => kernel.parts(&shape.seeing(*seen)),
            Self::Indexed(kernel, seen, index) => {
                let (prefill, decode) = kernel.parts(&shape.seeing(*seen));
                let (scored, scores) = index.parts(shape);
                (prefill + scored, decode + scores)
            }
            Self::State(recurrence) => recurrence.parts(shape),
        }
    }
}

/// Heads of full attention on one of `tp` ranks.
pub(super) fn heads(full: &kinds::Full, tp: u32) -> Heads {
    Heads { query: full.heads.div_ceil(tp), kv: full.rank_kv_heads(tp), dim: full.head_dim }
}
