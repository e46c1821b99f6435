//! The executor that computes on a CUDA device: a Llama-family model over paged keys and values.
//!
//! A batch is computed when it is submitted and `complete` hands over what was found, as on the CPU. Sequences with one
//! new token and chunks go through one pass; ids alone come back, unless a request asks for something that only its
//! logits tell. Static batches' padding is computed like anything else.
//!
//! [`Arithmetic::Fast`] takes the fastest kernels there are. [`Arithmetic::Invariant`] takes those whose results for a
//! row depend on its context alone, to the bit, so that every scheduler, allocator and chunk size gives the same tokens.
//!
//! Shown on an emulated device; never run on a GPU yet.

mod batch;
mod forward;
mod measure;
mod weights;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kernels::cuda::{Buffer, CudaError, DeviceBatch, Draw, KvPool, Limits};

pub use kernels::cuda::Device;
pub use measure::measure;
pub use weights::{CudaModel, CudaModelError};

use super::cpu::{Sample, Spent};
use super::flights::Flights;
use super::{Batch, Executor, Horizon, Outcome, Ticket, Transfer};
use crate::kv::KvCopy;
use batch::Inputs;
use forward::Forward;

/// Which kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// The fastest.
    Fast,
    /// Those whose results do not depend on what else is in the batch.
    Invariant,
}

/// Slots that stand for the padding of static batches, beyond the allocator's; longer padding runs over them again. A
/// power of two.
const PADDING: u32 = 1024;

/// One worker on a device: a KV pool, a sampler, and memory for one batch. Sequences must carry their tokens.
///
/// # Panics
/// When the device fails in the middle of a batch: an executor has no way to say so, and nothing could go on.
pub struct CudaExecutor {
    model: Arc<CudaModel>,
    /// The pools of all workers, so that one can receive from another.
    pools: Arc<[Mutex<KvPool>]>,
    arithmetic: Arithmetic,
    sampler: Box<dyn Sample>,
    inputs: Inputs,
    on_device: DeviceBatch,
    forward: Forward,
    turns: Arc<Buffer<f32>>,
    choices: Choices,
    flights: Flights,
}

/// Room for choosing tokens.
#[derive(Debug, Default)]
struct Choices {
    draws: Vec<Draw>,
    tokens: Vec<i32>,
    logits: Vec<f32>,
    copy: Vec<f32>,
}

/// What an executor does when the device fails.
fn sound<T>(result: Result<T, CudaError>) -> T {
    result.unwrap_or_else(|error| panic!("the CUDA device failed: {error}"))
}

fn lock(pool: &Mutex<KvPool>) -> MutexGuard<'_, KvPool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CudaExecutor {
    /// Workers with these `slots` of KV each, which share `model` and its device; `sampler` makes each worker's.
    ///
    /// # Errors
    /// When the device has not so much memory.
    pub fn workers(
        model: &Arc<CudaModel>,
        slots: &[u32],
        arithmetic: Arithmetic,
        mut sampler: impl FnMut() -> Box<dyn Sample>,
    ) -> Result<Vec<Self>, CudaError> {
        let (device, layers) = (&model.device, model.layers.len());
        let pool = |&n: &u32| {
            let slots = (n + PADDING) as usize;
            KvPool::new(device, model.heads(), layers, slots).map(Mutex::new)
        };
        let pools: Arc<[_]> = slots.iter().map(pool).collect::<Result<Vec<_>, _>>()?.into();
        // No sequence is longer than its pool.
        let longest = slots.iter().max().map_or(0, |n| n + PADDING);
        let turns = Arc::new(device.upload(&model.turns(longest))?);
        let worker = |_: &u32| {
            Ok(Self {
                model: Arc::clone(model),
                pools: Arc::clone(&pools),
                arithmetic,
                sampler: sampler(),
                inputs: Inputs::default(),
                on_device: DeviceBatch::new(device)?,
                forward: Forward::new(device)?,
                turns: Arc::clone(&turns),
                choices: Choices::default(),
                flights: Flights::default(),
            })
        };
        slots.iter().map(worker).collect()
    }

    /// Everything from the plan to tokens.
    fn run(&mut self, batch: &Batch<'_>, tokens: &mut Vec<u32>) -> Result<(), CudaError> {
        let pools = Arc::clone(&self.pools);
        {
            let mut pool = lock(&pools[batch.worker]);
            for copy in batch.copies {
                move_inside(&self.model.device, &mut pool, copy)?;
            }
            let padding = pool.slots() as u32 - PADDING;
            self.inputs.fill(batch, padding, self.arithmetic);
            let rows = self.inputs.batch.ids.len();
            let limits = Limits {
                vocab: self.model.vocab(),
                positions: self.turns.len() / self.model.config.head_dim as usize,
                slots: pool.slots(),
                rows: rows + self.inputs.discarded,
            };
            let model = &self.model;
            self.on_device.set(&model.device, &self.inputs.batch, limits)?;
            self.forward.run(model, self.arithmetic, &self.on_device, &self.turns, &mut pool)?;
        }
        self.choose(batch, tokens)
    }

    /// On the device where every sequence's token can be chosen there, else from logits here.
    fn choose(&mut self, batch: &Batch<'_>, tokens: &mut Vec<u32>) -> Result<(), CudaError> {
        let Choices { draws, tokens: chosen, logits, copy } = &mut self.choices;
        let (sampler, vocab) = (&mut self.sampler, self.model.vocab());
        let seqs = self.inputs.sampled.iter().map(|&id| batch.state.seq(id));
        draws.clear();
        let mut draw = |seq: &crate::sequence::Sequence| {
            let draw = if seq.forks() { None } else { sampler.on_device(seq, seq.branch) };
            draw.map(|draw| draws.push(draw)).is_some()
        };
        if seqs.clone().all(&mut draw) {
            // Padding's rows are not asked for a token.
            self.forward.sample(&self.model, draws, chosen)?;
            tokens.extend(chosen.iter().map(|&token| token as u32));
            return Ok(());
        }
        logits.resize(self.inputs.sampled.len() * vocab, 0.0);
        self.forward.logits.read(0, logits)?;
        for (seq, logits) in seqs.zip(logits.chunks_exact_mut(vocab)) {
            if seq.forks() {
                for branch in 0..seq.width {
                    copy.clear();
                    copy.extend_from_slice(logits);
                    tokens.push(sampler.sample(seq, branch, copy));
                }
            } else {
                tokens.push(sampler.sample(seq, seq.branch, logits));
            }
        }
        Ok(())
    }
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
        let start = Instant::now();
        let mut outcome = self.flights.outcome();
        sound(self.run(batch, &mut outcome.tokens));
        // A pass that samples nothing is waited for too: its time is what it took.
        sound(self.model.device.synchronise());
        let done = now + start.elapsed();
        outcome.ends.push(done);
        self.flights.depart(outcome);
        Ticket { next: done, done: Some(done) }
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
        sound(self.model.device.copy_slots(Some(from), to, &moves));
        sound(self.model.device.synchronise());
        now + start.elapsed()
    }
}
