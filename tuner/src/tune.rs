//! From a request to a [`TuneResult`]: search, refine every device's winner, see what of it survives the error of
//! predictions, ask why the others lost, say what it costs.
//!
//! Whatever is done for the winner is done for every device's best, before they are compared: a device's figures do not
//! depend on the company it is tried in.

use crate::accuracy::Accuracy;
use crate::evaluate::Evaluate;
use crate::plan::PlanError;
use crate::progress::Watch;
use crate::result::{
    Confidence, DeviceInfo, Neighbour, Objective, PassedOver, TuneResult, WorkloadInfo,
};
use crate::search::{self, Candidate, Contest, Found};
use crate::space::Space;
use counted::{Counted, Counts};
use engine::Config;
use field::Field;
use fleet::Sizes;
use loadgen::Slo;
use std::collections::BTreeMap;
use std::time::Instant;

mod answer;
mod choice;
mod counted;
mod examine;
mod field;
mod fleet;
mod losers;
mod steady;

/// A device and what runs configurations on it.
#[derive(Clone)]
pub struct DeviceUnderTest<'a> {
    /// Name, provenance, price.
    pub info: DeviceInfo,
    /// Runs configurations on it; all devices replay the same trace.
    pub evaluate: &'a dyn Evaluate,
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
pub struct Request<'a> {
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

/// Tunes.
pub fn tune(request: &Request<'_>) -> Result<TuneResult, TuneError> {
    let (began, counts) = (Instant::now(), Counts::default());
    let evaluations = request.devices.iter().map(|d| d.evaluate);
    let counted: Vec<_> = evaluations.map(|e| Counted { evaluate: e, counts: &counts }).collect();
    let devices = request.devices.iter().zip(&counted);
    let devices = devices.map(|(d, evaluate)| DeviceUnderTest { evaluate, ..d.clone() }).collect();
    let request = &Request { devices, ..request.clone() };
    let mut tuning = Tuning::new(request)?;
    match request.demand {
        Some(_) => tuning.sizes(),
        None => tuning.grid()?,
    }
    if tuning.field.candidates == 0 {
        return Err(tuning.field.empty());
    }
    tuning.settle();
    tuning.trust();
    let losers = tuning.losers();
    let mut result = tuning.result()?;
    result.losers = losers;
    result.interrupted = request.watch.cancelled();
    (result.trials, result.simulated_requests) = (counts.runs(), counts.requests());
    result.wall_s = began.elapsed().as_secs_f64();
    Ok(result)
}

/// A search whose winners are being examined.
struct Tuning<'a, 'r> {
    request: &'a Request<'r>,
    field: Field<'a>,
    found: Found,
    /// Sizes of deployments that were searched for a demand.
    searched: Sizes,
    /// The winner.
    best: Option<usize>,
    /// The effect of one knob more or less than the winner's.
    sensitivity: Vec<Neighbour>,
    /// The capacity of near candidates with slow iterations, requests/s.
    when_slow: Vec<(Candidate, f64)>,
    /// By device: the entry that a steadier one was preferred to, that one, and what is to be said of it.
    passed_over: BTreeMap<usize, (usize, usize, PassedOver)>,
    /// The confidence in capacities, by entry.
    trusted: BTreeMap<usize, Confidence>,
}

impl<'a, 'r> Tuning<'a, 'r> {
    fn new(request: &'a Request<'r>) -> Result<Self, TuneError> {
        Ok(Self {
            request,
            field: Field::new(request)?,
            found: Found::default(),
            searched: Sizes::new(),
            best: None,
            sensitivity: Vec::new(),
            when_slow: Vec::new(),
            passed_over: BTreeMap::new(),
            trusted: BTreeMap::new(),
        })
    }

    /// Searches the whole space on every device.
    fn grid(&mut self) -> Result<(), TuneError> {
        let devices: Vec<usize> = (0..self.request.devices.len()).collect();
        let candidates = self.field.of(self.request.space, &devices);
        if candidates.is_empty() {
            return Err(self.field.empty());
        }
        self.search(candidates);
        Ok(())
    }

    /// Searches `candidates`, which are of groups of their own.
    fn search(&mut self, candidates: Vec<Candidate>) {
        let found = self.contest(candidates, |contest| search::halving(contest, search::RUNGS));
        self.found.absorb(found);
    }

    fn contest<T>(&self, candidates: Vec<Candidate>, run: impl FnOnce(&Contest<'_>) -> T) -> T {
        let devices: Vec<&dyn Evaluate> = self.request.devices.iter().map(|d| d.evaluate).collect();
        let near = |of: &Candidate| self.field.near(of);
        run(&Contest { devices: &devices, candidates, near: &near, watch: self.request.watch })
    }

    /// Finds every device's best, then the winner among them.
    fn settle(&mut self) {
        let devices = 0..self.request.devices.len();
        if self.request.demand.is_some() {
            // A plan is the cheapest of all that was found: nothing is given up for something steadier.
            let bests: Vec<usize> = devices.filter_map(|d| self.leader(d)).collect();
            self.best = self.preferred(bests.into_iter());
            self.sensitivity = self.best.map_or(Vec::new(), |best| self.neighbours(best));
            return;
        }
        let mut refined: Vec<_> = devices.clone().map(|d| self.refine(d)).collect();
        if self.request.method == Method::Exhaustive {
            let found = std::mem::take(&mut self.found);
            self.found = self.contest(Vec::new(), |contest| search::exhaustive(contest, found));
            refined = devices.map(|d| self.refine(d)).collect();
        }
        let mut bests = Vec::new();
        for refined in refined.into_iter().flatten() {
            bests.push(self.prefer_steady(refined));
        }
        let best = self.preferred(bests.iter().map(|(best, _)| *best));
        let chosen = bests.into_iter().find(|(b, _)| Some(*b) == best);
        (self.best, self.sensitivity) = chosen.map_or((None, Vec::new()), |(b, s)| (Some(b), s));
    }

    /// `config` on a device as a member of its group.
    fn candidate(&self, device: usize, config: Config) -> Option<Candidate> {
        self.field.candidate(device, config)
    }
}

#[cfg(test)]
mod tests;
