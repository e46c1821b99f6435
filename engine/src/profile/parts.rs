//! The parts of a profile that are not tables: links, sums, host, price, and how far the fit is off.

use serde::Deserialize;

use super::table::{Roof, Table, Times, no_metric};

/// The way in which chunks share an attention kernel. It computes tiles of [`TILE`](crate::shape::TILE) query rows,
/// unless `fine_tiles`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Starting a tile takes as long as this many tokens of context.
    pub tile_tokens: f64,
    /// Query rows that a decode costs in a kernel shared with prompt chunks, where it loses the kernel made for
    /// decodes; 0 = it loses nothing: both kinds take the sum of their times alone.
    pub decode_rows: f64,
    /// Starting a tile that has no rows takes as long as this many tokens of context: the kernel starts as many tiles
    /// for every sequence as the largest chunk needs.
    #[serde(default)]
    pub idle_tokens: f64,
    /// True where tiles are of so few rows that each row and its pairs count, not whole tiles.
    #[serde(default)]
    pub fine_tiles: bool,
    /// Share of the way, from a batch of decodes at its mean length to one at its longest, that a batch of unequal
    /// lengths takes.
    pub skew: f64,
    /// The source of these.
    pub source: String,
}

/// A sum over `ranks` GPUs: roofline bytes / bandwidth, x = bytes of the summed tensor.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllReduce {
    /// GPUs that take part.
    pub ranks: u32,
    /// Shortest time, µs.
    pub start_us: f64,
    /// Bytes of the summed tensor per second that the links allow.
    pub bandwidth: f64,
    /// Device memory its buffers take on each rank, bytes.
    pub buffer_bytes: u64,
    /// The largest tensor, bytes, that an engine sums in the kernel of the norm after it: each rank reads those of all
    /// others at once. 0 = sums have kernels of their own.
    #[serde(default)]
    pub fused_bytes: u64,
    /// The source of the figures.
    pub source: String,
    /// The engine and its version that it was timed in; empty where it is not known.
    #[serde(default)]
    pub timed_under: String,
    /// Knots, bytes; none = one efficiency.
    #[serde(default)]
    pub x: Vec<f64>,
    /// Efficiencies, thousandths.
    pub per_mille: Vec<u16>,
}

/// A connection between two GPUs, each direction: start + bytes / bandwidth.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The source of the figures.
    #[serde(default)]
    pub source: String,
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
    /// The source of these.
    pub source: String,
}

/// The price of an hour of one GPU.
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
    /// The kind of price, and its source.
    pub source: String,
}

/// The reliability of a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PriceBasis {
    /// A provider's price.
    Quoted,
    /// A plausible one.
    Assumed,
}

/// Relative error of the fit: |predicted / measured − 1|.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitError {
    /// Measurements.
    pub rows: usize,
    /// Measurements left out, for reasons that the importer gives.
    pub left_out: usize,
    /// Mean over the measurements that were fitted.
    pub mean: f64,
    /// 90th percentile of the same.
    pub p90: f64,
    /// 95th percentile of the same.
    pub p95: f64,
    /// Median of |predicted / measured - 1| for rows that the fit had not seen.
    #[serde(default)]
    pub unseen_median: f64,
    /// Mean over measurements that the fit had not seen: each fifth in turn.
    pub unseen_mean: f64,
    /// 90th percentile of the same.
    pub unseen_p90: f64,
    /// 95th percentile of the same.
    pub unseen_p95: f64,
    /// Mean change of a knot that made time rise with work.
    pub isotonic: f64,
}

impl FitError {
    /// The columns of a printed one.
    pub const COLUMNS: &str =
        "   rows left out     fitted mean/p90/p95       unseen median/mean/p90/p95  isotonic";
}

impl std::fmt::Display for FitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |x: &[f64]| {
            let all: Vec<String> = x.iter().map(|x| format!("{:.1}", 1e2 * x)).collect();
            format!("{} %", all.join("/"))
        };
        let seen = percent(&[self.mean, self.p90, self.p95]);
        let unseen =
            percent(&[self.unseen_median, self.unseen_mean, self.unseen_p90, self.unseen_p95]);
        let isotonic = 1e2 * self.isotonic;
        write!(f, "{:>7}{:>9}{seen:>24}{unseen:>31}{isotonic:>8.2} %", self.rows, self.left_out)
    }
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
    /// Tokens that each attends to at most; 0 = all.
    pub window: u32,
}

impl Heads {
    /// Their name in a table.
    #[must_use]
    pub fn shape(&self) -> [u32; 4] {
        [self.query, self.kv, self.dim, self.window]
    }

    /// Tokens that `seqs` decodes with so much `context` between them read: a window seldom ends where a tile of keys
    /// does, so that one tile more is read.
    #[must_use]
    pub fn seen(&self, context: f64, seqs: f64) -> f64 {
        const TILE_OF_KEYS: u32 = 128;
        let most = f64::from(self.window.saturating_add(TILE_OF_KEYS));
        if self.window == 0 { context } else { context.min(seqs * most) }
    }
}

impl Link {
    /// Seconds to carry `bytes` one way.
    #[must_use]
    pub fn seconds(&self, bytes: f64) -> f64 {
        self.start_us * 1e-6 + bytes / self.bandwidth
    }
}

impl AllReduce {
    /// Its efficiencies as a table.
    #[must_use]
    pub fn table(&self) -> Table {
        Table {
            x: self.x.clone(),
            per_mille: vec![self.per_mille.clone()],
            ..Table::constant(self.start_us, 1.0, &self.source)
        }
    }

    pub(super) fn times(&self) -> Times {
        let memory = 1.0 / self.bandwidth;
        let start = self.start_us * 1e-6;
        let roof = Roof { start, compute: 0.0, fixed: 0.0, memory, full: 0.0 };
        self.table().times(&[1], no_metric, roof)
    }
}
