//! A model's weights on CUDA devices, in bf16: which part of a split model has what, and on which device.
//!
//! Every part has its tokens' rows of the embedding and of the vocabulary head alone, so that its memory is what the cost
//! model says it is (`ModelShape::rank_weight_bytes`).

use half::bf16;
use kernels::cpu::Heads;
use kernels::cuda::{Buffer, Collective, CudaError, Device, MOST_RANKS, Products};

use super::loader::Loader;
use super::room::RoomError;
use super::{Arithmetic, PADDING};
use crate::exec::cpu::Part;
use crate::model::SpecError;
use crate::model::llama::LlamaConfig;
use crate::model::weights::{ModelError, Weights};

/// Why a model cannot be put on a device.
#[derive(Debug, thiserror::Error)]
pub enum CudaModelError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device.
    #[error(transparent)]
    Device(#[from] CudaError),
    /// There is too little memory.
    #[error(transparent)]
    Room(#[from] RoomError),
}

/// How a model is computed, and over how many parts it is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Which kernels.
    pub arithmetic: Arithmetic,
    /// Tensor-parallel ranks of each pipeline stage.
    pub ranks: usize,
    /// Pipeline stages.
    pub stages: usize,
}

impl Layout {
    /// A model in one piece.
    #[must_use]
    pub const fn whole(arithmetic: Arithmetic) -> Self {
        Self { arithmetic, ranks: 1, stages: 1 }
    }
}

/// A model ready to run, split over pipeline stages and their tensor-parallel ranks; shared by all workers.
#[derive(Debug)]
pub struct CudaModel {
    pub(super) config: LlamaConfig,
    layout: Layout,
    devices: Vec<Device>,
    /// Stage by stage, and in each rank by rank.
    pub(super) shards: Vec<Shard>,
    /// How the ranks of each stage meet.
    pub(super) groups: Vec<Collective>,
    /// How stages do, where there are several.
    pub(super) between: Option<Collective>,
}

/// What one rank of one stage has of a model.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) device: Device,
    pub(super) part: Part,
    /// Its tokens', `[vocab / ranks, hidden]`: the first stage's.
    pub(super) embedding: Option<Buffer<bf16>>,
    pub(super) layers: Vec<Layer>,
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

/// One transformer layer, or a rank's share of it: heads, and inner features.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Buffer<bf16>,
    /// Queries, keys, values: `[(heads + 2 kv_heads) * head_dim, hidden]`, of this rank's heads.
    pub(super) qkv: Buffer<bf16>,
    pub(super) qkv_bias: Option<Buffer<bf16>>,
    /// Norms of single query and key heads.
    pub(super) head_norms: Option<(Buffer<bf16>, Buffer<bf16>)>,
    pub(super) out: Buffer<bf16>,
    pub(super) mlp_norm: Buffer<bf16>,
    /// Gates, then what they let through: `[2 * ffn, hidden]`.
    pub(super) gate_up: Buffer<bf16>,
    pub(super) down: Buffer<bf16>,
}

impl CudaModel {
    /// Reads `weights`, one tensor after the other, and puts each part on its device: all of them on one, or stage by
    /// stage and in each rank by rank on as many.
    ///
    /// # Errors
    /// When a tensor is missing or cannot be read, there are no kernels for its sizes, these do not divide evenly, layers
    /// do not fill the stages, devices are too few or too many, or memory is short.
    pub fn load(
        devices: &[Device],
        weights: &mut dyn Weights,
        layout: Layout,
    ) -> Result<Self, CudaModelError> {
        let config = weights.config().clone();
        check(&config, layout, devices.len())?;
        let Layout { ranks, stages, .. } = layout;
        room_for_weights(&config, layout, devices)?;
        let shard = |at: usize| {
            let part = Part { rank: at % ranks, ranks, stage: at / ranks, stages };
            Loader { device: &devices[at % devices.len()], weights, layout, part }.shard()
        };
        let shards = (0..ranks * stages).map(shard).collect::<Result<Vec<_>, CudaModelError>>()?;
        let places: Vec<_> = shards.iter().map(|shard| shard.device.clone()).collect();
        let groups = places.chunks(ranks).map(Collective::new).collect::<Result<_, _>>()?;
        let between = (stages > 1).then(|| Collective::new(&places)).transpose()?;
        Ok(Self { config, layout, devices: devices.to_vec(), shards, groups, between })
    }

