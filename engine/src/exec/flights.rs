//! Batches that were submitted and not yet completed, in order; and used outcomes, whose memory serves again.

use std::collections::VecDeque;
use std::time::Duration;

use super::Outcome;

/// The work that an executor has in flight.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flying: VecDeque<Outcome>,
    spare: Vec<Outcome>,
}

impl Flights {
    /// An empty outcome to fill.
    pub(super) fn outcome(&mut self) -> Outcome {
        let mut outcome = self.spare.pop().unwrap_or_default();
        outcome.ends.clear();
        outcome.tokens.clear();
        outcome
    }

    /// A batch is on its way.
    pub(super) fn depart(&mut self, outcome: Outcome) {
        self.flying.push_back(outcome);
    }

    /// The first to depart arrives; `outcome` is the one before, which has been read.
    ///
    /// # Panics
    /// When none is on its way.
    pub(super) fn arrive(&mut self, outcome: &mut Outcome) {
        let ready = self.flying.pop_front().expect("a batch was submitted");
        self.spare.push(std::mem::replace(outcome, ready));
    }

    /// When the iterations of the first to arrive end, to be added to.
    pub(super) fn ends_mut(&mut self) -> Option<&mut Vec<Duration>> {
        self.flying.front_mut().map(|outcome| &mut outcome.ends)
    }

    /// When the iterations of the first to arrive end.
    pub(super) fn ends(&self) -> &[Duration] {
        self.flying.front().map_or(&[], |outcome| &outcome.ends)
    }
}
