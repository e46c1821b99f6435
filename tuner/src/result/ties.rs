//! Configurations that carry as much as the winner, and what decided between them.

use serde::{Deserialize, Serialize};

/// The configurations found that carry exactly as much as the winner. Rates are tried in steps, so capacities within one
/// step are equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ties {
    /// Relative distance of neighbouring rates, such as 0.01.
    pub step: f64,
    /// Share of the winner's tightest limit that is left at its capacity; none without a target.
    pub left: Option<f64>,
    /// The others: those that would have been next first.
    pub others: Vec<Tie>,
    /// The rule that decided between the winner and the first of the others.
    pub rule: Tiebreak,
}

/// One that carries as much as the winner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tie {
    /// Its name for people.
    pub label: String,
    /// Its device.
    pub device: String,
    /// GPUs it takes.
    pub gpus: u32,
    /// Share of its tightest limit that is left at its capacity; none without a target.
    pub left: Option<f64>,
}

/// The rule between configurations of equal worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tiebreak {
    /// It carries more with slow iterations.
    Steadier,
    /// More of its tightest limit is left.
    WiderMargin,
    /// It takes fewer GPUs.
    FewerGpus,
    /// It was found first, and none of the others carries more.
    FoundFirst,
}
