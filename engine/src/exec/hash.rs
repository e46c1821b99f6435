//! A model small enough to reason about: the next token is a hash of the context, read back through the block table.
//!
//! It keeps a real KV memory of one word per slot. Every mistake of a scheduler or an allocator (a block handed to two
//! writers, a prefix hit on an unwritten block, a missed copy, a token computed twice or never) changes the context it
//! reads and so the tokens it returns. Every step takes the same time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Batch, Executor, Horizon, Outcome, Ticket, Transfer};
use crate::request::{Token, mix};

/// The KV memory of all workers, so that one can receive from another.
pub(super) type Memory = Arc<Mutex<Vec<Vec<Token>>>>;

/// See the module.
#[derive(Debug)]
pub struct HashExecutor {
    memory: Memory,
    step: Duration,
    flights: VecDeque<Outcome>,
}

impl HashExecutor {
    /// Workers with these `slots` of KV each, whose steps all take `step`.
    #[must_use]
    pub fn workers(slots: &[u32], step: Duration) -> Vec<Self> {
        let empty = slots.iter().map(|&n| vec![Token::MAX; n as usize]).collect();
        let memory = Arc::new(Mutex::new(empty));
        let worker = |_| Self { memory: Arc::clone(&memory), step, flights: VecDeque::new() };
        slots.iter().map(worker).collect()
    }

    /// The model's token after `context` on `branch`, as a reference without any cache computes it.
    pub fn next_token(context: impl Iterator<Item = Token>, branch: u16) -> Token {
        let seed = u64::from(branch) + 1;
        (context.fold(seed, |h, t| mix(h, u64::from(t))) % 50_000) as Token
    }
}

impl Executor for HashExecutor {
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, _horizon: Horizon) -> Ticket {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = &mut memory[batch.worker];
        for copy in batch.copies {
            let from = copy.from as usize;
            memory.copy_within(from..from + copy.len as usize, copy.to as usize);
        }
        let worker = &batch.state.workers[batch.worker];
        let mut outcome = Outcome { ends: vec![now + self.step], tokens: Vec::new() };
        for chunk in &batch.plan.chunks {
            let seq = batch.state.seq(chunk.seq);
            let table = worker.kv.table(chunk.seq);
            let end = seq.computed + chunk.n;
            for (at, token) in (seq.computed..end).zip(seq.tokens_in(seq.computed, end)) {
                memory[table.slot(at) as usize] = token;
            }
            if seq.drafted > 0 {
                for at in seq.len..=end {
                    let context = (0..at).map(|at| memory[table.slot(at) as usize]);
                    let token = Self::next_token(context, seq.branch);
                    outcome.tokens.push(token);
                    if seq.draft.tokens.get((at - seq.len) as usize) != Some(&token) {
                        break;
                    }
                }
            } else if seq.samples_after(end) && seq.len < seq.end {
                let branches = if seq.forks() { 0..seq.width } else { seq.branch..seq.branch + 1 };
                let context = || (0..end).map(|at| memory[table.slot(at) as usize]);
                outcome.tokens.extend(branches.map(|b| Self::next_token(context(), b)));
            }
        }
        self.flights.push_back(outcome);
        Ticket { next: now + self.step, done: Some(now + self.step) }
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        *outcome = self.flights.pop_front().expect("a batch was submitted");
    }

    fn transfer(&mut self, t: &Transfer<'_>, now: Duration) -> Duration {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let table = |worker: usize| t.state.workers[worker].kv.table(t.seq);
        let computed = t.state.seq(t.seq).computed;
        for at in computed - t.tokens..computed {
            memory[t.to][table(t.to).slot(at) as usize] =
                memory[t.from][table(t.from).slot(at) as usize];
        }
        now + self.step
    }
}
