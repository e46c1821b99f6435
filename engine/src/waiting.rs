//! The queue of those not running, in the chosen order.
//!
//! Every order is a key; ties go to the earlier arrival. A preempted sequence keeps its arrival, so it comes back to
//! the place it had.

use std::collections::BTreeSet;

use crate::config::QueueOrder;
use crate::sequence::{SeqId, Sequence};

/// Sequences waiting to be admitted, next one first.
#[derive(Debug)]
pub struct Waiting {
    order: QueueOrder,
    entries: BTreeSet<(i64, u64, SeqId)>,
}

impl Waiting {
    /// An empty queue.
    #[must_use]
    pub fn new(order: QueueOrder) -> Self {
        Self { order, entries: BTreeSet::new() }
    }

    /// Puts `seq` into its place; `cached` is the number of its tokens that the prefix cache holds now.
    pub fn insert(&mut self, id: SeqId, seq: &Sequence, cached: u32) {
        let key = match self.order {
            QueueOrder::Fcfs => 0,
            QueueOrder::Priority => -i64::from(seq.priority),
            QueueOrder::ShortestPrefill => i64::from(seq.len),
            QueueOrder::LongestPrefix => -i64::from(cached),
        };
        self.entries.insert((key, seq.ticket, id));
    }

    /// True where the order depends on what is cached.
    #[must_use]
    pub fn wants_cached(&self) -> bool {
        self.order == QueueOrder::LongestPrefix
    }

    /// The next sequence to admit.
    #[must_use]
    pub fn head(&self) -> Option<SeqId> {
        self.entries.first().map(|e| e.2)
    }

    /// Takes the head out.
    pub fn pop(&mut self) -> Option<SeqId> {
        self.entries.pop_first().map(|e| e.2)
    }

    /// Takes `id` out, wherever it is.
    pub fn remove(&mut self, id: SeqId) {
        self.entries.retain(|e| e.2 != id);
    }

    /// The number of sequences that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True where none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
