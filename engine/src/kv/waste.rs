//! The ledger: KV memory by use, over time (PagedAttention §3.1, Fig. 2).
//!
//! With L slots of tokens held, F the final length, R slots requested and E taken, per sequence:
//! used = Σ L, reserved = Σ min(F,R) − L, internal = Σ R − min(F,R), external = Σ (E − R) plus the free slots while the
//! head of the queue is refused for want of memory, cached = free blocks that hold a prefix, idle = free otherwise.
//! The six add up to the capacity at every instant.

use std::time::Duration;

use super::Usage;

/// Slots that change hands in the middle of a stretch of iterations, by step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Growth {
    /// Slots taken when the step began, less those given back behind windows.
    pub slots: i32,
    /// Slots beyond their sequence's end among them.
    pub beyond: i32,
    /// Slots of computed tokens that fell behind windows, and those that more tables share than before.
    pub behind: i32,
    /// Slots free and cached, more than before; where none are given back, [`Ledger::stretch`] knows them.
    pub cached: i32,
}

/// A worker's KV memory, by the use of its sequences.
#[derive(Debug, Clone, Copy)]
pub struct Holding {
    /// The slots that the allocator gave out.
    pub usage: Usage,
    /// Tokens held, shared ones counted by every table.
    pub held: u64,
    /// Slots that will never be filled.
    pub beyond: u64,
    /// True where free room is of no use to the request that waits.
    pub refused: bool,
}

/// Slots by class at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes {
    /// Hold a token.
    pub used: u64,
    /// Will be filled by the sequence that holds them.
    pub reserved: u64,
    /// Are held and never filled.
    pub internal: u64,
    /// Are lost to rounding, or free but no use to the request that waits.
    pub external: u64,
    /// Are free.
    pub idle: u64,
    /// Are free and hold a prefix that may be hit.
    pub cached: u64,
}

impl From<Holding> for Classes {
    fn from(h: Holding) -> Self {
        let u = h.usage;
        let tokens = h.held * u64::from(u.token);
        let used = tokens + u64::from(u.states) - u.behind - u64::from(u.shared);
        let kept = u64::from(u.requested) - used;
        let internal = h.beyond.min(kept);
        let (rounding, cached) = (u64::from(u.taken - u.requested), u64::from(u.cached));
        let free = u64::from(u.capacity - u.taken) - cached;
        Self {
            used,
            reserved: kept - internal,
            internal,
            external: rounding + if h.refused { free } else { 0 },
            idle: if h.refused { 0 } else { free },
            cached,
        }
    }
}

impl Classes {
    /// Their names, in the order of [`Classes::to_array`].
    pub const NAMES: [&'static str; 6] =
        ["used", "reserved", "internal", "external", "idle", "cached"];

    /// In the order used, reserved, internal, external, idle, cached.
    #[must_use]
    pub fn to_array(self) -> [u64; 6] {
        [self.used, self.reserved, self.internal, self.external, self.idle, self.cached]
    }
}

/// An instant of a [`Ledger`]'s series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Since the run's origin.
    pub at: Duration,
    /// Slots by class.
    pub classes: Classes,
    /// Sequences running.
    pub running: u32,
    /// Sequences waiting.
    pub waiting: u32,
}

/// Samples kept at most; when there are more, every second one goes and the interval doubles.
const SAMPLES: usize = 1024;

/// One worker's ledger.
#[derive(Debug)]
pub struct Ledger {
    now: Duration,
    /// Slot-nanoseconds by class.
    sums: [u128; 6],
    series: Vec<Sample>,
    interval: Duration,
    due: Duration,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            now: Duration::ZERO,
            sums: [0; 6],
            series: Vec::new(),
            interval: Duration::from_millis(100),
            due: Duration::ZERO,
        }
    }
}

impl Ledger {
    /// Nothing changed since the last call; it is `to` now.
    pub fn advance(&mut self, to: Duration, holding: Holding, running: u32, waiting: u32) {
        let length = u128::from(nanos(to.saturating_sub(self.now)));
        if length == 0 {
            return;
        }
        let classes = Classes::from(holding);
        for (sum, slots) in self.sums.iter_mut().zip(classes.to_array()) {
            *sum += length * u128::from(slots);
        }
        self.now = to;
        if to >= self.due {
            self.sample(Sample { at: to, classes, running, waiting });
        }
    }

    /// A stretch of iterations ended: each step added `decoding` tokens, and `growth` tells which slots it took.
    /// `holding` is as it was during the first step; `waiting` sequences waited before the last step, and in it.
    pub fn stretch(
        &mut self,
        ends: &[Duration],
        mut holding: Holding,
        decoding: u64,
        growth: &[Growth],
        running: u32,
        waiting: (u32, u32),
    ) {
        for (i, (&end, g)) in ends.iter().zip(growth).enumerate() {
            let waiting = if i + 1 < ends.len() { waiting.0 } else { waiting.1 };
            let u = &mut holding.usage;
            u.taken = u.taken.wrapping_add_signed(g.slots);
            u.requested = u.requested.wrapping_add_signed(g.slots);
            u.behind = u.behind.wrapping_add_signed(g.behind.into());
            // Free blocks without content are taken first.
            u.cached = u.cached.wrapping_add_signed(g.cached).min(u.capacity - u.taken);
            holding.beyond = holding.beyond.wrapping_add_signed(g.beyond.into());
            self.advance(end, holding, running, waiting);
            holding.held += decoding;
        }
    }

    fn sample(&mut self, sample: Sample) {
        self.series.push(sample);
        if self.series.len() >= SAMPLES {
            let mut keep = false;
            self.series.retain(|_| {
                keep = !keep;
                keep
            });
            self.interval *= 2;
        }
        self.due = sample.at + self.interval;
    }

    /// Slot-nanoseconds by class so far, in the order of [`Classes::to_array`].
    #[must_use]
    pub fn sums(&self) -> [u128; 6] {
        self.sums
    }

    /// The classes over time, at most about a thousand points.
    #[must_use]
    pub fn series(&self) -> &[Sample] {
        &self.series
    }
}

/// Whole nanoseconds; a run shorter than five centuries fits.
fn nanos(t: Duration) -> u64 {
    t.as_secs() * 1_000_000_000 + u64::from(t.subsec_nanos())
}
