//! Progress of a search, added up over races that go on side by side.

use crate::contest::progress::{Progress, Status};
use std::sync::{Mutex, PoisonError};

/// Counts candidates whose fate is known.
pub(super) struct Tally<'a> {
    progress: &'a dyn Progress,
    total: usize,
    so_far: Mutex<SoFar>,
}

#[derive(Default)]
struct SoFar {
    done: usize,
    best: Option<(f64, String)>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(progress: &'a dyn Progress, total: usize) -> Self {
        Self { progress, total, so_far: Mutex::default() }
    }

    /// Of one race, `done` more are decided, and `best` leads it.
    pub(super) fn note(&self, done: usize, best: Option<(f64, String)>) {
        let mut so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        so_far.done = (so_far.done + done).min(self.total);
        if let Some(new) = best
            && so_far.best.as_ref().is_none_or(|old| new.0 > old.0)
        {
            so_far.best = Some(new);
        }
        let (done, best) = (so_far.done, so_far.best.clone());
        let phase = "searching".to_owned();
        self.progress.update(&Status { phase, done, total: self.total, best });
    }
}
