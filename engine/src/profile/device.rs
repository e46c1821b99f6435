//! A device's figures: its data sheet, its tables, and the times that need no more than them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::chunks::Peaks;
use super::parts::{AllReduce, Attention, FitError, Host, Link, Price};
use super::routing::Routing;
use super::table::{LONGEST_US, Roof, Table, Times, no_metric};
use crate::model::SpecError;

/// One kind of GPU, in the node it comes in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    /// The name that people use.
    pub name: String,
    /// The source of the figures, and the licence of the measurements they were fitted to.
    pub provenance: String,
    /// Families whose tables were taken to fill gaps of the device's own.
    #[serde(default)]
    pub composed: Vec<String>,
    /// The measured device whose efficiencies it borrows, where nothing of it was measured ([`super::borrowed`]).
    #[serde(skip)]
    pub like: Option<String>,
    /// When it was fitted: year and month.
    #[serde(default)]
    pub date: String,
    /// The sources of constants that are in no table, by name.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// Device memory as CUDA reports it, bytes.
    pub memory_bytes: u64,
    /// Dense bf16 peak, FLOP/s.
    pub peak_flops: f64,
    /// Dense fp8 peak, FLOP/s; 0 = the device does not compute in fp8.
    #[serde(default)]
    pub peak_fp8_flops: f64,
    /// Dense fp4 peak, FLOP/s; 0 = the device does not compute in fp4.
    #[serde(default)]
    pub peak_fp4_flops: f64,
    /// Peak of device memory, bytes/s.
    pub memory_bandwidth: f64,
    /// Last-level cache, bytes: activations that fit need not come from memory. 0 = they all do.
    #[serde(default)]
    pub cache_bytes: u64,
    /// Streaming multiprocessors; needed where decodes share the kernel of prompt chunks, 0 = not known.
    #[serde(default)]
    pub multiprocessors: u32,
    /// GPUs that share the fast links.
    pub gpus_per_node: u32,
    /// Memory of the runtime besides weights, activations, KV and communication, bytes.
    pub runtime_bytes: u64,
    /// Share of the tables' compute rate that a loaded GPU keeps: kernels timed alone run at boost clock, a serving
    /// GPU against its power limit.
    pub sustained: f64,
    /// The share that matrix products keep, where a run shows another than `sustained`: an engine's library may compute
    /// them by other kernels than those that were timed.
    #[serde(default)]
    pub sustained_gemm: Option<f64>,
    /// Matrix products `[m,k] x [k,n]`: shapes (n, k), x = m.
    pub gemm: Table,
    /// Attention of prompt chunks, alone or with decodes in the same kernel: shapes (query heads, KV heads, elements of
    /// a head, window), x = query heads x pairs of tiles ([`Attention`] says what else counts as pairs), y = longest context.
    pub prefill_attention: Table,
    /// Attention of decodes alone: shapes as those of prompt chunks, x = KV heads x tokens of context, y = KV heads x
    /// sequences.
    pub decode_attention: Table,
    /// Tables of further operators and formats: by operator, then by format ([`super::operators`]).
    #[serde(default)]
    pub operators: BTreeMap<String, BTreeMap<String, Table>>,
    /// The factors of uneven routing on the time of experts; none = tokens choose evenly.
    #[serde(default)]
    pub routing: Option<Routing>,
    /// The way in which chunks share an attention kernel.
    pub attention: Attention,
    /// Norms, activations, rotary embedding, copies: x = bytes.
    pub elementwise: Table,
    /// True where the kernels of a layer were timed together: x = bytes of all of them, not of each.
    #[serde(default)]
    pub elementwise_together: bool,
    /// Choosing the next tokens from logits: x = bytes of float32 logits.
    pub sampler: Table,
    /// Sums over the ranks of one node, by rising number of ranks.
    pub all_reduce: Vec<AllReduce>,
    /// One GPU to another of its node.
    pub node: Link,
    /// One GPU to another node.
    pub network: Link,
    /// The CPU's share of an iteration, instead of the engine's: of profiles that hold both, measured together.
    #[serde(default)]
    pub host: Option<Host>,
    /// The price of an hour.
    pub price: Price,
    /// The distance of the fitted efficiencies from their measurements, by operator.
    #[serde(default)]
    pub fit: BTreeMap<String, FitError>,
}

