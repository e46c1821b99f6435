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

impl Ranks {
    /// True where the tensor-parallel ranks of a rank of attention bring a share of its tokens each to the experts of all,
    /// as vLLM does with expert parallelism: so no token is sent twice.
    #[must_use]
    pub fn shares_sequences(&self) -> bool {
        self.tp > 1 && self.dp > 1 && self.ep > 1
    }
}
