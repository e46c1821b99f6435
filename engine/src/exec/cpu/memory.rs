//! A worker's keys and values, layer by layer, over the slots its allocator gives out.

use kernels::cpu::{KvLayer, Precision};

use super::weights::CpuModel;
use crate::exec::forward::PADDING;
use crate::kv::KvCopy;

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
