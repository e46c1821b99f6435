//! Gated delta nets (Qwen3-Next, Qwen3.5): a matrix per head is read and corrected by every token, after a short
//! convolution.

use super::super::bounds::Field;
use super::super::operators::{Class, Matrix, Operators, PLAIN_BYTES};

/// Heads with a state of `key_dim` x `value_dim` for every sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatedDelta {
    /// Heads of queries and of keys.
    pub key_heads: u32,
    /// Heads of values, a multiple of `key_heads`: each has a state.
    pub value_heads: u32,
    /// Elements per head of queries and keys.
    pub key_dim: u32,
    /// Elements per head of values.
    pub value_dim: u32,
    /// Tokens that the convolution sees.
    pub kernel: u32,
    /// Bytes of an element of the state.
    pub state_element: u32,
}

impl GatedDelta {
    pub(super) fn describe(&self) -> String {
        let Self { key_heads, value_heads, key_dim, value_dim, .. } = self;
        format!("gated delta net, {value_heads} heads over {key_heads} of {key_dim}x{value_dim}")
    }

    /// Elements of queries, keys and values together, which the convolution runs over.
    fn convolved(&self) -> u64 {
        2 * u64::from(self.key_heads) * u64::from(self.key_dim) + self.values()
    }

    fn values(&self) -> u64 {
        u64::from(self.value_heads) * u64::from(self.value_dim)
    }

    pub(super) fn operators(&self, hidden: u32, tp: u32) -> Operators {
        let (h, convolved, values) = (u64::from(hidden), self.convolved(), self.values());
        let ranks = f64::from(tp);
        Operators {
            matrices: vec![
                Matrix::columns(convolved + values, h, Class::Projections),
                // Decay and strength of each head.
                Matrix::columns(2 * u64::from(self.value_heads), h, Class::Plain),
                Matrix::rows(h, values, Class::Output),
            ],
            split_vectors: convolved * u64::from(self.kernel) + 2 * u64::from(self.value_heads),
            copied_vectors: u64::from(self.value_dim),
            // The norm of the output with its gate; convolution and recurrence are the net's own time.
            moved: vec![3.0 * values as f64 / ranks],
            summed: None,
            pool: None,
        }
    }

    pub(super) fn state_bytes(&self, tp: u32) -> u64 {
        let tp = u64::from(tp);
        let convolution = self.convolved() * u64::from(self.kernel.saturating_sub(1));
        let matrices = self.values() * u64::from(self.key_dim);
        PLAIN_BYTES * convolution.div_ceil(tp)
            + u64::from(self.state_element) * matrices.div_ceil(tp)
    }

    pub(super) fn fields(&self) -> Vec<Field> {
        vec![
            ("value_heads", self.value_heads, 1 << 14),
            ("key_heads", self.key_heads, 1 << 14),
            ("key_dim", self.key_dim, 1 << 12),
            ("value_dim", self.value_dim, 1 << 12),
            ("convolution", self.kernel, 1 << 10),
            ("state_element", self.state_element, 8),
        ]
    }
}
