//! The trait of a batching policy.

use std::time::Duration;

use crate::plan::{Plan, Role, WorkerId};
use crate::state::State;

/// A batching policy.
pub trait Scheduler: Send {
    /// Fills `plan` (handed over empty) with `worker`'s next iteration; leaves it empty when there is nothing to do.
    fn plan(&mut self, state: &mut State, worker: WorkerId, now: Duration, plan: &mut Plan);

    /// The part of a request's work that `worker` does. The answer never changes.
    fn role(&self, _worker: WorkerId) -> Role {
        Role::Whole
    }
}
