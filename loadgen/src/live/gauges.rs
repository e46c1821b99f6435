//! The gauges of a run that is going on: latencies so far, written by the loop and read by any
//! thread at any time.
//!
//! A value costs the loop one load and one store of its own (it alone writes, so nothing is
//! locked). The reader works out percentiles. Final figures come from elsewhere and are exact.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Buckets per octave as a power of two: values are known to 1.6 %.
const FINE: u32 = 6;
/// Up to 2^43 ns, over two hours; what is longer counts as that.
const OCTAVES: u32 = 43;

/// Times counted by size.
pub struct Gauge(Box<[AtomicU32]>);

/// Latencies so far, and the client's own errors so far.
#[derive(Debug, Default)]
pub struct Gauges {
    /// First tokens, from the scheduled times.
    pub ttft: Gauge,
    /// Pace of the requests that have completed.
    pub tpot: Gauge,
    /// Sends, after they were due.
    pub late: Gauge,
    /// The largest possible error of the times of tokens.
    pub stamp_error: Gauge,
}

impl Default for Gauge {
    fn default() -> Self {
        Self((0..=bucket(u64::MAX)).map(|_| AtomicU32::new(0)).collect())
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gauge({} values)", self.count())
    }
}

/// The bucket of a time in ns: its octave and the bits after its first.
fn bucket(ns: u64) -> usize {
    let ns = ns.min((1 << OCTAVES) - 1);
    let octave = (ns >> FINE).checked_ilog2().map_or(0, |log| log + 1);
    let rest = ns >> octave.saturating_sub(1);
    ((u64::from(octave.saturating_sub(1)) << FINE) + rest) as usize
}

/// The middle of a bucket, ns.
fn middle(bucket: usize) -> u64 {
    let octave = (bucket >> FINE).saturating_sub(1) as u32;
    let rest = bucket as u64 - (u64::from(octave) << FINE);
    (rest << octave) + ((1 << octave) >> 1)
}

impl Gauge {
    /// Counts a time. For one thread only: two would lose counts.
    pub(super) fn record(&self, ns: u64) {
        let count = &self.0[bucket(ns)];
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Times counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|c| u64::from(c.load(Ordering::Relaxed))).sum()
    }

    /// Nearest-rank percentile, `percent` in (0, 100], to 0.8 %; none of none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let counts: Vec<u64> =
            self.0.iter().map(|c| u64::from(c.load(Ordering::Relaxed))).collect();
        let rank = (percent / 100.0 * counts.iter().sum::<u64>() as f64).ceil() as u64;
        let mut seen = 0;
        let mut below = |count: &u64| {
            seen += count;
            seen >= rank.max(1)
        };
        let found = counts.iter().position(&mut below)?;
        Some(Duration::from_nanos(middle(found)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0_u64..1 << 42, 1..200), percent in 0.1..100.0_f64,
        ) {
            let gauge = Gauge::default();
            values.iter().for_each(|v| gauge.record(*v));
            values.sort_unstable();
            let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
            let exact = values[rank.max(1) - 1] as f64;
            let found = gauge.percentile(percent).unwrap().as_nanos() as f64;
            prop_assert!((found - exact).abs() <= exact / 100.0 + 0.5, "{found} for {exact}");
            prop_assert_eq!(gauge.count(), values.len() as u64);
        }
    }

    #[test]
    fn every_bucket_holds_its_middle() {
        let last = bucket(u64::MAX);
        assert!((0..=last).all(|b| bucket(middle(b)) == b));
        assert_eq!(Gauge::default().percentile(50.0), None);
    }
}
