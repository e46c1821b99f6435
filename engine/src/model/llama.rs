//! The computation of a Llama-family model: its widths, its rotary embedding and its variations within the family.
//!
//! Llama 2 and 3, Mistral, Mixtral, Qwen 2 and 3 (with experts or without) and SmolLM2 are one architecture with a few
//! switches, all of them here. Readers fill this in, executors compute by it, and the cost model sees it as [`LlamaConfig::shape`].

use std::f32::consts::PI;

use crate::format::Format;

use super::feed_forward::{Dense, Experts, FeedForward};
use super::layers::{Layer, Layers};
use super::{DenseShape, ModelShape, SpecError};

/// The names of the family's architectures in files.
pub(super) const FAMILY: [&str; 6] = ["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"];

/// The change of rotary frequencies for contexts longer than those of pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by `factor` (Position Interpolation, Chen et al. 2023).
    Linear {
        /// By how much the context grew.
        factor: f32,
    },
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, smooth between.
    Llama3 {
        /// By how much long wavelengths are stretched.
        factor: f32,
        /// Wavelengths longer than `original_max_position / low_freq_factor` are stretched wholly.
        low_freq_factor: f32,
        /// Wavelengths shorter than `original_max_position / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Longest context of pre-training, tokens.
        original_max_position: u32,
    },
    /// YaRN (Peng et al. 2023): interpolation ramped over dimensions, and a temperature on attention.
    Yarn {
        /// By how much the context grew.
        factor: f32,
        /// Longest context of pre-training, tokens.
        original_max_position: u32,
        /// Dimensions that turn more often than this over the original context are kept.
        beta_fast: f32,
        /// Dimensions that turn less often than this are stretched wholly.
        beta_slow: f32,
        /// The factor of cosines and sines; none = `0.1 ln(factor) + 1`.
        attention_factor: Option<f32>,
    },
}

impl RopeScaling {
    /// Refuses figures that no scaling can have.
    fn check(self) -> Result<(), String> {
        let positive = |what, x| must("more than 0", what, x, x > 0.0);
        let stretch = |x| must("at least 1", "the rotary scaling's factor", x, x >= 1.0);
        let trained = |original: u32| match original {
            0 => Err("original_max_position_embeddings = 0 must be at least 1".to_owned()),
            _ => Ok(()),
        };
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } => stretch(factor),
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position,
            } => {
                stretch(factor)?;
                trained(original_max_position)?;
                positive("low_freq_factor", low)?;
                positive("high_freq_factor", high)?;
                if low < high {
                    return Ok(());
                }
                Err(format!("low_freq_factor = {low} must be less than high_freq_factor = {high}"))
            }
            Self::Yarn {
                factor,
                original_max_position,
                beta_fast: fast,
                beta_slow: slow,
                attention_factor,
            } => {
                stretch(factor)?;
                trained(original_max_position)?;
                positive("beta_fast", fast)?;
                positive("beta_slow", slow)?;
                attention_factor.map_or(Ok(()), |factor| positive("attention_factor", factor))?;
                if slow <= fast {
                    return Ok(());
                }
                Err(format!("beta_slow = {slow} must not be more than beta_fast = {fast}"))
            }
        }
    }
}

/// Refuses an `x` that is not finite or fails the condition `is`, which `be` says in words.
fn must(be: &str, what: &str, x: f32, is: bool) -> Result<(), String> {
    if is && x.is_finite() { Ok(()) } else { Err(format!("{what} = {x} must be {be}")) }
}

/// Experts in the place of one feed-forward layer. A router gives each a share of every token, by softmax; a token goes
/// through those with the largest shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture {
    /// Experts.
    pub experts: u32,
    /// Experts that a token goes through.
    pub top_k: u32,
    /// True where their shares are scaled to a sum of 1.
    pub normalised: bool,
}

impl Mixture {
    /// The same as a part of a shape; experts are `width` wide.
    fn experts_of(self, width: u32) -> Experts {
        Experts {
            experts: self.experts,
            top_k: self.top_k,
            width,
            shared: 0,
            shared_gate: false,
            gated: true,
            bias: false,
            latent: None,
        }
    }
}

