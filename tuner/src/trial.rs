//! The one place where the engine meets the load: a trace played against a simulated deployment.
//!
//! Everything is in virtual time and from fixed inputs, so the same trial gives the same observation to the bit,
//! wherever and whenever it runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::exec::Correction;
use engine::kv::waste::Sample;
use engine::{
    BlockIds, Config, Content, Deployment, DeviceProfile, Event, Fleet, Iteration, ModelShape,
    Next, Request,
};
use loadgen::{BoundSlo, Outcome, Recorder, Recording, Replay, ReplayOptions, Summary, Sustain};
use workloads::{Arrival, Trace, TraceRequest};

use crate::evaluate::{Evaluate, Refused, Relax, Trial};
use crate::observation::{Detailed, IterationSpan, KvSample, KvShares, Observation, Work};

/// Iterations kept for a timeline, at most.
const SPANS: usize = 200_000;

/// A search for capacity must not be throttled by the client to what the server manages.
const LIFTED: ReplayOptions = ReplayOptions { lift_session_cap: true };

/// A trace, a model and a device: everything a configuration is tried on.
pub struct Simulator {
    trace: Arc<Trace>,
    ids: Arc<[u64]>,
    model: Arc<ModelShape>,
    device: Arc<DeviceProfile>,
    correction: Option<Arc<Correction>>,
    slo: BoundSlo,
    longest: u32,
    /// Whether some requests wait for responses.
    coupled: bool,
    heads: Mutex<BTreeMap<usize, Arc<Trace>>>,
}

impl Simulator {
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
            model,
            device,
            correction: None,
            slo,
        }
    }

    /// The same simulator, its iterations corrected by what calibration found.
    #[must_use]
    pub fn corrected(mut self, correction: Option<Arc<Correction>>) -> Self {
        self.correction = correction;
        self
    }

    /// The trace.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &DeviceProfile {
        &self.device
    }

    /// What calibration found, laid over the device's times.
    #[must_use]
    pub fn correction(&self) -> Option<&Correction> {
        self.correction.as_deref()
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &ModelShape {
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
        let starts = |r: &&TraceRequest| matches!(r.arrival, Arrival::At(_));
        let sessions = self.trace.requests.iter().filter(starts).count().max(1);
        self.coupled.then(|| self.trace.requests.len() as f64 / sessions as f64)
    }

    /// `config` checked, on hardware as it is or with one resource doubled.
    ///
    /// # Errors
    /// When it cannot be deployed.
    pub fn deployment(&self, config: &Config, relax: Relax) -> Result<Deployment, Refused> {
        let device = match relax {
            Relax::Nothing | Relax::KvMemory | Relax::Pace(_) => Arc::clone(&self.device),
            _ => Arc::new(relaxed(&self.device, relax)),
        };
        let mut deployment =
            Deployment::new(config.clone(), Arc::clone(&self.model), device, self.longest)
                .map_err(|e| Refused { reason: e.to_string() })?;
        deployment.correction.clone_from(&self.correction);
        match relax {
            Relax::KvMemory => deployment.kv_slots *= 2,
            Relax::Pace(per_mille) => {
                let found = self.correction.as_deref().cloned().unwrap_or_default();
                deployment.correction = Some(Arc::new(found.paced(f64::from(per_mille) / 1e3)));
            }
            _ => {}
        }
        Ok(deployment)
    }

    fn head(&self, n: usize) -> Arc<Trace> {
        if n >= self.trace.requests.len() {
            return Arc::clone(&self.trace);
        }
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(heads.entry(n).or_insert_with(|| Arc::new(self.trace.head(n))))
    }

    /// One run of `deployment` with everything kept that a report draws.
    #[must_use]
    pub fn detail(&self, deployment: &Deployment, scale: f64) -> Detailed {
        self.watched(deployment, scale, &mut |_| ())
    }

    /// The same; `watch` sees every iteration (or stretch of equal ones) as it ends.
    #[must_use]
    pub fn watched(
        &self,
        deployment: &Deployment,
        scale: f64,
        watch: &mut dyn FnMut(&Iteration),
    ) -> Detailed {
        self.play(deployment, scale, LIFTED, watch)
    }

    /// One run of `deployment` as a client really makes it, with its cap on what is in flight. `watch` as
    /// above.
    #[must_use]
    pub fn rerun(
        &self,
        deployment: &Deployment,
        scale: f64,
        watch: &mut dyn FnMut(&Iteration),
    ) -> Detailed {
        self.play(deployment, scale, ReplayOptions { lift_session_cap: false }, watch)
    }

    fn play(
        &self,
        deployment: &Deployment,
        scale: f64,
        options: ReplayOptions,
        watch: &mut dyn FnMut(&Iteration),
    ) -> Detailed {
        let mut run = Run::new(self, deployment, Arc::clone(&self.trace), scale, options);
        run.spans = Some(Vec::new());
        run.watch = Some(watch);
        run.play();
        run.detailed()
    }

    /// One run of `config` over the whole trace, `scale` times as fast as recorded.
    ///
    /// # Errors
    /// When it cannot run.
    pub fn replay(&self, config: &Config, scale: f64) -> Result<Observation, Refused> {
        let deployment = self.deployment(config, Relax::Nothing)?;
        Ok(self.observe(&deployment, self.trace.requests.len(), scale))
    }

    /// One run with everything offered at once: what `config` can do when nobody waits for anybody.
    ///
    /// # Errors
    /// When it cannot run.
    pub fn saturated(&self, config: &Config) -> Result<Observation, Refused> {
        self.replay(config, f64::INFINITY)
    }

    /// One run of `deployment` over the first `head` requests.
    #[must_use]
    pub fn observe(&self, deployment: &Deployment, head: usize, scale: f64) -> Observation {
        let mut run = Run::new(self, deployment, self.head(head), scale, LIFTED);
        run.play();
        run.observation().0
    }
}

