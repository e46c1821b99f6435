//! The executors of plans: the one seam between deciding and doing.
//!
//! Two calls, not one, because a worker may have several plans in flight: pipeline stages, host scheduling overlapped
//! with the device. A predicting executor knows when it will be done; a real one is asked to wait.

mod attention;
mod correction;
pub mod cost;
pub mod cpu;
pub mod cuda;
mod experts;
mod flights;
mod forward;
mod graph;
mod hash;
mod launch;
mod rank;
mod ranks;
mod shared;
mod sim;
pub mod speed;

use std::sync::Arc;
use std::time::Duration;

pub use correction::Correction;
pub use cpu::{CpuExecutor, CpuPipeline};
pub use cuda::CudaExecutor;
pub use forward::{Greedy, Measured, Part, Sample, Spent, Work};
pub use hash::HashExecutor;
pub use rank::RankExecutor;
pub use sim::SimExecutor;

use crate::fault::Fault;
use crate::kv::KvCopy;
use crate::plan::{Plan, WorkerId};
use crate::request::Token;
use crate::sequence::SeqId;
use crate::shape::Shape;
use crate::state::State;

/// A plan with what it refers to.
pub struct Batch<'a> {
    /// The worker whose plan it is.
    pub worker: WorkerId,
    /// The chunks.
    pub plan: &'a Plan,
    /// Their sequences and tables.
    pub state: &'a State,
    /// The work, padding included.
    pub shape: Shape,
    /// Keys and values to copy first.
    pub copies: &'a [KvCopy],
}

/// KV on its way from one worker to another. Both tables exist; of the receiver's, the leading tokens it found in its
/// own prefix cache stay as they are.
pub struct Transfer<'a> {
    /// The sequence and its tables.
    pub state: &'a State,
    /// The sequence whose KV it is.
    pub seq: SeqId,
    /// Sender.
    pub from: WorkerId,
    /// Receiver.
    pub to: WorkerId,
    /// Tokens to move: the last ones of those computed.
    pub tokens: u32,
}

/// The point to which an executor may repeat a batch before it has to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// Most repetitions.
    pub steps: u32,
    /// No step begins at or after this.
    pub until: Duration,
    /// True where that is only how far the future is known: the batch goes on from there as far as [`Executor::wait`]
    /// says, until it is closed ([`Executor::close`]).
    pub open: bool,
    /// True where one step may begin after that, or after the batch is closed: it was planned before.
    pub ahead: bool,
}

/// A batch under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// When the worker can take another batch.
    pub next: Duration,
    /// When the batch is done; none where that is only known when it is ([`Executor::wait`]).
    pub done: Option<Duration>,
}

/// The outcome of a batch.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// When each step ended.
    pub ends: Vec<Duration>,
    /// Sampled tokens in the order of chunks, when they are real.
    pub tokens: Vec<Token>,
}

/// Tells the thread that waits for a batch to look again.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Runs iterations of one worker.
pub trait Executor: Send {
    /// Starts `batch` at `now`.
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, horizon: Horizon) -> Ticket;

    /// Waits from `now` on until the batch submitted first is done, but not beyond `until`; returns when it was. Only an
    /// executor that did not say so when it took the batch is asked.
    fn wait(&mut self, _state: &State, _now: Duration, _until: Duration) -> Option<Duration> {
        None
    }

    /// No step of the batch submitted first begins any more but one planned before ([`Horizon::ahead`]); returns when the
    /// last one ends. None of an executor that takes no open batches.
    fn close(&mut self) -> Option<Duration> {
        None
    }

    /// When the last step ends that is known of an open batch submitted first.
    fn reached(&self) -> Option<Duration> {
        None
    }

    /// When the last step of the batch submitted first begins, where another step was before it. None of an executor
    /// that begins no step ahead.
    fn last_begins(&self) -> Option<Duration> {
        None
    }

    /// Sets the waker that is called whenever a batch is done that [`Executor::wait`] has to be asked about.
    fn wake_by(&mut self, _wake: Wake) {}

    /// The reason for which nothing can be done any more, from the moment when that is so: work that is not done never
    /// will be, and is not asked for. Looked at after every batch, wait and transfer.
    fn fault(&self) -> Option<&Fault> {
        None
    }

    /// Ends the batch submitted first, which is done, into `outcome` (handed over empty).
    fn complete(&mut self, outcome: &mut Outcome);

    /// Steps of the batch submitted first that ended before `at`; only an executor that repeats batches is asked.
    fn steps_before(&self, _at: Duration) -> u32 {
        0
    }

    /// Starts to receive KV from another worker; returns when it will have arrived.
    fn transfer(&mut self, transfer: &Transfer<'_>, now: Duration) -> Duration;
}
