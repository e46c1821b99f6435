//! Attention over keys and values: prompt chunks, decodes, and both in one kernel.
//!
//! Kernels made for decodes read every KV head once. Where the attention backend runs a mixed batch as one kernel of
//! prompt chunks, decodes lose that: then the whole batch is priced by the chunks' table, never below its decodes
//! alone.

use crate::config::KvDtype;
use crate::model::attention::{Index, Latent};
use crate::profile::{Chunks, DeviceProfile, Heads, Times};
use crate::shape::Shape;

/// A kernel of one layer on one rank.
#[derive(Debug, Clone)]
pub(in crate::exec) struct Kernel {
    kv: f64,
    chunks: Chunks,
    prefill: Times,
    decode: Times,
    /// True where decodes share the kernel of prompt chunks.
    mixes: bool,
    skew: f64,
    /// Shortest time of either kernel.
    start: f64,
    /// Seconds that computing takes at least for a decode, per token of context.
    computed: f64,
}

impl Kernel {
    pub(super) fn new(device: &DeviceProfile, heads: Heads, kv_bytes: f64) -> Self {
        Self::of(device, heads, heads, kv_bytes, 0.0)
    }

    /// Latent attention: prompt chunks as attention over keys and values of every head, decodes as all heads over the
    /// one latent, which they may compute longer than they read it.
    pub(super) fn of_latent(device: &DeviceProfile, latent: &Latent, tp: u32, kv: KvDtype) -> Self {
        let query = latent.heads.div_ceil(tp);
        let dim = (latent.query_dim() + latent.value_dim) / 2;
        let kept = latent.kv_bytes(kv) as f64;
        let whole = latent.kv_rank + latent.rope_dim;
        let flops = 2.0 * f64::from(query) * f64::from(whole + latent.kv_rank);
        let computed = flops / (device.sustained * device.peak_flops);
        let decodes = Heads { query, kv: 1, dim: whole };
        let bytes = kept / (2.0 * f64::from(whole));
        Self::of(device, Heads { query, kv: query, dim }, decodes, bytes, computed)
    }

    /// The scores of an indexer: queries of all heads against one key per token, nothing summed.
    pub(super) fn of_index(device: &DeviceProfile, index: &Index) -> Self {
        let heads = Heads { query: index.heads, kv: 1, dim: index.head_dim.div_ceil(2) };
        let bytes = index.key_bytes() as f64 / (2.0 * f64::from(heads.dim));
        Self::of(device, heads, heads, bytes, 0.0)
    }

    fn of(
        device: &DeviceProfile,
        chunks: Heads,
        decodes: Heads,
        kv_bytes: f64,
        computed: f64,
    ) -> Self {
        let start = device.prefill_attention.start_us.min(device.decode_attention.start_us);
        Self {
            kv: f64::from(decodes.kv),
            chunks: device.chunks(chunks, kv_bytes),
            prefill: device.prefill_attention(chunks),
            decode: device.decode_attention(decodes, kv_bytes),
            mixes: device.attention.decode_rows > 0.0,
            skew: device.attention.skew,
            start: start * 1e-6,
            computed,
        }
    }

    /// Seconds of the decodes alone.
    fn decodes(&self, shape: &Shape) -> f64 {
        let (seqs, context) = (f64::from(shape.decode_seqs), shape.decode_context as f64);
        let at = |context: f64| self.decode.at(self.kv * context, self.kv * seqs);
        let mean = at(context).max(self.computed * context);
        let longest = seqs * f64::from(shape.decode_longest);
        if self.skew > 0.0 && longest > context {
            mean + self.skew * (at(longest).max(self.computed * longest) - mean)
        } else {
            mean
        }
    }

    /// Seconds of the prompt chunks, and of the decodes where they share the kernel.
    fn chunks(&self, shape: &Shape) -> f64 {
        let asked = self.chunks.asked(shape);
        self.prefill.at(asked.work, asked.longest).max(asked.floor)
    }

    /// Seconds of prompt chunks and of decodes, which share a kernel's start or all of the kernel.
    pub(super) fn parts(&self, shape: &Shape) -> (f64, f64) {
        match (shape.prefill_seqs > 0, shape.decode_seqs > 0) {
            (false, false) => (0.0, 0.0),
            (true, false) => (self.chunks(shape), 0.0),
            (false, true) => (0.0, self.decodes(shape)),
            (true, true) => {
                let (chunks, decodes) = (self.chunks(shape), self.decodes(shape));
                let alone = if self.mixes { decodes } else { self.start };
                ((chunks - alone).max(0.0), decodes)
            }
        }
    }
}

