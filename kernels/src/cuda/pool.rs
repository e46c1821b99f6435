//! The keys and values of all layers, by slot.

use half::bf16;

use super::device::{Arg, Device};
use super::error::{CudaError, ensure};
use super::memory::Buffer;
use crate::cpu::Heads;

/// Keys and values, `[layers, 2, slots, kv_heads, head_dim]` in bf16. Blocks are runs of slots: seen from one layer's
/// keys this is `[pages, block, kv_heads, head_dim]`, whatever the size of blocks.
#[derive(Debug)]
pub struct KvPool {
    pub(super) heads: Heads,
    pub(super) layers: usize,
    pub(super) slots: usize,
    pub(super) data: Buffer<bf16>,
    /// Pairs of slots for copies to this pool; grows and stays.
    pub(super) moves: Buffer<i32>,
}

impl KvPool {
    /// Room for `slots` tokens.
    ///
    /// # Errors
    /// When there is not so much memory, or no kernel for such heads.
    pub fn new(
        device: &Device,
        heads: Heads,
        layers: usize,
        slots: usize,
    ) -> Result<Self, CudaError> {
        let Heads { queries, kv, dim } = heads;
        ensure(matches!(dim, 32 | 64 | 128), || {
            format!("head_dim = {dim}: the CUDA kernels have 32, 64 and 128")
        })?;
        ensure(kv > 0 && queries.is_multiple_of(kv), || {
            format!("heads = {queries} must be a multiple of kv_heads = {kv}")
        })?;
        ensure(slots < 1 << 30, || format!("{slots} KV slots are more than 2^30"))?;
        let data = device.zeros(layers * 2 * slots * kv * dim)?;
        Ok(Self { heads, layers, slots, data, moves: device.zeros(0)? })
    }

    /// Slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes of one token's keys and values in `layers` layers.
    #[must_use]
    pub fn bytes_per_slot(heads: Heads, layers: usize) -> usize {
        layers * 2 * heads.kv * heads.dim * size_of::<bf16>()
    }

    /// The place of a layer's keys (`values` = 0) or values (1).
    pub(super) fn plane(&self, layer: usize, values: usize) -> Arg<'_> {
        let plane = self.slots * self.heads.kv * self.heads.dim;
        Arg::within(&self.data, (layer * 2 + values) * plane)
    }

    /// The whole memory, `[layers, 2, slots, kv_heads, head_dim]`.
    #[must_use]
    pub fn data(&self) -> &Buffer<bf16> {
        &self.data
    }

    /// The same, to be filled.
    pub fn data_mut(&mut self) -> &mut Buffer<bf16> {
        &mut self.data
    }
}
