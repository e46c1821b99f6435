//! Batching policies: they choose the sequences of the next iteration, and the tokens of each.
//!
//! A policy is a short file over the three verbs of [`State`]: `admit`, `extend`, `pull`. It touches neither lists nor
//! allocators, and the same code decides in simulation and live. The state does not know which policy it serves. What
//! others have to know of a policy is its row in [`crate::config::SchedulerKind::traits`].

mod chunked;
mod continuous;
mod disagg;
mod static_batch;

use std::time::Duration;

pub use chunked::Chunked;
pub use continuous::Continuous;
pub use disagg::Disagg;
pub use static_batch::StaticBatch;

use crate::config::{Config, SchedulerKind};
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

/// The scheduler that `config` names.
#[must_use]
pub fn of(config: &Config) -> Box<dyn Scheduler> {
    match config.scheduler {
        SchedulerKind::Static => Box::new(StaticBatch::default()),
        SchedulerKind::Continuous => Box::new(Continuous),
        SchedulerKind::Chunked => Box::new(Chunked),
        SchedulerKind::Disagg => Box::new(Disagg::new(config.prefill_workers)),
    }
}
