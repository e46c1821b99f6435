//! Batching policies: who takes part in the next iteration, with how many tokens.
//!
//! A policy is a short file over the verbs of [`State`]. It touches neither lists nor allocators, and the same code
//! decides in simulation and live.

mod chunked;
mod continuous;
mod disagg;
mod static_batch;

use std::time::Duration;

pub use chunked::Chunked;
pub use continuous::Continuous;
pub use disagg::Disagg;
pub use static_batch::StaticBatch;

use crate::plan::{Plan, WorkerId};
use crate::state::State;

/// A batching policy.
pub trait Scheduler: Send {
    /// Fills `plan` (handed over empty) with `worker`'s next iteration; leaves it empty when there is nothing to do.
    fn plan(&mut self, state: &mut State, worker: WorkerId, now: Duration, plan: &mut Plan);
}
