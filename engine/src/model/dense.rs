//! A model of equal dense layers, as one flat list of figures: the form of a user's own TOML file, of published operator
//! tables, and of what the in-tree engine runs.

use serde::Deserialize;

use super::attention::{Attention, Full};
use super::bounds::out_of_range;
use super::feed_forward::{Dense, FeedForward};
use super::layers::{Layer, Layers};
use super::operators::Formats;
use super::shape::ModelShape;
use crate::format::Format;

/// A decoder-only transformer of equal layers with full attention and dense feed-forward layers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseShape {
    /// Its usual name.
    pub name: String,
    /// The source of the figures.
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
    /// Number format of the layers' matrices.
    #[serde(default)]
    pub format: Format,
    /// Bytes per element, as files before `format` say it: 2, which is bf16.
    #[serde(default)]
    pub dtype_bytes: Option<u32>,
    /// Longest sequence the model was trained for, tokens.
    pub max_context: u32,
}

impl DenseShape {
    /// A value that no model can have, in words.
    pub(crate) fn fault(&self) -> Option<String> {
        let fields = [
            ("hidden", self.hidden, 1 << 18),
            ("layers", self.layers, 1 << 12),
            ("heads", self.heads, 1 << 14),
            ("kv_heads", self.kv_heads, 1 << 14),
            ("head_dim", self.head_dim, 1 << 12),
            ("ffn", self.ffn, 1 << 24),
            ("vocab", self.vocab, 1 << 26),
            ("max_context", self.max_context, 1 << 30),
        ];
        if let Some(bytes) = self.dtype_bytes.filter(|bytes| *bytes != 2) {
            return Some(format!(
                "dtype_bytes = {bytes} does not say which number format: leave it out and give format, such as \
                 format = \"fp8\""
            ));
        }
        out_of_range(&fields).or_else(|| ModelShape::from(self.clone()).fault())
    }
}

impl From<DenseShape> for ModelShape {
    fn from(dense: DenseShape) -> Self {
        let attention = Full {
            bias: dense.bias,
            output_bias: dense.bias,
            qk_norm: dense.qk_norm,
            ..Full::plain(dense.heads, dense.kv_heads, dense.head_dim)
        };
        let feed_forward = Dense { width: dense.ffn, gated: dense.gated, bias: dense.bias };
        let layer = Layer {
            norm_bias: dense.bias,
            formats: Formats::all(dense.format),
            ..Layer::new(Some(Attention::Full(attention)), Some(FeedForward::Dense(feed_forward)))
        };
        Self {
            name: dense.name,
            source: dense.source,
            hidden: dense.hidden,
            layers: Layers::alike(layer, dense.layers),
            vocab: dense.vocab,
            tied_embeddings: dense.tied_embeddings,
            head: Format::Bf16,
            position_rows: dense.position_rows,
            max_context: dense.max_context,
            draft_head: None,
            notes: Vec::new(),
        }
    }
}

impl ModelShape {
    /// The flat form of a model that has one.
    #[must_use]
    pub fn dense(&self) -> Option<DenseShape> {
        let layer = self.layers.single()?;
        let (Some(Attention::Full(full)), Some(FeedForward::Dense(ffn))) =
            (&layer.attention, &layer.feed_forward)
        else {
            return None;
        };
        let dense = DenseShape {
            name: self.name.clone(),
            source: self.source.clone(),
            hidden: self.hidden,
            layers: self.layers.count(),
            heads: full.heads,
            kv_heads: full.kv_heads,
            head_dim: full.head_dim,
            ffn: ffn.width,
            gated: ffn.gated,
            vocab: self.vocab,
            tied_embeddings: self.tied_embeddings,
            position_rows: self.position_rows,
            bias: ffn.bias,
            qk_norm: full.qk_norm,
            format: layer.formats.feed_forward,
            dtype_bytes: None,
            max_context: self.max_context,
        };
        // Properties that the flat form has no word for would be lost on the way.
        let back = Self { notes: self.notes.clone(), ..Self::from(dense.clone()) };
        (back == *self).then_some(dense)
    }
}
