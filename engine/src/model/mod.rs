//! The shapes of the models people serve, and what follows from them: parameters, weight bytes, KV bytes per token.
//!
//! Only what costs time or memory is in a shape. The shapes ship as TOML and a user's own model is a file of the same
//! form. What is needed to run a model is below: its arithmetic ([`llama`]) and its weights ([`weights`]).

pub mod chat;
mod config_json;
pub mod gguf;
mod gguf_header;
pub mod hub;
pub mod llama;
mod open;
pub mod random;
#[cfg(test)]
mod reading;
pub mod renderer;
pub mod safetensors;
pub mod tokenizer;
pub mod weights;

use std::path::Path;

pub use open::Model;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::KvDtype;
use crate::files::{self, LONGEST_SETTINGS};

/// A decoder-only transformer with dense feed-forward layers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Its usual name.
    pub name: String,
    /// Where the figures come from.
    pub source: String,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Transformer layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key-value heads; fewer than `heads` with grouped-query attention.
    pub kv_heads: u32,
    /// Elements per head.
    pub head_dim: u32,
    /// Inner width of the feed-forward layer.
    pub ffn: u32,
    /// True where the feed-forward layer has a gate (three matrices instead of two).
    pub gated: bool,
    /// Rows of the embedding.
    pub vocab: u32,
    /// True where the vocabulary head is the embedding itself.
    pub tied_embeddings: bool,
    /// Rows of a learned position embedding; 0 = rotary.
    #[serde(default)]
    pub position_rows: u32,
    /// True where projections and norms have biases.
    #[serde(default)]
    pub bias: bool,
    /// True where queries and keys are normalised per head.
    #[serde(default)]
    pub qk_norm: bool,
    /// Bytes per weight and activation element.
    pub dtype_bytes: u32,
    /// Longest sequence the model was trained for, tokens.
    pub max_context: u32,
}

/// Why a model shape or a device profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A name that is not in the catalogue.
    #[error("unknown {what} `{name}`: expected {} or the path of a .toml file", known.join(", "))]
    Unknown {
        /// `model` or `device`.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that would do.
        known: Vec<&'static str>,
    },
    /// A file that cannot be read.
    #[error("cannot read {what} file {path}: {source}")]
    Read {
        /// `model` or `device`.
        what: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not a specification of this kind.
    #[error("{path}:{line}: not a {what}: {reason}")]
    Parse {
        /// `model` or `device`.
        what: &'static str,
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// Figures that cannot be.
    #[error("{what} {name}: {reason}")]
    Impossible {
        /// `model` or `device`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The fault, and the values that are expected.
        reason: String,
    },
}

/// Embedded specifications: name, aliases, text.
pub(crate) type Catalogue = &'static [(&'static str, &'static [&'static str], &'static str)];

/// Reads what `name` stands for: an entry of the catalogue or one of its aliases, else a file.
pub(crate) fn load<T: DeserializeOwned>(
    what: &'static str,
    catalogue: Catalogue,
    name: &str,
) -> Result<T, SpecError> {
    let wanted = name.to_ascii_lowercase();
    let entry =
        catalogue.iter().find(|(n, aliases, _)| *n == wanted || aliases.contains(&wanted.as_str()));
    let parse = |text: &str| {
        toml::from_str(text).map_err(|e| SpecError::Parse {
            what,
            path: name.to_owned(),
            line: 1 + e.span().map_or("", |span| &text[..span.start]).matches('\n').count(),
            reason: e.message().to_owned(),
        })
    };
    if let Some((_, _, text)) = entry {
        return parse(text);
    }
    let is_path = Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
    if !is_path {
        let known = catalogue.iter().map(|(n, _, _)| *n).collect();
        return Err(SpecError::Unknown { what, name: name.to_owned(), known });
    }
    let text = files::read_text(Path::new(name), LONGEST_SETTINGS)
        .map_err(|source| SpecError::Read { what, path: name.to_owned(), source })?;
    parse(&text)
}

