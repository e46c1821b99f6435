//! The one place where the engine meets the load: a trace played against a deployment, simulated or on this machine.
//!
//! Everything is in the engine's time and from fixed inputs, so a simulated trial gives the same observation to the
//! bit, wherever and whenever it runs. A computed one gives the same tokens, in the time they took.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::exec::Correction;
use engine::{Config, Deployment, DeviceProfile, Fleet, Iteration, Machine, ModelShape};
use loadgen::{BoundSlo, ReplayOptions};
use rayon::prelude::*;
use workloads::{Arrival, Stream, Trace, TraceRequest};

use crate::evaluate::{Evaluate, Refused, Relax, Stop, Trial};
use crate::observation::{Detailed, Observation};
use crate::unfit::Unfit;
use run::Run;

mod prompts;
mod run;

/// A search for capacity must not be throttled by the client to what the server manages.
const LIFTED: ReplayOptions = ReplayOptions { lift_session_cap: true };

/// A trace, or the first part of it, with the identities of its blocks in the engine's form.
#[derive(Clone)]
struct Played {
    trace: Arc<Trace>,
    ids: Arc<[u64]>,
}

/// A trace, a model and a device: everything a configuration is tried on.
pub struct Testbed {
    trace: Arc<Trace>,
    ids: Arc<[u64]>,
    /// How the trace goes on, if it does.
    stream: Option<Arc<Stream>>,
    model: Arc<ModelShape>,
    device: Arc<DeviceProfile>,
    correction: Option<Arc<Correction>>,
    machine: Option<Arc<Machine>>,
    /// Whether the device is what the machine was measured to be, so that a run's pace says how it was that minute.
    profiled: bool,
    /// KV slots of a worker, where they do not follow from the device's memory.
    kv_slots: Option<u32>,
    /// Whoever computes has the machine to himself.
    turn: Mutex<()>,
    slo: BoundSlo,
    longest: u32,
    /// Whether some requests wait for responses.
    coupled: bool,
    heads: Mutex<BTreeMap<usize, Played>>,
}

impl Testbed {
    /// Trials of `trace` on `model` and `device`, judged by `slo`. The trace must not be empty.
    #[must_use]
    pub fn new(
        trace: Arc<Trace>,
        model: Arc<ModelShape>,
        device: Arc<DeviceProfile>,
        slo: BoundSlo,
    ) -> Self {
        Self {
            ids: trace.block_ids.clone().into(),
            longest: trace.longest(),
            coupled: trace.requests.iter().any(|r| matches!(r.arrival, Arrival::After { .. })),
            heads: Mutex::new(BTreeMap::new()),
            trace,
            stream: None,
            model,
            device,
            correction: None,
            machine: None,
            profiled: false,
            kv_slots: None,
            turn: Mutex::new(()),
            slo,
        }
    }

    /// The same, where the trace goes on as `stream` does, which begins with it.
    #[must_use]
    pub fn going_on(mut self, stream: Arc<Stream>) -> Self {
        self.stream = Some(stream);
        self
    }

