//! One worker on CUDA devices: from a plan to tokens, at once or while the engine goes on.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kernels::cuda::{CudaError, Device, Draw, KvPool, Limits};

use super::flight::{Job, Watch};
use super::graphs::{self, Graphs};
use super::inputs::Inputs;
use super::layout::Arithmetic;
use super::pass::{Pass, Place};
use super::weights::CudaModel;
use crate::exec::flights::Flights;
use crate::exec::forward::{Chooser, PADDING, Sample};
use crate::exec::{Batch, Executor, Horizon, Outcome, Ticket, Transfer, Wake};
use crate::fault::Fault;
use crate::kv::KvCopy;
use crate::state::State;

/// One worker on one device or several: KV pools, a sampler, and memory for one batch. Sequences must carry their tokens.
pub struct CudaExecutor {
    model: Arc<CudaModel>,
    /// The pools of all workers, one for each shard of the model, so that one worker can receive from another.
    pools: Arc<[Mutex<Vec<KvPool>>]>,
    chooser: Chooser,
    inputs: Inputs,
    places: Vec<Place>,
    pass: Pass,
    graphs: Option<Graphs>,
    draws: Vec<Draw>,
    /// The thread that waits for the device, where that is not the caller.
    watch: Option<Watch>,
    /// Batches that are waited for there.
    inside: usize,
    /// The time at an instant: when a batch was last submitted while none was inside.
    clock: (Duration, Instant),
    spare: Vec<Job>,
    flights: Flights,
    fault: Option<Fault>,
}

