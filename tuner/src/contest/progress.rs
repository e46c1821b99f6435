//! How a long search tells whoever waits how far it is. Drawing bars and estimating the time left is theirs.

use std::sync::atomic::{AtomicBool, Ordering};

/// What the search is about.
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
    /// How far it is.
    fn update(&self, status: &Status);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _: &Status) {}
}

/// What accompanies every long operation: whom to tell, and whether to end early.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Whom to tell.
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