impl Evaluate for Simulator {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Refused> {
        let deployment = self.deployment(trial.config, trial.relax)?;
        Ok(self.observe(&deployment, trial.head, trial.scale))
    }

    fn requests(&self) -> usize {
        self.trace.requests.len()
    }

    fn natural_rate(&self, head: usize) -> f64 {
        self.head(head).offered_rate()
    }

    fn output_tokens_per_request(&self) -> f64 {
        let tokens: u64 = self.trace.requests.iter().map(|r| u64::from(r.output)).sum();
        let starts = |r: &&TraceRequest| matches!(r.arrival, Arrival::At(_));
        tokens as f64 / self.trace.requests.iter().filter(starts).count().max(1) as f64
    }

    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        let deployment = self.deployment(config, Relax::Nothing)?;
        Ok(ceiling(&deployment, &self.trace))
    }
}

/// Requests/s that no schedule can exceed: every output token (and every prompt token that no cache can hold) passes
/// the dense layers, at best in iterations as large as the budget.
fn ceiling(deployment: &Deployment, trace: &Trace) -> f64 {
    let c = &deployment.config;
    let uncached = |r: &TraceRequest| if c.prefix_cache { r.input.min(1) } else { r.input };
    let prompt: u64 = trace.requests.iter().map(|r| u64::from(uncached(r))).sum();
    let output: u64 = trace.requests.iter().map(|r| u64::from(r.output.saturating_sub(1))).sum();
    let mut best = f64::INFINITY;
    for tokens in (0..24).map(|k| 1u64 << k) {
        best = best.min(deployment.cost.dense(tokens) / tokens as f64);
    }
    let starts = trace.requests.iter().filter(|r| matches!(r.arrival, Arrival::At(_))).count();
    let work = (prompt + output) as f64 * best * f64::from(c.pp);
    let lanes = f64::from(c.replicas * c.workers() * c.pp);
    starts as f64 * lanes / work.max(f64::MIN_POSITIVE)
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

/// A run in progress.
struct Run<'a> {
    sim: &'a Simulator,
    trace: Arc<Trace>,
    fleet: Fleet,
    replay: Replay,
    recorder: Recorder,
    spans: Option<Vec<IterationSpan>>,
    /// Sees every iteration as it ends.
    watch: Option<&'a mut dyn FnMut(&Iteration)>,
    looked_up: u64,
    cached: u64,
    workers: u32,
    slots: u64,
}

