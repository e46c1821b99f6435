//! What attention costs: prompt chunks, decodes, and both in one kernel.
//!
//! Kernels made for decodes read every KV head once. Where the attention backend runs a mixed batch as one kernel of
//! prompt chunks, decodes lose that: each costs a tile of query rows, and query heads re-read the keys and values that
//! they no longer share. Then the whole batch is priced by the chunks' table, never below its decodes alone.

use crate::profile::{DeviceProfile, Heads, Times, reread};
use crate::shape::Shape;

/// One layer's attention on one rank.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    query: f64,
    kv: f64,
    prefill: Times,
    decode: Times,
    /// Pairs of context that starting a tile is worth.
    tile_pairs: f64,
    tile_tokens: f64,
    /// Query rows of a decode that shares the kernel of prompt chunks; 0 = it does not.
    decode_rows: f64,
    skew: f64,
    /// Shortest time of either kernel.
    start: f64,
    /// Seconds to read a token's keys and values of one head, and to read and write what a new token brings.
    read: f64,
    /// Tokens of one head that the cache keeps, and multiprocessors.
    cached: [f64; 2],
    carry: f64,
}

impl Attention {
    pub(super) fn new(device: &DeviceProfile, heads: Heads, kv_bytes: f64) -> Self {
        let (query, kv, dim) = (f64::from(heads.query), f64::from(heads.kv), f64::from(heads.dim));
        let law = &device.attention;
        let start = device.prefill_attention.start_us.min(device.decode_attention.start_us);
        Self {
            query,
            kv,
            prefill: device.prefill_attention(heads),
            decode: device.decode_attention(heads, kv_bytes),
            tile_pairs: device.tile_pairs(0.0, 1.0),
            tile_tokens: law.tile_tokens,
            decode_rows: law.decode_rows,
            skew: law.skew,
            start: start * 1e-6,
            read: 2.0 * dim * kv_bytes / device.memory_bandwidth,
            cached: [
                device.cache_bytes as f64 / (2.0 * dim * kv_bytes),
                f64::from(device.multiprocessors),
            ],
            carry: 2.0 * query * dim * 2.0 / device.memory_bandwidth,
        }
    }

    /// Seconds of the decodes alone.
    fn decodes(&self, shape: &Shape) -> f64 {
        let (seqs, context) = (f64::from(shape.decode_seqs), shape.decode_context as f64);
        let at = |context: f64| self.decode.at(self.kv * context, self.kv * seqs);
        let mean = at(context);
        let longest = seqs * f64::from(shape.decode_longest);
        if self.skew > 0.0 && longest > context {
            mean + self.skew * (at(longest) - mean)
        } else {
            mean
        }
    }

    /// Seconds of the prompt chunks, with `decode_rows` of decodes in the same kernel.
    fn chunks(&self, shape: &Shape, decode_rows: f64) -> f64 {
        let mut pairs =
            shape.prefill_tile_pairs as f64 + self.tile_pairs * shape.prefill_tiles as f64;
        let mut longest = shape.prefill_longest;
        let mut read = self.kv * shape.prefill_context as f64;
        if decode_rows > 0.0 {
            let (seqs, context) = (f64::from(shape.decode_seqs), shape.decode_context as f64);
            pairs += decode_rows * (context + self.tile_tokens * seqs);
            longest = longest.max(shape.decode_longest);
            read += reread([self.query, self.kv], [seqs, context], self.cached);
        }
        let bytes = self.read * read + self.carry * f64::from(shape.prefill_tokens);
        self.prefill.at(self.query * pairs, f64::from(longest)).max(bytes)
    }

    /// Seconds of prompt chunks and of decodes, which share a kernel's start or all of the kernel.
    pub(super) fn parts(&self, shape: &Shape) -> (f64, f64) {
        match (shape.prefill_seqs > 0, shape.decode_seqs > 0) {
            (false, false) => (0.0, 0.0),
            (true, false) => (self.chunks(shape, 0.0), 0.0),
            (false, true) => (0.0, self.decodes(shape)),
            (true, true) => {
                let decodes = self.decodes(shape);
                if self.decode_rows > 0.0 {
                    let both = self.chunks(shape, self.decode_rows);
                    ((both - decodes).max(0.0), decodes)
                } else {
                    (self.chunks(shape, 0.0) - self.start, decodes)
                }
            }
        }
    }
}