    /// Whether it goes on by repeating itself.
    #[must_use]
    pub fn repeats(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| s.repeats())
    }

    /// The same simulator, its iterations corrected by what calibration found.
    #[must_use]
    pub fn corrected(mut self, correction: Option<Arc<Correction>>) -> Self {
        self.correction = correction;
        self
    }

    /// Another simulator like this one, every iteration in `pace` of its time.
    #[must_use]
    pub fn paced(&self, pace: f64) -> Self {
        let (trace, model) = (Arc::clone(&self.trace), Arc::clone(&self.model));
        let bed = Self::new(trace, model, Arc::clone(&self.device), self.slo.clone());
        let (kv_slots, stream) = (self.kv_slots, self.stream.clone());
        Self { kv_slots, stream, ..bed.corrected(Some(self.correction_at(pace))) }
    }

    fn correction_at(&self, pace: f64) -> Arc<Correction> {
        Arc::new(self.correction.as_deref().cloned().unwrap_or_default().paced(pace))
    }

    /// The same, computed on `machine` instead of predicted.
    #[must_use]
    pub fn computed(mut self, machine: Arc<Machine>) -> Self {
        self.machine = Some(machine);
        self
    }

    /// The same, whose device is a profile of the machine that computes: runs tell their pace.
    #[must_use]
    pub fn profiled(mut self) -> Self {
        self.profiled = true;
        self
    }

    /// The same, each worker with `slots` of KV whatever the device's memory.
    #[must_use]
    pub fn with_kv_slots(mut self, slots: u32) -> Self {
        self.kv_slots = Some(slots);
        self
    }

    /// Whether its times are predicted, not measured.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.machine.is_none()
    }

    /// The trace.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<DeviceProfile> {
        &self.device
    }

    /// What calibration found, laid over the device's times.
    #[must_use]
    pub fn correction(&self) -> Option<&Correction> {
        self.correction.as_deref()
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<ModelShape> {
        &self.model
    }

    /// The targets.
    #[must_use]
    pub fn slo(&self) -> &BoundSlo {
        &self.slo
    }

    /// Requests per session, where some wait for the responses to others.
    #[must_use]
    pub fn requests_per_session(&self) -> Option<f64> {
        let sessions = self.trace.starts().max(1);
        self.coupled.then(|| self.trace.requests.len() as f64 / sessions as f64)
    }

    /// `config` checked, on hardware as it is or with one resource doubled.
    ///
    /// # Errors
    /// When it cannot be deployed.
    pub fn deployment(&self, config: &Config, relax: Relax) -> Result<Deployment, Refused> {
        if let Some(machine) = &self.machine {
            let pretence = "a real machine cannot be pretended to be another";
            let pretends = !matches!(relax, Relax::Nothing | Relax::KvMemory);
            let reason = if pretends { Some(pretence) } else { machine.refuses(config) };
            if let Some(reason) = reason {
                return Err(Refused { reason: reason.to_owned() });
            }
        }
        let device = match relax {
            Relax::Nothing | Relax::KvMemory | Relax::Pace(_) => Arc::clone(&self.device),
            _ => Arc::new(relaxed(&self.device, relax)),
        };
        let refused = |e: engine::DeployError| Refused { reason: e.to_string() };
        let (config, model) = (config.clone(), Arc::clone(&self.model));
        let slots = |own: u32| {
            let slots = self.kv_slots.unwrap_or(own);
            if relax == Relax::KvMemory { slots.saturating_mul(2) } else { slots }
        };
        let deployment = Deployment::with_kv_slots(config, model, device, self.longest, slots);
        let mut deployment = deployment.map_err(refused)?;
        deployment.correction = match relax {
            Relax::Pace(per_mille) => Some(self.correction_at(f64::from(per_mille) / 1e3)),
            _ => self.correction.clone(),
        };
        Ok(deployment)
    }

    /// Output tokens per request (or session) offered, of those that `deployment` can serve.
    pub(crate) fn served_tokens(&self, deployment: &Deployment) -> f64 {
        self.tokens_per_start(|r| deployment.refuses(r.input, r.output).is_none())
    }

    fn tokens_per_start(&self, counts: impl Fn(&TraceRequest) -> bool) -> f64 {
        let counted = self.trace.requests.iter().filter(|r| counts(r));
        let tokens: u64 = counted.map(|r| u64::from(r.output)).sum();
        tokens as f64 / self.trace.starts().max(1) as f64
    }

    fn fleet(&self, deployment: &Deployment, coupled: bool) -> Result<Fleet, Refused> {
        match &self.machine {
            None => Ok(engine::wiring::simulated(deployment, coupled)),
            Some(machine) => engine::wiring::computed(deployment, coupled, machine)
                .map_err(|e| Refused { reason: e.to_string() }),
        }
    }

    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = || self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.machine.is_some().then(turn)
    }

    /// The first `n` requests, of the trace or of how it goes on.
    fn head(&self, n: usize) -> Played {
        let whole = self.trace.requests.len();
        if n == whole || (n > whole && self.stream.is_none()) {
            return Played { trace: Arc::clone(&self.trace), ids: Arc::clone(&self.ids) };
        }
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || match &self.stream {
            Some(stream) if n > whole => {
                let trace = stream.head(n);
                Played { ids: trace.block_ids.clone().into(), trace: Arc::new(trace) }
            }
            _ => Played { trace: Arc::new(self.trace.head(n)), ids: Arc::clone(&self.ids) },
        };
        heads.entry(n).or_insert_with(make).clone()
    }

    /// One run of `deployment` with everything kept that a report draws.
    ///
    /// # Errors
    /// When the machine that computes it fails; so in all of these. A simulation does not.
    pub fn detail(&self, deployment: &Deployment, scale: f64) -> Result<Detailed, Refused> {
        self.detail_of(deployment, self.trace.requests.len(), scale)
    }

    /// The same over the first `head` requests.
    ///
    /// # Errors
    /// See [`Testbed::detail`].
    pub fn detail_of(
        &self,
        deployment: &Deployment,
        head: usize,
        scale: f64,
    ) -> Result<Detailed, Refused> {
        self.play(deployment, head, scale, LIFTED, &mut |_| ())
    }

    /// The same; `watch` sees every iteration (or stretch of equal ones) as it ends.
    ///
    /// # Errors
    /// See [`Testbed::detail`].
    pub fn watched(
        &self,
        deployment: &Deployment,
        scale: f64,
        watch: &mut dyn FnMut(&Iteration),
    ) -> Result<Detailed, Refused> {
        self.play(deployment, self.trace.requests.len(), scale, LIFTED, watch)
    }

    /// One run of `deployment` as a client really makes it, with its cap on what is in flight. `watch` as
    /// above.
    ///
    /// # Errors
    /// See [`Testbed::detail`].
    pub fn rerun(
        &self,
        deployment: &Deployment,
        scale: f64,
        watch: &mut dyn FnMut(&Iteration),
    ) -> Result<Detailed, Refused> {
        let options = ReplayOptions { lift_session_cap: false };
        self.play(deployment, self.trace.requests.len(), scale, options, watch)
    }

    fn play(
        &self,
        deployment: &Deployment,
        head: usize,
        scale: f64,
        options: ReplayOptions,
        watch: &mut dyn FnMut(&Iteration),
    ) -> Result<Detailed, Refused> {
        let _turn = self.turn();
        let mut run = Run::new(self, deployment, self.head(head), scale, options)?;
        run.keep(watch);
        run.play()?;
        Ok(run.detailed())
    }

    /// One run of `config` over the whole trace, `scale` times as fast as recorded.
    ///
    /// # Errors
    /// When it cannot run.
    pub fn replay(&self, config: &Config, scale: f64) -> Result<Observation, Refused> {
        let deployment = self.deployment(config, Relax::Nothing)?;
        self.observe(&deployment, self.trace.requests.len(), scale)
    }

    /// One run with everything offered at once: what `config` can do when nobody waits for anybody.
    ///
    /// # Errors
    /// When it cannot run.
    pub fn saturated(&self, config: &Config) -> Result<Observation, Refused> {
        self.replay(config, f64::INFINITY)
    }

    /// Runs `trials` to their ends, whether or not the SLO holds. Simulations do not disturb each other. What a machine
    /// computes is played side by side, batch by batch, so that all are at the same second of the trace in the same
    /// seconds of the machine.
    ///
    /// # Errors
    /// When one of them cannot run.
    pub fn side_by_side(&self, trials: &[Trial<'_>]) -> Result<Vec<Observation>, Stop> {
        self.play_together(trials, |run| run)
    }

    fn play_together<'a>(
        &'a self,
        trials: &[Trial<'_>],
        how: impl Fn(Run<'a>) -> Run<'a> + Sync,
    ) -> Result<Vec<Observation>, Stop> {
        let deployments = trials.iter().map(|t| self.deployment(t.config, t.relax));
        let deployments = deployments.collect::<Result<Vec<_>, Refused>>()?;
        let begin = |(trial, deployment): (&Trial<'_>, &Deployment)| {
            let head = self.head(trial.head(self));
            Run::new(self, deployment, head, trial.scale, LIFTED).map(&how)
        };
        let Some(machine) = &self.machine else {
            let alone = |run| {
                let mut run = begin(run)?;
                run.play()?;
                Ok(run.observe())
            };
            return trials.par_iter().zip(&deployments).map(alone).collect();
        };
        let slots = deployments.iter().map(|d| u64::from(d.kv_slots) * u64::from(lanes(&d.config)));
        let at_once = machine.at_once(slots.max().unwrap_or(0));
        let _turn = self.turn();
        let mut observations = Vec::with_capacity(trials.len());
        for (trials, deployments) in trials.chunks(at_once).zip(deployments.chunks(at_once)) {
            let begun = trials.iter().zip(deployments).map(begin);
            let mut runs = begun.collect::<Result<Vec<_>, Refused>>()?;
            abreast(&mut runs, Run::now, Run::advance)?;
            observations.extend(runs.into_iter().map(Run::observe));
        }
        Ok(observations)
    }

    /// One run of `deployment` over the first `head` requests.
    ///
    /// # Errors
    /// See [`Testbed::detail`].
    pub fn observe(
        &self,
        deployment: &Deployment,
        head: usize,
        scale: f64,
    ) -> Result<Observation, Refused> {
        let _turn = self.turn();
        let mut run = Run::new(self, deployment, self.head(head), scale, LIFTED)?;
        run.play()?;
        Ok(run.observe())
    }
}

impl Evaluate for Testbed {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        // Whoever offers all at once asks how fast it goes, not whether the SLO holds.
        let alone = std::slice::from_ref(trial);
        let at_once = trial.scale.is_infinite();
        let seen = if at_once { self.side_by_side(alone) } else { self.run_together(alone) };
        Ok(seen?.remove(0))
    }

    fn run_together(&self, trials: &[Trial<'_>]) -> Result<Vec<Observation>, Stop> {
        self.play_together(trials, Run::while_it_may_hold)
    }

    fn requests(&self) -> usize {
        self.trace.requests.len()
    }

    fn most(&self) -> usize {
        self.stream.as_ref().map_or(self.trace.requests.len(), |s| s.most())
    }

    fn natural_rate(&self, head: usize) -> f64 {
        self.head(head).trace.offered_rate()
    }

    fn output_tokens_per_request(&self) -> f64 {
        self.tokens_per_start(|_| true)
    }

    fn served_tokens_per_request(&self, config: &Config) -> Result<f64, Refused> {
        Ok(self.served_tokens(&self.deployment(config, Relax::Nothing)?))
    }

    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        let deployment = self.deployment(config, Relax::Nothing)?;
        // A profile knows what a simulation cannot exceed, not what a machine cannot.
        let simulated = self.is_simulated();
        Ok(if simulated { ceiling(&deployment, &self.trace) } else { f64::INFINITY })
    }

    fn unfit(&self, config: &Config) -> Result<Unfit, Refused> {
        let deployment = self.deployment(config, Relax::Nothing)?;
        Ok(Unfit::of(&deployment, &self.trace.requests))
    }
}

