//! From a request to a [`TuneResult`]: search, refine the winner, see what of it survives the error of predictions, ask
//! why the others lost, say what it costs.

use crate::accuracy::Accuracy;
use crate::capacity::Probe;
use crate::evaluate::Evaluate;
use crate::plan::PlanError;
use crate::progress::Watch;
use crate::result::{Confidence, DeviceInfo, Objective, Refusal, TuneResult, WorkloadInfo};
use crate::search::{self, Candidate, Contest, Found};
use crate::space::Space;
use engine::Config;
use engine::config::Policy;
use loadgen::Slo;
use serving::Serving;
use std::collections::BTreeMap;
use std::time::Instant;

mod answer;
mod examine;
mod losers;
mod serving;
mod steady;

/// A device and what runs configurations on it.
#[derive(Clone)]
pub struct DeviceUnderTest<'a> {
    /// Name, provenance, price.
    pub info: DeviceInfo,
    /// Runs configurations on it; all devices replay the same trace.
    pub evaluate: &'a dyn Evaluate,
    /// How far its predicted times are off, where times are predicted and recorded runs have shown it.
    pub accuracy: Option<Accuracy>,
}

/// How to cover the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Successive halving with races, then one knob at a time around the winner.
    Halving,
    /// Every configuration on the whole trace.
    Exhaustive,
    /// Configurations drawn uniformly until so many requests were simulated.
    Random {
        /// Requests.
        work: u64,
    },
}

/// A demand to plan for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Requests/s.
    pub rps: f64,
    /// Share of capacity to keep free.
    pub headroom: f64,
}

/// What to tune.
#[derive(Clone)]
pub struct Request<'a> {
    /// Devices to choose from, at least one.
    pub devices: Vec<DeviceUnderTest<'a>>,
    /// Where to look.
    pub space: &'a Space,
    /// The targets that the evaluations judge by.
    pub slo: &'a Slo,
    /// What to maximise.
    pub objective: Objective,
    /// The traffic.
    pub workload: WorkloadInfo,
    /// Model name.
    pub model: String,
    /// Seed of the run.
    pub seed: u64,
    /// Whether times are predicted.
    pub simulated: bool,
    /// How to look.
    pub method: Method,
    /// What to plan for, if anything.
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
    let began = Instant::now();
    let configs = request.space.enumerate().configs;
    let serving = request.devices.iter().map(|d| Serving::new(d.evaluate, &configs));
    let serving: Vec<Serving<'_>> = serving.collect();
    let devices = request.devices.iter().zip(&serving);
    let devices = devices.map(|(d, s)| DeviceUnderTest { evaluate: s, ..d.clone() }).collect();
    let request = &Request { devices, ..request.clone() };
    let (candidates, refused) = field(request)?;
    let evaluators: Vec<&dyn Evaluate> = request.devices.iter().map(|d| d.evaluate).collect();
    let contest = Contest { devices: &evaluators, candidates, watch: request.watch };
    let found = match request.method {
        Method::Halving => search::halving(&contest, search::RUNGS),
        Method::Exhaustive => search::exhaustive(&contest),
        Method::Random { work } => search::random(&contest, request.seed, work),
    };
    // On less than the whole trace a loser may lead.
    let head = found.head;
    let mut tuning = Tuning {
        request,
        found,
        head,
        extra: Vec::new(),
        when_slow: Vec::new(),
        passed_over: None,
        trusted: BTreeMap::new(),
    };
    let (mut sensitivity, rivals) = tuning.refine();
    let passed_over = tuning.prefer_steady(rivals);
    if let (Some(_), Some(best)) = (&passed_over, tuning.found.best) {
        sensitivity = tuning.neighbours(best);
    }
    tuning.trust();
    let losers = tuning.losers();
    let mut result = tuning.result(refused, contest.candidates.len())?;
    (result.sensitivity, result.losers) = (sensitivity, losers);
    if let Some(confidence) = &mut result.confidence {
        confidence.instead_of = passed_over;
    }
    result.interrupted = request.watch.cancelled();
    result.trials = tuning.found.trials() + tuning.extra.len() as u64;
    let extra: u64 = tuning.extra.iter().map(|p| p.observation.summary.requests).sum();
    result.simulated_requests = tuning.found.requests() + extra;
    result.wall_s = began.elapsed().as_secs_f64();
    Ok(result)
}

/// Every configuration on every device, and what was refused.
fn field(request: &Request<'_>) -> Result<(Vec<Candidate>, Vec<Refusal>), TuneError> {
    let device = request.devices.first().ok_or(TuneError::NoDevice)?;
    if device.evaluate.requests() == 0 {
        return Err(TuneError::NoRequests);
    }
    let natural = device.evaluate.natural_rate(device.evaluate.requests());
    if !(natural.is_finite() && natural > 0.0) {
        return Err(TuneError::NoRate);
    }
    let grid = request.space.enumerate();
    if grid.configs.is_empty() {
        let reasons: Vec<_> = grid.refused.iter().map(|(r, n)| format!("{r} ({n})")).collect();
        return Err(TuneError::EmptySpace(reasons.join("; ")));
    }
    let mut candidates = Vec::new();
    for device in 0..request.devices.len() {
        for config in &grid.configs {
            candidates.push(candidate(request, device, config.clone())?);
        }
    }
    let refusal = |(reason, count)| Refusal { reason, count };
    Ok((candidates, grid.refused.into_iter().map(refusal).collect()))
}

/// `config` on a device as a candidate, with its weight under the objective and its group: device x policy.
fn candidate(request: &Request<'_>, device: usize, config: Config) -> Result<Candidate, TuneError> {
    let under_test = &request.devices[device];
    let tokens = under_test.evaluate.output_tokens_per_request().max(1e-9);
    let gpus = f64::from(config.gpus());
    let weight = match request.objective {
        Objective::Rps => 1.0,
        Objective::TokensPerGpu => tokens / gpus,
        Objective::Cost => {
            let price = under_test.info.price.as_ref();
            let price = price.ok_or_else(|| TuneError::NoPrice(under_test.info.name.clone()))?;
            tokens * 3600.0 / (gpus * price.usd_per_gpu_hour)
        }
    };
    let group = device * Policy::NAMES.len() + config.policy() as usize;
    Ok(Candidate { device, config, weight, group })
}

/// A search whose winner is being examined.
struct Tuning<'a, 'r> {
    request: &'a Request<'r>,
    found: Found,
    /// Requests used for examination.
    head: usize,
    /// Runs beyond the search's own.
    extra: Vec<Probe>,
    /// What near candidates carry with slow iterations, requests/s.
    when_slow: Vec<(Candidate, f64)>,
    /// The entry that a steadier one was preferred to.
    passed_over: Option<usize>,
    /// How far capacities can be trusted, by entry.
    trusted: BTreeMap<usize, Confidence>,
}

#[cfg(test)]
mod tests;
