//! Collectives besides the sum: gathers, scatters and exchanges by NCCL, and the all-to-all of experts by DeepEP.
//!
//! Gathers and scatters: x = bytes of the whole tensor, shapes = ranks. The all-to-all of experts: x = tokens of a rank,
//! shapes (hidden, top-k, experts).

use crate::profile::table::{Place, Roof, Times, place};
use crate::profile::{DeviceProfile, Table};

/// A collective over the ranks of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collective {
    /// Every rank receives the others' parts.
    AllGather,
    /// Every rank receives its part of the sum.
    ReduceScatter,
    /// Every rank sends a part to every other.
    AllToAll,
}

impl Collective {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AllGather, Self::ReduceScatter, Self::AllToAll];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllToAll => "all_to_all",
        }
    }
}

/// Numbers of ranks are alike by their ratio.
#[must_use]
pub fn ranks_metric(shape: &[u32]) -> Place {
    place([f64::from(shape[0])], [1.0])
}

/// Exchanges of experts are alike that carry as wide tokens to as many experts.
#[must_use]
pub fn exchange_metric(shape: &[u32]) -> Place {
    let [hidden, top_k, experts] = [0, 1, 2].map(|i| f64::from(shape[i]));
    place([hidden, top_k, experts], [1.0, 1.0, 0.2])
}

/// The roofline of a collective over `ranks`, by bytes: each rank keeps its own share.
#[must_use]
pub fn collective_roof(ranks: f64, bandwidth: f64) -> Roof {
    let memory = (ranks - 1.0) / ranks / bandwidth;
    Roof { start: 0.0, compute: 0.0, fixed: 0.0, memory, full: 0.0 }
}

/// The roofline of one way of an exchange, by tokens of a rank: a token leaves once for each other rank that holds one
/// of its experts, where they are chosen at random; there in fp8, back in bf16.
#[must_use]
pub fn exchange_roof(dispatch: bool, hidden: f64, top_k: f64, ranks: f64, bandwidth: f64) -> Roof {
    let copies = (ranks - 1.0) * (1.0 - (1.0 - 1.0 / ranks).powf(top_k));
    let element = if dispatch { 1.0 } else { 2.0 };
    let memory = copies * hidden * element / bandwidth;
    Roof { start: 0.0, compute: 0.0, fixed: 0.0, memory, full: 0.0 }
}

/// The kernels of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// Made for few tokens.
    LowLatency,
    /// Made for many tokens.
    HighThroughput,
}

impl Exchange {
    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LowLatency => "low_latency",
            Self::HighThroughput => "high_throughput",
        }
    }
}

impl DeviceProfile {
    /// Seconds of a collective over `ranks` GPUs of one node, by bytes of the whole tensor.
    #[must_use]
    pub fn collective(&self, of: Collective, ranks: u32) -> Times {
        let law = self.all_reduce_law(ranks);
        let roof = collective_roof(f64::from(ranks.max(1)), law.bandwidth);
        let times = |table: &Table| {
            let roof = Roof { start: table.start_us * 1e-6, ..roof };
            table.times(&[ranks.max(1)], ranks_metric, roof)
        };
        match self.table(of.name(), "bf16") {
            Some(table) => times(table),
            None => {
                let from = format!("the efficiency of the sum over {} ranks", law.ranks);
                times(&law.table()).borrowed(Some(from))
            }
        }
    }

    /// Seconds to carry tokens to their experts' ranks (`dispatch`) or back, by tokens of a rank; `ranks` share the
    /// experts.
    #[must_use]
    pub fn exchange(
        &self,
        by: Exchange,
        dispatch: bool,
        [hidden, top_k, experts]: [u32; 3],
        ranks: u32,
    ) -> Times {
        let law = self.all_reduce_law(ranks);
        let [width, copies, ranks] = [hidden, top_k, ranks.max(1)].map(f64::from);
        let roof = exchange_roof(dispatch, width, copies, ranks, law.bandwidth);
        let kind = if dispatch { "dispatch" } else { "combine" };
        if let Some(table) = self.table(kind, by.name()) {
            let roof = Roof { start: table.start_us * 1e-6, ..roof };
            return table.times(&[hidden, top_k, experts], exchange_metric, roof);
        }
        let all_to_all = self.collective(Collective::AllToAll, ranks as u32);
        let bytes = (2.0 * width * copies.min(ranks)).max(1.0);
        let from = "the time of an all-to-all of as many bytes".to_owned();
        all_to_all.scaled(1.0 / bytes).borrowed(Some(from))
    }
}