/// Requests/s that no schedule can exceed: every output token (and every prompt token that no cache can hold) passes
/// the dense layers, at best in iterations as large as the budget.
fn ceiling(deployment: &Deployment, trace: &Trace) -> f64 {
    let c = &deployment.config;
    // What can never be served is no work.
    let served =
        || trace.requests.iter().filter(|r| deployment.refuses(r.input, r.output).is_none());
    let uncached = |r: &TraceRequest| if c.prefix_cache { r.input.min(1) } else { r.input };
    let prompt: u64 = served().map(|r| u64::from(uncached(r))).sum();
    let output: u64 = served().map(|r| u64::from(r.output.saturating_sub(1))).sum();
    let mut best = f64::INFINITY;
    for tokens in (0..24).map(|k| 1u64 << k) {
        best = best.min(deployment.cost.dense(tokens) / tokens as f64);
    }
    let work = (prompt + output) as f64 * best * f64::from(c.pp);
    let lanes = f64::from(lanes(c) * c.pp);
    trace.starts() as f64 * lanes / work.max(f64::MIN_POSITIVE)
}

/// Workers of all replicas.
fn lanes(config: &Config) -> u32 {
    config.replicas * config.workers()
}

/// Plays `runs` to their ends. Whichever is furthest behind, by its own clock (`now`), goes on; `advance` says whether
/// there is more of it.
fn abreast<R, E>(
    runs: &mut [R],
    now: impl Fn(&R) -> Duration,
    mut advance: impl FnMut(&mut R) -> Result<bool, E>,
) -> Result<(), E> {
    let mut going: Vec<usize> = (0..runs.len()).collect();
    while let Some(last) = going.iter().copied().min_by_key(|i| now(&runs[*i])) {
        if !advance(&mut runs[last])? {
            going.retain(|i| *i != last);
        }
    }
    Ok(())
}

