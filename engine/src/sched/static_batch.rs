//! Static batching (FasterTransformer): a batch is formed when nothing runs, its prompts are computed in passes
//! within the token budget, then all decode in step until the last member ends. Members that end early keep their
//! seats and their KV; with padding they are even computed. The baseline the other policies are measured against.

use std::time::Duration;

use super::Scheduler;
use crate::plan::{Chunk, Plan, WorkerId};
use crate::state::State;

/// See the module.
#[derive(Debug, Default)]
pub struct StaticBatch {
    /// When the queue was first seen waiting, by worker.
    since: Vec<Option<Duration>>,
    /// Arrivals of the batch's members with the length at which they joined, by worker.
    joined: Vec<Vec<(u64, u32)>>,
}

impl StaticBatch {
    /// The instant until which an idle worker waits for a fuller batch; none if the wait is over.
    fn waits(&mut self, state: &State, worker: WorkerId, now: Duration) -> Option<Duration> {
        self.since.resize(state.workers.len(), None);
        self.joined.resize(state.workers.len(), Vec::new());
        let full = state.waiting.len() >= state.config.max_seqs as usize;
        if state.waiting.is_empty() || full || state.config.max_wait.is_zero() {
            self.since[worker] = None;
            return None;
        }
        let until = *self.since[worker].get_or_insert(now) + state.config.max_wait;
        if until > now {
            return Some(until);
        }
        self.since[worker] = None;
        None
    }
}

impl Scheduler for StaticBatch {
    fn plan(&mut self, state: &mut State, worker: WorkerId, now: Duration, plan: &mut Plan) {
        let budget = state.config.max_batch_tokens;
        if state.workers[worker].running.is_empty() {
            plan.wake = self.waits(state, worker, now);
            if plan.wake.is_some() {
                return;
            }
            while state.admit(worker, plan, 0, now).is_some() {}
            let members = state.workers[worker].running.iter();
            self.joined[worker].clear();
            let member = members.map(|&id| (state.seq(id).ticket, state.seq(id).len));
            self.joined[worker].extend(member);
        }
        state.extend(worker, plan, budget, true, |s| if s.decodes() { 0 } else { s.todo() });
        let prefills = !plan.is_idle();
        if !prefills {
            state.extend(worker, plan, u32::MAX, true, |s| s.todo());
        }
        if state.config.padding && !plan.is_idle() {
            pad(state, worker, plan, prefills, &self.joined[worker]);
        }
    }
}

/// Every seat costs as much as the longest: prompts of one pass each other's length, decodes the batch's longest
/// prompt plus the steps made (rows are padded on the left), for ended members too. A member that was preempted out
/// of an earlier batch joined with more than its prompt.
fn pad(state: &State, worker: WorkerId, plan: &mut Plan, prefills: bool, joined: &[(u64, u32)]) {
    if prefills {
        plan.seats = plan.chunks.len() as u32;
        plan.padded_to = plan.chunks.iter().map(|c| c.n).max().unwrap_or(0);
        return;
    }
    plan.seats = state.workers[worker].running.len() as u32;
    let longest = joined.iter().map(|j| j.1).max().unwrap_or(0);
    let padded_to = |chunk: &Chunk| {
        let seq = state.seq(chunk.seq);
        let own = joined.iter().filter(|j| j.0 == seq.ticket).map(|j| j.1);
        let started = own.min().unwrap_or(seq.prompt);
        longest.max(started) + seq.len + seq.drafted - started
    };
    // Members are in step, unless drafts bring some further than others.
    let different = if state.config.speculates() { plan.chunks.len() } else { 1 };
    plan.padded_to = plan.chunks.iter().take(different).map(padded_to).max().unwrap_or(0);
}
