//! Kinds of feed-forward layers. Each kind is a file: its figures and its operators.

mod dense;
mod experts;

pub use dense::Dense;
pub use experts::Experts;

use super::operators::Operators;

/// The work of a layer on each token by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedForward {
    /// One for all tokens.
    Dense(Dense),
    /// Experts, a few of which a router chooses for each token.
    Experts(Experts),
}

impl FeedForward {
    /// In words, with its figures.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Dense(dense) => dense.describe(),
            Self::Experts(experts) => experts.describe(),
        }
    }

    /// The operators it consists of, its norms apart, on each of `tp` ranks, in a model of width `hidden`.
    #[must_use]
    pub fn operators(&self, hidden: u32, tp: u32) -> Operators {
        match self {
            Self::Dense(dense) => dense.operators(hidden, tp),
            Self::Experts(experts) => experts.operators(hidden, tp),
        }
    }

    /// Elements per token that live between its products on one of `tp` ranks.
    #[must_use]
    pub fn inner_width(&self, tp: u32) -> u64 {
        match self {
            Self::Dense(dense) => u64::from(dense.width.div_ceil(tp)),
            Self::Experts(experts) => experts.inner_width(tp),
        }
    }

    /// Figures that no model can have, in words.
    pub(super) fn fault(&self) -> Option<String> {
        match self {
            Self::Dense(dense) => super::bounds::out_of_range(&dense.fields()),
            Self::Experts(experts) => experts.fault(),
        }
    }
}