const MODELS: Catalogue = &[
    (
        "llama-3.1-8b",
        &[
            "llama3.1-8b",
            "llama-3-8b",
            "meta-llama/llama-3.1-8b",
            "meta-llama/llama-3.1-8b-instruct",
            "meta-llama/meta-llama-3-8b",
        ],
        include_str!("../../models/llama-3.1-8b.toml"),
    ),
    (
        "llama-3.1-70b",
        &[
            "llama3.1-70b",
            "llama-3-70b",
            "meta-llama/llama-3.1-70b",
            "meta-llama/llama-3.1-70b-instruct",
        ],
        include_str!("../../models/llama-3.1-70b.toml"),
    ),
    (
        "llama-2-13b",
        &["llama2-13b", "meta-llama/llama-2-13b-hf", "meta-llama/llama-2-13b-chat-hf"],
        include_str!("../../models/llama-2-13b.toml"),
    ),
    (
        "llama-2-70b",
        &["llama2-70b", "meta-llama/llama-2-70b-hf", "meta-llama/llama-2-70b-chat-hf"],
        include_str!("../../models/llama-2-70b.toml"),
    ),
    ("opt-13b", &["facebook/opt-13b"], include_str!("../../models/opt-13b.toml")),
    (
        "mistral-7b",
        &["mistralai/mistral-7b-instruct-v0.2", "mistralai/mistral-7b-instruct-v0.3"],
        include_str!("../../models/mistral-7b.toml"),
    ),
    ("qwen3-32b", &["qwen/qwen3-32b"], include_str!("../../models/qwen3-32b.toml")),
];

