//! Attention over keys and values of their own heads, of prompt chunks and of decodes, whole or within a window.
//!
//! Prompt chunks: x = query heads x pairs ([`Chunks`] says what else counts as pairs), y = longest context. Decodes:
//! x = KV heads x tokens of context, y = KV heads x sequences. Within a window all totals are bounded by it.

use super::kv_name;
use crate::config::KvDtype;
use crate::model::kv_element_bytes;
use crate::profile::table::{Place, Roof, Table, Times, place};
use crate::profile::{Attention, Chunks, DeviceProfile, Heads, Law, Peaks};

/// Kernels are alike where as many query heads share a KV head and heads are as large; the number of heads is in the
/// work. A window of all tokens is like one of a million.
#[must_use]
pub fn heads_metric(shape: &[u32]) -> Place {
    let [query, kv] = [0, 1].map(|i| f64::from(shape[i]));
    let dim = shape.get(2).map_or(128.0, |d| f64::from(*d));
    let window = shape.get(3).filter(|w| **w > 0).map_or(1_048_576.0, |w| f64::from(*w));
    place([query, query / kv, dim, window], [1.0, 3.0, 3.0, 0.5])
}

/// The roofline of prompt chunks, by query heads x pairs.
#[must_use]
pub fn prefill_roof(peaks: &Peaks, heads: Heads, kv: KvDtype) -> Roof {
    let compute = 4.0 * f64::from(heads.dim) / peaks.attention_rate(kv);
    Roof { start: 0.0, compute, fixed: 0.0, memory: 0.0, full: 0.0 }
}

/// The roofline of decodes, by KV heads x tokens of context.
#[must_use]
pub fn decode_roof(peaks: &Peaks, heads: Heads, kv: KvDtype) -> Roof {
    let memory = 2.0 * f64::from(heads.dim) * kv_element_bytes(kv) as f64 / peaks.bandwidth;
    Roof { start: 0.0, compute: 0.0, fixed: 0.0, memory, full: 0.0 }
}

impl DeviceProfile {
    fn attention_table(&self, kind: &str, kv: KvDtype) -> (&Table, Option<String>) {
        let bf16 = || {
            let own = if kind == "prefill_attention" {
                &self.prefill_attention
            } else {
                &self.decode_attention
            };
            let from = format!("the efficiency of {} over bf16", kind.replace('_', " "));
            (own, (kv != KvDtype::Bf16).then_some(from))
        };
        self.table(kind, kv_name(kv)).map_or_else(bf16, |table| (table, None))
    }

    /// Seconds of causal attention of prompt chunks, by work (query heads x pairs of tiles) and longest context.
    #[must_use]
    pub fn prefill_attention(&self, heads: Heads, kv: KvDtype) -> Times {
        let (table, from) = self.attention_table("prefill_attention", kv);
        let roof = prefill_roof(&self.peaks_at(self.sustained), heads, kv);
        let roof = Roof { start: table.start_us * 1e-6, ..roof };
        table.times(&heads.shape(), heads_metric, roof).borrowed(from)
    }

    /// The work of batches for the kernel of prompt chunks.
    #[must_use]
    pub fn chunks(&self, heads: Heads, kv: KvDtype) -> Chunks {
        let Attention { tile_tokens, decode_rows, idle_tokens, fine_tiles, .. } = self.attention;
        let law = Law { tile_tokens, decode_rows, idle_tokens, fine_tiles };
        Chunks::new(law, heads, kv, self.peaks_at(self.sustained))
    }

    /// Seconds of attention of decodes, by KV heads x tokens of context and KV heads x sequences.
    #[must_use]
    pub fn decode_attention(&self, heads: Heads, kv: KvDtype) -> Times {
        let (table, from) = self.attention_table("decode_attention", kv);
        let roof = decode_roof(&self.peaks(), heads, kv);
        let roof = Roof { start: table.start_us * 1e-6, ..roof };
        table.times(&heads.shape(), heads_metric, roof).borrowed(from)
    }
}
