//! The executor that computes: a Llama-family model on this machine's processor, over real keys and values.
//!
//! A batch is computed when it is submitted, by the caller and the team's other threads, and `complete` hands over what
//! was found. A row's logits depend on its context alone, to the bit: not on the batch around it, on chunking, on the
//! allocator's layout or on the number of threads (see `kernels::cpu`), so every scheduler and allocator gives the same
//! tokens.

mod batch;
mod collective;
mod forward;
mod measure;
mod memory;
mod sample;
mod spent;
mod weights;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use kernels::cpu::{Isa, Precision, Team};
pub use measure::{Measured, Work, measure};
pub use sample::{Greedy, Sample};
pub use spent::Spent;
pub use weights::CpuModel;

use super::flights::Flights;
use super::{Batch, Executor, Horizon, Outcome, Ticket, Transfer};
use batch::Inputs;
use collective::{Alone, Collective, SharedMemory};
use forward::{Rank, Scratch};
use memory::KvMemory;

/// One worker: a KV memory, a sampler, and threads, which are those of one team or of several tensor-parallel ranks.
/// Sequences must carry their tokens.
pub struct CpuExecutor {
    ranks: Vec<Member>,
    collective: Box<dyn Collective + Send>,
    /// The KV memory of all workers, one for each rank, so that one worker can receive from another.
    memories: Arc<[Mutex<Vec<KvMemory>>]>,
    sampler: Box<dyn Sample>,
    inputs: Inputs,
    flights: Flights,
}

/// One rank of a worker.
struct Member {
    model: Arc<CpuModel>,
    team: Arc<Team>,
    scratch: Scratch,
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
    /// compute it. Ranks wait for each other, so no two share a team.
    ///
    /// # Panics
    /// When the shares are not those of all ranks of one model.
    #[must_use]
    pub fn tensor_parallel(
        ranks: &[(Arc<CpuModel>, Arc<Team>)],
        slots: &[u32],
        mut sampler: impl FnMut() -> Box<dyn Sample>,
    ) -> Vec<Self> {
        let whole = |(i, (model, _)): (usize, &(Arc<CpuModel>, _))| {
            (model.share.rank, model.share.of) == (i, ranks.len())
        };
        assert!(!ranks.is_empty() && ranks.iter().enumerate().all(whole), "all ranks, in order");
        let memory =
            |&n: &u32| Mutex::new(ranks.iter().map(|(model, _)| KvMemory::new(model, n)).collect());
        let memories: Arc<[_]> = slots.iter().map(memory).collect();
        let member = |(model, team): &(Arc<CpuModel>, Arc<Team>)| Member {
            model: Arc::clone(model),
            team: Arc::clone(team),
            scratch: Scratch::new(model.precision()),
        };
        let worker = |_: &u32| Self {
            ranks: ranks.iter().map(member).collect(),
            collective: match ranks.len() {
                1 => Box::new(Alone),
                n => Box::new(SharedMemory::new(n)),
            },
            memories: Arc::clone(&memories),
            sampler: sampler(),
            inputs: Inputs::default(),
            flights: Flights::default(),
        };
        slots.iter().map(worker).collect()
    }

    /// The forward pass, on every rank at once: the caller is one of the first rank's threads.
    fn forward(&mut self, memories: &mut [KvMemory]) {
        let (inputs, collective) = (&self.inputs, &*self.collective);
        let mut ranks = self.ranks.iter_mut().zip(memories);
        let run = |(member, memory): (&mut Member, &mut KvMemory)| {
            let rank = Rank { model: &member.model, team: &member.team, collective };
            member.scratch.forward(rank, inputs, memory);
        };
        let Some(first) = ranks.next() else { return };
        if ranks.len() == 0 {
            return run(first);
        }
        std::thread::scope(|scope| {
            ranks.for_each(|rank| {
                scope.spawn(move || run(rank));
            });
            run(first);
        });
    }

    fn sample(&mut self, batch: &Batch<'_>, tokens: &mut Vec<u32>) {
        let Member { model, scratch, .. } = &mut self.ranks[0];
        for (i, &seq) in self.inputs.sampled.iter().enumerate() {
            let seq = batch.state.seq(seq);
            if seq.forks() {
                for branch in 0..seq.width {
                    let logits = scratch.copied_logits(i, model.vocab());
                    tokens.push(self.sampler.sample(seq, branch, logits));
                }
            } else {
                let logits = scratch.logits(i, model.vocab());
                tokens.push(self.sampler.sample(seq, seq.branch, logits));
            }
        }
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
            self.inputs.fill(batch, memories[0].padding());
            self.forward(&mut memories);
        }
        self.sample(batch, &mut outcome.tokens);
        let done = now + start.elapsed();
        outcome.ends.push(done);
        self.flights.depart(outcome);
        Ticket { next: done, done }
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