impl<'a> Run<'a> {
    fn new(
        sim: &'a Simulator,
        deployment: &Deployment,
        trace: Arc<Trace>,
        scale: f64,
        options: ReplayOptions,
    ) -> Self {
        let capped = trace.max_concurrent_sessions.is_some() && !options.lift_session_cap;
        let replay = Replay::new(&trace, scale, options).expect("scales are positive");
        let workers = deployment.config.replicas * deployment.config.workers();
        Self {
            sim,
            fleet: engine::wiring::simulated(deployment, sim.coupled || capped),
            replay,
            recorder: Recorder::new(trace.requests.len(), trace.classes.len()),
            spans: None,
            watch: None,
            looked_up: 0,
            cached: 0,
            workers,
            slots: u64::from(deployment.kv_slots) * u64::from(workers),
            trace,
        }
    }

    fn play(&mut self) {
        loop {
            match self.fleet.advance(self.replay.peek()) {
                Next::Arrival => self.arrivals(),
                Next::Iteration(i) => self.iteration(i),
                Next::Idle => break,
            }
        }
        self.fleet.settle();
    }

    fn arrivals(&mut self) {
        let Some(at) = self.replay.peek() else { return };
        while let Some(due) = self.replay.next(at) {
            let r = &self.trace.requests[due.request as usize];
            self.recorder.arrive(due.request, r.class, r.input, due.at);
            self.looked_up += u64::from(r.input);
            let request = Request {
                id: due.request,
                input: r.input,
                limit: r.output,
                fate: Some(r.output),
                width: 1,
                priority: 0,
                content: content(r, &self.trace, &self.sim.ids),
            };
            if self.fleet.submit(request, due.at).is_err() {
                self.recorder.finish(due.request, due.at, Outcome::Rejected);
                self.replay.completed(due.request, due.at);
            }
        }
    }

    fn iteration(&mut self, replica: usize) {
        let it = self.fleet.iteration(replica);
        let end = it.ends[it.ends.len() - 1];
        self.recorder.emit(&it.emitted, it.start, &it.ends);
        if let Some(watch) = &mut self.watch {
            watch(it);
        }
        for event in &it.events {
            match *event {
                Event::Admitted { request, hit, at } => {
                    self.recorder.admit(request, at, hit);
                    self.cached += u64::from(hit);
                }
                Event::Preempted { request } => self.recorder.preempt(request),
                Event::Finished { request } => {
                    self.recorder.finish(request, end, Outcome::Completed);
                    self.replay.completed(request, end);
                }
            }
        }
        if let Some(spans) = &mut self.spans
            && spans.len() < SPANS
        {
            let workers = self.fleet.replicas()[replica].workers();
            spans.push(span((replica * workers + it.worker) as u32, it));
        }
    }

    fn observation(self) -> (Observation, Recording, Fleet, Option<Vec<IterationSpan>>) {
        let end = self.fleet.now().as_secs_f64();
        let work = self.work(end);
        let kv = shares(&self.fleet);
        let recording = self.recorder.into_recording();
        let observation = Observation {
            summary: Summary::new(&recording, &self.sim.slo),
            sustain: Sustain::new(&self.trace, &recording.records),
            work,
            kv,
        };
        (observation, recording, self.fleet, self.spans)
    }

