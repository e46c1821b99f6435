//! Attention over keys and values: prompt chunks, decodes, and both in one kernel.
//!
//! Kernels made for decodes read every KV head once. Decodes lose that if the attention backend runs a mixed batch as
//! one kernel of prompt chunks: then the whole batch is priced by the chunks' table, never below its decodes alone.

use crate::config::KvDtype;
use crate::profile::{Basis, Chunks, DeviceProfile, Heads, Times};
use crate::shape::Shape;

/// A kernel of one layer on one rank.
#[derive(Debug, Clone)]
pub(in crate::exec) struct Kernel {
    heads: Heads,
    chunks: Chunks,
    prefill: Times,
    decode: Times,
    /// True where decodes share the kernel of prompt chunks.
    mixes: bool,
    skew: f64,
    /// Shortest time of either kernel.
    start: f64,
}

impl Kernel {
    pub(super) fn new(device: &DeviceProfile, heads: Heads, kv: KvDtype) -> Self {
        let start = device.prefill_attention.start_us.min(device.decode_attention.start_us);
        Self {
            heads,
            chunks: device.chunks(heads, kv),
            prefill: device.prefill_attention(heads, kv),
            decode: device.decode_attention(heads, kv),
            mixes: device.attention.decode_rows > 0.0,
            skew: device.attention.skew,
            start: start * 1e-6,
        }
    }

    /// The evidence for the times of prompt chunks and of decodes.
    pub(super) fn basis(&self) -> [&Basis; 2] {
        [self.prefill.basis(), self.decode.basis()]
    }

    /// Seconds of the decodes alone.
    fn decodes(&self, shape: &Shape) -> f64 {
        let (seqs, context) = (f64::from(shape.decode_seqs), shape.decode_context as f64);
        let kv = f64::from(self.heads.kv);
        let at = |context: f64| self.decode.at(kv * self.heads.seen(context, seqs), kv * seqs);
        let mean = at(context);
        let longest = seqs * f64::from(shape.decode_longest);
        if self.skew > 0.0 && longest > context {
            mean + self.skew * (at(longest) - mean)
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
