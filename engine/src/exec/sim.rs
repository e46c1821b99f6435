//! The simulated executor: answers with the time the cost model predicts, in virtual time.
//!
//! Pipeline stages are lanes in a row: a plan enters a stage when it has left the one before and the plan ahead of it
//! has left this one. Bubbles follow from that; they are not computed.

use std::sync::Arc;
use std::time::Duration;

use super::cost::CostModel;
use super::flights::Flights;
use super::{Batch, Correction, Executor, Horizon, Outcome, Ticket, Transfer};
use crate::shape::Shape;
use crate::state::State;

/// One worker of a simulated device.
#[derive(Debug)]
pub struct SimExecutor {
    cost: Arc<CostModel>,
    correction: Option<Arc<Correction>>,
    /// When each pipeline stage is free.
    stages: Vec<Duration>,
    /// When the link that brings KV here is free.
    link: Duration,
    flights: Flights,
    /// The next step of a batch that is not closed, and the steps left of it.
    open: Option<(Shape, u32)>,
    /// True where a step more begins when it is closed.
    ahead: bool,
}

impl SimExecutor {
    /// A worker of `pp` stages, each iteration costing what `cost` says.
    #[must_use]
    pub fn new(cost: Arc<CostModel>, pp: u32) -> Self {
        Self {
            cost,
            correction: None,
            stages: vec![Duration::ZERO; pp as usize],
            link: Duration::ZERO,
            flights: Flights::default(),
            open: None,
            ahead: false,
        }
    }

    /// The same worker, corrected by what calibration found.
    #[must_use]
    pub fn corrected(mut self, correction: Option<Arc<Correction>>) -> Self {
        self.correction = correction;
        self
    }

    fn stage_ns(&self, shape: &Shape) -> u64 {
        match &self.correction {
            None => self.cost.stage_ns(shape),
            Some(correction) => correction.stage_ns(&self.cost, shape),
        }
    }
}

impl Executor for SimExecutor {
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, horizon: Horizon) -> Ticket {
        let mut outcome = self.flights.outcome();
        let mut shape = batch.shape;
        if self.stages.len() == 1 {
            let mut at = now;
            let mut left = horizon.steps;
            let mut ahead = horizon.ahead && !horizon.open;
            loop {
                at += Duration::from_nanos(self.stage_ns(&shape));
                outcome.ends.push(at);
                left -= 1;
                shape.copied_tokens = 0;
                shape.next_decode();
                if left == 0 || (at >= horizon.until && !std::mem::take(&mut ahead)) {
                    break;
                }
            }
            self.open = (horizon.open && left > 0).then_some((shape, left));
            self.ahead = horizon.ahead;
            self.stages[0] = at;
        } else {
            let length = Duration::from_nanos(self.stage_ns(&shape));
            let hop = Duration::from_nanos(self.cost.handoff_ns(shape.tokens()));
            let mut at = now;
            for (i, stage) in self.stages.iter_mut().enumerate() {
                at = if i == 0 { at } else { at + hop }.max(*stage) + length;
                *stage = at;
            }
            outcome.ends.push(at);
        }
        let done = outcome.ends[outcome.ends.len() - 1];
        self.flights.depart(outcome);
        Ticket { next: self.stages[0], done: self.open.is_none().then_some(done) }
    }

    fn wait(&mut self, _: &State, _: Duration, until: Duration) -> Option<Duration> {
        let mut at = self.stages[0];
        while let Some((mut shape, left)) = self.open.filter(|_| at < until) {
            at += Duration::from_nanos(self.stage_ns(&shape));
            self.flights.ends_mut()?.push(at);
            shape.next_decode();
            self.open = (left > 1).then_some((shape, left - 1));
        }
        self.stages[0] = at;
        self.open.is_none().then_some(at)
    }

    fn close(&mut self) -> Option<Duration> {
        if let Some((shape, _)) = self.open.take().filter(|_| self.ahead) {
            let end = self.stages[0] + Duration::from_nanos(self.stage_ns(&shape));
            self.stages[0] = end;
            self.flights.ends_mut()?.push(end);
        }
        self.reached()
    }

    fn reached(&self) -> Option<Duration> {
        self.flights.ends().last().copied()
    }

    fn last_begins(&self) -> Option<Duration> {
        self.flights.ends().iter().nth_back(1).copied()
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        self.flights.arrive(outcome);
    }

    fn steps_before(&self, at: Duration) -> u32 {
        self.flights.ends().partition_point(|&end| end < at) as u32
    }

    fn transfer(&mut self, transfer: &Transfer<'_>, now: Duration) -> Duration {
        let length = Duration::from_nanos(self.cost.kv_transfer_ns(transfer.tokens));
        self.link = self.link.max(now) + length;
        self.link
    }
}
