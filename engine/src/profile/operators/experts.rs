//! Fused experts: the routed tokens of one layer through the experts of one rank.
//!
//! x = load: tokens an expert computes on average, tokens * top-k / experts. Routing is even, as it was timed: each of
//! the first tokens wakes experts of its own, so that up to a load of 1 their weights are read in proportion. Router and
//! all-to-all are not in it; the quantisation of activations is.

use crate::format::Format;
use crate::profile::table::{Place, Roof, Times, place};
use crate::profile::{DeviceProfile, Peaks, gemm_metric};

/// Elements of a block that shares a scale.
const BLOCK: u32 = 128;

/// The routed experts of one layer on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of an expert on this rank.
    pub inter: u32,
    /// Experts whose weights this rank holds.
    pub held: u32,
    /// Experts of the layer.
    pub total: u32,
    /// Experts that a token goes through.
    pub top_k: u32,
    /// True where an expert has a gate: three matrices and not two.
    pub gated: bool,
}

impl Experts {
    /// Its name in a table.
    #[must_use]
    pub fn shape(&self) -> [u32; 5] {
        [self.hidden, self.inter, self.held, self.total, self.top_k]
    }

    /// Tokens through the layer that make a load of 1.
    #[must_use]
    pub fn tokens_per_load(&self) -> f64 {
        f64::from(self.total.max(1)) / f64::from(self.top_k.max(1))
    }

    /// Weights of one expert on this rank.
    #[must_use]
    pub fn weights(&self) -> f64 {
        let matrices = if self.gated { 3.0 } else { 2.0 };
        matrices * f64::from(self.hidden) * f64::from(self.inter)
    }

    /// Experts of the layer that `tokens` tokens go through where each chooses at random: fewer than where they are
    /// spread evenly.
    #[must_use]
    pub fn hit_at_random(&self, tokens: f64) -> f64 {
        let total = f64::from(self.total.max(1));
        total * (1.0 - (1.0 - f64::from(self.top_k) / total).max(0.0).powf(tokens))
    }

    /// The share that is read of the experts which as many tokens would wake if they were dealt evenly.
    #[must_use]
    pub fn share_at_random(&self, tokens: f64) -> f64 {
        let even = (tokens * f64::from(self.top_k)).min(f64::from(self.total));
        (self.hit_at_random(tokens) / even).min(1.0)
    }

    /// The roofline by load.
    #[must_use]
    pub fn roof(&self, peaks: &Peaks, format: Format) -> Roof {
        let (held, weights) = (f64::from(self.held), self.weights());
        let token = 4.0 * f64::from(self.hidden) / f64::from(self.top_k.max(1));
        Roof {
            start: 0.0,
            compute: 2.0 * weights * held / peaks.rate(format),
            fixed: held * weights * format.element_bytes() / peaks.bandwidth,
            memory: held * token / peaks.bandwidth,
            full: 1.0,
        }
    }
}

/// Layers with experts of like size are alike; their number and the tokens' spread count less.
#[must_use]
pub fn experts_metric(shape: &[u32]) -> Place {
    let [hidden, inter, held, total, top_k] = [0, 1, 2, 3, 4].map(|i| f64::from(shape[i]));
    place([hidden, inter, held, total / held, top_k], [1.0, 1.0, 1.0, 0.5, 0.5])
}

impl DeviceProfile {
    /// Seconds of the routed experts of one layer on one rank, by tokens that are routed through the layer (on all
    /// ranks that share it), evenly.
    #[must_use]
    pub fn experts(&self, experts: Experts, format: Format) -> Times {
        let roof = experts.roof(&self.peaks_at(self.sustained), format);
        let times = if let Some((table, from)) = self.table_for("experts", format) {
            let roof = Roof { start: table.start_us * 1e-6, ..roof };
            table.times(&experts.shape(), experts_metric, roof).borrowed(from)
        } else {
            let roof = Roof { start: 2.0 * self.gemm.start_us * 1e-6, ..roof };
            let as_product = [2 * experts.inter, experts.hidden];
            let from = "the efficiency of matrix products in bf16 of one expert's size".to_owned();
            self.gemm.times(&as_product, gemm_metric, roof).borrowed(Some(from))
        };
        // Engines refuse such a split, so no row has its time.
        let refused = format == Format::Fp8Block && !experts.inter.is_multiple_of(BLOCK);
        let from = refused.then(|| "the efficiency of experts in whole blocks".to_owned());
        times.borrowed(from).scaled(experts.tokens_per_load())
    }
}