fn lock(pool: &Mutex<Vec<KvPool>>) -> MutexGuard<'_, Vec<KvPool>> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CudaExecutor {
    /// Workers with these `slots` of KV each, which share `model` and its devices and take turns at them; `sampler` makes
    /// each worker's.
    ///
    /// # Errors
    /// When a device has not so much memory.
    pub fn workers(
        model: &Arc<CudaModel>,
        slots: &[u32],
        mut sampler: impl FnMut() -> Box<dyn Sample>,
    ) -> Result<Vec<Self>, CudaError> {
        let pools = slots.iter().map(|&n| model.pools((n + PADDING) as usize).map(Mutex::new));
        let pools: Arc<[_]> = pools.collect::<Result<Vec<_>, _>>()?.into();
        // No sequence is longer than its pool, or than the model allows.
        let longest = slots.iter().max().map_or(0, |n| n + PADDING).min(model.most_positions());
        let places = Place::all(model, longest)?;
        let worker = |_: &u32| {
            let worker = Self {
                model: Arc::clone(model),
                pools: Arc::clone(&pools),
                chooser: Chooser::new(sampler()),
                inputs: Inputs::default(),
                places: places.iter().map(Place::another).collect::<Result<_, _>>()?,
                pass: Pass::new(model)?,
                // Data that pass from device to device are not recorded (see `kernels::cuda::Collective`).
                graphs: (places.len() == 1).then(Graphs::default),
                draws: Vec::new(),
                watch: None,
                inside: 0,
                clock: (Duration::ZERO, Instant::now()),
                spare: Vec::new(),
                flights: Flights::default(),
                fault: None,
            };
            // The next stage's batch must be fed while another is under way.
            Ok(if model.stages() > 1 { worker.overlapped() } else { worker })
        };
        slots.iter().map(worker).collect()
    }

    /// The same, which goes on while the device computes. While a batch is on it, the clock runs as clocks do.
    #[must_use]
    pub fn overlapped(self) -> Self {
        Self { watch: Some(Watch::new()), ..self }
    }

    /// The same that asks for every kernel by itself, always.
    #[must_use]
    pub fn without_graphs(self) -> Self {
        Self { graphs: None, ..self }
    }

    /// Asks for everything from the plan to tokens.
    fn ask(&mut self, batch: &Batch<'_>) -> Result<Job, CudaError> {
        let pools = Arc::clone(&self.pools);
        {
            let mut pools = lock(&pools[batch.worker]);
            for copy in batch.copies {
                for (pool, shard) in pools.iter_mut().zip(&self.model.shards) {
                    move_inside(&shard.device, pool, copy)?;
                }
            }
            self.compute(batch, &mut pools)?;
        }
        self.choose(batch)
    }

    /// Up to logits.
    fn compute(&mut self, batch: &Batch<'_>, pools: &mut [KvPool]) -> Result<(), CudaError> {
        let (slots, arithmetic) = (pools[0].slots(), self.model.arithmetic());
        let padding = slots as u32 - PADDING;
        self.inputs.fill(batch, padding, arithmetic);
        let rows = self.inputs.decodes().and_then(graphs::bucket);
        let key = rows.filter(|_| self.graphs.is_some()).map(|rows| {
            // The tiled kernel looks at each sequence's length by itself.
            let split = arithmetic == Arithmetic::Fast;
            (rows, if split { graphs::reach(self.inputs.longest()) } else { 0 })
        });
        if let Some((rows, reach)) = key {
            self.inputs.fill_up(rows, reach, padding, arithmetic);
        }
        let limits = Limits {
            vocab: self.model.vocab(),
            positions: self.places[0].turns.len() / self.model.config.head_dim as usize,
            slots,
            rows: self.inputs.batch.ids.len() + self.inputs.discarded,
        };
        for Place { device, batch, .. } in &mut self.places {
            batch.set(device, &self.inputs.batch, limits)?;
        }
        let (model, places) = (&self.model, &self.places);
        let mut work = |pass: &mut Pass| pass.run(model, places, pools);
        match key.zip(self.graphs.as_mut()) {
            Some((key, graphs)) => graphs.run(key, &places[0], &mut self.pass, work),
            None => work(&mut self.pass),
        }
    }

    /// On the device where every sequence's token can be chosen there, else the logits have to be seen.
    fn choose(&mut self, batch: &Batch<'_>) -> Result<Job, CudaError> {
        let mut job = self.spare.pop().unwrap_or_else(|| Job::new(self.model.last_device()));
        // Padding's rows are not asked for a token.
        job.sampled.clone_from(&self.inputs.rows.sampled);
        let draws = &mut self.draws;
        job.chosen = self.chooser.on_device(batch.state, &job.sampled, draws);
        if job.chosen && !draws.is_empty() {
            let tokens = self.pass.sample(&self.model, draws)?;
            job.ids.ask(tokens, draws.len())?;
        } else if !job.chosen {
            job.logits.ask(self.pass.logits(), job.sampled.len() * self.model.vocab())?;
        }
        job.done = Some(self.model.last_device().mark()?);
        Ok(job)
    }

    /// Takes the results of a batch that ended at `done`.
    fn land(&mut self, mut job: Job, state: &State, done: Duration) -> Result<(), CudaError> {
        let mut outcome = self.flights.outcome();
        outcome.ends.push(done);
        let tokens = &mut outcome.tokens;
        if job.sampled.is_empty() {
            // Nothing was asked for.
        } else if job.chosen {
            tokens.extend(job.ids.get()?.iter().map(|&token| token as u32));
        } else {
            let rows = job.logits.get()?.chunks_exact_mut(self.model.vocab());
            self.chooser.choose(state, &job.sampled, rows, tokens);
        }
        self.spare.push(job);
        self.flights.depart(outcome);
        Ok(())
    }

    /// Nothing more will be done.
    fn fail(&mut self, error: &CudaError) {
        let device = self.model.device_name();
        self.fault.get_or_insert_with(|| Fault::new(&format!("{device} failed: {error}")));
    }

    fn time(&self) -> Duration {
        self.clock.0 + self.clock.1.elapsed()
    }

    /// Asks for `batch` and waits for it.
    fn run(&mut self, batch: &Batch<'_>, now: Duration) -> Result<Duration, CudaError> {
        let start = Instant::now();
        let job = self.ask(batch)?;
        // A pass that samples nothing is waited for too, so that its time is measured.
        job.wait()?;
        let done = now + start.elapsed();
        self.land(job, batch.state, done)?;
        Ok(done)
    }

    /// Asks for `batch`, and has it waited for.
    fn send(&mut self, batch: &Batch<'_>, now: Duration) -> Result<(), CudaError> {
        if self.inside == 0 {
            self.clock = (now, Instant::now());
        }
        let job = self.ask(batch)?;
        self.inside += 1;
        let followed = self.watch.as_ref().is_some_and(|watch| watch.follow(job));
        if followed { Ok(()) } else { Err(gone()) }
    }
}

