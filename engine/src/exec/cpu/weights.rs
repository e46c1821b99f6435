//! A model's weights, packed for the kernels.

use kernels::cpu::{Embedding, Heads, Linear, Precision, Team};

use crate::model::llama::LlamaConfig;
use crate::model::weights::{ModelError, Tensor, Weights};

/// A model ready to run, shared by all workers.
#[derive(Debug)]
pub struct CpuModel {
    pub(super) config: LlamaConfig,
    precision: Precision,
    pub(super) embedding: Embedding,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    pub(super) head: Linear,
    /// Radians per position of each pair of elements.
    pub(super) frequencies: Vec<f32>,
}

/// One transformer layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    pub(super) qkv: Linear,
    /// Norms of single query and key heads.
    pub(super) head_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub(super) out: Linear,
    pub(super) mlp_norm: Vec<f32>,
    pub(super) gate_up: Linear,
    pub(super) down: Linear,
}

impl CpuModel {
    /// Reads `weights`, one tensor after the other, and packs them in `precision` with the threads of `team`.
    ///
    /// # Errors
    /// When a tensor is missing or cannot be read.
    pub fn load(
        team: &Team,
        weights: &mut dyn Weights,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let config = weights.config().clone();
        let hidden = config.hidden as usize;
        let table = weights.tensor("model.embed_tokens.weight")?;
        let embedding = Embedding::new(precision, &table.data, hidden);
        let table = if config.tied_embeddings { table } else { weights.tensor("lm_head.weight")? };
        let head = Linear::pack(team, precision, hidden, &[&table.data]);
        drop(table);
        let layer = |i| Layer::load(team, weights, &config, precision, i);
        let layers = (0..config.layers).map(layer).collect::<Result<_, _>>()?;
        let norm = weights.tensor("model.norm.weight")?.data;
        let frequencies = config.inv_freq();
        Ok(Self { config, precision, embedding, layers, norm, head, frequencies })
    }

    /// What its weights are kept in.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Tokens of the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.config.vocab as usize
    }

    /// Bytes that a pass reads of its weights, the vocabulary head included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let linears = self.layers.iter().flat_map(|l| [&l.qkv, &l.out, &l.gate_up, &l.down]);
        linears.chain([&self.head]).map(Linear::bytes).sum()
    }

    /// Multiplications and additions of one row through the layers' projections, and through the vocabulary head.
    #[must_use]
    pub fn operations(&self) -> (usize, usize) {
        let of = |l: &Linear| 2 * l.features() * l.outputs();
        let layers = self.layers.iter();
        let layers = layers.map(|l| of(&l.qkv) + of(&l.out) + 2 * of(&l.gate_up) + of(&l.down));
        (layers.sum(), of(&self.head))
    }

    pub(super) fn layers(&self) -> usize {
        self.layers.len()
    }

    pub(super) fn heads(&self) -> Heads {
        heads(&self.config)
    }
}

fn heads(config: &LlamaConfig) -> Heads {
    Heads {
        queries: config.heads as usize,
        kv: config.kv_heads as usize,
        dim: config.head_dim as usize,
    }
}

impl Layer {
    fn load(
        team: &Team,
        weights: &mut dyn Weights,
        config: &LlamaConfig,
        precision: Precision,
        i: u32,
    ) -> Result<Self, ModelError> {
        let mut read = |name: &str| -> Result<Vec<f32>, ModelError> {
            let Tensor { data, .. } = weights.tensor(&format!("model.layers.{i}.{name}"))?;
            Ok(data)
        };
        let hidden = config.hidden as usize;
        let pack = |features: usize, parts: &[&[f32]]| Linear::pack(team, precision, features, parts);
        let [q, k, v] = ["q", "k", "v"].map(|p| read(&format!("self_attn.{p}_proj.weight")));
        let mut qkv = pack(hidden, &[&q?, &k?, &v?]);
        if config.qkv_bias {
            let [q, k, v] = ["q", "k", "v"].map(|p| read(&format!("self_attn.{p}_proj.bias")));
            qkv = qkv.biased(&[q?, k?, v?].concat());
        }
        let head_norms = if config.qk_norm {
            Some((read("self_attn.q_norm.weight")?, read("self_attn.k_norm.weight")?))
        } else {
            None
        };
        let (gate, up) = (read("mlp.gate_proj.weight")?, read("mlp.up_proj.weight")?);
        Ok(Self {
            attention_norm: read("input_layernorm.weight")?,
            qkv,
            head_norms,
            out: pack(heads(config).queries * heads(config).dim, &[&read("self_attn.o_proj.weight")?]),
            mlp_norm: read("post_attention_layernorm.weight")?,
            gate_up: Linear::pack_gated(team, precision, hidden, &gate, &up),
            down: pack(config.ffn as usize, &[&read("mlp.down_proj.weight")?]),
        })
    }
}
