//! The split of a model over pipeline stages and tensor-parallel ranks.

use std::ops::Range;

use crate::model::SpecError;
use crate::model::llama::LlamaConfig;
use crate::model::weights::{ModelError, Tensor};

/// A part of a model: layers are split over pipeline stages; in each stage attention is split over tensor-parallel
/// ranks by heads, the feed-forward layer by its inner features, as in Megatron-LM (Shoeybi et al. 2019).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The tensor-parallel rank, from 0.
    pub rank: usize,
    /// Of how many.
    pub ranks: usize,
    /// The pipeline stage, from 0.
    pub stage: usize,
    /// Of how many.
    pub stages: usize,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { rank: 0, ranks: 1, stage: 0, stages: 1 };

    /// True for the stage that reads embeddings.
    pub(in crate::exec) fn is_first(self) -> bool {
        self.stage == 0
    }

    /// True for the stage with the vocabulary head.
    pub(in crate::exec) fn is_last(self) -> bool {
        self.stage + 1 == self.stages
    }

    /// Its layers of `all`: the last stage has the vocabulary head too, so the first ones have a layer more.
    pub(in crate::exec) fn layers(self, all: u32) -> Range<u32> {
        let first = |stage: usize| (stage * all as usize).div_ceil(self.stages) as u32;
        first(self.stage)..first(self.stage + 1)
    }

    /// Its features of `whole`.
    pub(in crate::exec) fn range(self, whole: usize) -> Range<usize> {
        let each = whole / self.ranks;
        self.rank * each..(self.rank + 1) * each
    }

    /// Its output features of a tensor, or its part of a vector.
    pub(in crate::exec) fn rows(self, tensor: &Tensor) -> &[f32] {
        let (rows, cols) =
            if tensor.rows == 1 { (tensor.cols, 1) } else { (tensor.rows, tensor.cols) };
        let Range { start, end } = self.range(rows);
        &tensor.data[start * cols..end * cols]
    }

    /// Its input features.
    pub(in crate::exec) fn columns(self, tensor: &Tensor) -> Vec<f32> {
        let range = self.range(tensor.cols);
        let rows = tensor.data.chunks_exact(tensor.cols);
        rows.flat_map(|row| &row[range.clone()]).copied().collect()
    }
}

/// The reason why `config` cannot be split over so many ranks and stages; `also` is what a backend splits beside heads
/// and inner features.
pub(in crate::exec) fn unsplittable(
    config: &LlamaConfig,
    ranks: usize,
    stages: usize,
    also: (&'static str, u32),
) -> Option<String> {
    let (heads, kv_heads) = (config.heads, config.kv_heads);
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Some(format!("heads = {heads} must be a multiple of kv_heads = {kv_heads}"));
    }
    if ranks == 0 || stages == 0 {
        return Some("a model has at least one rank and one stage".to_owned());
    }
    let split = [("kv_heads", kv_heads), ("ffn", config.ffn), also];
    if let Some((what, n)) = split.iter().find(|(_, n)| !(*n as usize).is_multiple_of(ranks)) {
        return Some(format!("{what} = {n} must be a multiple of {ranks} ranks"));
    }
    let layers = config.layers;
    (stages > layers as usize)
        .then(|| format!("layers = {layers} do not fill {stages} pipeline stages"))
}

/// The error of a model that a backend cannot run for `reason`.
pub(in crate::exec) fn impossible(config: &LlamaConfig, reason: String) -> ModelError {
    SpecError::Impossible { what: "model", name: config.name.clone(), reason }.into()
}
