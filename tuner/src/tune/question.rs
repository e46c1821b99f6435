//! A question to tune for, and why there may be nothing to ask.

use crate::contest::progress::Watch;
use crate::evidence::accuracy::Accuracy;
use crate::plan::PlanError;
use crate::result::{DeviceInfo, Objective, WorkloadInfo};
use crate::space::Space;
use crate::subject::Subject;
use engine::EngineProfile;
use loadgen::Slo;
use std::sync::Arc;

/// A device and what runs configurations on it.
#[derive(Clone)]
pub struct DeviceUnderTest<'a> {
    /// Name, provenance, price.
    pub info: DeviceInfo,
    /// Runs configurations on it; all devices replay the same trace.
    pub subject: &'a dyn Subject,
    /// The error of its predicted times, where times are predicted and recorded runs have shown it.
    pub accuracy: Option<Accuracy>,
}

/// The way to cover the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Successive halving with races, then one knob at a time around each winner.
    Halving,
    /// The same, then everything that it dropped on the whole trace.
    Exhaustive,
}

/// A demand to plan for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Requests/s.
    pub rps: f64,
    /// Share of capacity to keep free.
    pub headroom: f64,
}

/// A question to tune for.
#[derive(Clone)]
pub struct Question<'a> {
    /// Devices to choose from, at least one.
    pub devices: Vec<DeviceUnderTest<'a>>,
    /// The space to look in.
    pub space: &'a Space,
    /// The targets that the evaluations judge by.
    pub slo: &'a Slo,
    /// The figure to maximise.
    pub objective: Objective,
    /// The traffic.
    pub workload: WorkloadInfo,
    /// Model name.
    pub model: String,
    /// True if it has experts.
    pub experts: bool,
    /// The parts of it that are left out, and those that were not measured on a device: a sentence each.
    pub notes: Vec<String>,
    /// The engine that was asked for, as typed.
    pub engine: Option<String>,
    /// Engines whose best is wanted beside the winner.
    pub engines: Vec<Arc<EngineProfile>>,
    /// Seed of the run.
    pub seed: u64,
    /// True where times are predicted.
    pub simulated: bool,
    /// The way to look.
    pub method: Method,
    /// A demand to plan for, if any.
    pub demand: Option<Demand>,
    /// Whom to tell, and when to end.
    pub watch: Watch<'a>,
}

/// Why there is nothing to tune.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TuneError {
    /// No device.
    #[error("no device to tune for: name at least one")]
    NoDevice,
    /// No requests.
    #[error("the workload has no requests: nothing can be measured with it")]
    NoRequests,
    /// A trace without a rate to scale.
    #[error(
        "the workload has no rate to scale (one request, or all at one instant): use a longer trace"
    )]
    NoRate,
    /// The pins exclude each other.
    #[error("no configuration is possible within the pinned knobs: {0}")]
    EmptySpace(String),
    /// Cost without a price.
    #[error("device {0} has no price: add one to its profile or choose another objective")]
    NoPrice(String),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
}
