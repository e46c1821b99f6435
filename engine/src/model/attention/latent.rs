//! Multi-head latent attention (DeepSeek): a token is kept as one latent that keys and values of all heads are made of.

use super::super::bounds::Field;
use super::super::cache::kv_element_bytes;
use super::super::operators::{Class, Matrix, Operators};
use super::sparse::Index;
use crate::config::KvDtype;

/// Heads over one latent per token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latent {
    /// Query heads.
    pub heads: u32,
    /// Width of the queries' own latent; 0 = they are projected at once.
    pub query_rank: u32,
    /// Width of the latent that is kept.
    pub kv_rank: u32,
    /// Elements per head of queries and keys that are not turned.
    pub nope_dim: u32,
    /// Elements that are turned by position; of keys one head for all.
    pub rope_dim: u32,
    /// Elements per head of values.
    pub value_dim: u32,
    /// The choice of tokens that queries see; none = all.
    pub index: Option<Index>,
}

impl Latent {
    pub(super) fn describe(&self) -> String {
        let Self { heads, kv_rank, rope_dim, .. } = self;
        let seen = self.index.as_ref().map_or_else(String::new, |index| {
            let own = if index.own { "" } else { ", those of the layer before" };
            format!(" of {} tokens{own}", index.top_k)
        });
        format!("latent{seen}, {heads} heads over {kv_rank}+{rope_dim}")
    }

    /// Elements per head of a query and of a key.
    #[must_use]
    pub fn query_dim(&self) -> u32 {
        self.nope_dim + self.rope_dim
    }

    pub(super) fn operators(&self, hidden: u32, tp: u32) -> Operators {
        let (h, heads) = (u64::from(hidden), u64::from(self.heads));
        let (query_rank, kv_rank) = (u64::from(self.query_rank), u64::from(self.kv_rank));
        let query = heads * u64::from(self.query_dim());
        let mut matrices = match query_rank {
            0 => vec![Matrix::columns(query, h, Class::Projections)],
            rank => vec![
                Matrix::copied(rank, h, Class::Projections),
                Matrix::columns(query, rank, Class::Projections),
            ],
        };
        let values = heads * u64::from(self.value_dim);
        matrices.extend([
            Matrix::copied(kv_rank + u64::from(self.rope_dim), h, Class::Projections),
            Matrix::columns(heads * u64::from(self.nope_dim) + values, kv_rank, Class::Projections),
            Matrix::rows(h, values, Class::Output),
        ]);
        let rank_heads = f64::from(self.heads.div_ceil(tp));
        let turned = 2.0 * (rank_heads + 1.0) * f64::from(self.rope_dim);
        let mut operators = Operators {
            matrices,
            copied_vectors: query_rank + kv_rank,
            moved: vec![2.0 * (query_rank + kv_rank) as f64, turned],
            ..Operators::default()
        };
        if let Some(index) = &self.index {
            index.add_to(&mut operators, hidden, self.query_rank);
        }
        operators
    }

    /// Bytes of a token's latent; every rank keeps all of it.
    #[must_use]
    pub fn kv_bytes(&self, kv: KvDtype) -> u64 {
        let (latent, turned) = (u64::from(self.kv_rank), u64::from(self.rope_dim));
        match &self.index {
            None => (latent + turned) * kv_element_bytes(kv),
            Some(_) => Index::latent_bytes(kv, latent, turned),
        }
    }

    pub(super) fn pair_elements(&self) -> u64 {
        u64::from(self.heads) * (u64::from(self.query_dim()) + u64::from(self.value_dim))
    }

    pub(super) fn fields(&self) -> Vec<Field> {
        let mut fields = vec![
            ("heads", self.heads, 1 << 14),
            ("kv_rank", self.kv_rank, 1 << 16),
            ("nope_dim", self.nope_dim, 1 << 12),
            ("value_dim", self.value_dim, 1 << 12),
        ];
        let some = [("query_rank", self.query_rank, 1 << 16), ("rope_dim", self.rope_dim, 1 << 12)];
        fields.extend(some.into_iter().filter(|(_, value, _)| *value > 0));
        fields.extend(self.index.iter().flat_map(Index::fields));
        fields
    }
}
