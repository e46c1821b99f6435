//! Sparse attention by an indexer (DeepSeek Sparse Attention): a small attention scores all tokens, and queries see
//! the best of them.

use super::super::bounds::Field;
use super::super::operators::{Class, Matrix, Operators};
use crate::config::KvDtype;

/// The indexer of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its heads.
    pub heads: u32,
    /// Elements per head; its keys have one head.
    pub head_dim: u32,
    /// Tokens that a query sees.
    pub top_k: u32,
    /// False where the layer takes the choice of a layer before it.
    pub own: bool,
}

/// Bytes of a float32 scale.
const SCALE: u64 = 4;

impl Index {
    /// Its operators, which every rank computes in full.
    pub(super) fn add_to(&self, operators: &mut Operators, hidden: u32, query_rank: u32) {
        if !self.own {
            return;
        }
        let (h, dim) = (u64::from(hidden), u64::from(self.head_dim));
        let heads = u64::from(self.heads);
        let from = if query_rank == 0 { h } else { u64::from(query_rank) };
        operators.matrices.extend([
            Matrix::copied(heads * dim, from, Class::Projections),
            Matrix::copied(dim, h, Class::Projections),
            Matrix::copied(heads, h, Class::Plain),
        ]);
        operators.copied_vectors += 2 * dim;
        operators.moved.push(2.0 * ((heads + 1) * dim) as f64);
    }

    /// Bytes of a token's latent as vLLM lays it out for this kernel: FP8 has a float32 scale per 128 elements and the
    /// turned part in bf16.
    pub(super) fn latent_bytes(kv: KvDtype, latent: u64, turned: u64) -> u64 {
        match kv {
            KvDtype::Bf16 => 2 * (latent + turned),
            KvDtype::Fp8 => latent + SCALE * latent.div_ceil(128) + 2 * turned,
        }
    }

    /// Bytes of a token's key: FP8 with a float32 scale.
    #[must_use]
    pub fn key_bytes(&self) -> u64 {
        u64::from(self.head_dim) + SCALE
    }

    pub(super) fn fields(&self) -> Vec<Field> {
        vec![
            ("index heads", self.heads, 1 << 14),
            ("index head_dim", self.head_dim, 1 << 12),
            ("index top_k", self.top_k, 1 << 30),
        ]
    }
}
