//! One worker's executor, with the plans and the KV that are under way there.

use std::collections::VecDeque;
use std::time::Duration;

use crate::event::Event;
use crate::exec::{Executor, Ticket};
use crate::plan::Plan;
use crate::shape::Shape;

/// A worker's executor and its work in progress.
pub(super) struct Lane {
    pub(super) executor: Box<dyn Executor>,
    /// In the order of submission.
    pub(super) flights: VecDeque<Flight>,
    /// When another plan may be submitted.
    pub(super) free: Duration,
    /// When an idle worker wants to look again.
    pub(super) wake: Option<Duration>,
    /// KV on its way here, in order of arrival.
    pub(super) transfers: VecDeque<Duration>,
    /// Events of planning that no iteration has told yet.
    pub(super) events: Vec<Event>,
    /// True if something changed since this worker last had nothing to do.
    pub(super) stale: bool,
}

/// A plan under way.
pub(super) struct Flight {
    pub(super) plan: Plan,
    pub(super) ticket: Ticket,
    pub(super) start: Duration,
    pub(super) shape: Shape,
    /// Tokens of it that had been computed before.
    pub(super) recomputed: u32,
    /// Sequences that waited when it was submitted: others come in its last step only.
    pub(super) waiting: u32,
    /// Events of its planning.
    pub(super) events: Vec<Event>,
}

impl Lane {
    pub(super) fn new(executor: Box<dyn Executor>) -> Self {
        Self {
            executor,
            flights: VecDeque::new(),
            free: Duration::ZERO,
            wake: None,
            transfers: VecDeque::new(),
            events: Vec::new(),
            stale: true,
        }
    }

    /// True if a plan should be made at `now`, where `depth` of them may be in flight.
    pub(super) fn can_start(&self, depth: usize, now: Duration) -> bool {
        self.stale && self.flights.len() < depth && self.free <= now
    }

    /// When something happens here next.
    pub(super) fn next_event(&self, depth: usize) -> Option<Duration> {
        let done = self.flights.front().and_then(|f| f.ticket.done);
        let room = !self.flights.is_empty() && self.flights.len() < depth && self.stale;
        let events = [done, self.transfers.front().copied(), self.wake, room.then_some(self.free)];
        events.into_iter().flatten().min()
    }

    /// True if the plan submitted first is done at `now`.
    pub(super) fn is_done(&self, now: Duration) -> bool {
        self.flights.front().is_some_and(|f| f.ticket.done.is_some_and(|at| at <= now))
    }

    /// True where a request that comes at `at` finds no plan made that will be in flight after it: nothing is in flight,
    /// or its last step, which was planned before that, begins no earlier.
    pub(super) fn sees(&self, at: Duration) -> bool {
        self.flights.is_empty() || self.executor.last_begins().is_some_and(|begins| at <= begins)
    }

    /// Tokens generated before `now` in a stretch that has not been committed.
    pub(super) fn generated(&self, now: Duration) -> u64 {
        let decoding = self.flights.front().map_or(0, |f| f.plan.chunks.len());
        u64::from(self.executor.steps_before(now)) * decoding as u64
    }
}
