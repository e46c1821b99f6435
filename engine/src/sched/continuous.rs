//! Continuous batching (Orca, OSDI '22; vLLM V0): whole prompts are admitted between decode iterations, and a
//! sequence leaves the moment it ends. Prompts run in iterations of their own unless `mix` is on.

use std::time::Duration;

use super::Scheduler;
use crate::plan::{Plan, WorkerId};
use crate::state::State;

/// See the module.
#[derive(Debug, Default)]
pub struct Continuous;

impl Scheduler for Continuous {
    fn plan(&mut self, state: &mut State, worker: WorkerId, now: Duration, plan: &mut Plan) {
        let budget = state.config.max_batch_tokens;
        if state.config.mix {
            state.extend(worker, plan, budget, true, |s| s.todo());
        }
        // The budget bounds the prompts of an iteration; one above it runs as its only prompt. A preempted
        // sequence comes back in a later iteration.
        let decodes = plan.tokens;
        while let Some(todo) = state.head_todo() {
            let prompts = plan.tokens - decodes;
            let fits = prompts == 0 || prompts.saturating_add(todo) <= budget;
            if plan.full || !fits || state.admit(worker, plan, u32::MAX, now).is_none() {
                break;
            }
        }
        if plan.is_idle() {
            state.extend(worker, plan, u32::MAX, true, |s| s.todo());
        }
    }
}
