//! Steps that tensor-parallel ranks take together: the one seam between them.

use std::sync::{Barrier, Mutex, PoisonError};

/// Puts ranks' columns side by side. Every rank makes the same calls in the same order.
pub(super) trait Collective: Sync {
    /// Fills `whole`, some rows, with all ranks' columns in the order of ranks; `part` is this rank's.
    fn gather(&self, rank: usize, part: &[f32], rows: usize, whole: &mut [f32]);
}

/// A rank that is alone.
#[derive(Debug)]
pub(super) struct Alone;

impl Collective for Alone {
    fn gather(&self, _rank: usize, part: &[f32], _rows: usize, whole: &mut [f32]) {
        whole.copy_from_slice(part);
    }
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
    fn gather(&self, rank: usize, part: &[f32], rows: usize, whole: &mut [f32]) {
        let of = |rank: usize| self.parts[rank].lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut own = of(rank);
            own.clear();
            own.extend_from_slice(part);
        }
        self.all.wait();
        let (width, all) = (part.len() / rows.max(1), whole.len() / rows.max(1));
        for rank in 0..self.parts.len() {
            let part = of(rank);
            let columns = rank * width..(rank + 1) * width;
            for (to, from) in whole.chunks_exact_mut(all).zip(part.chunks_exact(width)) {
                to[columns.clone()].copy_from_slice(from);
            }
        }
        // No rank writes the next part before all have read this one.
        self.all.wait();
    }
}
