//! Kernels that the CPU launches one by one: of iterations that are not replayed from CUDA graphs.
//!
//! Decodes are replayed from one graph. A prompt is not: up to the largest recorded size each stretch between two
//! attentions is a graph, and attention's own kernels are launched; beyond it all are. Then an iteration takes no less
//! than launching its kernels does, however fast they are.
//!
//! Kernels are counted by the operators of vLLM's layers, from their structure; its source was not counted through.

use crate::model::Layer;
use crate::model::attention::Attention;
use crate::shape::Shape;

/// Kernels of a layer, or of all, on one rank.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Launches {
    /// Where each stretch between two attentions is a graph: those, and the kernels of attention.
    pieces: f64,
    /// Where nothing is.
    all: f64,
}

/// Nanoseconds to launch the kernels of an iteration.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Launching {
    /// The largest batch that is replayed.
    graph_tokens: u32,
    pieces: f64,
    all: f64,
}

/// A mixture of experts besides its router's product: the choice (2), sorting tokens by expert (3), quantising what
/// comes in and between (2), two products, the activation, the sum over a token's experts, a cast.
const EXPERTS: f64 = 12.0;

/// The kernels of attention's core: what runs between the projections.
fn core(attention: &Attention) -> f64 {
    match attention {
        // Writing keys and values; attention.
        Attention::Full(_) => 2.0,
        // The absorbed products in and out, joining two parts of a query, writing the latent, attention, a copy.
        Attention::Latent(_) => 6.0,
        // The convolution, three copies of its parts, the gates, reading states and clearing new ones (2), two norms,
        // six kernels of the chunked rule, writing states (2), a copy.
        Attention::GatedDelta(_) => 18.0,
        // The convolution, two copies, five kernels of the chunked scan, reading, clearing and writing states (4).
        Attention::Mamba(_) => 12.0,
    }
}

impl Launches {
    /// Those of `layer` in a model of width `hidden` on one of `tp` ranks.
    pub(super) fn new(layer: &Layer, hidden: u32, tp: u32) -> Self {
        let parts = layer.parts(hidden, tp);
        let core = layer.attention.as_ref().map_or(0.0, core);
        let kernels = |part: &crate::model::operators::Operators| {
            let sums = usize::from(tp > 1) * (1 + usize::from(part.summed.is_some()));
            let own = (part.matrices.len() + part.moved.len() + sums) as f64;
            own + if part.pool.is_some() { EXPERTS } else { 0.0 }
        };
        let others: f64 = parts.iter().map(kernels).sum();
        Self {
            pieces: if core > 0.0 { 1.0 + core } else { 0.0 },
            all: core + others + f64::from(layer.norm_count()),
        }
    }

    /// Those of `count` such layers besides these.
    pub(super) fn and(self, count: f64, layer: Self) -> Self {
        Self { pieces: self.pieces + count * layer.pieces, all: self.all + count * layer.all }
    }

    /// The larger of two stages.
    pub(super) fn max(self, other: Self) -> Self {
        Self { pieces: self.pieces.max(other.pieces), all: self.all.max(other.all) }
    }

    /// Their time, as the engine launches them.
    pub(super) fn time(self, launch: crate::engines::LaunchTime) -> Launching {
        let all = self.all * launch.kernel;
        let pieces = if launch.pieces { self.pieces * launch.kernel } else { all };
        Launching { graph_tokens: launch.graph_tokens, pieces, all }
    }
}

impl Launching {
    /// Nanoseconds in which the CPU launches an iteration of this work; 0 where it is one graph.
    pub(super) fn of(&self, shape: &Shape) -> f64 {
        let tokens = u64::from(shape.prefill_tokens) + u64::from(shape.decode_seqs);
        if tokens > u64::from(self.graph_tokens) {
            self.all
        } else if shape.prefill_seqs > 0 {
            self.pieces
        } else {
            0.0
        }
    }
}
