//! The executor that computes: a Llama-family model on this machine's processor, over real keys and values.
//!
//! A batch is computed when it is submitted, by the caller and the team's other threads, and `complete` hands over what
//! was found. A row's logits depend on its context alone, to the bit: not on the batch around it, on chunking, on the
//! allocator's layout or on the number of threads (see `kernels::cpu`), so every scheduler and allocator gives the same
//! tokens.

mod batch;
mod forward;
mod memory;
mod sample;
mod weights;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use kernels::cpu::{Isa, Precision, Team};
pub use sample::{Greedy, Sample};
pub use weights::CpuModel;

use super::{Batch, Executor, Horizon, Outcome, Ticket, Transfer};
use batch::Inputs;
use forward::Scratch;
use memory::KvMemory;

/// One worker: a share of a team of threads, a KV memory, a sampler. Sequences must carry their tokens.
pub struct CpuExecutor {
    model: Arc<CpuModel>,
    team: Arc<Team>,
    /// The KV memory of all workers, so that one can receive from another.
    memories: Arc<[Mutex<KvMemory>]>,
    sampler: Box<dyn Sample>,
    inputs: Inputs,
    scratch: Scratch,
    flights: VecDeque<Outcome>,
    spare: Vec<Outcome>,
}

impl CpuExecutor {
    /// Workers with these `slots` of KV each, which share `model` and the threads of `team`; `sampler` makes each
    /// worker's. Keys and values are in f32 in the reference precision, otherwise in bf16.
    #[must_use]
    pub fn workers(
        model: &Arc<CpuModel>,
        team: &Arc<Team>,
        slots: &[u32],
        mut sampler: impl FnMut() -> Box<dyn Sample>,
    ) -> Vec<Self> {
        let memory = |&n: &u32| Mutex::new(KvMemory::new(model, n));
        let memories: Arc<[_]> = slots.iter().map(memory).collect();
        let worker = |_: &u32| Self {
            model: Arc::clone(model),
            team: Arc::clone(team),
            memories: Arc::clone(&memories),
            sampler: sampler(),
            inputs: Inputs::default(),
            scratch: Scratch::new(model.precision()),
            flights: VecDeque::new(),
            spare: Vec::new(),
        };
        slots.iter().map(worker).collect()
    }

    fn sample(&mut self, batch: &Batch<'_>, tokens: &mut Vec<u32>) {
        for (i, &seq) in self.inputs.sampled.iter().enumerate() {
            let seq = batch.state.seq(seq);
            let logits = self.scratch.logits(i, self.model.vocab());
            if seq.forks() {
                for branch in 0..seq.width {
                    self.scratch.copy_of_logits(i, self.model.vocab());
                    let logits = self.scratch.copied();
                    tokens.push(self.sampler.sample(seq, branch, logits));
                }
            } else {
                tokens.push(self.sampler.sample(seq, seq.branch, logits));
            }
        }
    }
}

fn lock(memory: &Mutex<KvMemory>) -> MutexGuard<'_, KvMemory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor for CpuExecutor {
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, _horizon: Horizon) -> Ticket {
        let start = Instant::now();
        let mut outcome = self.spare.pop().unwrap_or_default();
        outcome.ends.clear();
        outcome.tokens.clear();
        {
            let mut memory = lock(&self.memories[batch.worker]);
            for copy in batch.copies {
                memory.copy(copy);
            }
            self.inputs.fill(batch, memory.padding());
            self.scratch.forward(&self.team, &self.model, &self.inputs, &mut memory);
        }
        self.sample(batch, &mut outcome.tokens);
        let done = now + start.elapsed();
        outcome.ends.push(done);
        self.flights.push_back(outcome);
        Ticket { next: done, done }
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        let ready = self.flights.pop_front().expect("a batch was submitted");
        self.spare.push(std::mem::replace(outcome, ready));
    }

    fn transfer(&mut self, t: &Transfer<'_>, now: Duration) -> Duration {
        let start = Instant::now();
        let table = |worker: usize| t.state.workers[worker].kv.table(t.seq);
        let computed = t.state.seq(t.seq).computed;
        // Always the lower worker's first, so that two that exchange do not wait for each other.
        let (low, high) = (t.from.min(t.to), t.from.max(t.to));
        let (mut low, mut high) = (lock(&self.memories[low]), lock(&self.memories[high]));
        let (from, to) =
            if t.from < t.to { (&mut *low, &mut *high) } else { (&mut *high, &mut *low) };
        for at in computed - t.tokens..computed {
            to.receive(table(t.to).slot(at), from, table(t.from).slot(at));
        }
        now + start.elapsed()
    }
}
