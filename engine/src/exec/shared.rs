//! Experts that ranks of attention share: what all ranks do together, by the tokens of all.
//!
//! As vLLM does without DeepEP (`allgather_reducescatter`): before the experts of a layer every rank gathers the tokens of
//! all, and after them the outputs are summed and scattered. Where a rank of attention is several GPUs, each brings a share
//! of its tokens, and gathers the others' afterwards.

use super::experts::ExpertTimes;
use super::ranks::Ranks;
use crate::model::operators::PLAIN_BYTES;
use crate::profile::{Collective, DeviceProfile, Line, Times};

/// The experts of all layers, and the way to them and back.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// Kinds of experts, and the number of layers that have them.
    layers: Vec<(u32, ExpertTimes)>,
    ways: [Times; 2],
    /// Gathering the tokens of a rank of attention on its GPUs, where those bring a share each; and such ranks.
    within: Option<Times>,
    dp: f64,
    /// Seconds to reach the other nodes, for one way: to begin, and for each byte.
    between: [f64; 2],
    /// Bytes of a token.
    token: f64,
    /// ns by tokens of all ranks: tabulated, and beyond.
    table: Box<[f64]>,
    line: Line,
}

impl Shared {
    /// Those of `layers`, for tokens of width `hidden`; numbers of tokens up to `rows` for each rank are tabulated.
    pub(super) fn new(
        device: &DeviceProfile,
        ranks: Ranks,
        hidden: u32,
        layers: Vec<(u32, ExpertTimes)>,
        rows: u32,
    ) -> Self {
        let split = ranks.shares_sequences();
        // Those that meet, and how many of them are in a node.
        let (all, per_node) = if split {
            (ranks.tp * ranks.dp, device.gpus_per_node)
        } else {
            (ranks.dp, (device.gpus_per_node / ranks.tp).max(1))
        };
        let (local, nodes) = (all.min(per_node), all.div_ceil(per_node));
        // As for a sum: ranks of a node share what comes from the others.
        let (others, all) = (f64::from(nodes - 1), f64::from(nodes * local));
        let mut shared = Self {
            layers,
            within: split.then(|| device.collective(Collective::AllGather, ranks.tp)),
            dp: f64::from(ranks.dp),
            ways: [Collective::AllGather, Collective::ReduceScatter]
                .map(|way| device.collective(way, local)),
            between: [
                others * device.network.start_us * 1e-6,
                others / all / device.network.bandwidth,
            ],
            token: f64::from(hidden) * PLAIN_BYTES as f64,
            table: Box::default(),
            line: Line::default(),
        };
        let experts = shared.layers.iter().flat_map(|(_, experts)| experts.knots());
        let ways = shared.ways.iter().flat_map(Times::knots).map(|bytes| bytes / shared.token);
        let within = shared.within.iter().flat_map(Times::knots);
        let within = within.map(|bytes| bytes * shared.dp / shared.token);
        let knots = experts.chain(ways).chain(within).collect();
        shared.line = Line::new(knots, |tokens| shared.seconds(tokens) * 1e9);
        shared.table = shared.line.tabulate(rows.saturating_mul(ranks.dp).min(1 << 16));
        shared
    }

    fn seconds(&self, tokens: f64) -> f64 {
        let bytes = tokens * self.token;
        let [start, per_byte] = self.between;
        let way = |times: &Times| times.at(bytes, 0.0) + start + bytes * per_byte;
        let within = self.within.as_ref().map_or(0.0, |times| times.at(bytes / self.dp, 0.0));
        let ways: f64 = self.ways.iter().map(way).sum::<f64>() + within;
        let layer =
            |(count, experts): &(u32, ExpertTimes)| f64::from(*count) * (experts.at(tokens) + ways);
        self.layers.iter().map(layer).sum()
    }

    /// ns of all layers with `tokens` tokens of all ranks.
    pub(super) fn ns(&self, tokens: u64) -> f64 {
        match self.table.get(tokens as usize) {
            Some(ns) => *ns,
            None => self.line.at(tokens as f64),
        }
    }

    /// The parts that no table of the device has, and those that they are priced by; a sentence each.
    pub(super) fn borrowed(&self) -> Vec<String> {
        let experts = self.layers.iter().map(|(_, e)| ("the mixture of experts", e.basis()));
        let ways = self.ways.iter().map(|way| ("gathering tokens for experts", way.basis()));
        let borrowed = experts.chain(ways).filter(|(_, basis)| basis.is_borrowed());
        borrowed.map(|(what, basis)| format!("{what} is {basis}")).collect()
    }
}