/// Highest efficiency of prompt chunks, thousandths: the rest of their work besides pairs (starting tiles, rows that a
/// tile lacks) can overlap with them. The pairs alone stay within the data sheet ([`super::Asked::floor`]).
pub(crate) const MOST_OF_WORK: u16 = 4000;

/// Operators that may have tables in further formats.
pub const KINDS: [&str; 15] = [
    "gemm",
    "prefill_attention",
    "decode_attention",
    "experts",
    "latent_prefill",
    "latent_decode",
    "sparse_prefill",
    "sparse_decode",
    "delta_prefill",
    "delta_decode",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "dispatch",
    "combine",
];

/// Memory of a device, bytes: beyond any.
const MOST_BYTES: f64 = 1e15;

/// The roofline of moving x bytes of activations, of which `cache` bytes may still be in the last-level cache, by the
/// kernel before. Eight times memory's rate is more than any of these caches reaches.
#[must_use]
pub fn moved_roof(start: f64, bandwidth: f64, cache: f64) -> Roof {
    let compute = if cache > 0.0 { 1.0 / (8.0 * bandwidth) } else { 0.0 };
    Roof { start, compute, fixed: -cache / bandwidth, memory: 1.0 / bandwidth, full: 0.0 }
}

impl DeviceProfile {
    /// The engine under which its matrix products were timed, where that is known.
    #[must_use]
    pub fn timed_under(&self) -> Option<&str> {
        Some(self.gemm.timed_under.as_str()).filter(|engine| !engine.is_empty())
    }

    /// Refuses figures that cannot be.
    pub fn check(&self) -> Result<(), SpecError> {
        self.fault().map_or(Ok(()), |reason| {
            Err(SpecError::Impossible { what: "device", name: self.name.clone(), reason })
        })
    }

