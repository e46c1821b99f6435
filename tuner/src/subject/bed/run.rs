//! One run: arrivals and iterations in the order of virtual time, and what is seen of them.
//!
//! A simulated request arrives, spends its time in the engine's front end, and then enters the engine. A measured one
//! enters at once: whatever comes before is in the measurement.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use engine::engines::FrontEnd;
use engine::exec::cost::CostModel;
use engine::kv::waste::Sample;
use engine::{BlockIds, Content, Deployment, Event, Fleet, Iteration, Next, Request};
use loadgen::{Outcome, Recorder, Recording, Replay, ReplayOptions, Summary, Sustain};
use workloads::{Trace, TraceRequest};

use super::prompts::prompt;
use super::step::steps_of;
use super::testbed::{Played, Testbed};
use crate::subject::Refused;
use crate::subject::observation::{
    Detailed, Inside, IterationSpan, KvSample, KvShares, Observation, Work,
};
use crate::subject::unfit::Unfit;

/// Iterations kept for a timeline, at most.
const SPANS: usize = 200_000;

/// A run in progress.
pub(super) struct Run<'a> {
    sim: &'a Testbed,
    trace: Arc<Trace>,
    ids: Arc<[u64]>,
    fleet: Fleet,
    replay: Replay,
    /// Requests that have arrived, by the time at which they enter the engine.
    entering: BinaryHeap<Reverse<(Duration, u32)>>,
    front_end: FrontEnd,
    /// True where the client holds arrivals back until others end.
    capped: bool,
    recorder: Recorder,
    spans: Option<Vec<IterationSpan>>,
    /// Sees every iteration as it ends.
    watch: Option<&'a mut dyn FnMut(&Iteration)>,
    /// The predicted times of iterations that are measured; none if there is no prediction, or if
    /// iterations overlap.
    cost: Option<Arc<CostModel>>,
    /// Seconds in iterations, measured and predicted.
    took: (f64, f64),
    looked_up: u64,
    cached: u64,
    answered: usize,
    /// Requests that did not meet the SLO, counted where it matters.
    missed: u64,
    /// The most of them with which the run still goes on; none if it goes on in any case.
    spare: Option<u64>,
    workers: u32,
    slots: u64,
    max_model_len: u32,
    unfit: Unfit,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        sim: &'a Testbed,
        deployment: &Deployment,
        Played { trace, ids }: Played,
        scale: f64,
        options: ReplayOptions,
    ) -> Result<Self, Refused> {
        let capped = trace.max_concurrent_sessions.is_some() && !options.lift_session_cap;
        let replay = Replay::new(&trace, scale, options).expect("scales are positive");
        let workers = deployment.config.engines() * deployment.config.workers();
        Ok(Self {
            sim,
            fleet: sim.fleet(deployment, sim.coupled || capped)?,
            replay,
            entering: BinaryHeap::new(),
            front_end: match sim.machine {
                None => sim.engine.outside.front_end.clone(),
                Some(_) => FrontEnd::default(),
            },
            capped,
            recorder: Recorder::new(trace.requests.len(), trace.classes.len()),
            spans: None,
            watch: None,
            cost: (sim.profiled && deployment.config.pp * deployment.config.dp == 1)
                .then(|| Arc::clone(&deployment.cost)),
            took: (0.0, 0.0),
            looked_up: 0,
            cached: 0,
            answered: 0,
            missed: 0,
            spare: None,
            workers,
            slots: u64::from(deployment.kv_slots) * u64::from(workers),
            max_model_len: deployment.config.max_model_len,
            unfit: Unfit::of(deployment, &trace.requests),
            trace,
            ids,
        })
    }

    /// The same for a search, which only asks whether the SLO holds: it ends once that is known not to be so.
    pub(super) fn while_it_may_hold(mut self) -> Self {
        self.spare = Some(self.sim.slo.allowance(self.trace.requests.len() as u64));
        self
    }

    /// Keeps every iteration, and shows it to `watch` as it ends.
    pub(super) fn keep(&mut self, watch: &'a mut dyn FnMut(&Iteration)) {
        (self.spans, self.watch) = (Some(Vec::new()), Some(watch));
    }

    /// To the end of the trace, and of everything in flight.
    ///
    /// # Errors
    /// When the machine fails before that: the rest of the run is not known.
    pub(super) fn play(&mut self) -> Result<(), Refused> {
        while self.advance()? {}
        Ok(())
    }

    /// To the next arrivals, or the end of the next iteration, whichever comes first; false once
    /// there is neither, or the result is certain.
    ///
    /// # Errors
    /// See [`Run::play`].
    pub(super) fn advance(&mut self) -> Result<bool, Refused> {
        let arrival = self.next_arrival();
        match self.fleet.advance(arrival) {
            Next::Arrival => self.arrivals(),
            Next::Iteration(i) => self.iteration(i),
            Next::Idle => {
                self.fleet.settle();
                return Ok(false);
            }
            Next::Broken => {
                let fault = self.fleet.fault().map(ToString::to_string).unwrap_or_default();
                let (done, all) = (self.answered, self.trace.requests.len());
                return Err(Refused {
                    reason: format!("{fault}; {done} of {all} requests had been answered"),
                });
            }
        }
        Ok(self.spare.is_none_or(|spare| self.missed <= spare))
    }

    /// The time of the run's own clock.
    pub(super) fn now(&self) -> Duration {
        self.fleet.now()
    }

    /// When the next request enters the engine, or arrives at a client that holds others back. Else arrivals are known
    /// beforehand, and none of them ends a stretch of equal iterations.
    fn next_arrival(&mut self) -> Option<Duration> {
        loop {
            let entry = self.entering.peek().map(|Reverse((at, _))| *at);
            match self.replay.peek() {
                Some(at) if entry.is_none_or(|entry| at <= entry) => {
                    if self.capped {
                        return Some(at);
                    }
                    self.arrive(at);
                }
                _ => return entry,
            }
        }
    }

    /// The requests due at `at` go to the front end.
    fn arrive(&mut self, at: Duration) {
        while let Some(due) = self.replay.next(at) {
            let r = &self.trace.requests[due.request as usize];
            self.recorder.arrive(due.request, r.class, r.input, due.at);
            let entry = due.at + self.front_end.time(due.request, r.input);
            self.entering.push(Reverse((entry, due.request)));
        }
    }

    /// The requests that enter the engine at the time of [`Run::next_arrival`].
    fn arrivals(&mut self) {
        let Some(now) = self.next_arrival() else { return };
        self.arrive(now);
        while let Some(Reverse((at, index))) = self.entering.peek().copied() {
            if at > now {
                break;
            }
            self.entering.pop();
            let r = &self.trace.requests[index as usize];
            self.looked_up += u64::from(r.input);
            let request = Request {
                id: index,
                input: r.input,
                limit: r.output,
                fate: Some(r.output),
                width: 1,
                priority: 0,
                content: self.content(index),
            };
            if self.fleet.add_request(request, at).is_err() {
                self.recorder.finish(index, at, Outcome::Rejected);
                self.missed += 1;
                self.replay.completed(index, at);
            }
        }
    }

    /// The prompt of request `index`: tokens if they are computed, else the identity of its blocks.
    fn content(&self, index: u32) -> Content {
        match &self.sim.machine {
            None => content(&self.trace.requests[index as usize], &self.trace, &self.ids),
            Some(machine) => prompt(&self.trace, index, machine.config().vocab),
        }
    }

    /// Records an iteration of `replica`.
    fn iteration(&mut self, replica: usize) {
        let it = self.fleet.iteration(replica);
        let end = it.ends[it.ends.len() - 1];
        self.recorder.emit(&it.emitted, it.start, &it.ends);
        if let Some(watch) = &mut self.watch {
            watch(it);
        }
        if let Some(cost) = &self.cost {
            for step in steps_of(it) {
                self.took.0 += step.seconds;
                self.took.1 += cost.stage_ns(&step.shape) as f64 * 1e-9;
            }
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
                    self.answered += 1;
                    if self.spare.is_some() {
                        let met = self.sim.slo.meets(&self.recorder.record(request));
                        self.missed += u64::from(!met);
                    }
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

    /// The observation of the run.
    pub(super) fn observe(self) -> Observation {
        self.observation().0
    }

    fn observation(self) -> (Observation, Recording, Fleet, Option<Vec<IterationSpan>>) {
        let end = self.fleet.now().as_secs_f64();
        let work = self.work(end);
        let kv = shares(&self.fleet);
        let recording = self.recorder.into_recording();
        let observation = Observation {
            summary: Summary::new(&recording, &self.sim.slo),
            sustain: Sustain::new(&self.trace, &recording.records),
            inside: Some(Inside { work, kv }),
            outside: None,
            unfit: self.unfit,
        };
        (observation, recording, self.fleet, self.spans)
    }

    fn work(&self, end: f64) -> Work {
        let mut work = Work {
            tokens_cached: self.cached,
            tokens_looked_up: self.looked_up,
            kv_slots: self.slots,
            max_model_len: self.max_model_len,
            ..Work::default()
        };
        let (mut batch, mut busy, mut full, mut seats, mut kv) = (0, 0, 0, 0, 0);
        let mut preemptions = 0;
        for t in self.fleet.replicas().iter().map(engine::Engine::totals) {
            work.iterations += t.iterations;
            work.tokens_executed += t.executed;
            work.tokens_padded += t.padded;
            work.tokens_recomputed += t.recomputed;
            work.tokens_drafted += t.drafted;
            work.tokens_accepted += t.accepted;
            preemptions += t.preemptions;
            batch += t.batch;
            busy += t.busy;
            full += t.full;
            seats += t.refused_seats;
            kv += t.refused_kv;
        }
        work.preemptions = preemptions;
        let (measured, predicted) = self.took;
        work.pace = (predicted > 0.0).then(|| measured / predicted);
        let of = |part: u128, whole: f64| if whole > 0.0 { part as f64 / whole } else { 0.0 };
        let time = end * 1e9 * f64::from(self.workers);
        work.mean_batch = of(batch, busy as f64);
        work.busy = of(busy, time).min(1.0);
        work.full_budget = of(full, busy as f64);
        work.refused_seats = of(seats, time).min(1.0);
        work.refused_kv = of(kv, time).min(1.0);
        work
    }

    /// The same, with everything that was kept.
    pub(super) fn detailed(self) -> Detailed {
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