/// The flat form of `shape` with one of its experts, where it has any, and these.
fn plain(shape: &ModelShape) -> Option<(DenseShape, Option<Mixture>)> {
    let layer = shape.layers.single()?;
    let Some(FeedForward::Experts(experts)) = &layer.feed_forward else {
        return Some((shape.dense()?, None));
    };
    // Every published model of this form scales the shares.
    let mixture = Mixture { experts: experts.experts, top_k: experts.top_k, normalised: true };
    let dense = Dense { width: experts.width, gated: true, bias: false };
    let dense = Layer { feed_forward: Some(FeedForward::Dense(dense)), ..layer.clone() };
    let layers = Layers::alike(dense, shape.layers.count());
    let same = mixture.experts_of(experts.width) == *experts;
    let dense = ModelShape { layers, ..shape.clone() }.dense()?;
    same.then_some((dense, Some(mixture)))
}

/// A model of the Llama family.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// The name that people use.
    pub name: String,
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key-value heads; `heads` is a multiple of it.
    pub kv_heads: u32,
    /// Elements per head; even.
    pub head_dim: u32,
    /// Inner width of the feed-forward layer, or of each expert.
    pub ffn: u32,
    /// The experts of every layer; none = one feed-forward layer for all tokens.
    pub mixture: Option<Mixture>,
    /// Rows of the embedding.
    pub vocab: u32,
    /// The term that RMS norms add to the mean square.
    pub rms_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Their change for long contexts.
    pub rope_scaling: RopeScaling,
    /// True where the vocabulary head is the embedding itself; there is no `lm_head.weight` then.
    pub tied_embeddings: bool,
    /// True where query, key and value projections have biases (Qwen 2).
    pub qkv_bias: bool,
    /// True where queries and keys are RMS-normalised per head before rotation (Qwen 3).
    pub qk_norm: bool,
    /// A token attends to itself and at most so many minus one before it; none = to all.
    pub sliding_window: Option<u32>,
    /// Longest sequence the model was trained for, tokens.
    pub max_position: u32,
}

