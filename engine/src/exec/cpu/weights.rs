//! A model's weights, packed for the kernels.

use std::ops::Range;

use kernels::cpu::{Embedding, Heads, Linear, Precision, Team};

use crate::model::SpecError;
use crate::model::llama::LlamaConfig;
use crate::model::weights::{ModelError, Tensor, Weights};

/// A model ready to run, or a [`Part`] of it; shared by all workers.
#[derive(Debug)]
pub struct CpuModel {
    pub(super) config: LlamaConfig,
    pub(super) part: Part,
    precision: Precision,
    /// The first stage's.
    pub(super) embedding: Option<Embedding>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    /// That of the last stage's first rank.
    pub(super) head: Option<Linear>,
    /// Radians per position of each pair of elements.
    pub(super) frequencies: Vec<f32>,
}

/// A part of a model: layers are split over pipeline stages; in each stage attention is split over tensor-parallel
/// ranks by heads, the feed-forward layer by its inner features, as in Megatron-LM (Shoeybi et al. 2019). Unlike there,
/// the projections back are split by output features too, and ranks gather their inputs instead of summing their
/// outputs: every number is then computed as one rank would, in every precision. In int8 a sum in another order is
/// enough to round an activation otherwise, and in time to choose another token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The tensor-parallel rank, from 0.
    pub rank: usize,
    /// Of how many.
    pub ranks: usize,
    /// The pipeline stage, from 0.
    pub stage: usize,
    /// Of how many.
    pub stages: usize,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { rank: 0, ranks: 1, stage: 0, stages: 1 };

    /// Its layers of `all`: the last stage has the vocabulary head too, so the first ones have a layer more.
    pub(in crate::exec) fn layers(self, all: u32) -> Range<u32> {
        let first = |stage: usize| (stage * all as usize).div_ceil(self.stages) as u32;
        first(self.stage)..first(self.stage + 1)
    }

    pub(in crate::exec) fn range(self, whole: usize) -> Range<usize> {
        let each = whole / self.ranks;
        self.rank * each..(self.rank + 1) * each
    }

    /// Its part of the output features, or of a vector.
    pub(in crate::exec) fn rows(self, tensor: &Tensor) -> &[f32] {
        let (rows, cols) =
            if tensor.rows == 1 { (tensor.cols, 1) } else { (tensor.rows, tensor.cols) };
        let Range { start, end } = self.range(rows);
        &tensor.data[start * cols..end * cols]
    }

    /// Its part of the input features.
    pub(in crate::exec) fn cols(self, tensor: Tensor) -> Vec<f32> {
        if self.ranks == 1 {
            return tensor.data;
        }
        let range = self.range(tensor.cols);
        tensor.data.chunks_exact(tensor.cols).flat_map(|row| &row[range.clone()]).copied().collect()
    }
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
    /// When a tensor is missing or cannot be read, or sizes are beyond the kernels.
    pub fn load(
        team: &Team,
        weights: &mut dyn Weights,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        Self::load_part(team, weights, precision, Part::WHOLE)
    }

    /// The same for a part of the model.
    ///
    /// # Errors
    /// As [`CpuModel::load`], and when heads or inner features do not divide evenly, or layers do not fill the stages.
    pub fn load_part(
        team: &Team,
        weights: &mut dyn Weights,
        precision: Precision,
        part: Part,
    ) -> Result<Self, ModelError> {
        let config = weights.config().clone();
        check(&config, part)?;
        let hidden = config.hidden as usize;
        let heads = part.stage + 1 == part.stages && part.rank == 0;
        let tied = heads && config.tied_embeddings;
        let (mut embedding, mut head) = (None, None);
        if part.stage == 0 || tied {
            let table = weights.tensor("model.embed_tokens.weight")?;
            embedding = (part.stage == 0).then(|| Embedding::new(precision, &table.data, hidden));
            head = tied.then(|| Linear::pack(team, precision, hidden, &[&table.data]));
        }
        if heads && !tied {
            let table = weights.tensor("lm_head.weight")?;
            head = Some(Linear::pack(team, precision, hidden, &[&table.data]));
        }
        let layer = |i| Layer::load(team, weights, part, precision, i);
        let layers = part.layers(config.layers).map(layer).collect::<Result<_, _>>()?;
        let norm = weights.tensor("model.norm.weight")?.data;
        let frequencies = config.inv_freq();
        Ok(Self { config, part, precision, embedding, layers, norm, head, frequencies })
    }

    /// The number format in which its weights are kept.
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
        linears.chain(&self.head).map(Linear::bytes).sum()
    }

    /// Multiplications and additions of one row through the layers' projections, and through the vocabulary head.
    #[must_use]
    pub fn operations(&self) -> (usize, usize) {
        let of = |l: &Linear| 2 * l.features() * l.outputs();
        let layers = self.layers.iter();
        let layers = layers.map(|l| of(&l.qkv) + of(&l.out) + 2 * of(&l.gate_up) + of(&l.down));
        (layers.sum(), self.head.iter().map(of).sum())
    }

    pub(super) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Heads of this rank.
    pub(super) fn heads(&self) -> Heads {
        Heads {
            queries: self.config.heads as usize / self.part.ranks,
            kv: self.config.kv_heads as usize / self.part.ranks,
            dim: self.config.head_dim as usize,
        }
    }

    /// Inner features of this rank.
    pub(super) fn ffn(&self) -> usize {
        self.config.ffn as usize / self.part.ranks
    }
}

