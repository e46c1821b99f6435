//! The shape of a model: its layers and the parts around them, with sums over the layers.

use super::attention::Attention;
use super::bounds::out_of_range;
use super::feed_forward::FeedForward;
use super::layers::{Layer, Layers};
use super::operators::{Formats, PLAIN_BYTES};
use super::spec::SpecError;
use crate::config::KvDtype;
use crate::format::Format;

/// A decoder-only language model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Its usual name.
    pub name: String,
    /// The source of the figures.
    pub source: String,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Its layers.
    pub layers: Layers,
    /// Rows of the embedding.
    pub vocab: u32,
    /// True where the vocabulary head is the embedding itself.
    pub tied_embeddings: bool,
    /// Number format of the vocabulary head; the embedding is bf16.
    pub head: Format,
    /// Rows of a learned position embedding; 0 = rotary.
    pub position_rows: u32,
    /// Longest sequence the model was trained for, tokens.
    pub max_context: u32,
    /// Its draft head: a layer that predicts the token after next (MTP), where its checkpoint has one.
    pub draft_head: Option<Layer>,
    /// The parts that are left out of it, and those that differ from its configuration; a sentence each.
    pub notes: Vec<String>,
}

/// Most weights of a model: ten times any model's and more; the bytes of all of them stay below 2^62.
const MOST_ELEMENTS: f64 = (1_u64 << 59) as f64;