impl ModelShape {
    /// Names of the embedded models.
    pub fn names() -> impl Iterator<Item = &'static str> {
        MODELS.iter().map(|(name, _, _)| *name)
    }

    /// The embedded model called `name` (or an alias), or the one described by the TOML file at that path.
    pub fn load(name: &str) -> Result<Self, SpecError> {
        let model: Self = load("model", MODELS, name)?;
        model.check()?;
        Ok(model)
    }

    fn check(&self) -> Result<(), SpecError> {
        self.fault().map_or(Ok(()), |reason| {
            Err(SpecError::Impossible { what: "model", name: self.name.clone(), reason })
        })
    }

    /// A value that no model can have, in words.
    pub(crate) fn fault(&self) -> Option<String> {
        // Ten times any model's and more; with them the bytes of all weights stay below 2^62.
        let bounded = [
            ("hidden", self.hidden, 1 << 18),
            ("layers", self.layers, 1 << 12),
            ("heads", self.heads, 1 << 14),
            ("kv_heads", self.kv_heads, 1 << 14),
            ("head_dim", self.head_dim, 1 << 12),
            ("ffn", self.ffn, 1 << 24),
            ("vocab", self.vocab, 1 << 26),
            ("dtype_bytes", self.dtype_bytes, 8),
            ("max_context", self.max_context, 1 << 30),
        ];
        let odd = |(_, value, most): &&(&str, u32, u32)| !(1..=*most).contains(value);
        if let Some((field, value, most)) = bounded.iter().find(odd) {
            return Some(match value {
                0 => format!("{field} must be at least 1"),
                _ => format!("{field} = {value} is more than any model has ({most})"),
            });
        }
        if self.position_rows > 1 << 30 {
            return Some(format!(
                "position_rows = {} is more than any model has",
                self.position_rows
            ));
        }
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        (!heads.is_multiple_of(kv_heads))
            .then(|| format!("heads = {heads} must be a multiple of kv_heads = {kv_heads}"))
    }

    /// Query heads x head size: the width of attention's output.
    fn attention_width(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.head_dim)
    }

    fn kv_width(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.head_dim)
    }

    /// Elements of one layer: (split over tensor-parallel ranks, replicated on each).
    fn layer_parameters(&self, kv_width: u64) -> (u64, u64) {
        let (h, f) = (u64::from(self.hidden), u64::from(self.ffn));
        let qkv = self.attention_width() + 2 * kv_width;
        let up = if self.gated { 2 * f } else { f };
        let mut split = qkv * h + self.attention_width() * h + up * h + f * h;
        let mut replicated = 2 * h;
        if self.bias {
            split += qkv + up;
            replicated += 2 * h + 2 * h; // biases of the output and down projections; of both norms
        }
        if self.qk_norm {
            replicated += 2 * u64::from(self.head_dim);
        }
        (split, replicated)
    }

    fn embedding_parameters(&self) -> u64 {
        u64::from(self.vocab) * u64::from(self.hidden)
    }

    fn final_norm_parameters(&self) -> u64 {
        u64::from(self.hidden) * if self.bias { 2 } else { 1 }
    }

    /// Parameters of the whole model.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let (split, replicated) = self.layer_parameters(self.kv_width());
        let embeddings = self.embedding_parameters() * if self.tied_embeddings { 1 } else { 2 };
        let positions = u64::from(self.position_rows) * u64::from(self.hidden);
        u64::from(self.layers) * (split + replicated)
            + embeddings
            + positions
            + self.final_norm_parameters()
    }

    /// Bytes of all weights.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.parameters() * u64::from(self.dtype_bytes)
    }

    /// Layers of pipeline stage `stage` of `pp`: as even as can be, and never more on the last, which has the
    /// vocabulary head too.
    #[must_use]
    pub fn stage_layers(&self, pp: u32, stage: u32) -> u32 {
        self.layers / pp + u32::from(stage < self.layers % pp)
    }

    /// KV heads on one of `tp` ranks: a head is copied where there are more ranks than heads.
    #[must_use]
    pub fn rank_kv_heads(&self, tp: u32) -> u32 {
        self.kv_heads.div_ceil(tp)
    }

    /// Weight bytes of one of `tp` ranks of stage `stage` of `pp`.
    #[must_use]
    pub fn rank_weight_bytes(&self, tp: u32, pp: u32, stage: u32) -> u64 {
        let kv_width = u64::from(self.rank_kv_heads(tp)) * u64::from(self.head_dim) * u64::from(tp);
        let (split, replicated) = self.layer_parameters(kv_width);
        let ranks = u64::from(tp);
        let mut elements =
            u64::from(self.stage_layers(pp, stage)) * (split.div_ceil(ranks) + replicated);
        let (first, last) = (stage == 0, stage + 1 == pp);
        if first {
            elements += self.embedding_parameters().div_ceil(ranks);
            elements += u64::from(self.position_rows) * u64::from(self.hidden);
        }
        if last {
            elements += self.final_norm_parameters();
        }
        if last && !(self.tied_embeddings && first) {
            elements += self.embedding_parameters().div_ceil(ranks);
        }
        elements * u64::from(self.dtype_bytes)
    }

    /// Bytes of keys and values that one token takes in one layer on one of `tp` ranks.
    #[must_use]
    pub fn layer_kv_bytes(&self, kv_dtype: KvDtype, tp: u32) -> u64 {
        2 * u64::from(self.rank_kv_heads(tp))
            * u64::from(self.head_dim)
            * kv_element_bytes(kv_dtype)
    }

    /// Bytes of keys and values that one token takes on one of `tp` ranks, all layers.
    #[must_use]
    pub fn kv_bytes_per_token(&self, kv_dtype: KvDtype, tp: u32) -> u64 {
        u64::from(self.layers) * self.layer_kv_bytes(kv_dtype, tp)
    }
}

