//! Multi-head and grouped-query attention over every token, or over a window of them.

use super::super::bounds::Field;
use super::super::cache::kv_element_bytes;
use super::super::operators::{Class, Matrix, Operators};
use crate::config::KvDtype;

/// Heads of queries over heads of keys and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// Query heads.
    pub heads: u32,
    /// Key-value heads; fewer than `heads` with grouped-query attention.
    pub kv_heads: u32,
    /// Elements per head.
    pub head_dim: u32,
    /// Tokens that a query sees at most, the latest ones; none = all.
    pub window: Option<u32>,
    /// True where queries, keys and values have biases.
    pub bias: bool,
    /// True where the projection out of it has one.
    pub output_bias: bool,
    /// True where queries and keys are normalised: each head by itself, unless `norm_over_heads`.
    pub qk_norm: bool,
    /// True where queries, and keys, are normalised over all heads at once, so that ranks have to sum their squares.
    pub norm_over_heads: bool,
    /// True where the queries' projection makes a gate of the output as well.
    pub gate: bool,
    /// True where values are made of the keys' projection.
    pub keys_are_values: bool,
    /// True where every head has a logit that no token takes.
    pub sinks: bool,
}

impl Full {
    /// Attention over every token without biases, norms or gates.
    #[must_use]
    pub fn plain(heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        Self {
            heads,
            kv_heads,
            head_dim,
            window: None,
            bias: false,
            output_bias: false,
            qk_norm: false,
            norm_over_heads: false,
            gate: false,
            keys_are_values: false,
            sinks: false,
        }
    }

    pub(super) fn describe(&self) -> String {
        let Self { heads, kv_heads, head_dim, .. } = self;
        let kind = self.window.map_or_else(|| "full".to_owned(), |w| format!("window of {w}"));
        format!("{kind}, {heads} heads over {kv_heads} of {head_dim}")
    }

    /// KV heads on one of `tp` ranks: a head is copied where there are more ranks than heads.
    #[must_use]
    pub fn rank_kv_heads(&self, tp: u32) -> u32 {
        self.kv_heads.div_ceil(tp)
    }

    pub(super) fn operators(&self, hidden: u32, tp: u32) -> Operators {
        let (h, dim) = (u64::from(hidden), u64::from(self.head_dim));
        let query = u64::from(self.heads) * dim;
        let kv = u64::from(self.rank_kv_heads(tp)) * dim * u64::from(tp);
        let inward =
            query * (1 + u64::from(self.gate)) + kv * (2 - u64::from(self.keys_are_values));
        let (rank_query, rank_kv) =
            (f64::from(self.heads.div_ceil(tp)), f64::from(self.rank_kv_heads(tp)));
        let turned = 2.0 * (rank_query + rank_kv) * dim as f64;
        let mut moved = vec![turned];
        if self.qk_norm {
            moved.push(turned);
        }
        if self.gate {
            moved.push(3.0 * rank_query * dim as f64);
        }
        let over_heads = self.qk_norm && self.norm_over_heads;
        Operators {
            matrices: vec![
                Matrix::columns(inward, h, Class::Projections),
                Matrix::rows(h, query, Class::Output),
            ],
            split_vectors: u64::from(self.bias) * inward
                + u64::from(self.sinks) * u64::from(self.heads)
                + u64::from(over_heads) * (query + kv),
            copied_vectors: u64::from(self.output_bias) * h
                + u64::from(self.qk_norm && !over_heads) * 2 * dim,
            moved,
            // One float32 of queries and one of keys.
            summed: over_heads.then_some(2.0 * 4.0),
            pool: None,
        }
    }

    pub(super) fn kv_bytes(&self, kv: KvDtype, tp: u32) -> u64 {
        2 * u64::from(self.rank_kv_heads(tp)) * u64::from(self.head_dim) * kv_element_bytes(kv)
    }

    pub(super) fn fields(&self) -> Vec<Field> {
        let mut fields = vec![
            ("heads", self.heads, 1 << 14),
            ("kv_heads", self.kv_heads, 1 << 14),
            ("head_dim", self.head_dim, 1 << 12),
        ];
        fields.extend(self.window.map(|window| ("window", window, 1 << 30)));
        fields
    }
}
