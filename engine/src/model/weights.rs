//! A model's weights, one tensor at a time: their source is behind one trait.
//!
//! Names and layouts are those of Hugging Face checkpoints for every kind of file: an executor asks for a tensor, packs
//! it its own way and drops it, so that a model is never twice in memory.

use std::path::Path;

use kernels::random::Uniform;

use super::llama::LlamaConfig;

/// A matrix, or a vector as a matrix of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Output features of a projection; rows of an embedding; 1 for a vector.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// `rows * cols` elements, row after row.
    pub data: Vec<f32>,
}

/// Weights that can be read by name, in Hugging Face's names and in its rotate-half rotary convention:
/// `model.embed_tokens.weight`, `model.norm.weight`, `lm_head.weight` (absent when tied), and in `model.layers.N.`:
/// `input_layernorm.weight`, `post_attention_layernorm.weight`, `self_attn.{q,k,v,o}_proj.weight`,
/// `self_attn.{q,k,v}_proj.bias`, `self_attn.{q,k}_norm.weight`, `mlp.{gate,up,down}_proj.weight`; with experts instead of
/// the last, as Qwen 3 calls them, `mlp.gate.weight` and `mlp.experts.E.{gate,up,down}_proj.weight`.
pub trait Weights {
    /// The model they are of.
    fn config(&self) -> &LlamaConfig;

    /// The tensor called `name`, in f32.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or its shape is not what [`Weights::config`] asks for.
    fn tensor(&mut self, name: &str) -> Result<Tensor, ModelError>;

    /// The rule by which the tensor called `name` is made up, where it is: a caller with a better place for its
    /// elements makes them there.
    fn made_up(&self, _name: &str) -> Option<MadeUp> {
        None
    }
}

/// A tensor of random numbers: element `r * cols + c` of a stream is that of row `r` and column `c`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MadeUp {
    /// As a [`Tensor`]'s.
    pub rows: usize,
    /// As a [`Tensor`]'s.
    pub cols: usize,
    /// The stream.
    pub numbers: Uniform,
}

/// The reasons for which a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor that the weights do not have.
    #[error("{model} has no tensor `{tensor}`")]
    Missing {
        /// The model.
        model: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor of other sizes than the configuration asks for.
    #[error(
        "tensor `{tensor}` of {model} is {found:?}, but its configuration asks for {expected:?}"
    )]
    WrongShape {
        /// The model.
        model: String,
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        found: Vec<usize>,
        /// The sizes they should be.
        expected: Vec<usize>,
    },
    /// Something that is well formed but not of the kinds that can be run.
    #[error("{path}: unsupported {what}")]
    Unsupported {
        /// The file.
        path: String,
        /// The property it has and, where that helps, a remedy.
        what: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A file that is not what its name says.
    #[error("{path}: {reason}")]
    Broken {
        /// The file.
        path: String,
        /// The fault in it.
        reason: String,
    },
    /// A model that the Hugging Face hub does not give.
    #[error("hf:{id}: {reason}")]
    Hub {
        /// Its name there.
        id: String,
        /// The cause.
        reason: String,
    },
    /// A text that cannot be turned into tokens, or messages that cannot be turned into a prompt.
    #[error("{0}")]
    Text(String),
    /// A name or shape that cannot be.
    #[error(transparent)]
    Shape(#[from] super::SpecError),
}

impl ModelError {
    pub(super) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.display().to_string(), source }
    }

    pub(super) fn broken(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Broken { path: path.display().to_string(), reason: reason.to_string() }
    }

    pub(super) fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.display().to_string(), what: what.into() }
    }
}

/// Rows and columns of the tensor called `name` in a model of `config`; none for a name that such a model does not have.
#[must_use]
pub fn expected_shape(config: &LlamaConfig, name: &str) -> Option<(usize, usize)> {
    let c = |n: u32| n as usize;
    let (hidden, head_dim) = (c(config.hidden), c(config.head_dim));
    let (q, kv) = (c(config.heads) * head_dim, c(config.kv_heads) * head_dim);
    let vocab = (c(config.vocab), hidden);
    match name {
        "model.embed_tokens.weight" => return Some(vocab),
        "lm_head.weight" => return (!config.tied_embeddings).then_some(vocab),
        "model.norm.weight" => return Some((1, hidden)),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    if layer.parse::<u32>().ok()? >= config.layers {
        return None;
    }
    let ffn = c(config.ffn);
    // The part of the feed-forward layer, or of one expert.
    let product = match config.mixture {
        None => part.strip_prefix("mlp."),
        Some(mixture) => part.strip_prefix("mlp.experts.").and_then(|rest| {
            let (expert, product) = rest.split_once('.')?;
            (expert.parse::<u32>().ok()? < mixture.experts).then_some(product)
        }),
    };
    match product {
        Some("gate_proj.weight" | "up_proj.weight") => return Some((ffn, hidden)),
        Some("down_proj.weight") => return Some((hidden, ffn)),
        _ => {}
    }
    let shape = match part {
        "mlp.gate.weight" => (c(config.mixture?.experts), hidden),
        "input_layernorm.weight" | "post_attention_layernorm.weight" => (1, hidden),
        "self_attn.q_proj.weight" => (q, hidden),
        "self_attn.k_proj.weight" | "self_attn.v_proj.weight" => (kv, hidden),
        "self_attn.o_proj.weight" => (hidden, q),
        "self_attn.q_proj.bias" if config.qkv_bias => (1, q),
        "self_attn.k_proj.bias" | "self_attn.v_proj.bias" if config.qkv_bias => (1, kv),
        "self_attn.q_norm.weight" | "self_attn.k_norm.weight" if config.qk_norm => (1, head_dim),
        _ => return None,
    };
    Some(shape)
}

/// Checks the dimensions of a tensor against what `config` asks for; gives its rows and columns.
pub(super) fn checked(
    config: &LlamaConfig,
    name: &str,
    found: &[usize],
) -> Result<(usize, usize), ModelError> {
    let missing = || ModelError::Missing { model: config.name.clone(), tensor: name.to_owned() };
    let (rows, cols) = expected_shape(config, name).ok_or_else(missing)?;
    let is_vector = found.len() == 1 && rows == 1 && found[0] == cols;
    if is_vector || found == [rows, cols] {
        return Ok((rows, cols));
    }
    Err(ModelError::WrongShape {
        model: config.name.clone(),
        tensor: name.to_owned(),
        found: found.to_vec(),
        expected: if rows == 1 { vec![cols] } else { vec![rows, cols] },
    })
}