    fn fault(&self) -> Option<String> {
        let host = self.host.as_ref().map_or([0.0; 2], |h| [h.step_us, h.seq_us]);
        let positive = [
            ("memory_bytes", self.memory_bytes as f64),
            ("peak_flops", self.peak_flops),
            ("memory_bandwidth", self.memory_bandwidth),
            ("gpus_per_node", f64::from(self.gpus_per_node)),
            ("sustained", self.sustained),
            ("sustained_gemm", self.sustained_gemm.unwrap_or(1.0)),
            ("node.bandwidth", self.node.bandwidth),
            ("network.bandwidth", self.network.bandwidth),
        ];
        // Far beyond any device, and small enough that sums of bytes and times of iterations fit their types.
        let bounded = [
            ("memory_bytes", self.memory_bytes as f64, MOST_BYTES),
            ("runtime_bytes", self.runtime_bytes as f64, MOST_BYTES),
            ("cache_bytes", self.cache_bytes as f64, MOST_BYTES),
            ("peak_fp8_flops", self.peak_fp8_flops, f64::MAX),
            ("peak_fp4_flops", self.peak_fp4_flops, f64::MAX),
            ("gpus_per_node", f64::from(self.gpus_per_node), 65_536.0),
            ("node.start_us", self.node.start_us, LONGEST_US),
            ("network.start_us", self.network.start_us, LONGEST_US),
            ("host.step_us", host[0], LONGEST_US),
            ("host.seq_us", host[1], LONGEST_US),
        ];
        let not_negative = [
            ("peak_fp8_flops", self.peak_fp8_flops),
            ("peak_fp4_flops", self.peak_fp4_flops),
            ("attention.tile_tokens", self.attention.tile_tokens),
            ("attention.decode_rows", self.attention.decode_rows),
            ("attention.idle_tokens", self.attention.idle_tokens),
            ("attention.skew", self.attention.skew),
            ("node.start_us", self.node.start_us),
            ("network.start_us", self.network.start_us),
            ("host.step_us", host[0]),
            ("host.seq_us", host[1]),
            ("price.per_gpu_hour", self.price.per_gpu_hour),
        ];
        if let Some((field, x)) = positive.iter().find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
            return Some(format!("{field} = {x} must be positive"));
        }
        if let Some((field, x)) = not_negative.iter().find(|(_, x)| !(x.is_finite() && *x >= 0.0)) {
            return Some(format!("{field} = {x} must not be negative"));
        }
        if let Some((field, x, most)) = bounded.iter().find(|(_, x, most)| x > most) {
            return Some(format!("{field} = {x} is more than any device has ({most})"));
        }
        let shares = [self.sustained, self.sustained_gemm.unwrap_or(1.0), self.attention.skew];
        if shares.iter().any(|share| *share > 1.0) {
            let shares = "sustained, sustained_gemm and attention.skew are shares: at most 1";
            return Some(shares.to_owned());
        }
        let sums = &self.all_reduce;
        if sums.is_empty() || !sums.is_sorted_by(|a, b| a.ranks < b.ranks) {
            return Some("all_reduce must list rising numbers of ranks".to_owned());
        }
        if let Some(sum) = sums.iter().find(|s| !(s.bandwidth.is_finite() && s.bandwidth > 0.0)) {
            return Some(format!("all_reduce of {}: bandwidth must be positive", sum.ranks));
        }
        if let Some(sum) = sums.iter().find(|s| s.buffer_bytes as f64 > MOST_BYTES) {
            return Some(format!("all_reduce of {}: buffer_bytes is beyond any device", sum.ranks));
        }
        if let Some(fault) = self.routing.as_ref().and_then(Routing::fault) {
            return Some(fault);
        }
        let unknown = self.operators.keys().find(|kind| !KINDS.contains(&kind.as_str()));
        if let Some(kind) = unknown {
            let known = KINDS.join(", ");
            return Some(format!("operators.{kind} is not known: expected one of {known}"));
        }
        let tables = self.tables().into_iter().map(|(name, table)| {
            let most = if name.starts_with("prefill_attention") { MOST_OF_WORK } else { 1000 };
            (name, table.fault(most))
        });
        let sums =
            sums.iter().map(|s| (format!("all_reduce of {}", s.ranks), s.table().fault(1000)));
        tables.chain(sums).find_map(|(name, fault)| fault.map(|fault| format!("{name}: {fault}")))
    }

    /// The tables by operator and, besides bf16, format; without those of sums.
    #[must_use]
    pub fn tables(&self) -> Vec<(String, &Table)> {
        let own = [
            ("gemm", &self.gemm),
            ("prefill_attention", &self.prefill_attention),
            ("decode_attention", &self.decode_attention),
            ("elementwise", &self.elementwise),
            ("sampler", &self.sampler),
        ];
        let more = (self.operators.iter()).flat_map(|(kind, by)| {
            by.iter().map(move |(variant, t)| (format!("{kind}.{variant}"), t))
        });
        own.into_iter().map(|(name, t)| (name.to_owned(), t)).chain(more).collect()
    }

    /// The device's limits by its data sheet.
    #[must_use]
    pub fn peaks(&self) -> Peaks {
        self.peaks_at(1.0)
    }

    /// The same where computing keeps a share of its peak.
    pub(crate) fn peaks_at(&self, share: f64) -> Peaks {
        Peaks {
            flops: share * self.peak_flops,
            fp8: share * self.peak_fp8_flops,
            fp4: share * self.peak_fp4_flops,
            bandwidth: self.memory_bandwidth,
            cache_bytes: self.cache_bytes as f64,
            multiprocessors: f64::from(self.multiprocessors),
        }
    }

    /// Seconds to move bytes in one kernel.
    #[must_use]
    pub fn elementwise(&self) -> Times {
        let start = self.elementwise.start_us * 1e-6;
        let roof = moved_roof(start, self.memory_bandwidth, self.cache_bytes as f64);
        self.elementwise.times(&[1], no_metric, roof)
    }

    /// Seconds to choose tokens, by bytes of logits.
    #[must_use]
    pub fn sampler(&self) -> Times {
        self.sampler.times(&[1], no_metric, self.bytes_roof(self.sampler.start_us, 1.0))
    }

    fn bytes_roof(&self, start_us: f64, bytes: f64) -> Roof {
        let memory = bytes / self.memory_bandwidth;
        Roof { start: start_us * 1e-6, compute: 0.0, fixed: 0.0, memory, full: 0.0 }
    }

    /// Seconds to sum a tensor over `ranks` GPUs, by its bytes. Ranks that were not measured cost what the next
    /// measured number does; beyond a node, the node's sum plus a ring over the network on which each GPU carries its
    /// share.
    #[must_use]
    pub fn all_reduce(&self, ranks: u32) -> Sum {
        let local = ranks.min(self.gpus_per_node);
        let nodes = f64::from(ranks.div_ceil(self.gpus_per_node));
        let per_byte = 2.0 * (nodes - 1.0) / nodes / f64::from(local) / self.network.bandwidth;
        let law = self.all_reduce_law(local);
        Sum {
            node: (ranks > 1).then(|| law.times()),
            fused: if ranks > law.ranks { 0.0 } else { law.fused_bytes as f64 },
            once: [law.start_us * 1e-6, f64::from(local.saturating_sub(1)) / law.bandwidth],
            start: 2.0 * (nodes - 1.0) * self.network.start_us * 1e-6,
            per_byte,
        }
    }

    /// The table of the smallest measured number of ranks that is not below `ranks`, or the largest measured.
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

