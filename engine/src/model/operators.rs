//! The parts of a layer, told by every kind of attention and feed-forward in the same words: weights that tokens are
//! multiplied by, elements that other kernels move, experts.
//!
//! Parameters, weight bytes and the cost of a layer are sums over these, so that they cannot disagree.

use serde::{Deserialize, Serialize};

use crate::format::Format;

/// The way in which tensor-parallel ranks share a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Each has some of the columns of the product.
    Columns,
    /// Each has some of the rows, and the products are summed.
    Rows,
    /// Each has all of it.
    Copied,
}

/// The part of a layer that a weight belongs to: number formats are chosen by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Projections into attention.
    Projections,
    /// The projection out of attention.
    Output,
    /// The feed-forward layer: its own matrices, or those of its routed experts.
    FeedForward,
    /// Experts that every token goes through.
    Shared,
    /// Routers and other small matrices, which are never quantised.
    Plain,
}

/// Number formats of a layer's weights, by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formats {
    /// Of [`Class::Projections`].
    pub projections: Format,
    /// Of [`Class::Output`].
    pub output: Format,
    /// Of [`Class::FeedForward`].
    pub feed_forward: Format,
    /// Of [`Class::Shared`].
    pub shared: Format,
}

impl Formats {
    /// The same format for every class that can have one.
    #[must_use]
    pub fn all(format: Format) -> Self {
        Self { projections: format, output: format, feed_forward: format, shared: format }
    }

    /// The same with `format` instead of every format but bf16.
    #[must_use]
    pub fn requantised(self, format: Format) -> Self {
        let instead = |own| if own == Format::Bf16 { own } else { format };
        Self {
            projections: instead(self.projections),
            output: instead(self.output),
            feed_forward: instead(self.feed_forward),
            shared: instead(self.shared),
        }
    }

    /// That of `class`.
    #[must_use]
    pub fn of(&self, class: Class) -> Format {
        match class {
            Class::Projections => self.projections,
            Class::Output => self.output,
            Class::FeedForward => self.feed_forward,
            Class::Shared => self.shared,
            Class::Plain => Format::Bf16,
        }
    }
}

/// A weight `[k, n]` that every token is multiplied by. Sizes are those of all ranks together: a matrix that ranks hold
/// copies of counts once for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Columns of the product.
    pub n: u64,
    /// Rows: the width of what comes in.
    pub k: u64,
    /// The way in which ranks share it.
    pub split: Split,
    /// The class that says its number format.
    pub class: Class,
}

impl Matrix {
    /// A weight whose columns are shared out.
    #[must_use]
    pub fn columns(n: u64, k: u64, class: Class) -> Self {
        Self { n, k, split: Split::Columns, class }
    }

    /// A weight whose rows are shared out.
    #[must_use]
    pub fn rows(n: u64, k: u64, class: Class) -> Self {
        Self { n, k, split: Split::Rows, class }
    }

    /// A weight that every rank has.
    #[must_use]
    pub fn copied(n: u64, k: u64, class: Class) -> Self {
        Self { n, k, split: Split::Copied, class }
    }

    /// Its elements on one of `tp` ranks.
    #[must_use]
    pub fn elements(&self, tp: u32) -> u64 {
        let all = self.n * self.k;
        if self.split == Split::Copied { all } else { all.div_ceil(u64::from(tp)) }
    }

    /// (n, k) on one of `tp` ranks.
    #[must_use]
    pub fn on_rank(&self, tp: u32) -> (f64, f64) {
        let (n, k, ranks) = (self.n as f64, self.k as f64, f64::from(tp));
        match self.split {
            Split::Columns => (n / ranks, k),
            Split::Rows => (n, k / ranks),
            Split::Copied => (n, k),
        }
    }
}

/// Experts of which a router chooses a few for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Experts.
    pub experts: u32,
    /// Experts that a token goes through.
    pub top_k: u32,
    /// Width of an expert's input and output.
    pub outer: u32,
    /// Inner width of one expert.
    pub inner: u32,
    /// True where an expert has a gate: three matrices instead of two.
    pub gated: bool,
    /// True where the matrices of an expert have biases.
    pub bias: bool,
}

