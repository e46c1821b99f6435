//! The degree to which a predicted capacity can be trusted.

use serde::{Deserialize, Serialize};

/// The effect of the error of predicted iteration times on a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confidence {
    /// Share of real engines whose iterations take between `faster` and `slower` times the predicted time, such as 0.8.
    pub level: f64,
    /// Factor on predicted times at the lower end.
    pub faster: f64,
    /// Factor on predicted times at the upper end.
    pub slower: f64,
    /// Recorded runs of real engines the error was seen in.
    pub runs: usize,
    /// The devices of those runs.
    pub devices: Vec<String>,
    /// Capacity where iterations are slower, requests/s; 0 where the targets hold at no rate.
    pub low_rps: f64,
    /// Capacity where they are faster, requests/s.
    pub high_rps: f64,
    /// Probability that the targets can be held at all, on an empty machine.
    pub p_feasible: f64,
    /// A configuration of higher predicted capacity that loses more of it where iterations are slower.
    pub instead_of: Option<PassedOver>,
}

/// The configuration to which a steadier one was preferred.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Its name for people.
    pub label: String,
    /// Its predicted capacity, requests/s.
    pub capacity_rps: f64,
    /// Its capacity where iterations are slower, requests/s.
    pub low_rps: f64,
}
