//! What a device can do: its data sheet, how much of it each operator reaches, and what an hour of it costs.
//!
//! Every operator has one law with two or three coefficients, fitted to published measurements by
//! `examples/fit_profile`. The laws are roofs (time to compute, time to move bytes) plus a fixed time to get going.
//! The profiles ship as TOML, with where each figure comes from and how far the fit is off; a user's own device is a
//! file of the same form.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::model::{Catalogue, SpecError, load};

/// One kind of GPU, in the node it comes in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    /// What people call it.
    pub name: String,
    /// Where the figures come from, and the licence of the measurements they were fitted to.
    pub provenance: String,
    /// Device memory as CUDA reports it, bytes.
    pub memory_bytes: u64,
    /// Dense bf16 peak, FLOP/s.
    pub peak_flops: f64,
    /// Peak of device memory, bytes/s.
    pub memory_bandwidth: f64,
    /// GPUs that share the fast links.
    pub gpus_per_node: u32,
    /// Memory of the runtime besides weights, activations, KV and communication, bytes.
    pub runtime_bytes: u64,
    /// Share of the tables' compute rate that a loaded GPU keeps: kernels timed alone run at boost clock, a serving
    /// GPU against its power limit.
    pub sustained: f64,
    /// Matrix products.
    pub gemm: Gemm,
    /// Attention of prompt chunks.
    pub prefill_attention: PrefillAttention,
    /// Attention of decodes.
    pub decode_attention: DecodeAttention,
    /// Norms, activations, rotary embedding, copies.
    pub elementwise: Elementwise,
    /// Choosing the next tokens from logits.
    pub sampler: Sampler,
    /// Sums over the ranks of one node, by rising number of ranks.
    pub all_reduce: Vec<AllReduce>,
    /// One GPU to another of its node.
    pub node: Link,
    /// One GPU to another node.
    pub network: Link,
    /// What the CPU adds to an iteration.
    pub host: Host,
    /// What an hour costs.
    pub price: Price,
    /// How far each fitted law is from its measurements.
    #[serde(default)]
    pub fit: BTreeMap<String, FitError>,
}

/// A matrix product `[m,k] x [k,n]`: start + smooth maximum of compute and memory time.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gemm {
    /// Fixed time, µs.
    pub start_us: f64,
    /// Share of peak FLOP/s reached.
    pub compute: f64,
    /// Share of peak memory bandwidth reached.
    pub memory: f64,
}

/// Causal attention of new tokens: start + the larger of compute and KV reads.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefillAttention {
    /// Fixed time, µs.
    pub start_us: f64,
    /// Share of peak FLOP/s reached.
    pub compute: f64,
    /// Pairs computed in vain per new token: masked halves of tiles, and loading the pipeline for each of them.
    pub tile_pairs: f64,
}

/// Attention of one new token per sequence: start + KV reads + work per sequence.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeAttention {
    /// Fixed time, µs.
    pub start_us: f64,
    /// Share of peak memory bandwidth reached.
    pub memory: f64,
    /// Per sequence and KV head, ns.
    pub head_ns: f64,
}

/// Kernels that only move bytes.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elementwise {
    /// Fixed time per kernel, µs.
    pub start_us: f64,
    /// Share of peak memory bandwidth reached.
    pub memory: f64,
}

/// Choosing tokens: start + passes over the logits at the elementwise rate.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampler {
    /// Fixed time per iteration, µs.
    pub start_us: f64,
    /// Bytes moved per logit.
    pub logit_bytes: f64,
}

/// A sum over `ranks` GPUs: start + bytes / bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllReduce {
    /// GPUs that take part.
    pub ranks: u32,
    /// Fixed time, µs.
    pub start_us: f64,
    /// Bytes of the summed tensor per second.
    pub bandwidth: f64,
    /// Device memory its buffers take on each rank, bytes.
    pub buffer_bytes: u64,
}

/// A connection between two GPUs, each direction: start + bytes / bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Fixed time, µs.
    pub start_us: f64,
    /// Bytes per second.
    pub bandwidth: f64,
}

/// CPU time of an iteration that the GPU does not hide.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Per iteration, µs.
    pub step_us: f64,
    /// Per sequence in it, µs.
    pub seq_us: f64,
    /// Where these come from.
    pub source: String,
}

