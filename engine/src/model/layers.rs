//! The layers of a model in their order, each kind of layer kept once.

use super::attention::Attention;
use super::feed_forward::FeedForward;
use super::operators::{Formats, Operators, PLAIN_BYTES};
use crate::config::KvDtype;

/// A kind of layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its way of mixing tokens; none in models whose layers do one thing each.
    pub attention: Option<Attention>,
    /// Its work on each token.
    pub feed_forward: Option<FeedForward>,
    /// Norms before, and where this is 2 also after, attention and feed-forward.
    pub norms: u32,
    /// True where norms have biases.
    pub norm_bias: bool,
    /// Number formats of its weights.
    pub formats: Formats,
}

impl Layer {
    /// A layer in bf16 with a norm before each part.
    #[must_use]
    pub fn new(attention: Option<Attention>, feed_forward: Option<FeedForward>) -> Self {
        Self { attention, feed_forward, norms: 1, norm_bias: false, formats: Formats::default() }
    }

    /// The operators that its parts consist of on each of `tp` ranks, attention first.
    #[must_use]
    pub fn parts(&self, hidden: u32, tp: u32) -> Vec<Operators> {
        let attention = self.attention.as_ref().map(|a| a.operators(hidden, tp));
        let feed_forward = self.feed_forward.as_ref().map(|f| f.operators(hidden, tp));
        attention.into_iter().chain(feed_forward).collect()
    }

    /// Norms over the residual stream.
    #[must_use]
    pub fn norm_count(&self) -> u32 {
        self.norms * (u32::from(self.attention.is_some()) + u32::from(self.feed_forward.is_some()))
    }

    fn norm_elements(&self, hidden: u32) -> u64 {
        u64::from(self.norm_count()) * u64::from(hidden) * if self.norm_bias { 2 } else { 1 }
    }

    /// Elements of its weights on one of `tp` ranks.
    #[must_use]
    pub fn elements(&self, hidden: u32, tp: u32) -> u64 {
        let parts: u64 = self.parts(hidden, tp).iter().map(|part| part.elements(tp)).sum();
        parts + self.norm_elements(hidden)
    }

    /// Weights that a token does not go through.
    #[must_use]
    pub fn idle_elements(&self, hidden: u32) -> u64 {
        self.parts(hidden, 1).iter().map(Operators::idle_elements).sum()
    }

    /// Bytes of its weights on one of `tp` ranks.
    #[must_use]
    pub fn weight_bytes(&self, hidden: u32, tp: u32) -> u64 {
        let parts = self.parts(hidden, tp);
        let bytes: u64 = parts.iter().map(|part| part.bytes(tp, &self.formats)).sum();
        bytes + PLAIN_BYTES * self.norm_elements(hidden)
    }

    /// Bytes of them that are routed experts, on one of `ranks` ranks that share them.
    #[must_use]
    pub fn expert_bytes(&self, hidden: u32, ranks: u32) -> u64 {
        self.parts(hidden, 1).iter().map(|part| part.expert_bytes(ranks, &self.formats)).sum()
    }

    /// Bytes that kernels add to those of one of `ranks` ranks, `ep` of which share them out whole.
    #[must_use]
    pub fn expert_filling(&self, hidden: u32, ranks: (u32, u32)) -> u64 {
        self.parts(hidden, 1).iter().map(|part| part.expert_filling(ranks, &self.formats)).sum()
    }

    /// Bytes that it keeps of every token on one of `tp` ranks.
    #[must_use]
    pub fn kv_bytes(&self, kv: KvDtype, tp: u32) -> u64 {
        self.attention.as_ref().map_or(0, |a| a.kv_bytes(kv, tp))
    }

    /// Bytes that it keeps of every sequence on one of `tp` ranks.
    #[must_use]
    pub fn state_bytes(&self, tp: u32) -> u64 {
        self.attention.as_ref().map_or(0, |a| a.state_bytes(tp))
    }

    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let attention = self.attention.as_ref().map(Attention::describe);
        let feed_forward = self.feed_forward.as_ref().map(FeedForward::describe);
        let parts: Vec<String> = attention.into_iter().chain(feed_forward).collect();
        if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
    }
}

/// Layers in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    kinds: Vec<Layer>,
    order: Vec<u16>,
}