/// Bytes of one cached element.
#[must_use]
pub fn kv_element_bytes(kv_dtype: KvDtype) -> u64 {
    match kv_dtype {
        KvDtype::Bf16 => 2,
        KvDtype::Fp8 => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_checkpoints() {
        let cases = [
            ("llama-3.1-8b", 8_030_261_248),
            ("llama-3.1-70b", 70_553_706_496),
            ("llama-2-13b", 13_015_864_320),
            ("llama-2-70b", 68_976_648_192),
            ("mistral-7b", 7_241_732_096),
            ("opt-13b", 12_853_473_280),
            ("qwen3-32b", 32_762_123_264),
        ];
        assert_eq!(ModelShape::names().count(), cases.len());
        for (name, parameters) in cases {
            let model = ModelShape::load(name).unwrap();
            assert_eq!(model.name, name);
            assert_eq!(model.parameters(), parameters, "{name}");
        }
    }

    #[test]
    fn kv_bytes_by_hand() {
        let kv = |name, dtype, tp| ModelShape::load(name).unwrap().kv_bytes_per_token(dtype, tp);
        assert_eq!(kv("llama-3.1-8b", KvDtype::Bf16, 1), 2 * 8 * 128 * 2 * 32);
        assert_eq!(kv("llama-3.1-8b", KvDtype::Fp8, 1), 65_536);
        assert_eq!(kv("opt-13b", KvDtype::Bf16, 1), 819_200); // the 800 KB of the PagedAttention paper
        assert_eq!(kv("llama-3.1-70b", KvDtype::Bf16, 8), 40_960);
        assert_eq!(
            kv("llama-3.1-70b", KvDtype::Bf16, 16),
            40_960,
            "heads are copied beyond one per rank"
        );
    }

    #[test]
    fn ranks_and_stages_hold_the_model_between_them() {
        for name in ModelShape::names() {
            let model = ModelShape::load(name).unwrap();
            assert_eq!(model.rank_weight_bytes(1, 1, 0), model.weight_bytes(), "{name}");
            for pp in [1, 2, 3, 5, 8] {
                let layers: u32 = (0..pp).map(|s| model.stage_layers(pp, s)).sum();
                assert_eq!(layers, model.layers);
                assert_eq!(model.stage_layers(pp, pp - 1), model.layers / pp);
                for tp in [1, 2, 4] {
                    let held: u64 =
                        (0..pp).map(|s| u64::from(tp) * model.rank_weight_bytes(tp, pp, s)).sum();
                    let excess = held as f64 / model.weight_bytes() as f64 - 1.0;
                    assert!((0.0..0.03).contains(&excess), "{name} tp {tp} pp {pp}: {excess}");
                }
            }
        }
    }

    #[test]
    fn an_unknown_model_says_which_are_known() {
        let error = ModelShape::load("gpt-5").unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown model `gpt-5`: expected llama-3.1-8b, llama-3.1-70b, llama-2-13b, llama-2-70b, opt-13b, mistral-7b, \
             qwen3-32b or the path of a .toml file"
        );
        assert_eq!(ModelShape::load("Meta-Llama/Llama-3.1-8B").unwrap().name, "llama-3.1-8b");
    }

    #[test]
    fn a_file_is_read_and_checked() {
        let path = std::env::temp_dir().join(format!("knee-model-{}.toml", std::process::id()));
        let text = include_str!("../../models/mistral-7b.toml");
        let load = |text: String| {
            std::fs::write(&path, text).unwrap();
            ModelShape::load(path.to_str().unwrap())
        };
        assert_eq!(load(text.to_owned()).unwrap(), ModelShape::load("mistral-7b").unwrap());
        let error = load(text.replace("kv_heads = 8", "kv_heads = 5")).unwrap_err().to_string();
        assert_eq!(error, "model mistral-7b: heads = 32 must be a multiple of kv_heads = 5");
        let error = load(text.replace("layers = 32", "layers = 0")).unwrap_err().to_string();
        assert_eq!(error, "model mistral-7b: layers must be at least 1");
        let error = load(text.replace("layers = 32", "")).unwrap_err().to_string();
        assert!(error.contains("missing field `layers`"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(
            ModelShape::load("nowhere.toml")
                .unwrap_err()
                .to_string()
                .starts_with("cannot read model file")
        );
    }
}