/// The device with one resource doubled.
fn relaxed(device: &DeviceProfile, relax: Relax) -> DeviceProfile {
    let mut d = device.clone();
    match relax {
        Relax::Nothing | Relax::KvMemory | Relax::Pace(_) => {}
        Relax::Compute => d.peak_flops *= 2.0,
        Relax::Bandwidth => d.memory_bandwidth *= 2.0,
        Relax::Interconnect => {
            for sum in &mut d.all_reduce {
                sum.start_us /= 2.0;
                sum.bandwidth *= 2.0;
            }
            for link in [&mut d.node, &mut d.network] {
                link.start_us /= 2.0;
                link.bandwidth *= 2.0;
            }
        }
        Relax::Host => {
            d.host.step_us /= 2.0;
            d.host.seq_us /= 2.0;
        }
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn who_is_furthest_behind_goes_on(
            steps in prop::collection::vec(prop::collection::vec(1..9_u64, 1..20), 1..5)
        ) {
            let mut runs: Vec<_> = (0..).zip(steps.clone()).map(|(id, left)| (0, id, left)).collect();
            let mut log = Vec::new();
            let advance = |(clock, id, left): &mut (u64, usize, Vec<u64>)| {
                let step = left.remove(0);
                *clock += step;
                log.push((*id, step));
                Ok::<bool, ()>(!left.is_empty())
            };
            abreast(&mut runs, |run| Duration::from_secs(run.0), advance).unwrap();
            prop_assert_eq!(log.len(), steps.iter().map(Vec::len).sum::<usize>());
            let (mut clocks, mut left) = (vec![0; steps.len()], steps);
            for (id, step) in log {
                let going = (0..left.len()).filter(|i| !left[*i].is_empty());
                prop_assert_eq!(going.map(|i| clocks[i]).min(), Some(clocks[id]));
                prop_assert_eq!(left[id].remove(0), step);
                clocks[id] += step;
            }
        }
    }
}