impl Layers {
    /// `count` layers of one kind.
    #[must_use]
    pub fn alike(layer: Layer, count: u32) -> Self {
        Self { kinds: vec![layer], order: vec![0; count as usize] }
    }

    /// The number of layers.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.order.len() as u32
    }

    /// The only kind there is; none where there are several.
    #[must_use]
    pub fn single(&self) -> Option<&Layer> {
        match self.kinds.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Each kind with the number of its layers, in the order in which they first come.
    pub fn groups(&self) -> impl Iterator<Item = (u32, &Layer)> {
        self.within(&self.order)
    }

    /// The same of pipeline stage `stage` of `pp`.
    pub fn stage_groups(&self, pp: u32, stage: u32) -> impl Iterator<Item = (u32, &Layer)> {
        let (each, more) = (self.count() / pp, self.count() % pp);
        let first = (stage * each + stage.min(more)) as usize;
        let size = self.stage_count(pp, stage) as usize;
        self.within(self.order.get(first..first + size).unwrap_or_default())
    }

    /// Layers of pipeline stage `stage` of `pp`: as even as can be, and never more on the last, which has the
    /// vocabulary head too.
    #[must_use]
    pub fn stage_count(&self, pp: u32, stage: u32) -> u32 {
        self.count() / pp + u32::from(stage < self.count() % pp)
    }

    fn within(&self, order: &[u16]) -> impl Iterator<Item = (u32, &Layer)> {
        let mut counts = vec![0_u32; self.kinds.len()];
        order.iter().for_each(|&kind| counts[usize::from(kind)] += 1);
        counts.into_iter().zip(&self.kinds).filter(|(count, _)| *count > 0)
    }

    /// The last layer.
    #[must_use]
    pub fn last(&self) -> Option<&Layer> {
        self.kinds.get(usize::from(*self.order.last()?))
    }

    /// These and `layer` after them.
    #[must_use]
    pub fn and(&self, layer: Layer) -> Self {
        let own = self.order.iter().map(|&kind| self.kinds[usize::from(kind)].clone());
        own.chain([layer]).collect()
    }

    /// Changes every kind of layer.
    pub fn each(&mut self, change: impl FnMut(&mut Layer)) {
        self.kinds.iter_mut().for_each(change);
    }
}

impl FromIterator<Layer> for Layers {
    /// The layers in this order; past 65,535 kinds the last stands for the rest.
    fn from_iter<T: IntoIterator<Item = Layer>>(layers: T) -> Self {
        let mut all = Self::default();
        for layer in layers {
            let known = all.kinds.iter().position(|kind| *kind == layer);
            let kind = known.unwrap_or_else(|| {
                all.kinds.push(layer);
                all.kinds.len() - 1
            });
            all.order.push(u16::try_from(kind).unwrap_or(u16::MAX));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::attention::{Attention, Full};
    use super::super::feed_forward::{Dense, FeedForward};
    use super::*;

    fn layer(window: Option<u32>) -> Layer {
        let attention = Attention::Full(Full { window, ..Full::plain(4, 2, 8) });
        let dense = FeedForward::Dense(Dense { width: 64, gated: true, bias: false });
        Layer::new(Some(attention), Some(dense))
    }

    #[test]
    fn kinds_are_kept_once_and_stages_have_their_own_layers() {
        // Five in a window, one over everything, three times.
        let layers: Layers =
            (0..18).map(|i| layer(if i % 6 == 5 { None } else { Some(16) })).collect();
        let counts = |groups: Vec<(u32, &Layer)>| -> Vec<(u32, Option<u32>)> {
            let window = |l: &Layer| l.attention.as_ref().and_then(Attention::window);
            groups.into_iter().map(|(n, l)| (n, window(l))).collect()
        };
        assert_eq!(counts(layers.groups().collect()), [(15, Some(16)), (3, None)]);
        assert!(layers.single().is_none());
        // 18 on 4 stages: 5, 5, 4, 4; layers 5, 11 and 17 see everything.
        let stage = |stage| counts(layers.stage_groups(4, stage).collect());
        assert_eq!(stage(0), [(5, Some(16))]);
        assert_eq!(stage(1), [(4, Some(16)), (1, None)]);
        assert_eq!(stage(2), [(3, Some(16)), (1, None)]);
        assert_eq!(stage(3), [(3, Some(16)), (1, None)]);
    }
}
