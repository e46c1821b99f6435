//! Where the time of a pass goes, operator by operator: what profiles of this machine are fitted to.
//!
//! Reading the clock ten times a layer costs a few microseconds a pass, so it is always on.

use std::time::{Duration, Instant};

/// Time by operator, all layers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Matrix products: queries, keys and values; attention's output; gate and up; down.
    pub linears: [Duration; 4],
    /// Attention.
    pub attention: Duration,
    /// Embedding, norms, rotary embedding, quantisation of activations.
    pub rest: Duration,
    /// The vocabulary head, its norm included.
    pub head: Duration,
    /// Choosing tokens.
    pub sampling: Duration,
}

/// A running clock.
#[derive(Debug)]
pub(super) struct Laps(Instant);

impl Laps {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Adds the time since the last lap to `to`.
    pub(super) fn lap(&mut self, to: &mut Duration) {
        let now = Instant::now();
        *to += now - self.0;
        self.0 = now;
    }
}
