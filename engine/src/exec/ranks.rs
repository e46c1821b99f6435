//! The split of a model over the GPUs of a worker.

/// The way in which the GPUs of a worker share a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks {
    /// Tensor-parallel ranks of a stage.
    pub tp: u32,
    /// Attention-data-parallel ranks, each of `tp` GPUs.
    pub dp: u32,
    /// Those of `tp` x `dp` that share experts out whole; a divisor of it.
    pub ep: u32,
    /// Pipeline stages.
    pub pp: u32,
}
