//! Everything a configuration is tried on: a trace, a model, and a device that is simulated or computes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::exec::Correction;
use engine::{Config, Deployment, DeviceProfile, EngineProfile, Fleet, Machine, ModelShape};
use loadgen::BoundSlo;
use workloads::{Arrival, Stream, Trace, TraceRequest};

use crate::plan::Price;
use crate::result::{DeviceInfo, WorkloadInfo};
use crate::subject::{Refused, Relax, Subject};

/// A trace, or the first part of it, with the identities of its blocks in the engine's form.
#[derive(Clone)]
pub(super) struct Played {
    pub(super) trace: Arc<Trace>,
    pub(super) ids: Arc<[u64]>,
}

/// A trace, a model and a device: everything a configuration is tried on.
pub struct Testbed {
    pub(super) trace: Arc<Trace>,
    pub(super) ids: Arc<[u64]>,
    /// The continuation of the trace, if there is one.
    pub(super) stream: Option<Arc<Stream>>,
    pub(super) model: Arc<ModelShape>,
    pub(super) device: Arc<DeviceProfile>,
    /// The engine around the device, whose time outside it counts where times are predicted.
    pub(super) engine: Arc<EngineProfile>,
    pub(super) correction: Option<Arc<Correction>>,
    pub(super) machine: Option<Arc<Machine>>,
    /// True where the device is what the machine was measured to be, so that a run's pace says how it was that minute.
    pub(super) profiled: bool,
    /// KV slots of a worker, where they do not follow from the device's memory.
    pub(super) kv_slots: Option<u32>,
    /// The lock under which a run has the machine to itself.
    pub(super) turn: Mutex<()>,
    pub(super) slo: BoundSlo,
    pub(super) longest: u32,
    /// True where some requests wait for responses.
    pub(super) coupled: bool,
    pub(super) heads: Mutex<BTreeMap<usize, Played>>,
}

impl Testbed {
    /// Trials of `trace` on `model` and `device` under no engine in particular, judged by `slo`. The trace must not be
    /// empty.
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
            engine: Arc::new(EngineProfile::any()),
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

    /// True where it goes on by repeating itself.
    #[must_use]
    pub fn repeats(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| s.repeats())
    }

    /// The same under `engine`.
    #[must_use]
    pub fn under(mut self, engine: Arc<EngineProfile>) -> Self {
        self.engine = engine;
        self
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
        let bed = bed.under(Arc::clone(&self.engine));
        Self { kv_slots, stream, ..bed.corrected(Some(self.correction_at(pace))) }
    }

    pub(super) fn correction_at(&self, pace: f64) -> Arc<Correction> {
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

    /// The traffic, as results tell it.
    #[must_use]
    pub fn workload_info(&self) -> WorkloadInfo {
        let trace = self.trace();
        WorkloadInfo {
            name: trace.name.clone(),
            provenance: trace.provenance.clone(),
            requests: trace.requests.len(),
            requests_per_session: self.requests_per_session(),
            natural_rps: self.natural_rate(self.requests()),
            prompt_tokens_per_request: Some(trace.mean_prompt()),
            output_tokens_per_request: self.output_tokens_per_request(),
            repeats: self.repeats(),
        }
    }

    /// The device, as results tell it.
    #[must_use]
    pub fn device_info(&self) -> DeviceInfo {
        let device = &self.device;
        let price = Price {
            usd_per_gpu_hour: device.price.per_gpu_hour,
            source: format!("{}, {}", device.price.source, device.price.date),
        };
        DeviceInfo {
            name: device.name.clone(),
            provenance: device.provenance.clone(),
            price: (device.price.per_gpu_hour > 0.0).then_some(price),
        }
    }

    /// True where its times are predicted, not measured.
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

    /// The engine around the device.
    #[must_use]
    pub fn engine(&self) -> &Arc<EngineProfile> {
        &self.engine
    }

    /// The corrections of a calibration, laid over the device's times.
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
            let pretence = "a real machine's limits cannot be lifted: only a simulation's can";
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
        let engine = match relax {
            Relax::Host => {
                let outside = self.engine.outside.with_host_times(0.5);
                Cow::Owned(EngineProfile::clone(&self.engine).with_times(outside))
            }
            _ => Cow::Borrowed(self.engine.as_ref()),
        };
        let longest = self.longest;
        let deployment = Deployment::under(&engine, config, model, device, longest, slots);
        let mut deployment = deployment.map_err(refused)?;
        if self.machine.is_none() {
            deployment.check_simulated().map_err(refused)?;
        }
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

    pub(super) fn tokens_per_start(&self, counts: impl Fn(&TraceRequest) -> bool) -> f64 {
        let counted = self.trace.requests.iter().filter(|r| counts(r));
        let tokens: u64 = counted.map(|r| u64::from(r.output)).sum();
        tokens as f64 / self.trace.starts().max(1) as f64
    }

    pub(super) fn fleet(&self, deployment: &Deployment, coupled: bool) -> Result<Fleet, Refused> {
        match &self.machine {
            None => Ok(engine::wiring::simulated(deployment, coupled)),
            Some(machine) => engine::wiring::computed(deployment, coupled, machine)
                .map_err(|e| Refused { reason: e.to_string() }),
        }
    }

    pub(super) fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = || self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.machine.is_some().then(turn)
    }

    /// The first `n` requests, of the trace or of how it goes on.
    pub(super) fn head(&self, n: usize) -> Played {
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
            if let Some(host) = &mut d.host {
                host.step_us /= 2.0;
                host.seq_us /= 2.0;
            }
        }
    }
    d
}
