//! The observer: it adds up iterations, and the time for which KV memory was held, by holder. It changes nothing.

use std::time::Duration;

use super::lane::Flight;
use crate::event::{Event, Iteration};
use crate::kv::waste::{Holding, Ledger};
use crate::plan::WorkerId;
use crate::state::{Refusal, State};

/// The work of all workers together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Iterations.
    pub iterations: u64,
    /// Tokens through the model, padding and recomputation included.
    pub executed: u64,
    /// Tokens computed to fill a static batch.
    pub padded: u64,
    /// Tokens computed before, then lost to a preemption.
    pub recomputed: u64,
    /// Drafted tokens computed.
    pub drafted: u64,
    /// Of these, those that the model said too.
    pub accepted: u64,
    /// Times a request gave way.
    pub preemptions: u64,
    /// Sequence-nanoseconds: sequences in a plan times its length.
    pub batch: u128,
    /// Worker-nanoseconds in iterations.
    pub busy: u128,
    /// Worker-nanoseconds in iterations that filled the token budget.
    pub full: u128,
    /// Worker-nanoseconds in which the head of the queue was refused for want of a seat.
    pub refused_seats: u128,
    /// Worker-nanoseconds in which it was refused for want of KV memory.
    pub refused_kv: u128,
}

/// Totals, and a ledger for each worker.
pub(super) struct Observer {
    pub(super) totals: Totals,
    pub(super) ledgers: Vec<Ledger>,
}

/// A worker as it was during an iteration, before that was committed.
pub(super) struct Before {
    holding: Holding,
    running: u32,
    waiting: u32,
}

impl Observer {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            totals: Totals::default(),
            ledgers: (0..workers).map(|_| Ledger::default()).collect(),
        }
    }

    /// Looks at `worker` as it is.
    pub(super) fn look(state: &State, worker: WorkerId) -> Before {
        let (running, waiting) = (state.workers[worker].running.len(), state.waiting.len());
        let holding = state.holding(worker);
        Before { holding, running: running as u32, waiting: waiting as u32 }
    }

    /// Brings the ledger of `worker` up to `now`: its memory has not changed since it was last brought up.
    pub(super) fn advance(&mut self, state: &State, worker: WorkerId, now: Duration) {
        let Before { holding, running, waiting } = Self::look(state, worker);
        self.ledgers[worker].advance(now, holding, running, waiting);
    }

    /// `flight` has been committed as `iteration`; `before` that, its worker was so.
    pub(super) fn iteration(
        &mut self,
        state: &State,
        before: &Before,
        flight: &Flight,
        iteration: &Iteration,
    ) {
        let &Before { holding, running, waiting } = before;
        let (worker, ends) = (iteration.worker, &iteration.ends);
        let sequences = flight.plan.chunks.len();
        let ledger = &mut self.ledgers[worker];
        ledger.stretch(
            ends,
            holding,
            sequences as u64,
            state.growth(),
            running,
            (flight.waiting, waiting),
        );

        let length = (ends[ends.len() - 1] - flight.start).as_nanos();
        let (t, steps) = (&mut self.totals, ends.len() as u64);
        let executed = u64::from(flight.shape.tokens());
        let preempted = |e: &&Event| matches!(e, Event::Preempted { .. });
        t.preemptions += iteration.events.iter().filter(preempted).count() as u64;
        t.iterations += steps;
        t.drafted += u64::from(iteration.drafted);
        t.accepted += u64::from(iteration.accepted);
        t.executed += executed * steps;
        t.padded += executed.saturating_sub(u64::from(flight.plan.tokens)) * steps;
        t.recomputed += u64::from(flight.recomputed);
        t.batch += length * sequences as u128;
        t.busy += length;
        if flight.shape.tokens() >= state.config.max_batch_tokens {
            t.full += length;
        }
        match state.workers[worker].refusal {
            Refusal::None => {}
            Refusal::Seats => t.refused_seats += length,
            Refusal::Kv => t.refused_kv += length,
        }
    }
}
