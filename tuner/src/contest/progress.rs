//! Progress reports of a long search. The receiver draws bars and estimates the time left.

use std::sync::atomic::{AtomicBool, Ordering};

/// The state of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// A few words: `searching`.
    pub phase: String,
    /// Candidates of this phase dealt with.
    pub done: usize,
    /// Candidates of this phase.
    pub total: usize,
    /// The best so far, on whatever part of the trace it was tried: its rate, requests/s, and its label.
    pub best: Option<(f64, String)>,
}

/// Told between batches of runs, from whichever thread made them.
pub trait Progress: Sync {
    /// Takes the state of the search.
    fn update(&self, status: &Status);
}

/// Drops every report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _: &Status) {}
}

/// The companion of every long operation: the receiver of its progress, and the flag that ends it
/// early.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// The receiver of its progress.
    pub progress: &'a dyn Progress,
    /// Set from outside (Ctrl-C): no further run is started, those under way end, what is known is returned.
    pub cancel: &'a AtomicBool,
}

impl Watch<'_> {
    /// True where to end.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}
