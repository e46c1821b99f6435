//! A model's weights on a CUDA device, in bf16.

use half::bf16;
use kernels::cpu::Heads;
use kernels::cuda::{Buffer, CudaError, Device, MOST_RANKS};

use super::PADDING;
use super::room::RoomError;
use crate::exec::cpu::Part;
use crate::model::SpecError;
use crate::model::llama::LlamaConfig;
use crate::model::weights::{ModelError, Tensor, Weights};

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

/// A model ready to run, split over tensor-parallel ranks that share a device; shared by all workers.
#[derive(Debug)]
pub struct CudaModel {
    pub(super) device: Device,
    pub(super) config: LlamaConfig,
    pub(super) embedding: Buffer<bf16>,
    /// Each rank's share of the layers.
    pub(super) ranks: Vec<Vec<Layer>>,
    pub(super) norm: Buffer<bf16>,
    /// None where it is the embedding.
    head: Option<Buffer<bf16>>,
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
    /// Reads `weights`, one tensor after the other, and puts them on `device`.
    ///
    /// # Errors
    /// When a tensor is missing or cannot be read, there are no kernels for its sizes, or memory is short.
    pub fn load(device: &Device, weights: &mut dyn Weights) -> Result<Self, CudaModelError> {
        Self::load_split(device, weights, 1)
    }

    /// The same, split over `ranks` tensor-parallel ranks as over so many GPUs, all of them on `device`.
    ///
    /// # Errors
    /// As [`CudaModel::load`], and when heads or inner features do not divide evenly.
    pub fn load_split(
        device: &Device,
        weights: &mut dyn Weights,
        ranks: usize,
    ) -> Result<Self, CudaModelError> {
        let config = weights.config().clone();
        check(&config, ranks)?;
        // Said of all weights at once: the tensor that does not fit any more tells nobody how much is missing.
        let needed = config.shape(2).weight_bytes();
        if let Some((free, _)) = device.memory()?.filter(|(free, _)| (*free as u64) < needed) {
            let (model, device) = (config.name, device.name().to_owned());
            return Err(
                RoomError::Weights { model, device, weights: needed, free: free as u64 }.into()
            );
        }
        let mut loader = Loader { device, weights };
        let embedding = loader.whole("model.embed_tokens.weight")?;
        let tied = config.tied_embeddings;
        let head = (!tied).then(|| loader.whole("lm_head.weight")).transpose()?;
        let mut rank = |rank| {
            let part = Part { rank, ranks, ..Part::WHOLE };
            (0..config.layers).map(|i| loader.layer(&config, part, i)).collect::<Result<_, _>>()
        };
        let ranks = (0..ranks).map(&mut rank).collect::<Result<_, CudaModelError>>()?;
        let norm = loader.whole("model.norm.weight")?;
        Ok(Self { device: device.clone(), config, embedding, ranks, norm, head })
    }

    /// The device it is on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Tokens of the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.config.vocab as usize
    }

    pub(super) fn head(&self) -> &Buffer<bf16> {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Tensor-parallel ranks that share the device.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.ranks.len()
    }

    /// Heads of a rank.
    pub(super) fn heads(&self) -> Heads {
        Heads {
            queries: self.config.heads as usize / self.ranks(),
            kv: self.config.kv_heads as usize / self.ranks(),
            dim: self.config.head_dim as usize,
        }
    }

    /// Inner features of a rank.
    pub(super) fn ffn(&self) -> usize {
        self.config.ffn as usize / self.ranks()
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

/// Whether there are kernels for `config` on so many ranks.
fn check(config: &LlamaConfig, ranks: usize) -> Result<(), ModelError> {
    let split = ranks.max(1) as u32;
    let eights = [("hidden size", config.hidden), ("ffn size", config.ffn / split)];
    let uneven = eights.iter().find(|(_, n)| !n.is_multiple_of(8));
    let reason = if !matches!(config.head_dim, 32 | 64 | 128) {
        format!("head_dim = {}: the CUDA kernels have 32, 64 and 128", config.head_dim)
    } else if config.kv_heads == 0 || !config.heads.is_multiple_of(config.kv_heads) {
        let (heads, kv_heads) = (config.heads, config.kv_heads);
        format!("heads = {heads} must be a multiple of kv_heads = {kv_heads}")
    } else if !(1..=MOST_RANKS).contains(&ranks) {
        format!("{ranks} ranks: one GPU takes 1 to {MOST_RANKS}")
    } else if !config.kv_heads.is_multiple_of(split) || !config.ffn.is_multiple_of(split) {
        let (kv_heads, ffn) = (config.kv_heads, config.ffn);
        format!("kv_heads = {kv_heads} and ffn = {ffn} must be multiples of {ranks} ranks")
    } else if let Some((what, n)) = uneven {
        format!("{what} = {n}: the CUDA kernels need a multiple of 8")
    } else {
        return Ok(());
    };
    Err(SpecError::Impossible { what: "model", name: config.name.clone(), reason }.into())
}

/// Reads tensors and puts them on the device.
struct Loader<'a> {
    device: &'a Device,
    weights: &'a mut dyn Weights,
}

impl Loader<'_> {
    /// What `share` takes of tensors, one below the other.
    fn joined(
        &mut self,
        names: &[String],
        share: impl Fn(Tensor) -> Vec<f32>,
    ) -> Result<Buffer<bf16>, CudaModelError> {
        let mut rows = Vec::new();
        for name in names {
            let tensor = share(self.weights.tensor(name)?);
            rows.extend(tensor.iter().map(|&x| bf16::from_f32(x)));
        }
        Ok(self.device.upload(&rows)?)
    }

    fn whole(&mut self, name: &str) -> Result<Buffer<bf16>, CudaModelError> {
        self.joined(&[name.to_owned()], |tensor| tensor.data)
    }

    fn layer(&mut self, config: &LlamaConfig, part: Part, i: u32) -> Result<Layer, CudaModelError> {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let all = |parts: [&str; 3], kind: &str| {
            parts.map(|p| name(&format!("self_attn.{p}_proj.{kind}"))).to_vec()
        };
        let rows = |tensor: Tensor| part.rows(&tensor).to_vec();
        let cols = |tensor: Tensor| part.cols(tensor);
        let head_norms = if config.qk_norm {
            let query = self.whole(&name("self_attn.q_norm.weight"))?;
            Some((query, self.whole(&name("self_attn.k_norm.weight"))?))
        } else {
            None
        };
        let biases = all(["q", "k", "v"], "bias");
        Ok(Layer {
            attention_norm: self.whole(&name("input_layernorm.weight"))?,
            qkv: self.joined(&all(["q", "k", "v"], "weight"), rows)?,
            qkv_bias: config.qkv_bias.then(|| self.joined(&biases, rows)).transpose()?,
            head_norms,
            out: self.joined(&[name("self_attn.o_proj.weight")], cols)?,
            mlp_norm: self.whole(&name("post_attention_layernorm.weight"))?,
            gate_up: self
                .joined(&["gate", "up"].map(|p| name(&format!("mlp.{p}_proj.weight"))), rows)?,
            down: self.joined(&[name("mlp.down_proj.weight")], cols)?,
        })
    }
}
