//! A worker's keys and values, layer by layer, over the slots its allocator gives out.

use kernels::cpu::{KvLayer, Precision, Run};

use super::weights::CpuModel;
use crate::kv::KvCopy;

/// Slots that stand for the padding of static batches: read and written like any other, by no sequence. Longer padding
/// runs over them again.
const PADDING: u32 = 1024;

/// Keys and values of one worker.
#[derive(Debug)]
pub(super) struct KvMemory {
    pub(super) layers: Vec<KvLayer>,
}

impl KvMemory {
    pub(super) fn new(model: &CpuModel, slots: u32) -> Self {
        let bf16 = model.precision() != Precision::F32;
        let layer = |_| KvLayer::new(model.heads(), (slots + PADDING) as usize, bf16);
        Self { layers: (0..model.layers()).map(layer).collect() }
    }

    pub(super) fn copy(&mut self, copy: &KvCopy) {
        for layer in &mut self.layers {
            layer.copy(copy.from as usize, copy.to as usize, copy.len as usize);
        }
    }

    pub(super) fn receive(&mut self, to: u32, other: &Self, from: u32) {
        for (layer, theirs) in self.layers.iter_mut().zip(&other.layers) {
            layer.receive(to as usize, theirs, from as usize);
        }
    }
}

/// The place of a padding token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Padding {
    start: u32,
}

impl Padding {
    /// That of a worker with `slots` slots: behind them.
    pub(super) fn after(slots: u32) -> Self {
        Self { start: slots }
    }

    pub(super) fn slot(self, position: u32) -> u32 {
        self.start + position % PADDING
    }

    /// Positions `0..len`.
    pub(super) fn runs(self, len: u32) -> impl Iterator<Item = Run> {
        (0..len).step_by(PADDING as usize).map(move |position| Run {
            position,
            slot: self.start,
            len: PADDING.min(len - position),
        })
    }
}
