//! A model's weights on a CUDA device, in bf16.

use half::bf16;
use kernels::cpu::Heads;
use kernels::cuda::{Buffer, CudaError, Device};

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
}

/// A model ready to run; shared by all workers.
#[derive(Debug)]
pub struct CudaModel {
    pub(super) device: Device,
    pub(super) config: LlamaConfig,
    pub(super) embedding: Buffer<bf16>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Buffer<bf16>,
    /// None where it is the embedding.
    head: Option<Buffer<bf16>>,
}

/// One transformer layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Buffer<bf16>,
    /// Queries, keys, values: `[(heads + 2 kv_heads) * head_dim, hidden]`.
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
        let config = weights.config().clone();
        check(&config)?;
        let mut loader = Loader { device, weights };
        let embedding = loader.joined(&["model.embed_tokens.weight".to_owned()])?;
        let tied = config.tied_embeddings;
        let head = (!tied).then(|| loader.joined(&["lm_head.weight".to_owned()])).transpose()?;
        let layers =
            (0..config.layers).map(|i| loader.layer(&config, i)).collect::<Result<_, _>>()?;
        let norm = loader.joined(&["model.norm.weight".to_owned()])?;
        Ok(Self { device: device.clone(), config, embedding, layers, norm, head })
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

    pub(super) fn heads(&self) -> Heads {
        Heads {
            queries: self.config.heads as usize,
            kv: self.config.kv_heads as usize,
            dim: self.config.head_dim as usize,
        }
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

/// Whether there are kernels for `config`.
fn check(config: &LlamaConfig) -> Result<(), ModelError> {
    let eights = [("hidden size", config.hidden), ("ffn size", config.ffn)];
    let uneven = eights.iter().find(|(_, n)| !n.is_multiple_of(8));
    let reason = if !matches!(config.head_dim, 32 | 64 | 128) {
        format!("head_dim = {}: the CUDA kernels have 32, 64 and 128", config.head_dim)
    } else if config.kv_heads == 0 || !config.heads.is_multiple_of(config.kv_heads) {
        let (heads, kv_heads) = (config.heads, config.kv_heads);
        format!("heads = {heads} must be a multiple of kv_heads = {kv_heads}")
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
    /// Tensors one below the other.
    fn joined(&mut self, names: &[String]) -> Result<Buffer<bf16>, CudaModelError> {
        let mut rows = Vec::new();
        for name in names {
            let tensor = self.weights.tensor(name)?;
            rows.extend(tensor.data.iter().map(|&x| bf16::from_f32(x)));
        }
        Ok(self.device.upload(&rows)?)
    }

    fn layer(&mut self, config: &LlamaConfig, i: u32) -> Result<Layer, CudaModelError> {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let all = |parts: [&str; 3], kind: &str| {
            parts.map(|p| name(&format!("self_attn.{p}_proj.{kind}"))).to_vec()
        };
        let mut one = |part: &str| self.joined(&[name(part)]);
        let attention_norm = one("input_layernorm.weight")?;
        let mlp_norm = one("post_attention_layernorm.weight")?;
        let out = one("self_attn.o_proj.weight")?;
        let down = one("mlp.down_proj.weight")?;
        let head_norms = if config.qk_norm {
            Some((one("self_attn.q_norm.weight")?, one("self_attn.k_norm.weight")?))
        } else {
            None
        };
        let qkv = self.joined(&all(["q", "k", "v"], "weight"))?;
        let biases = all(["q", "k", "v"], "bias");
        let qkv_bias = config.qkv_bias.then(|| self.joined(&biases)).transpose()?;
        let gate_up =
            self.joined(&["gate", "up"].map(|p| name(&format!("mlp.{p}_proj.weight"))))?;
        Ok(Layer { attention_norm, qkv, qkv_bias, head_norms, out, mlp_norm, gate_up, down })
    }
}
