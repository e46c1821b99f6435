//! A model's weights, packed for the kernels.

use kernels::cpu::{Embedding, Heads, Linear, Precision, Team};

use crate::exec::forward::{FeedForward, Gated, Layer, Part, Store, impossible, unsplittable};
use crate::model::llama::LlamaConfig;
use crate::model::weights::{ModelError, Tensor, Weights};

/// A model ready to run, or a part of it; shared by all workers.
#[derive(Debug)]
pub struct CpuModel {
    pub(super) config: LlamaConfig,
    pub(super) part: Part,
    precision: Precision,
    /// The first stage's.
    pub(super) embedding: Option<Embedding>,
    pub(super) layers: Vec<Layer<Linear, Vec<f32>>>,
    pub(super) norm: Vec<f32>,
    /// That of the last stage's first rank.
    pub(super) head: Option<Linear>,
    /// Radians per position of each pair of elements.
    pub(super) frequencies: Vec<f32>,
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
        let heads = part.is_last() && part.rank == 0;
        let tied = heads && config.tied_embeddings;
        let (mut embedding, mut head) = (None, None);
        if part.is_first() || tied {
            let table = weights.tensor("model.embed_tokens.weight")?;
            embedding = (part.is_first()).then(|| Embedding::new(precision, &table.data, hidden));
            head = tied.then(|| Linear::pack(team, precision, hidden, &[&table.data]));
        }
        if heads && !tied {
            let table = weights.tensor("lm_head.weight")?;
            head = Some(Linear::pack(team, precision, hidden, &[&table.data]));
        }
        let mut packer = Packer { team, weights: &mut *weights, part, precision };
        let layer = |i| Layer::load(&mut packer, &config, i);
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

    /// Bytes that a pass reads of its weights where it goes through all experts, the vocabulary head included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let layer = |layer: &Layer<Linear, Vec<f32>>| -> usize {
            let (all, experts) = layer.matrices();
            all.into_iter().chain(experts.into_iter().flatten()).map(Linear::bytes).sum()
        };
        let layers: usize = self.layers.iter().map(layer).sum();
        layers + self.head.as_ref().map_or(0, Linear::bytes)
    }

    /// Multiplications and additions of one row through the layers' projections, and through the vocabulary head.
    #[must_use]
    pub fn operations(&self) -> (usize, usize) {
        let of = |l: &Linear| 2 * l.features() * l.outputs();
        // A gate doubles the outputs.
        let gated = |l: &Gated<Linear>| 2 * of(&l.gate_up) + of(&l.down);
        let chosen = self.config.mixture.map_or(0, |mixture| mixture.top_k as usize);
        let layer = |layer: &Layer<Linear, Vec<f32>>| {
            let feed_forward = match &layer.feed_forward {
                FeedForward::Dense(dense) => gated(dense),
                FeedForward::Experts { router, experts } => {
                    of(router) + chosen * experts.first().map_or(0, gated)
                }
            };
            of(&layer.qkv) + of(&layer.out) + feed_forward
        };
        (self.layers.iter().map(layer).sum(), self.head.iter().map(of).sum())
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

/// Refuses a `config` that the kernels cannot run on so many ranks and stages.
fn check(config: &LlamaConfig, Part { ranks, stages, .. }: Part) -> Result<(), ModelError> {
    let dim = config.head_dim;
    let reason = if dim < 2 || dim % 2 == 1 || dim as usize > Heads::MAX_DIM {
        Some(format!("head_dim = {dim} must be even and at most {}", Heads::MAX_DIM))
    } else {
        unsplittable(config, ranks, stages, ("hidden", config.hidden))
    };
    reason.map_or(Ok(()), |reason| Err(impossible(config, reason)))
}

/// Packs what one rank has of tensors.
struct Packer<'a> {
    team: &'a Team,
    weights: &'a mut dyn Weights,
    part: Part,
    precision: Precision,
}

impl Packer<'_> {
    fn read(&mut self, names: &[String]) -> Result<Vec<Tensor>, ModelError> {
        names.iter().map(|name| self.weights.tensor(name)).collect()
    }

    /// This rank's output features of them.
    fn own<'t>(&self, tensors: &'t [Tensor]) -> Vec<&'t [f32]> {
        tensors.iter().map(|tensor| self.part.rows(tensor)).collect()
    }
}

impl Store for Packer<'_> {
    type Matrix = Linear;
    type Vector = Vec<f32>;
    type Error = ModelError;

    fn vector(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.weights.tensor(name)?.data)
    }

    fn rows(&mut self, weights: &[String], biases: &[String]) -> Result<Linear, ModelError> {
        let features = self.weights.config().hidden as usize;
        let tensors = self.read(weights)?;
        let packed = Linear::pack(self.team, self.precision, features, &self.own(&tensors));
        if biases.is_empty() {
            return Ok(packed);
        }
        let biases = self.read(biases)?;
        Ok(packed.biased(&self.own(&biases).concat()))
    }

    fn gated(&mut self, gate: String, up: String) -> Result<Linear, ModelError> {
        let features = self.weights.config().hidden as usize;
        let (gate, up) = (self.weights.tensor(&gate)?, self.weights.tensor(&up)?);
        let (gate, up) = (self.part.rows(&gate), self.part.rows(&up));
        Ok(Linear::pack_gated(self.team, self.precision, features, gate, up))
    }

    fn router(&mut self, weight: String) -> Result<Linear, ModelError> {
        let tensor = self.weights.tensor(&weight)?;
        Ok(Linear::pack(self.team, Precision::F32, tensor.cols, &[&tensor.data]))
    }

    /// Output features too: ranks exchange what leads back to the residual stream instead of summing it. In int8 a sum
    /// in another order is enough to round an activation otherwise, and in time to choose another token.
    fn back(&mut self, weight: String) -> Result<Linear, ModelError> {
        let tensor = self.weights.tensor(&weight)?;
        let own = [self.part.rows(&tensor)];
        Ok(Linear::pack(self.team, self.precision, tensor.cols, &own))
    }
}