/// The thread that waits has ended, which it does not by itself.
fn gone() -> CudaError {
    CudaError::Call { call: "waiting", reason: "its thread has ended".to_owned() }
}

/// Copies consecutive slots, as if through a buffer where they overlap: so many at once as do not.
fn move_inside(device: &Device, pool: &mut KvPool, copy: &KvCopy) -> Result<(), CudaError> {
    let KvCopy { from, to, len } = *copy;
    let step = from.abs_diff(to);
    if step == 0 {
        return Ok(());
    }
    let starts: Vec<u32> = (0..len).step_by(step as usize).collect();
    let mut piece = |start: u32| {
        let moves: Vec<(u32, u32)> =
            (start..len.min(start + step)).map(|i| (from + i, to + i)).collect();
        device.copy_slots(None, pool, &moves)
    };
    if to > from {
        starts.into_iter().rev().try_for_each(&mut piece)
    } else {
        starts.into_iter().try_for_each(&mut piece)
    }
}

impl Executor for CudaExecutor {
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, _horizon: Horizon) -> Ticket {
        let done = match &self.watch {
            Some(_) => self.send(batch, now).map(|()| None),
            None => self.run(batch, now).map(Some),
        };
        let done = done.unwrap_or_else(|error| {
            self.fail(&error);
            None
        });
        Ticket { next: done.unwrap_or(now), done }
    }

    fn wait(&mut self, state: &State, now: Duration, until: Duration) -> Option<Duration> {
        let left = until.saturating_sub(self.time());
        let landed = match self.watch.as_ref()?.next(left) {
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Ok((job, over)) => {
                self.inside -= 1;
                over.map(|at| (job, self.clock.0 + at.saturating_duration_since(self.clock.1)))
            }
        };
        let landed = landed.and_then(|(job, done)| {
            let done = done.max(now);
            self.land(job, state, done).map(|()| done)
        });
        landed.map_err(|error| self.fail(&error)).ok()
    }

    fn wake_by(&mut self, wake: Wake) {
        if let Some(watch) = &self.watch {
            watch.wake_by(wake);
        }
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        self.flights.arrive(outcome);
    }

    fn transfer(&mut self, t: &Transfer<'_>, now: Duration) -> Duration {
        let start = Instant::now();
        let table = |worker: usize| t.state.workers[worker].kv.table(t.seq);
        let computed = t.state.seq(t.seq).computed;
        let positions = computed - t.tokens..computed;
        let moves: Vec<(u32, u32)> =
            positions.map(|at| (table(t.from).slot(at), table(t.to).slot(at))).collect();
        // Always the lower worker's first, so that two that exchange do not wait for each other.
        let (low, high) = (t.from.min(t.to), t.from.max(t.to));
        let (mut low, mut high) = (lock(&self.pools[low]), lock(&self.pools[high]));
        let (from, to) = if t.from < t.to { (&*low, &mut *high) } else { (&*high, &mut *low) };
        let mut shards = self.model.shards.iter().zip(from.iter().zip(to.iter_mut()));
        let moved = shards
            .try_for_each(|(shard, (from, to))| shard.device.copy_slots(Some(from), to, &moves));
        let mut devices = self.model.devices().iter();
        let moved = moved.and_then(|()| devices.try_for_each(Device::synchronise));
        drop((low, high));
        moved.unwrap_or_else(|error| self.fail(&error));
        now + start.elapsed()
    }
}
