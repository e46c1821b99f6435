//! Batching policies: they choose the sequences of the next iteration, and the tokens of each.
//!
//! A policy is a short file over the three verbs of [`State`](crate::state::State): `admit`, `extend`, `pull`. It touches
//! neither lists nor allocators, and the same code decides in simulation and live. The state does not know its policy.
//! Everything that others have to know of a policy is its row in [`crate::config::SchedulerKind::traits`].

mod chunked;
mod continuous;
mod disagg;
mod scheduler;
mod static_batch;

pub use chunked::Chunked;
pub use continuous::Continuous;
pub use disagg::Disagg;
pub use scheduler::Scheduler;
pub use static_batch::StaticBatch;

use crate::config::{Config, SchedulerKind};

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
