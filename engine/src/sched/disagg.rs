//! Disaggregated serving (DistServe, OSDI '24; Splitwise, ISCA '24): some workers only prefill, others only decode,
//! and KV moves between them. A prefilled sequence keeps its KV on the prefill worker until a decode worker has room
//! to pull it: unpulled KV is the back-pressure.

use std::time::Duration;

use super::Scheduler;
use crate::plan::{Plan, WorkerId};
use crate::state::State;

/// See the module.
#[derive(Debug, Default)]
pub struct Disagg;

impl Scheduler for Disagg {
    fn plan(&mut self, state: &mut State, worker: WorkerId, now: Duration, plan: &mut Plan) {
        if worker >= state.config.prefill_workers as usize {
            // Who runs grows before anyone joins: a pull must not take what a preemption then has to find.
            state.extend(worker, plan, u32::MAX, true, |s| s.todo());
            while !plan.full && state.pull(worker, plan).is_some() {}
            return;
        }
        let budget = state.config.max_batch_tokens;
        state.extend(worker, plan, budget, false, |s| s.todo());
        while !plan.full && plan.tokens < budget {
            let n = budget - plan.tokens;
            if state.admit(worker, plan, n, now).is_none() {
                break;
            }
        }
    }
}
