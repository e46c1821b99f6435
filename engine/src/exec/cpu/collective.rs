//! What tensor-parallel ranks do together: the one seam between them.

use std::sync::{Barrier, Mutex, PoisonError};

/// Sums over ranks. Every rank makes the same calls in the same order.
pub(super) trait Collective: Sync {
    /// Replaces `part` by the sum of all ranks' parts, in the order of ranks: the same bits on each.
    fn sum(&self, rank: usize, part: &mut [f32]);
}

/// A rank that is alone.
#[derive(Debug)]
pub(super) struct Alone;

impl Collective for Alone {
    fn sum(&self, _rank: usize, _part: &mut [f32]) {}
}

/// Ranks that share memory: each writes its part where all can read it.
#[derive(Debug)]
pub(super) struct SharedMemory {
    parts: Vec<Mutex<Vec<f32>>>,
    all: Barrier,
}

impl SharedMemory {
    pub(super) fn new(ranks: usize) -> Self {
        let parts = (0..ranks).map(|_| Mutex::default()).collect();
        Self { parts, all: Barrier::new(ranks) }
    }
}

impl Collective for SharedMemory {
    fn sum(&self, rank: usize, part: &mut [f32]) {
        let read = |rank: usize| self.parts[rank].lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut own = read(rank);
            own.clear();
            own.extend_from_slice(part);
        }
        self.all.wait();
        part.fill(0.0);
        for rank in 0..self.parts.len() {
            part.iter_mut().zip(read(rank).iter()).for_each(|(sum, x)| *sum += x);
        }
        // Nobody writes the next part before all have read this one.
        self.all.wait();
    }
}
