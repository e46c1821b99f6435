//! Mamba 2 (Nemotron-H): a state per head that every token fades and adds to, after a short convolution.

use super::super::bounds::Field;
use super::super::operators::{Class, Matrix, Operators, PLAIN_BYTES};

/// Heads with a state of `head_dim` x `state` for every sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mamba {
    /// Heads.
    pub heads: u32,
    /// Groups of heads that share how a token is written and read.
    pub groups: u32,
    /// Elements per head.
    pub head_dim: u32,
    /// Elements of the state for each of them.
    pub state: u32,
    /// Tokens that the convolution sees.
    pub kernel: u32,
    /// Bytes of an element of the state.
    pub state_element: u32,
}

impl Mamba {
    pub(super) fn describe(&self) -> String {
        let Self { heads, groups, head_dim, state, .. } = self;
        format!("Mamba 2, {heads} heads of {head_dim}x{state} in {groups} groups")
    }

    fn inner(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.head_dim)
    }

    /// Elements that the convolution runs over.
    fn convolved(&self) -> u64 {
        self.inner() + 2 * u64::from(self.groups) * u64::from(self.state)
    }

    pub(super) fn operators(&self, hidden: u32, tp: u32) -> Operators {
        let (h, inner, convolved) = (u64::from(hidden), self.inner(), self.convolved());
        let (heads, ranks) = (u64::from(self.heads), f64::from(tp));
        Operators {
            matrices: vec![
                // A gate, what is convolved, and the step of each head.
                Matrix::columns(inner + convolved + heads, h, Class::Projections),
                Matrix::rows(h, inner, Class::Output),
            ],
            // The convolution with its bias; fading, passing by and step of each head; the norm.
            split_vectors: convolved * (u64::from(self.kernel) + 1) + 3 * heads + inner,
            // The norm of the output with its gate; convolution and scan are the layer's own time.
            moved: vec![3.0 * inner as f64 / ranks],
            ..Operators::default()
        }
    }

    pub(super) fn state_bytes(&self, tp: u32) -> u64 {
        let tp = u64::from(tp);
        let convolution = self.convolved() * u64::from(self.kernel.saturating_sub(1));
        let states = self.inner() * u64::from(self.state);
        PLAIN_BYTES * convolution.div_ceil(tp) + u64::from(self.state_element) * states.div_ceil(tp)
    }

    pub(super) fn fields(&self) -> Vec<Field> {
        vec![
            ("Mamba heads", self.heads, 1 << 14),
            ("groups", self.groups, 1 << 14),
            ("Mamba head_dim", self.head_dim, 1 << 12),
            ("state", self.state, 1 << 14),
            ("convolution", self.kernel, 1 << 10),
            ("state_element", self.state_element, 8),
        ]
    }
}
