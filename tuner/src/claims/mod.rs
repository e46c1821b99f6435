//! The claims of the papers, tried on the trace at hand: each with its setup, its measurements, and
//! the finding.
//!
//! A claim is refuted as readily as it is confirmed: it has parts, each a figure or a direction, and is confirmed only
//! if all of them hold. A setup in which it cannot be tried says so.

mod batching;
mod latency;
mod memory;

use std::sync::Arc;
use std::time::Duration;

use engine::config::Policy;
use engine::{Config, DeviceProfile, ModelShape};
use loadgen::Slo;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

use crate::subject::Refused;
use crate::subject::bed::Testbed;
use crate::subject::observation::Observation;

/// One claim and its finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The claim in words.
    pub claim: String,
    /// The paper that makes it, and the setup there.
    pub paper: String,
    /// The setup of the runs here.
    pub setup: String,
    /// The result in words.
    pub measured: String,
    /// The finding.
    pub finding: Finding,
}

/// The finding on a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// Every part of it held.
    Confirmed,
    /// Some of it held; what was measured says which.
    Partly,
    /// None of it held.
    Refuted,
    /// It could not be tried here.
    Untried,
}

impl Finding {
    /// From the parts of a claim.
    fn of(parts: &[bool]) -> Self {
        match parts.iter().filter(|held| **held).count() {
            all if all == parts.len() => Self::Confirmed,
            0 => Self::Refuted,
            _ => Self::Partly,
        }
    }
}

/// True where a figure is what "about" it means: within a factor of 1.5.
fn about(measured: f64, claimed: f64) -> bool {
    (claimed / 1.5..=claimed * 1.5).contains(&measured)
}

/// A quantity against another, for a plot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// The title of the plot.
    pub title: String,
    /// The label of the x axis, with its unit.
    pub x: String,
    /// The label of the y axis, with its unit.
    pub y: String,
    /// Lines: name and points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// All claims, and the sweeps behind them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Claims {
    /// In the order shown.
    pub claims: Vec<Claim>,
    /// For plots.
    pub sweeps: Vec<Sweep>,
}

/// The inputs of the experiments.
pub struct Bench<'a> {
    /// The trace.
    pub trace: &'a Arc<Trace>,
    /// The model.
    pub model: &'a Arc<ModelShape>,
    /// The device.
    pub device: &'a Arc<DeviceProfile>,
    /// Seats, budget and memory, equal for all.
    pub base: &'a Config,
}

impl Bench<'_> {
    fn simulator(&self, trace: Trace) -> Testbed {
        let slo = Slo::default().bind(&trace.classes).expect("no targets, no unknown class");
        Testbed::new(Arc::new(trace), Arc::clone(self.model), Arc::clone(self.device), slo)
    }

    fn on_trace(&self) -> Testbed {
        self.simulator(Trace::clone(self.trace))
    }

    fn policy(&self, policy: Policy) -> Config {
        let mut config = self.base.clone();
        config.set_policy(policy);
        config.canonical()
    }

    /// Tries every claim.
    ///
    /// # Errors
    /// When a configuration that a claim needs cannot run.
    pub fn claims(&self) -> Result<Claims, Refused> {
        type Experiment<'a> = fn(&Bench<'a>) -> Result<Claims, Refused>;
        let experiments: [Experiment<'_>; 7] = [
            Self::continuous_over_static,
            Self::spread_of_outputs,
            Self::waste,
            Self::prefix_cache,
            Self::long_prompt,
            Self::batch_size,
            Self::parallelism,
        ];
        let parts: Result<Vec<Claims>, Refused> =
            experiments.par_iter().map(|experiment| experiment(self)).collect();
        let mut all = Claims::default();
        for part in parts? {
            all.claims.extend(part.claims);
            all.sweeps.extend(part.sweeps);
        }
        Ok(all)
    }
}

fn one(claim: Claim) -> Claims {
    Claims { claims: vec![claim], sweeps: Vec::new() }
}

fn rate(o: &Observation) -> f64 {
    o.summary.output_tokens_per_s()
}

fn equal_requests(n: u32, input: u32, output: u32) -> Trace {
    let request = TraceRequest {
        arrival: Arrival::At(Duration::ZERO),
        input,
        output,
        blocks: BlockSpan::default(),
        class: 0,
        session: None,
    };
    Trace {
        name: format!("{n} equal requests"),
        requests: vec![request; n as usize],
        classes: vec!["default".to_owned()],
        ..Trace::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_holds_as_far_as_its_parts_do() {
        assert_eq!(Finding::of(&[true, true]), Finding::Confirmed);
        assert_eq!(Finding::of(&[true, false]), Finding::Partly);
        assert_eq!(Finding::of(&[false, false]), Finding::Refuted);
        assert!(about(14.0, 10.0) && !about(22.4, 10.0) && !about(1.31, 2.0));
    }
}