impl LlamaConfig {
    /// The built-in model that needs no files: four narrow layers over 256 bytes and two control tokens.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            name: "tiny".to_owned(),
            layers: 4,
            hidden: 128,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            ffn: 256,
            mixture: None,
            vocab: 258,
            rms_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            tied_embeddings: true,
            qkv_bias: false,
            qk_norm: false,
            sliding_window: None,
            max_position: 4096,
        }
    }

    /// A model of `shape`, to be filled with random weights. Values that a shape does not hold (norm epsilon, rotary
    /// base) are Llama 2's.
    ///
    /// # Errors
    /// When the shape is not of this family.
    pub fn of_shape(shape: &ModelShape) -> Result<Self, SpecError> {
        let reason = |why: &str| SpecError::Impossible {
            what: "model",
            name: shape.name.clone(),
            reason: format!("not of the Llama family, and no other can be run: {why}"),
        };
        let several = "its layers are not equal layers with full attention";
        let (shape, mixture) = plain(shape).ok_or_else(|| reason(several))?;
        let alien = [
            (!shape.gated, "its feed-forward layer has no gate"),
            (shape.position_rows > 0, "its positions are learned"),
            (shape.bias, "its projections have biases"),
            (!shape.head_dim.is_multiple_of(2), "head_dim is odd"),
        ];
        if let Some((_, why)) = alien.iter().find(|(is, _)| *is) {
            return Err(reason(why));
        }
        Ok(Self {
            name: shape.name,
            layers: shape.layers,
            hidden: shape.hidden,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            ffn: shape.ffn,
            mixture,
            vocab: shape.vocab,
            rms_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            tied_embeddings: shape.tied_embeddings,
            qkv_bias: false,
            qk_norm: shape.qk_norm,
            sliding_window: None,
            max_position: shape.max_context,
        })
    }

    /// Refuses figures that no model can have, so that nothing divides by zero or reads beyond its end.
    ///
    /// # Errors
    /// The fault, in words.
    pub fn check(&self) -> Result<(), String> {
        if let Some(reason) = self.dense().fault() {
            return Err(reason);
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim = {} must be even", self.head_dim));
        }
        if let Some(Mixture { experts, top_k, .. }) = self.mixture
            && !(1..=experts).contains(&top_k)
        {
            return Err(format!("a token goes through {top_k} of {experts} experts"));
        }
        if self.sliding_window == Some(0) {
            return Err("sliding_window = 0 must be at least 1".to_owned());
        }
        let (eps, theta) = (self.rms_eps, self.rope_theta);
        must("between 0 and 1", "rms_norm_eps", eps, (0.0..=1.0).contains(&eps))?;
        must("more than 1", "rope_theta", theta, theta > 1.0)?;
        self.rope_scaling.check()?;
        // Values in range by themselves may be out of it together.
        match self.inv_freq().iter().find(|f| !f.is_finite()) {
            Some(odd) => Err(format!("the rotary embedding turns by {odd}: its scaling cannot be")),
            None => Ok(()),
        }
    }

    /// The shape of this model, with weights in bf16. The biases of Qwen 2's projections (a thousandth of its weights)
    /// have no place there.
    #[must_use]
    pub fn shape(&self) -> ModelShape {
        let mut shape = ModelShape::from(self.dense());
        if let Some(mixture) = self.mixture {
            shape.layers.each(|layer| {
                layer.feed_forward = Some(FeedForward::Experts(mixture.experts_of(self.ffn)));
            });
        }
        shape
    }

    /// The same as a flat list of figures, as if it had one expert.
    #[must_use]
    pub fn dense(&self) -> DenseShape {
        DenseShape {
            name: self.name.clone(),
            source: "the model's own configuration".to_owned(),
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ffn: self.ffn,
            gated: true,
            vocab: self.vocab,
            tied_embeddings: self.tied_embeddings,
            position_rows: 0,
            bias: false,
            qk_norm: self.qk_norm,
            format: Format::Bf16,
            dtype_bytes: None,
            max_context: self.max_position,
        }
    }

    /// Angle per position of each pair of elements, `head_dim / 2` of them, scaling applied: element `i` of a head
    /// turns with element `i + head_dim / 2` (the rotate-half convention) by `position * inv_freq[i]` radians.
    #[must_use]
    pub fn inv_freq(&self) -> Vec<f32> {
        let dim = self.head_dim as f32;
        let base = |i: u32| 1.0 / self.rope_theta.powf(2.0 * i as f32 / dim);
        let pairs = 0..self.head_dim / 2;
        match self.rope_scaling {
            RopeScaling::None => pairs.map(base).collect(),
            RopeScaling::Linear { factor } => pairs.map(|i| base(i) / factor).collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position,
            } => {
                let scaled = |freq: f32| {
                    let turns = original_max_position as f32 * freq / (2.0 * PI);
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - keep) * freq / factor + keep * freq
                };
                pairs.map(|i| scaled(base(i))).collect()
            }
            RopeScaling::Yarn { factor, original_max_position, beta_fast, beta_slow, .. } => {
                let (from, to) = self.yarn_ramp(original_max_position, beta_fast, beta_slow);
                let scaled = |i: u32| {
                    let stretch = ((i as f32 - from) / (to - from)).clamp(0.0, 1.0);
                    base(i) * (1.0 - stretch) + base(i) / factor * stretch
                };
                pairs.map(scaled).collect()
            }
        }
    }

    /// Pairs between which YaRN goes from keeping a frequency to dividing it.
    fn yarn_ramp(&self, original: u32, beta_fast: f32, beta_slow: f32) -> (f32, f32) {
        let dim = self.head_dim as f32;
        // The pair that turns `turns` times over the original context.
        let pair = |turns: f32| {
            dim * (original as f32 / (turns * 2.0 * PI)).ln() / (2.0 * self.rope_theta.ln())
        };
        let from = pair(beta_fast).floor().max(0.0);
        let to = pair(beta_slow).ceil().min(dim - 1.0);
        (from, to.max(from + 0.001))
    }

    /// The factor of the rotary embedding's cosines and sines: 1 except under YaRN.
    #[must_use]
    pub fn rope_scale(&self) -> f32 {
        match self.rope_scaling {
            RopeScaling::Yarn { factor, attention_factor, .. } => {
                attention_factor.unwrap_or(if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 })
            }
            _ => 1.0,
        }
    }
}
