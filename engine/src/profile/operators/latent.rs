//! Multi-head latent attention, whole or sparse: a block with its projections, timed as one.
//!
//! x = microseconds of the block's roofline, y = tokens (prompts) or sequences (decodes). Prompts expand keys and values
//! from their latents; decodes attend in latent space. Prompt chunks were timed without history only: history counts by
//! its pairs and by the expansion of its latents, at the efficiency of chunks that ask as much.

use super::block_name;
use crate::config::KvDtype;
use crate::format::Format;
use crate::model::kv_element_bytes;
use crate::profile::table::{Place, Times, place};
use crate::profile::{Basis, DeviceProfile, Peaks};
use crate::shape::Shape;

/// Latent attention on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latent {
    /// Query heads on this rank.
    pub heads: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the queries' latent; 0 = queries are projected straight.
    pub query_rank: u32,
    /// Width of the latent of keys and values.
    pub kv_rank: u32,
    /// Elements of a head's query and key without position.
    pub nope: u32,
    /// Elements with a rotary position, one key for all heads.
    pub rope: u32,
    /// Elements of a head's value.
    pub value: u32,
    /// Of sparse attention.
    pub index: Option<Index>,
}

/// The indexer of sparse attention, which chooses the tokens that are attended to; every rank computes all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    /// Its heads.
    pub heads: u32,
    /// Elements of each.
    pub dim: u32,
    /// Tokens that are chosen.
    pub top: u32,
    /// True where the layer attends to the choice of a layer before it.
    pub reused: bool,
}

impl Latent {
    /// DeepSeek-V3's, R1's and, with half the heads, Kimi-K2's, `heads` of it on this rank.
    #[must_use]
    pub fn deepseek_v3(heads: u32) -> Self {
        let (hidden, query_rank, kv_rank) = (7168, 1536, 512);
        Self { heads, hidden, query_rank, kv_rank, nope: 128, rope: 64, value: 128, index: None }
    }

    /// DeepSeek-V3.2's, `heads` of it on this rank.
    #[must_use]
    pub fn deepseek_v32(heads: u32) -> Self {
        let index = Some(Index { heads: 64, dim: 128, top: 2048, reused: false });
        Self { index, ..Self::deepseek_v3(heads) }
    }

    /// GLM-5's, `heads` of it on this rank; since 5.2 most layers attend to the choice of the one before them.
    #[must_use]
    pub fn glm_5(heads: u32, reused: bool) -> Self {
        let index = Some(Index { heads: 32, dim: 128, top: 2048, reused });
        let (hidden, query_rank, kv_rank) = (6144, 2048, 512);
        Self { heads, hidden, query_rank, kv_rank, nope: 192, rope: 64, value: 256, index }
    }

    /// The indexer, where this layer runs it.
    fn chooses(&self) -> Option<Index> {
        self.index.filter(|index| !index.reused)
    }

    /// Its name in a table.
    #[must_use]
    pub fn shape(&self) -> [u32; 3] {
        let reused = self.index.is_some_and(|index| index.reused);
        [self.heads, self.hidden, u32::from(reused)]
    }

    /// Weights of the block on this rank.
    #[must_use]
    pub fn weights(&self) -> f64 {
        let [heads, hidden, query_rank, kv_rank, nope, rope, value] = [
            self.heads,
            self.hidden,
            self.query_rank,
            self.kv_rank,
            self.nope,
            self.rope,
            self.value,
        ]
        .map(f64::from);
        let query = heads * (nope + rope);
        let queries = if query_rank > 0.0 {
            hidden * query_rank + query_rank * query
        } else {
            hidden * query
        };
        let index = self.chooses().map_or(0.0, |i| {
            let (index_heads, dim) = (f64::from(i.heads), f64::from(i.dim));
            let from = if query_rank > 0.0 { query_rank } else { hidden };
            from * index_heads * dim + hidden * (dim + index_heads)
        });
        queries
            + hidden * (kv_rank + rope)
            + kv_rank * heads * (nope + value)
            + heads * value * hidden
            + index
    }

