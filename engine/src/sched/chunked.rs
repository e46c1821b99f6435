//! Chunked prefill (Sarathi-Serve, OSDI '24; FastGen's SplitFuse; vLLM V1): every iteration fills one token budget,
//! decodes first, then prompts under way, then newcomers, so that a long prompt never stops the others' tokens.

use std::time::Duration;

use super::Scheduler;
use crate::plan::{Plan, WorkerId};
use crate::state::State;

/// See the module.
#[derive(Debug, Default)]
pub struct Chunked;

impl Scheduler for Chunked {
    fn plan(&mut self, state: &mut State, worker: WorkerId, now: Duration, plan: &mut Plan) {
        let budget = state.config.max_batch_tokens;
        state.extend(worker, plan, budget, false, |s| if s.decodes() { s.todo() } else { 0 });
        let cap = prompt_share(state, worker);
        let prefill =
            |s: &crate::sequence::Sequence| if s.decodes() { 0 } else { s.todo().min(cap) };
        state.extend(worker, plan, budget, false, prefill);
        // A sequence preempted a moment ago must not see a newcomer take the memory it gave up.
        while !plan.full && plan.tokens < budget {
            let n = (budget - plan.tokens).min(prompt_share(state, worker));
            if state.admit(worker, plan, n, now).is_none() {
                break;
            }
        }
    }
}

/// Most tokens one prompt may take: all of the budget while it is alone.
fn prompt_share(state: &State, worker: WorkerId) -> u32 {
    let others = state.workers[worker].running.len() + state.waiting.len() > 1;
    match state.config.long_prefill_threshold {
        0 => u32::MAX,
        cap if others => cap,
        _ => u32::MAX,
    }
}
