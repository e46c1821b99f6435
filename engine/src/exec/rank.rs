//! The simulated executor of a rank of attention: it has a batch of its own and computes it beside the others of its
//! group.
//!
//! Ranks meet at every layer of experts. An iteration takes as long as the slowest of them, and then as long as the
//! experts take with the tokens of all. A rank with nothing to compute takes part with a dummy token.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::cost::CostModel;
use super::flights::Flights;
use super::{Batch, Correction, Executor, Horizon, Outcome, Ticket, Transfer};
use crate::shape::Shape;
use crate::state::State;

/// The largest batch that vLLM captures as a CUDA graph by default. If the batches of all ranks are replayed from
/// graphs, each is as large as the largest of them (`coordinate_batch_across_dp`).
const GRAPH_TOKENS: u32 = 512;

/// One rank of a group.
pub struct RankExecutor {
    group: Arc<Mutex<Group>>,
    flights: Flights,
}

/// The work that the ranks of a group do together.
struct Group {
    cost: Arc<CostModel>,
    correction: Option<Arc<Correction>>,
    ranks: u32,
    /// The batches of those that have any.
    batches: Vec<Shape>,
    start: Duration,
    horizon: Horizon,
    /// When each step ends; none until all have come.
    ends: Vec<Duration>,
}

impl RankExecutor {
    /// The `ranks` ranks of a group, each computing what `cost` says.
    #[must_use]
    pub fn group(
        ranks: u32,
        cost: &Arc<CostModel>,
        correction: Option<&Arc<Correction>>,
    ) -> Vec<Self> {
        let group = Arc::new(Mutex::new(Group {
            cost: Arc::clone(cost),
            correction: correction.cloned(),
            ranks,
            batches: Vec::new(),
            start: Duration::ZERO,
            horizon: Horizon { steps: u32::MAX, until: Duration::MAX },
            ends: Vec::new(),
        }));
        let rank = |_| Self { group: Arc::clone(&group), flights: Flights::default() };
        (0..ranks).map(rank).collect()
    }
}

impl Group {
    /// A rank comes with a batch: to the iteration that begins, or to the next if that is over.
    fn join(&mut self, batch: Shape, now: Duration, horizon: Horizon) {
        if !self.ends.is_empty() {
            self.batches.clear();
            self.ends.clear();
            self.horizon = Horizon { steps: u32::MAX, until: Duration::MAX };
        }
        self.start = now;
        self.batches.push(batch);
        let Horizon { steps, until } = self.horizon;
        self.horizon = Horizon { steps: steps.min(horizon.steps), until: until.min(horizon.until) };
    }

    /// All have come.
    fn compute(&mut self) {
        let mut at = self.start;
        while self.ends.is_empty()
            || ((self.ends.len() as u32) < self.horizon.steps && at < self.horizon.until)
        {
            at += self.step();
            self.ends.push(at);
            for batch in &mut self.batches {
                batch.copied_tokens = 0;
                batch.next_decode();
            }
        }
    }

    fn step(&self) -> Duration {
        let own = |batch: &Shape| match &self.correction {
            None => self.cost.stage_ns(batch),
            Some(correction) => correction.stage_ns(&self.cost, batch),
        };
        let slowest = self.batches.iter().map(own).max().unwrap_or(0);
        Duration::from_nanos(slowest + self.cost.shared_ns(self.tokens()))
    }

    /// Tokens that the experts compute.
    fn tokens(&self) -> u64 {
        let most = self.batches.iter().map(Shape::tokens).max().unwrap_or(0);
        if most <= GRAPH_TOKENS {
            return u64::from(self.ranks) * u64::from(most);
        }
        let idle = u64::from(self.ranks) - self.batches.len() as u64;
        idle + self.batches.iter().map(|batch| u64::from(batch.tokens())).sum::<u64>()
    }
}

impl Executor for RankExecutor {
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, horizon: Horizon) -> Ticket {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        group.join(batch.shape, now, horizon);
        Ticket { next: now, done: None }
    }

    fn wait(&mut self, _: &State, _: Duration, _: Duration) -> Option<Duration> {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if group.ends.is_empty() {
            group.compute();
        }
        let mut outcome = self.flights.outcome();
        outcome.ends.extend_from_slice(&group.ends);
        self.flights.depart(outcome);
        group.ends.last().copied()
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        self.flights.arrive(outcome);
    }

    fn steps_before(&self, at: Duration) -> u32 {
        self.flights.ends().partition_point(|&end| end < at) as u32
    }

    fn transfer(&mut self, _: &Transfer<'_>, now: Duration) -> Duration {
        // Ranks that meet are not disaggregated.
        now
    }
}