    /// Seconds of the roofline for `work`.
    fn roofline(&self, peaks: &Peaks, format: Format, kv: KvDtype, work: &Work) -> f64 {
        let [heads, hidden, kv_rank, nope, rope, value] =
            [self.heads, self.hidden, self.kv_rank, self.nope, self.rope, self.value]
                .map(f64::from);
        let &Work { tokens, context, pairs, decode } = work;
        if tokens <= 0.0 {
            return 0.0;
        }
        let attended = self.index.map_or(pairs, |i| pairs.min(tokens * f64::from(i.top)));
        let read = self.index.map_or(context, |i| context.min(tokens * f64::from(i.top)));
        let pair = if decode { 2.0 * kv_rank + rope } else { nope + rope + value };
        let indexed =
            self.index.map_or(0.0, |i| 2.0 * pairs * f64::from(i.heads) * f64::from(i.dim));
        let expanded = if decode || self.index.is_some() {
            0.0
        } else {
            2.0 * (context - tokens).max(0.0) * kv_rank * heads * (nope + value)
        };
        let weights = self.weights();
        let compute = (2.0 * tokens * weights + expanded) / peaks.rate(format)
            + 2.0 * attended * heads * pair / peaks.attention_rate(kv)
            + indexed / peaks.rate(Format::Fp8);
        let index_bytes = self.chooses().map_or(0.0, |i| context * f64::from(i.dim));
        let bytes = weights * format.element_bytes()
            + read * (kv_rank + rope) * kv_element_bytes(kv) as f64
            + index_bytes
            + 4.0 * tokens * hidden;
        compute.max(bytes / peaks.bandwidth)
    }

    /// Seconds of the roofline of the prompt chunks in `shape`.
    #[must_use]
    pub fn prefill_roofline(
        &self,
        peaks: &Peaks,
        format: Format,
        kv: KvDtype,
        shape: &Shape,
    ) -> f64 {
        self.roofline(
            peaks,
            format,
            kv,
            &Work {
                tokens: f64::from(shape.prefill_tokens),
                context: shape.prefill_context as f64,
                pairs: shape.prefill_pairs as f64,
                decode: false,
            },
        )
    }

    /// Seconds of the roofline of the decodes in `shape`.
    #[must_use]
    pub fn decode_roofline(
        &self,
        peaks: &Peaks,
        format: Format,
        kv: KvDtype,
        shape: &Shape,
    ) -> f64 {
        let context = shape.decode_context as f64;
        self.roofline(
            peaks,
            format,
            kv,
            &Work { tokens: f64::from(shape.decode_seqs), context, pairs: context, decode: true },
        )
    }
}

/// Totals of what a block computes.
struct Work {
    tokens: f64,
    context: f64,
    pairs: f64,
    decode: bool,
}

/// Blocks are alike that have like heads, and choose their tokens or do not.
#[must_use]
pub fn latent_metric(shape: &[u32]) -> Place {
    let [heads, hidden, reused] = [0, 1, 2].map(|i| f64::from(shape.get(i).map_or(0, |n| *n)));
    place([heads, hidden, 1.0 + reused], [1.0, 2.0, 6.0])
}

/// The time of a latent block on one rank of a device.
#[derive(Debug, Clone)]
pub struct LatentTimes {
    latent: Latent,
    peaks: Peaks,
    format: Format,
    kv: KvDtype,
    prefill: Times,
    decode: Times,
}

impl LatentTimes {
    /// Seconds of the prompt chunks of a batch.
    #[must_use]
    pub fn prefill(&self, shape: &Shape) -> f64 {
        if shape.prefill_tokens == 0 {
            return 0.0;
        }
        let roof = self.latent.prefill_roofline(&self.peaks, self.format, self.kv, shape);
        self.prefill.at(roof * 1e6, f64::from(shape.prefill_tokens))
    }

    /// Seconds of the decodes of a batch.
    #[must_use]
    pub fn decode(&self, shape: &Shape) -> f64 {
        if shape.decode_seqs == 0 {
            return 0.0;
        }
        let roof = self.latent.decode_roofline(&self.peaks, self.format, self.kv, shape);
        self.decode.at(roof * 1e6, f64::from(shape.decode_seqs))
    }

    /// The evidence for the times of prompts and of decodes.
    #[must_use]
    pub fn basis(&self) -> [&Basis; 2] {
        [self.prefill.basis(), self.decode.basis()]
    }
}

impl DeviceProfile {
    /// Seconds of a latent block with its projections, weights in `format`.
    #[must_use]
    pub fn latent_attention(&self, latent: Latent, format: Format, kv: KvDtype) -> LatentTimes {
        let kind = if latent.index.is_some() { "sparse" } else { "latent" };
        let formats = format.alike(self.peaks().computes(format));
        let names = |kv: KvDtype| formats.clone().map(move |f| block_name(f, kv));
        let other = if kv == KvDtype::Fp8 { KvDtype::Bf16 } else { KvDtype::Fp8 };
        let times = |phase: &str| {
            let kind = format!("{kind}_{phase}");
            let mut variants: Vec<String> =
                names(kv).zip(names(other)).flat_map(|(own, other)| [own, other]).collect();
            let shape = latent.shape();
            if phase == "prefill" && latent.index.is_none() {
                // Expanded keys and values are bf16 in every format of the cache.
                variants = names(KvDtype::Bf16).collect();
            }
            self.block(&kind, &variants, (&shape, latent_metric), 12.0)
        };
        let (prefill, decode) = (times("prefill"), times("decode"));
        let peaks = self.peaks_at(self.sustained);
        LatentTimes { latent, peaks, format, kv, prefill, decode }
    }
}