/// What an hour of one GPU costs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Per GPU and hour.
    pub per_gpu_hour: f64,
    /// ISO 4217 code.
    pub currency: String,
    /// When it was so: year and month.
    pub date: String,
    /// `quoted` (a provider's price) or `assumed` (ours: replace it by your own).
    pub basis: PriceBasis,
    /// What kind of price it is and where it comes from.
    pub source: String,
}

/// How much a price is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PriceBasis {
    /// A provider's price.
    Quoted,
    /// A plausible one.
    Assumed,
}

/// Relative error of a law on the measurements it was fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitError {
    /// Measurements.
    pub rows: usize,
    /// Median of |predicted / measured − 1|.
    pub median: f64,
    /// 90th percentile of the same.
    pub p90: f64,
}

/// Attention heads on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: u32,
    /// Key-value heads.
    pub kv: u32,
    /// Elements per head.
    pub dim: u32,
}

const DEVICES: Catalogue = &[
    ("h100-sxm", &["h100", "h100-80g"], include_str!("../profiles/h100-sxm.toml")),
    ("h200-sxm", &["h200"], include_str!("../profiles/h200-sxm.toml")),
    ("a100-sxm", &["a100", "a100-80g"], include_str!("../profiles/a100-sxm.toml")),
];

impl DeviceProfile {
    /// Names of the embedded profiles.
    pub fn names() -> impl Iterator<Item = &'static str> {
        DEVICES.iter().map(|(name, _, _)| *name)
    }

    /// The embedded profile called `name` (or an alias), or the one in the TOML file at that path.
    pub fn load(name: &str) -> Result<Self, SpecError> {
        let device: Self = load("device", DEVICES, name)?;
        device.check()?;
        Ok(device)
    }

    fn check(&self) -> Result<(), SpecError> {
        let positive = [
            ("memory_bytes", self.memory_bytes as f64),
            ("peak_flops", self.peak_flops),
            ("memory_bandwidth", self.memory_bandwidth),
            ("gpus_per_node", f64::from(self.gpus_per_node)),
            ("sustained", self.sustained),
            ("gemm.compute", self.gemm.compute),
            ("gemm.memory", self.gemm.memory),
            ("prefill_attention.compute", self.prefill_attention.compute),
            ("decode_attention.memory", self.decode_attention.memory),
            ("elementwise.memory", self.elementwise.memory),
            ("node.bandwidth", self.node.bandwidth),
            ("network.bandwidth", self.network.bandwidth),
            ("host.step_us", self.host.step_us),
        ];
        let not_negative = [
            ("gemm.start_us", self.gemm.start_us),
            ("prefill_attention.start_us", self.prefill_attention.start_us),
            ("prefill_attention.tile_pairs", self.prefill_attention.tile_pairs),
            ("decode_attention.start_us", self.decode_attention.start_us),
            ("decode_attention.head_ns", self.decode_attention.head_ns),
            ("elementwise.start_us", self.elementwise.start_us),
            ("sampler.start_us", self.sampler.start_us),
            ("sampler.logit_bytes", self.sampler.logit_bytes),
            ("node.start_us", self.node.start_us),
            ("network.start_us", self.network.start_us),
            ("host.seq_us", self.host.seq_us),
            ("price.per_gpu_hour", self.price.per_gpu_hour),
        ];
        let sums = &self.all_reduce;
        let reason =
            if let Some((field, x)) = positive.iter().find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
                format!("{field} = {x} must be positive")
            } else if let Some((field, x)) =
                not_negative.iter().find(|(_, x)| !(x.is_finite() && *x >= 0.0))
            {
                format!("{field} = {x} must not be negative")
            } else if sums.is_empty()
                || !sums.iter().all(|s| s.bandwidth > 0.0 && s.start_us >= 0.0)
                || !sums.is_sorted_by(|a, b| a.ranks < b.ranks)
            {
                "all_reduce must list rising numbers of ranks, each with a positive bandwidth"
                    .to_owned()
            } else {
                return Ok(());
            };
        Err(SpecError::Impossible { what: "device", name: self.name.clone(), reason })
    }

    /// Seconds to multiply `[m,k]` by `[k,n]`, elements of `element_bytes`.
    #[must_use]
    pub fn gemm(&self, m: f64, n: f64, k: f64, element_bytes: f64) -> f64 {
        let compute = 2.0 * m * n * k / (self.gemm.compute * self.sustained * self.peak_flops);
        let bytes = element_bytes * (n * k + m * (n + k));
        let memory = bytes / (self.gemm.memory * self.memory_bandwidth);
        // The 4-norm: near the ridge a kernel overlaps the two imperfectly. By square roots, so that every platform
        // gives the same bits.
        let (c, b) = (compute * compute, memory * memory);
        self.gemm.start_us * 1e-6 + (c * c + b * b).sqrt().sqrt()
    }

    /// Seconds of causal attention over `tokens` new tokens in chunks that read `context` tokens (their own included)
    /// and make `pairs` query-key pairs; without the start. Queries and outputs move at the elementwise rate, keys and
    /// values too and once more into the cache.
    #[must_use]
    pub fn prefill_attention(
        &self,
        heads: Heads,
        tokens: f64,
        context: f64,
        pairs: f64,
        kv_bytes: f64,
    ) -> f64 {
        let (law, dim) = (&self.prefill_attention, f64::from(heads.dim));
        let flops = 4.0 * f64::from(heads.query) * dim * (pairs + law.tile_pairs * tokens);
        let compute = flops / (law.compute * self.sustained * self.peak_flops);
        let moved = 2.0 * f64::from(heads.query) + 4.0 * f64::from(heads.kv);
        compute.max(context * self.kv_read(heads, kv_bytes))
            + self.elementwise(tokens * moved * dim * 2.0, 0.0)
    }

    /// Seconds of attention of `seqs` decodes that read `context` tokens between them; without the start.
    ///
    /// Lengths enter by their sum alone: on split-KV kernels a batch with one long sequence costs a few percent of the
    /// way from the batch at its mean to the batch at its maximum (measured on other GPUs), less than this law's error.
    #[must_use]
    pub fn decode_attention(&self, heads: Heads, seqs: f64, context: f64, kv_bytes: f64) -> f64 {
        context * self.kv_read(heads, kv_bytes) + seqs * self.decode_seq(heads)
    }

    /// Seconds to read one token of KV, elements of `kv_bytes`.
    pub(crate) fn kv_read(&self, heads: Heads, kv_bytes: f64) -> f64 {
        let bytes = 2.0 * f64::from(heads.kv) * f64::from(heads.dim) * kv_bytes;
        bytes / (self.decode_attention.memory * self.memory_bandwidth)
    }

    /// Seconds that a decode adds to attention besides its reads.
    pub(crate) fn decode_seq(&self, heads: Heads) -> f64 {
        f64::from(heads.kv) * self.decode_attention.head_ns * 1e-9
    }

    /// Seconds to move `bytes` in `kernels` kernels.
    #[must_use]
    pub fn elementwise(&self, bytes: f64, kernels: f64) -> f64 {
        kernels * self.elementwise.start_us * 1e-6
            + bytes / (self.elementwise.memory * self.memory_bandwidth)
    }

    /// Seconds to sum a tensor of `bytes` over `ranks` GPUs. Ranks that were not measured cost what the next measured
    /// number does; beyond a node, the node's sum plus a ring over the network on which each GPU carries its share.
    #[must_use]
    pub fn all_reduce(&self, bytes: f64, ranks: u32) -> f64 {
        if ranks <= 1 {
            return 0.0;
        }
        let local = ranks.min(self.gpus_per_node);
        let law = self.all_reduce_law(local);
        let inside = law.start_us * 1e-6 + bytes / law.bandwidth;
        if ranks <= self.gpus_per_node {
            return inside;
        }
        let nodes = f64::from(ranks.div_ceil(self.gpus_per_node));
        let share = bytes / f64::from(local);
        inside
            + 2.0 * (nodes - 1.0) * self.network.start_us * 1e-6
            + 2.0 * (nodes - 1.0) / nodes * share / self.network.bandwidth
    }

    /// The law of the smallest measured number of ranks that is not below `ranks`, or the largest measured.
    #[must_use]
    pub fn all_reduce_law(&self, ranks: u32) -> &AllReduce {
        let i = self.all_reduce.partition_point(|law| law.ranks < ranks);
        &self.all_reduce[i.min(self.all_reduce.len() - 1)]
    }

    /// The link between two neighbouring ranks of a worker of `gpus` GPUs: its slowest hop.
    #[must_use]
    pub fn link(&self, gpus: u32) -> &Link {
        if gpus <= self.gpus_per_node { &self.node } else { &self.network }
    }
}

impl Link {
    /// Seconds to carry `bytes` one way.
    #[must_use]
    pub fn seconds(&self, bytes: f64) -> f64 {
        self.start_us * 1e-6 + bytes / self.bandwidth
    }
}