/// The time of a sum over ranks.
#[derive(Debug, Clone)]
pub struct Sum {
    node: Option<Times>,
    /// Bytes up to which it is one kernel with the norm after it.
    fused: f64,
    /// Seconds of that kernel: to start, and for each byte.
    once: [f64; 2],
    start: f64,
    per_byte: f64,
}

impl Sum {
    /// Seconds to sum `bytes`; 0 where there is one rank.
    #[must_use]
    pub fn seconds(&self, bytes: f64) -> f64 {
        self.node.as_ref().map_or(0.0, |n| n.at(bytes, 0.0) + self.start + bytes * self.per_byte)
    }

    /// The same where a norm comes after it.
    #[must_use]
    pub fn seconds_with_norm(&self, bytes: f64) -> f64 {
        let alone = self.seconds(bytes);
        if self.fuses(bytes) { alone.min(self.at_once(bytes)) } else { alone }
    }

    /// True where the norm after a sum of `bytes` has no kernel of its own.
    #[must_use]
    pub fn fuses(&self, bytes: f64) -> bool {
        self.node.is_some() && bytes <= self.fused
    }

    fn at_once(&self, bytes: f64) -> f64 {
        self.once[0] + bytes * self.once[1]
    }

    /// Bytes at which its slope changes.
    pub(crate) fn knots(&self) -> impl Iterator<Item = f64> {
        self.node.iter().flat_map(Times::knots)
    }

    /// Bytes at which that of [`Self::seconds_with_norm`] does.
    pub(crate) fn knots_with_norm(&self) -> Vec<f64> {
        let mut knots: Vec<f64> = self.knots().collect();
        if self.fused > 0.0 {
            let gap = |x: f64| self.seconds(x) - self.at_once(x);
            let ends: Vec<f64> = std::iter::once(0.0).chain(self.knots()).collect();
            let crossed = ends.windows(2).filter(|x| gap(x[0]) * gap(x[1]) < 0.0);
            let crossings = crossed.map(|x| {
                let (before, after) = (gap(x[0]), gap(x[1]));
                x[0] + (x[1] - x[0]) * before / (before - after)
            });
            knots.extend(crossings.chain([self.fused, self.fused + 1.0]));
        }
        knots
    }
}
