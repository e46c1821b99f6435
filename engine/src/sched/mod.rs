//! Batching policies: they choose the sequences of the next iteration, and the tokens of each.
//!
//! A policy is a short file over the three verbs of [`State`]: `admit`, `extend`, `pull`. It touches neither lists nor
//! allocators, and the same code decides in simulation and live. The state does not know which policy it serves; the
//! two answers it needs apart from plans are [`Scheduler::role`] and [`Scheduler::closes_batches`].

mod chunked;
mod continuous;
mod disagg;
mod static_batch;

use std::time::Duration;

pub use chunked::Chunked;
pub use continuous::Continuous;
pub use disagg::Disagg;
pub use static_batch::StaticBatch;

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

    /// True if batches are closed: nobody joins one that runs, and members that end keep their seats and memory until
    /// all have. The answer never changes.
    fn closes_batches(&self) -> bool {
        false
    }
}