    fn work(&self, end: f64) -> Work {
        let mut work = Work {
            tokens_cached: self.cached,
            tokens_looked_up: self.looked_up,
            kv_slots: self.slots,
            ..Work::default()
        };
        let (mut batch, mut busy, mut full, mut seats, mut kv) = (0, 0, 0, 0, 0);
        let mut preemptions = 0;
        for t in self.fleet.replicas().iter().map(engine::Engine::totals) {
            work.iterations += t.iterations;
            work.tokens_executed += t.executed;
            work.tokens_padded += t.padded;
            work.tokens_recomputed += t.recomputed;
            preemptions += t.preemptions;
            batch += t.batch;
            busy += t.busy;
            full += t.full;
            seats += t.refused_seats;
            kv += t.refused_kv;
        }
        work.preemptions = preemptions;
        let of = |part: u128, whole: f64| if whole > 0.0 { part as f64 / whole } else { 0.0 };
        let time = end * 1e9 * f64::from(self.workers);
        work.mean_batch = of(batch, busy as f64);
        work.busy = of(busy, time).min(1.0);
        work.full_budget = of(full, busy as f64);
        work.refused_seats = of(seats, time).min(1.0);
        work.refused_kv = of(kv, time).min(1.0);
        work
    }

    fn detailed(self) -> Detailed {
        let (observation, recording, fleet, spans) = self.observation();
        let ledgers: Vec<_> = fleet.replicas().iter().flat_map(engine::Engine::ledgers).collect();
        let series: Vec<&[Sample]> = ledgers.iter().map(|l| l.series()).collect();
        Detailed {
            observation,
            itl: recording.itl_of_all(),
            records: recording.records,
            kv_series: merge(&series),
            iterations: spans.unwrap_or_default(),
        }
    }
}

fn content(r: &TraceRequest, trace: &Trace, ids: &Arc<[u64]>) -> Content {
    if r.blocks.len == 0 || trace.block_tokens == 0 {
        return Content::Private;
    }
    Content::Blocks(BlockIds {
        table: Arc::clone(ids),
        start: r.blocks.start,
        len: r.blocks.len,
        block_tokens: trace.block_tokens,
    })
}

fn span(worker: u32, it: &Iteration) -> IterationSpan {
    let end = it.ends[it.ends.len() - 1];
    IterationSpan {
        worker,
        start_s: it.start.as_secs_f64(),
        length_s: (end - it.start).as_secs_f64(),
        count: it.ends.len() as u32,
        prefill_seqs: it.shape.prefill_seqs,
        prefill_tokens: it.shape.prefill_tokens,
        decode_seqs: it.shape.decode_seqs,
    }
}

/// Mean shares over all workers and all time.
fn shares(fleet: &Fleet) -> KvShares {
    let mut sums = [0u128; 6];
    for ledger in fleet.replicas().iter().flat_map(engine::Engine::ledgers) {
        for (sum, slots) in sums.iter_mut().zip(ledger.sums()) {
            *sum += slots;
        }
    }
    let all = sums.iter().sum::<u128>().max(1) as f64;
    let [used, reserved, internal, external, idle, cached] = sums.map(|s| s as f64 / all);
    KvShares { used, reserved, internal, external, idle, cached }
}

/// The workers' series added up at the instants of the first.
fn merge(series: &[&[Sample]]) -> Vec<KvSample> {
    let Some((first, rest)) = series.split_first() else { return Vec::new() };
    let at_most = |samples: &[Sample], at: Duration| {
        let after = samples.partition_point(|s| s.at <= at);
        samples[..after].last().copied()
    };
    let sample = |s: &Sample| {
        let others = rest.iter().filter_map(|o| at_most(o, s.at));
        let mut slots = s.classes.to_array();
        let mut running = s.running;
        for other in others {
            slots.iter_mut().zip(other.classes.to_array()).for_each(|(a, b)| *a += b);
            running += other.running;
        }
        let [used, reserved, internal, external, idle, cached] = slots.map(|s| s as f64);
        KvSample {
            at_s: s.at.as_secs_f64(),
            slots: KvShares { used, reserved, internal, external, idle, cached },
            running,
            waiting: s.waiting,
        }
    };
    first.iter().map(sample).collect()
}
