//! The executor that computes: a Llama-family model on this machine's processor, over real keys and values.
//!
//! A batch is computed when it is submitted, by the caller and the team's other threads, and `complete` hands over what
//! was found; where a model is split over pipeline stages ([`CpuPipeline`]), these compute it while the caller goes on. A
//! row's logits depend on its context alone, to the bit: not on the batch around it, on chunking, on the allocator's
//! layout or on the number of threads (see `kernels::cpu`), so every scheduler and allocator gives the same tokens.

mod collective;
mod forward;
mod inputs;
mod measure;
mod memory;
mod pipeline;
mod stage;
mod weights;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use kernels::cpu::{Isa, Precision, Team};
pub use measure::measure;
pub use pipeline::CpuPipeline;
pub use stage::Share;
pub use weights::CpuModel;

use super::flights::Flights;
use super::forward::{Chooser, Sample};
use super::{Batch, Executor, Horizon, Outcome, Ticket, Transfer};
use inputs::Inputs;
use memory::KvMemory;
use stage::Stage;

/// One worker: a KV memory, a sampler, and threads, which are those of one team or of several tensor-parallel ranks.
/// Sequences must carry their tokens.
pub struct CpuExecutor {
    stage: Stage,
    /// The KV memory of all workers, one for each rank, so that one worker can receive from another.
    memories: Arc<[Mutex<Vec<KvMemory>>]>,
    /// The first of the padding's slots: behind the allocator's.
    padding: u32,
    chooser: Chooser,
    inputs: Inputs,
    flights: Flights,
}

impl CpuExecutor {
    /// Workers with these `slots` of KV each, which share `model` and the threads of `team`; `sampler` makes each
    /// worker's. Keys and values are in f32 in the reference precision, otherwise in bf16.
    #[must_use]
    pub fn workers(
        model: &Arc<CpuModel>,
        team: &Arc<Team>,
        slots: &[u32],
        sampler: impl FnMut() -> Box<dyn Sample>,
    ) -> Vec<Self> {
        Self::tensor_parallel(&[(Arc::clone(model), Arc::clone(team))], slots, sampler)
    }

    /// The same where each worker's model is split over ranks: their shares, in order, each with the threads that
    /// compute it.
    ///
    /// # Panics
    /// When the shares are not those of all ranks of one model.
    #[must_use]
    pub fn tensor_parallel(
        ranks: &[Share],
        slots: &[u32],
        mut sampler: impl FnMut() -> Box<dyn Sample>,
    ) -> Vec<Self> {
        let stages: Vec<_> = slots.iter().map(|_| Stage::new(ranks, 0, 1)).collect();
        let memory = |(stage, &slots): (&Stage, &u32)| Mutex::new(stage.memory(slots));
        let memories: Arc<[_]> = stages.iter().zip(slots).map(memory).collect();
        let worker = |(stage, &slots)| Self {
            stage,
            memories: Arc::clone(&memories),
            padding: slots,
            chooser: Chooser::new(sampler()),
            inputs: Inputs::default(),
            flights: Flights::default(),
        };
        stages.into_iter().zip(slots).map(worker).collect()
    }
}

fn lock(memory: &Mutex<Vec<KvMemory>>) -> MutexGuard<'_, Vec<KvMemory>> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor for CpuExecutor {
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, _horizon: Horizon) -> Ticket {
        let start = Instant::now();
        let mut outcome = self.flights.outcome();
        let memories = Arc::clone(&self.memories);
        {
            let mut memories = lock(&memories[batch.worker]);
            for memory in memories.iter_mut() {
                batch.copies.iter().for_each(|copy| memory.copy(copy));
            }
            self.inputs.fill(batch, self.padding);
            self.stage.forward(&self.inputs, &[], &mut memories);
        }
        let vocab = self.stage.vocab();
        let rows = self.stage.logits().chunks_exact_mut(vocab);
        self.chooser.choose(batch.state, &self.inputs.rows.sampled, rows, &mut outcome.tokens);
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
        // Always the lower worker's first, so that two that exchange do not wait for each other.
        let (low, high) = (t.from.min(t.to), t.from.max(t.to));
        let (mut low, mut high) = (lock(&self.memories[low]), lock(&self.memories[high]));
        let (from, to) =
            if t.from < t.to { (&mut *low, &mut *high) } else { (&mut *high, &mut *low) };
        for at in computed - t.tokens..computed {
            let (to_slot, from_slot) = (table(t.to).slot(at), table(t.from).slot(at));
            for (to, from) in to.iter_mut().zip(from.iter()) {
                to.receive(to_slot, from, from_slot);
            }
        }
        now + start.elapsed()
    }
}