    /// The devices that it is on.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The device that chooses tokens.
    pub(super) fn last_device(&self) -> &Device {
        &self.stage(self.stages() - 1)[0].device
    }

    /// Which of the devices a shard is on.
    pub(super) fn place(&self, shard: usize) -> usize {
        shard % self.devices.len()
    }

    /// What its devices are called.
    #[must_use]
    pub fn device_name(&self) -> String {
        let name = self.devices[0].name();
        match self.devices.len() {
            1 => name.to_owned(),
            n => format!("{n} x {name}"),
        }
    }

    /// Which kernels compute it.
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

    /// Whether ranks exchange features instead of summing products of their own.
    pub(super) fn joins(&self) -> bool {
        joins(self.layout)
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
}

pub(super) fn joins(layout: Layout) -> bool {
    layout.arithmetic == Arithmetic::Invariant && layout.ranks > 1
}

/// Whether there are kernels for `config` in such a layout on so many devices.
fn check(config: &LlamaConfig, layout: Layout, devices: usize) -> Result<(), ModelError> {
    let Layout { ranks, stages, .. } = layout;
    let split = ranks.max(1) as u32;
    let columns = if joins(layout) { split } else { 1 };
    let eights = [("hidden size", config.hidden / columns), ("ffn size", config.ffn / split)];
    let uneven = eights.iter().find(|(_, n)| !n.is_multiple_of(8));
    let divided = [("kv_heads", config.kv_heads), ("ffn", config.ffn), ("vocab", config.vocab)];
    let odd = divided.iter().find(|(_, n)| !n.is_multiple_of(split));
    let reason = if !matches!(config.head_dim, 32 | 64 | 128) {
        format!("head_dim = {}: the CUDA kernels have 32, 64 and 128", config.head_dim)
    } else if config.kv_heads == 0 || !config.heads.is_multiple_of(config.kv_heads) {
        let (heads, kv_heads) = (config.heads, config.kv_heads);
        format!("heads = {heads} must be a multiple of kv_heads = {kv_heads}")
    } else if !(1..=MOST_RANKS).contains(&ranks) {
        format!("{ranks} ranks: a model takes 1 to {MOST_RANKS}")
    } else if let Some((what, n)) = odd {
        format!("{what} = {n} must be a multiple of {ranks} ranks")
    } else if !(1..=config.layers as usize).contains(&stages) {
        format!("layers = {} do not fill {stages} pipeline stages", config.layers)
    } else if let Some((what, n)) = uneven {
        format!("{what} = {n} of a rank: the CUDA kernels need a multiple of 8")
    } else if devices != 1 && devices != ranks * stages {
        format!(
            "tp {ranks} x pp {stages} on {devices} GPUs: name one, which takes all parts, or {}",
            ranks * stages
        )
    } else {
        return Ok(());
    };
    Err(SpecError::Impossible { what: "model", name: config.name.clone(), reason }.into())
}

/// Refuses weights that do not fit. Said of all at once: the tensor that does not fit any more tells nobody how much is
/// missing.
fn room_for_weights(
    config: &LlamaConfig,
    Layout { ranks, stages, .. }: Layout,
    devices: &[Device],
) -> Result<(), CudaModelError> {
    let shape = config.shape(2);
    for (at, device) in devices.iter().enumerate() {
        let here = (at..ranks * stages).step_by(devices.len());
        let (tp, pp) = (ranks as u32, stages as u32);
        let bytes = |shard: usize| shape.rank_weight_bytes(tp, pp, (shard / ranks) as u32);
        let needed: u64 = here.map(bytes).sum();
        if let Some((free, _)) = device.memory()?.filter(|(free, _)| (*free as u64) < needed) {
            let (model, device) = (config.name.clone(), device.name().to_owned());
            return Err(
                RoomError::Weights { model, device, weights: needed, free: free as u64 }.into()
            );
        }
    }
    Ok(())
}
