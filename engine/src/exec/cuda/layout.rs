//! The layout of a model over devices, and the kernels that compute it.

/// The kernels that compute a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// The fastest.
    Fast,
    /// Those whose results do not depend on what else is in the batch, nor on how the model is split.
    Invariant,
}

/// The kernels that compute a model, and the parts that it is split into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Its kernels.
    pub arithmetic: Arithmetic,
    /// Tensor-parallel ranks of each pipeline stage.
    pub ranks: usize,
    /// Pipeline stages.
    pub stages: usize,
}

impl Layout {
    /// A model in one piece.
    #[must_use]
    pub const fn whole(arithmetic: Arithmetic) -> Self {
        Self { arithmetic, ranks: 1, stages: 1 }
    }
}

/// True where ranks exchange features instead of summing products of their own.
pub(super) fn joins(layout: Layout) -> bool {
    layout.arithmetic == Arithmetic::Invariant && layout.ranks > 1
}