/// True where the kernels can run `config` on so many ranks and stages.
fn check(config: &LlamaConfig, Part { ranks, stages, .. }: Part) -> Result<(), ModelError> {
    let divides = |n: u32| (n as usize).is_multiple_of(ranks.max(1));
    let (heads, kv, dim) = (config.heads, config.kv_heads, config.head_dim);
    let reason = if ranks == 0 || stages == 0 {
        "a model has at least one rank and one stage".to_owned()
    } else if kv == 0 || !heads.is_multiple_of(kv) {
        format!("heads = {heads} must be a multiple of kv_heads = {kv}")
    } else if dim < 2 || dim % 2 == 1 || dim as usize > Heads::MAX_DIM {
        format!("head_dim = {dim} must be even and at most {}", Heads::MAX_DIM)
    } else if ![kv, config.ffn, config.hidden].into_iter().all(divides) {
        let (ffn, hidden) = (config.ffn, config.hidden);
        format!(
            "kv_heads = {kv}, ffn = {ffn} and hidden = {hidden} must be multiples of {ranks} ranks"
        )
    } else if stages > config.layers as usize {
        format!("layers = {} do not fill {stages} pipeline stages", config.layers)
    } else {
        return Ok(());
    };
    Err(SpecError::Impossible { what: "model", name: config.name.clone(), reason }.into())
}

impl Layer {
    fn load(
        team: &Team,
        weights: &mut dyn Weights,
        part: Part,
        precision: Precision,
        i: u32,
    ) -> Result<Self, ModelError> {
        let config = weights.config().clone();
        let mut read = |name: &str| weights.tensor(&format!("model.layers.{i}.{name}"));
        let hidden = config.hidden as usize;
        let pack =
            |features: usize, parts: &[&[f32]]| Linear::pack(team, precision, features, parts);
        let [q, k, v] = ["q", "k", "v"].map(|p| read(&format!("self_attn.{p}_proj.weight")));
        let (q, k, v) = (q?, k?, v?);
        let mut qkv = pack(hidden, &[part.rows(&q), part.rows(&k), part.rows(&v)]);
        if config.qkv_bias {
            let [q, k, v] = ["q", "k", "v"].map(|p| read(&format!("self_attn.{p}_proj.bias")));
            let (q, k, v) = (q?, k?, v?);
            qkv = qkv.biased(&[part.rows(&q), part.rows(&k), part.rows(&v)].concat());
        }
        let head_norms = if config.qk_norm {
            Some((read("self_attn.q_norm.weight")?.data, read("self_attn.k_norm.weight")?.data))
        } else {
            None
        };
        let (gate, up) = (read("mlp.gate_proj.weight")?, read("mlp.up_proj.weight")?);
        let (gate, up) = (part.rows(&gate), part.rows(&up));
        let (out, down) = (read("self_attn.o_proj.weight")?, read("mlp.down_proj.weight")?);
        Ok(Self {
            attention_norm: read("input_layernorm.weight")?.data,
            qkv,
            head_norms,
            out: pack(out.cols, &[part.rows(&out)]),
            mlp_norm: read("post_attention_layernorm.weight")?.data,
            gate_up: Linear::pack_gated(team, precision, hidden, gate, up),
            down: pack(down.cols, &[part.rows(&down)]),
        })
    }
}
