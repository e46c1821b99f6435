//! A model's weights on CUDA devices, in bf16: the shards of a split model, and the device of each.
//!
//! Every part has its tokens' rows of the embedding and of the vocabulary head alone, so that its memory is what the
//! cost model says it is (`ModelShape::rank_weight_bytes`).

use half::bf16;
use kernels::cpu::Heads;
use kernels::cuda::{Buffer, Collective, CudaError, Device, KvPool, Products};

use super::layout::{Arithmetic, Layout, joins};
use crate::exec::forward::{Back, Layer, Meeting, PADDING, Part};
use crate::model::llama::LlamaConfig;

/// A model ready to run, split over pipeline stages and their tensor-parallel ranks; shared by all workers.
#[derive(Debug)]
pub struct CudaModel {
    pub(super) config: LlamaConfig,
    pub(super) layout: Layout,
    pub(super) devices: Vec<Device>,
    /// Stage by stage, and in each rank by rank.
    pub(super) shards: Vec<Shard>,
    /// The collectives of the ranks of each stage.
    pub(super) groups: Vec<Collective>,
    /// The collective of the stages, where there are several.
    pub(super) between: Option<Collective>,
}

/// The weights of one rank of one stage.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) device: Device,
    pub(super) part: Part,
    /// Its tokens', `[vocab / ranks, hidden]`: the first stage's.
    pub(super) embedding: Option<Buffer<bf16>>,
    pub(super) layers: Vec<Layer<Matrix, Buffer<bf16>>>,
    /// The last stage's.
    pub(super) head: Option<Head>,
}

/// The vocabulary head, or a rank's share of it: tokens.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) norm: Buffer<bf16>,
    /// `[vocab / ranks, hidden]`; none where it is the embedding.
    pub(super) weight: Option<Buffer<bf16>>,
}

/// Projections of one input.
#[derive(Debug)]
pub(super) struct Matrix {
    /// `[outputs, features]`. Of a gated layer: gates, then what they let through.
    pub(super) weight: Buffer<bf16>,
    pub(super) bias: Option<Buffer<bf16>>,
}

impl CudaModel {
    /// The devices that it is on.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The device that chooses tokens.
    pub(super) fn last_device(&self) -> &Device {
        &self.stage(self.stages() - 1)[0].device
    }

    /// The device, by index, that a shard is on.
    pub(super) fn place(&self, shard: usize) -> usize {
        shard % self.devices.len()
    }

    /// The name of its devices.
    #[must_use]
    pub fn device_name(&self) -> String {
        let name = self.devices[0].name();
        match self.devices.len() {
            1 => name.to_owned(),
            n => format!("{n} x {name}"),
        }
    }

    /// The kernels that compute it.
    #[must_use]
    pub fn arithmetic(&self) -> Arithmetic {
        self.layout.arithmetic
    }

    pub(super) fn products(&self) -> Products {
        match self.layout.arithmetic {
            Arithmetic::Fast => Products::Fast,
            Arithmetic::Invariant => Products::Invariant,
        }
    }

    /// Tokens of the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.config.vocab as usize
    }

    /// Those of them that a rank has.
    pub(super) fn tokens(&self) -> usize {
        self.vocab() / self.layout.ranks
    }

    /// Tensor-parallel ranks of a stage.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.layout.ranks
    }

    /// Pipeline stages.
    #[must_use]
    pub fn stages(&self) -> usize {
        self.layout.stages
    }

    /// The ranks of a stage.
    pub(super) fn stage(&self, at: usize) -> &[Shard] {
        &self.shards[at * self.layout.ranks..][..self.layout.ranks]
    }

    /// The way in which ranks meet.
    pub(super) fn meeting(&self) -> Meeting {
        match self.layout.ranks {
            1 => Meeting::Alone,
            _ if joins(self.layout) => Meeting::Gather,
            _ => Meeting::Sum,
        }
    }

    /// Heads of a rank.
    pub(super) fn heads(&self) -> Heads {
        Heads {
            queries: self.config.heads as usize / self.layout.ranks,
            kv: self.config.kv_heads as usize / self.layout.ranks,
            dim: self.config.head_dim as usize,
        }
    }

    /// Inner features of a rank.
    pub(super) fn ffn(&self) -> usize {
        self.config.ffn as usize / self.layout.ranks
    }

    /// Features of a rank that `back` leads back.
    pub(super) fn inner(&self, back: Back) -> usize {
        let heads = self.heads();
        if back == Back::Out { heads.queries * heads.dim } else { self.ffn() }
    }

    /// Positions that any sequence may have.
    pub(super) fn most_positions(&self) -> u32 {
        self.config.max_position.next_power_of_two() + PADDING
    }

    /// Cosines and sines of `positions` positions, `[positions, head_dim / 2, 2]`.
    pub(super) fn turns(&self, positions: u32) -> Vec<f32> {
        let (frequencies, scale) = (self.config.inv_freq(), self.config.rope_scale());
        let turn = |position: u32, frequency: f32| {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            [cos * scale, sin * scale]
        };
        (0..positions).flat_map(|p| frequencies.iter().flat_map(move |&f| turn(p, f))).collect()
    }

    /// New pools of `slots` keys and values, one for each shard.
    pub(super) fn pools(&self, slots: usize) -> Result<Vec<KvPool>, CudaError> {
        let pool =
            |shard: &Shard| KvPool::new(&shard.device, self.heads(), shard.layers.len(), slots);
        self.shards.iter().map(pool).collect()
    }
}
