//! Disaggregated serving (DistServe, OSDI '24; Splitwise, ISCA '24): some workers only prefill, others only decode,
//! and KV moves between them. A prefilled sequence keeps its KV on the prefill worker until a decode worker has room
//! to pull it: unpulled KV is the back-pressure.

use std::time::Duration;

use super::Scheduler;
use crate::plan::{Plan, Role, WorkerId};
use crate::state::State;

/// See the module.
#[derive(Debug)]
pub struct Disagg {
    prefill_workers: usize,
}

impl Disagg {
    /// The first `prefill_workers` workers prefill, the others decode.
    #[must_use]
    pub fn new(prefill_workers: u32) -> Self {
        Self { prefill_workers: prefill_workers as usize }
    }
}

impl Scheduler for Disagg {
    fn plan(&mut self, state: &mut State, worker: WorkerId, now: Duration, plan: &mut Plan) {
        if self.role(worker) == Role::Decode {
            // Running sequences grow before any joins: a pull must not take memory that a preemption then has to find.
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

    fn role(&self, worker: WorkerId) -> Role {
        if worker < self.prefill_workers { Role::Prefill } else { Role::Decode }
    }
}
