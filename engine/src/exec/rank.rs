//! The simulated executor of a rank of attention: it has a batch of its own and computes it beside the others of its
//! group.
//!
//! Ranks meet at every layer of experts. An iteration takes as long as the slowest of them, and then as long as the
//! experts take with the tokens of all. A rank with nothing to compute takes part with a dummy token.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cost::CostModel;
use super::{Batch, Correction, Executor, Horizon, Outcome, Ticket, Transfer, graph};
use crate::shape::Shape;
use crate::state::State;

/// One rank of a group.
pub struct RankExecutor {
    group: Arc<Mutex<Group>>,
    rank: usize,
}

/// The work that the ranks of a group do together.
struct Group {
    cost: Arc<CostModel>,
    correction: Option<Arc<Correction>>,
    /// The batch of each rank, if it has one.
    batches: Vec<Option<Joined>>,
    /// When the last step ends that they have computed.
    at: Duration,
    /// Lists of ends that have been read.
    spare: Vec<Vec<Duration>>,
}

/// The batch of a rank.
struct Joined {
    /// The work of its next step.
    shape: Shape,
    /// As it was handed over, less the steps that are done.
    horizon: Horizon,
    /// When each step ends.
    ends: Vec<Duration>,
    /// True where the step that was planned ahead is the next, and the last.
    closing: bool,
    /// True where no further step begins.
    over: bool,
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
            batches: (0..ranks).map(|_| None).collect(),
            at: Duration::ZERO,
            spare: Vec::new(),
        }));
        let rank = |rank| Self { group: Arc::clone(&group), rank };
        (0..ranks as usize).map(rank).collect()
    }

    fn group_of(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Steps of all that have come, until one of them is over, or a step that needs nobody new would begin at or after
    /// `until`.
    fn compute(&mut self, until: Duration) {
        loop {
            let mut come = self.batches.iter().flatten();
            let fresh = come.clone().any(|batch| batch.ends.is_empty());
            if come.any(|batch| batch.over) || !(fresh || self.at < until) {
                return;
            }
            self.at += self.step();
            let mut any = false;
            for batch in self.batches.iter_mut().flatten() {
                batch.ends.push(self.at);
                batch.horizon.steps -= 1;
                let Horizon { steps, until, open, .. } = batch.horizon;
                batch.over = steps == 0 || (!open && self.at >= until);
                any |= batch.over;
                batch.shape.copied_tokens = 0;
                batch.shape.next_decode();
            }
            let closed = self.batches.iter_mut().flatten().filter(|batch| !batch.horizon.open);
            closed.for_each(|batch| batch.over |= any);
        }
    }

    fn step(&self) -> Duration {
        let shared = self.cost.shared_ns(self.tokens());
        let own = |batch: &Shape| match &self.correction {
            None => self.cost.rank_ns(batch, shared),
            Some(correction) => correction.stage_ns(&self.cost, batch) + shared,
        };
        Duration::from_nanos(self.shapes().map(own).max().unwrap_or(shared))
    }

    fn shapes(&self) -> impl Iterator<Item = &Shape> {
        self.batches.iter().flatten().map(|batch| &batch.shape)
    }

    /// Tokens that the experts compute. If the batches of all ranks are replayed from graphs, each is as large as the
    /// largest of them (vLLM's `coordinate_batch_across_dp`).
    fn tokens(&self) -> u64 {
        let most = self.shapes().map(Shape::tokens).max().unwrap_or(0);
        if most <= graph::MOST_TOKENS {
            return self.batches.len() as u64 * graph::filled(f64::from(most)) as u64;
        }
        let own = |batch: &Option<Joined>| batch.as_ref().map_or(1, |b| b.shape.tokens());
        self.batches.iter().map(|batch| u64::from(own(batch))).sum()
    }
}

impl Executor for RankExecutor {
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, horizon: Horizon) -> Ticket {
        let mut group = self.group_of();
        let mut ends = group.spare.pop().unwrap_or_default();
        ends.clear();
        group.at = now;
        let joined = Joined { shape: batch.shape, horizon, ends, closing: false, over: false };
        group.batches[self.rank] = Some(joined);
        Ticket { next: now, done: None }
    }

    fn wait(&mut self, _: &State, _: Duration, until: Duration) -> Option<Duration> {
        let mut group = self.group_of();
        group.compute(until);
        let own = group.batches[self.rank].as_ref();
        own.filter(|batch| batch.over).and_then(|batch| batch.ends.last().copied())
    }

    fn close(&mut self) -> Option<Duration> {
        let mut group = self.group_of();
        let own = group.batches[self.rank].as_mut().filter(|batch| !batch.ends.is_empty())?;
        // A batch that has no step left is over already.
        if own.horizon.ahead && !own.over {
            (own.closing, own.horizon.steps) = (true, 1);
            return None;
        }
        own.over = true;
        own.ends.last().copied()
    }

    fn last_begins(&self) -> Option<Duration> {
        let group = self.group_of();
        let own = group.batches[self.rank].as_ref().filter(|batch| batch.closing)?;
        own.ends.iter().nth_back(usize::from(own.over)).copied()
    }

    fn reached(&self) -> Option<Duration> {
        Some(self.group_of().at)
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        let mut group = self.group_of();
        let own = group.batches[self.rank].take().expect("a batch was submitted");
        let read = std::mem::replace(&mut outcome.ends, own.ends);
        group.spare.push(read);
    }

    fn steps_before(&self, at: Duration) -> u32 {
        let group = self.group_of();
        let own = group.batches[self.rank].as_ref();
        own.map_or(0, |batch| batch.ends.partition_point(|&end| end < at) as u32)
    }

    fn transfer(&mut self, _: &Transfer<'_>, now: Duration) -> Duration {
        // Ranks that meet are not disaggregated.
        now
    }
}