impl Pool {
    /// Weights of one expert, biases apart.
    #[must_use]
    pub fn expert_elements(&self) -> u64 {
        let matrices = if self.gated { 3 } else { 2 };
        matrices * u64::from(self.outer) * u64::from(self.inner)
    }

    /// Weights that kernels add to one expert in `format`, where `ranks` share its width: whole tiles.
    fn filling(&self, format: Format, ranks: u32) -> u64 {
        let Some([outer_tile, inner_tile]) = format.expert_tiles() else { return 0 };
        let inner = self.inner.div_ceil(ranks.max(1));
        let whole = Self {
            outer: self.outer.next_multiple_of(outer_tile),
            inner: inner.next_multiple_of(inner_tile),
            ..*self
        };
        whole.expert_elements() - Self { inner, ..*self }.expert_elements()
    }

    /// Biases of one expert.
    #[must_use]
    pub fn expert_biases(&self) -> u64 {
        let up = if self.gated { 2 } else { 1 };
        u64::from(self.bias) * (up * u64::from(self.inner) + u64::from(self.outer))
    }
}

/// The parts of one attention or feed-forward.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Operators {
    /// Weights that every token is multiplied by.
    pub matrices: Vec<Matrix>,
    /// Elements of vectors that ranks share out: biases of columns.
    pub split_vectors: u64,
    /// Elements of vectors that every rank has: norms, biases of rows.
    pub copied_vectors: u64,
    /// Elements per token that each other kernel reads and writes on one rank.
    pub moved: Vec<f64>,
    /// Bytes per token that ranks sum besides the output.
    pub summed: Option<f64>,
    /// The experts that a router chooses from.
    pub pool: Option<Pool>,
}

/// Bytes of an element that is never quantised: vectors, embeddings, activations.
pub const PLAIN_BYTES: u64 = 2;

impl Operators {
    /// Elements of the weights on one of `tp` ranks.
    #[must_use]
    pub fn elements(&self, tp: u32) -> u64 {
        let matrices: u64 = self.matrices.iter().map(|m| m.elements(tp)).sum();
        let pool = self.pool.map_or(0, |p| {
            (u64::from(p.experts) * (p.expert_elements() + p.expert_biases()))
                .div_ceil(u64::from(tp))
        });
        matrices + self.vectors(tp) + pool
    }

    /// Weights of experts that a token does not go through, all ranks.
    #[must_use]
    pub fn idle_elements(&self) -> u64 {
        self.pool.map_or(0, |p| {
            u64::from(p.experts.saturating_sub(p.top_k)) * (p.expert_elements() + p.expert_biases())
        })
    }

    /// Bytes of the weights on one of `tp` ranks, scales included.
    #[must_use]
    pub fn bytes(&self, tp: u32, formats: &Formats) -> u64 {
        let matrix = |m: &Matrix| formats.of(m.class).bytes(m.elements(tp));
        self.matrices.iter().map(matrix).sum::<u64>()
            + self.expert_bytes(tp, formats)
            + PLAIN_BYTES * self.vectors(tp)
    }

    /// Bytes of them that are experts which a router chooses from, on one of `ranks` ranks that share them.
    #[must_use]
    pub fn expert_bytes(&self, ranks: u32, formats: &Formats) -> u64 {
        self.pool.map_or(0, |p| {
            let experts = u64::from(p.experts);
            let [weights, biases] = [p.expert_elements(), p.expert_biases()]
                .map(|each| (experts * each).div_ceil(u64::from(ranks)));
            formats.feed_forward.bytes(weights) + PLAIN_BYTES * biases
        })
    }

    /// Bytes that kernels of these formats add to the experts of one of `ranks` ranks, `ep` of which share them out
    /// whole.
    #[must_use]
    pub fn expert_filling(&self, (ranks, ep): (u32, u32), formats: &Formats) -> u64 {
        self.pool.map_or(0, |p| {
            let held = u64::from(p.experts.div_ceil(ep.max(1)));
            let format = formats.feed_forward;
            format.bytes(held * p.filling(format, ranks / ep.max(1)))
        })
    }

    fn vectors(&self, tp: u32) -> u64 {
        self.split_vectors.div_ceil(u64::from(tp)) + self.copied_vectors
    }
}