impl ModelShape {
    /// Refuses figures that no model can have.
    ///
    /// # Errors
    /// The first of them.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        self.fault().map_or(Ok(()), |reason| {
            Err(SpecError::Impossible { what: "model", name: self.name.clone(), reason })
        })
    }

    /// A value that no model can have, in words.
    pub(crate) fn fault(&self) -> Option<String> {
        // Ten times any model's and more.
        let fields = [
            ("hidden", self.hidden, 1 << 18),
            ("layers", self.layers.count(), 1 << 12),
            ("vocab", self.vocab, 1 << 26),
            ("max_context", self.max_context, 1 << 30),
        ];
        let parts = self.layers.groups().find_map(|(_, layer)| {
            let attention = layer.attention.as_ref().and_then(Attention::fault);
            attention.or_else(|| layer.feed_forward.as_ref().and_then(FeedForward::fault))
        });
        if let Some(fault) = out_of_range(&fields).or(parts) {
            return Some(fault);
        }
        if self.position_rows > 1 << 30 {
            return Some(format!(
                "position_rows = {} is more than any model has",
                self.position_rows
            ));
        }
        let elements =
            |(n, layer): (u32, &Layer)| f64::from(n) * layer.elements(self.hidden, 1) as f64;
        let elements: f64 = self.layers.groups().map(elements).sum();
        (elements > MOST_ELEMENTS)
            .then(|| format!("{elements:e} weights are more than any model has"))
    }

    /// The same model with the matrices that its checkpoint quantises in `format` instead; all of its layers' where it
    /// quantises none.
    #[must_use]
    pub fn quantised(mut self, format: Format) -> Self {
        let plain = self.layers.groups().all(|(_, layer)| layer.formats == Formats::default());
        let requantise = |layer: &mut Layer| {
            layer.formats =
                if plain { Formats::all(format) } else { layer.formats.requantised(format) };
        };
        self.layers.each(requantise);
        self.draft_head.iter_mut().for_each(requantise);
        self
    }

    /// The model as memory holds it where its draft head drafts: with that one layer more.
    #[must_use]
    pub fn with_draft_head(&self) -> Option<Self> {
        let head = self.draft_head.clone()?;
        Some(Self { layers: self.layers.and(head), draft_head: None, ..self.clone() })
    }

    /// The draft head as a model of one layer.
    #[must_use]
    pub fn drafter(&self) -> Option<Self> {
        let head = self.draft_head.clone()?;
        Some(Self { layers: Layers::alike(head, 1), draft_head: None, ..self.clone() })
    }

    fn embedding_parameters(&self) -> u64 {
        u64::from(self.vocab) * u64::from(self.hidden)
    }

    pub(super) fn position_parameters(&self) -> u64 {
        u64::from(self.position_rows) * u64::from(self.hidden)
    }

    fn final_norm_parameters(&self) -> u64 {
        let bias = self.layers.groups().any(|(_, layer)| layer.norm_bias);
        u64::from(self.hidden) * if bias { 2 } else { 1 }
    }

    /// Sum over all layers.
    pub(super) fn over_layers(&self, each: impl Fn(&Layer) -> u64) -> u64 {
        self.layers.groups().map(|(n, layer)| u64::from(n) * each(layer)).sum()
    }

    /// Parameters of the whole model.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let embeddings = self.embedding_parameters() * if self.tied_embeddings { 1 } else { 2 };
        self.over_layers(|layer| layer.elements(self.hidden, 1))
            + embeddings
            + self.position_parameters()
            + self.final_norm_parameters()
    }

    /// True if it has experts.
    #[must_use]
    pub fn has_experts(&self) -> bool {
        let experts = |layer: &Layer| matches!(layer.feed_forward, Some(FeedForward::Experts(_)));
        self.layers.groups().any(|(_, layer)| experts(layer))
    }

    /// Parameters that a token goes through: without the experts that are not chosen for it, and without an embedding
    /// that is looked up only.
    #[must_use]
    pub fn active_parameters(&self) -> u64 {
        let looked_up = if self.tied_embeddings { 0 } else { self.embedding_parameters() };
        let idle = self.over_layers(|layer| layer.idle_elements(self.hidden));
        self.parameters() - idle - looked_up - self.position_parameters()
    }

    /// Bytes of all weights.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.rank_weight_bytes(1, 1, 0)
    }

    /// Weight bytes of one of `tp` ranks of stage `stage` of `pp`, scales included.
    #[must_use]
    pub fn rank_weight_bytes(&self, tp: u32, pp: u32, stage: u32) -> u64 {
        let layer = |(n, layer): (u32, &Layer)| u64::from(n) * layer.weight_bytes(self.hidden, tp);
        let mut bytes: u64 = self.layers.stage_groups(pp, stage).map(layer).sum();
        let shared = self.embedding_parameters().div_ceil(u64::from(tp));
        let (first, last) = (stage == 0, stage + 1 == pp);
        if first {
            bytes += PLAIN_BYTES * (shared + self.position_parameters());
        }
        if last {
            bytes += PLAIN_BYTES * self.final_norm_parameters();
        }
        if last && !(self.tied_embeddings && first) {
            bytes += self.head.bytes(shared);
        }
        bytes
    }

    /// Bytes of them that are routed experts, on one of `ranks` ranks that share them.
    #[must_use]
    pub fn expert_bytes(&self, ranks: u32, pp: u32, stage: u32) -> u64 {
        let layer =
            |(n, layer): (u32, &Layer)| u64::from(n) * layer.expert_bytes(self.hidden, ranks);
        self.layers.stage_groups(pp, stage).map(layer).sum()
    }

    /// Bytes that kernels add to routed experts, whose weights they want in whole tiles, on one of `ranks` ranks, `ep` of
    /// which share them out whole.
    #[must_use]
    pub fn expert_filling(&self, ranks: (u32, u32), pp: u32, stage: u32) -> u64 {
        let layer =
            |(n, layer): (u32, &Layer)| u64::from(n) * layer.expert_filling(self.hidden, ranks);
        self.layers.stage_groups(pp, stage).map(layer).sum()
    }

    /// Bytes that one token takes on one of `tp` ranks of stage `stage` of `pp`.
    #[must_use]
    pub fn stage_kv_bytes(&self, kv: KvDtype, tp: u32, pp: u32, stage: u32) -> u64 {
        let layer = |(n, layer): (u32, &Layer)| u64::from(n) * layer.kv_bytes(kv, tp);
        self.layers.stage_groups(pp, stage).map(layer).sum()
    }

    /// Bytes that one token takes on one of `tp` ranks, all layers.
    #[must_use]
    pub fn kv_bytes_per_token(&self, kv: KvDtype, tp: u32) -> u64 {
        self.stage_kv_bytes(kv, tp, 1, 0)
    }

    /// Bytes that a sequence takes, however long, on one of `tp` ranks of stage `stage` of `pp`.
    #[must_use]
    pub fn stage_state_bytes(&self, tp: u32, pp: u32, stage: u32) -> u64 {
        let layer = |(n, layer): (u32, &Layer)| u64::from(n) * layer.state_bytes(tp);
        self.layers.stage_groups(pp, stage).map(layer).sum()
    }

    /// Number formats of its weights, in the order in which its layers have them.
    #[must_use]
    pub fn formats(&self) -> Vec<Format> {
        let mut found = Vec::new();
        for (_, layer) in self.layers.groups() {
            for part in layer.parts(self.hidden, 1) {
                let matrices = part.matrices.iter().map(|m| layer.formats.of(m.class));
                let pool = part.pool.map(|_| layer.formats.feed_forward);
                found.extend(pool.into_iter().chain(matrices));
            }
        }
        found.push(self.head);
        let mut seen = Vec::new();
        found.retain(|f| {
            !seen.contains(f) && {
                seen.push(*f);
                true
            }
        });
        found
    }
}
