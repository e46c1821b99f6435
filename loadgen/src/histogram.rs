//! Distributions of latencies too many to keep one by one (every gap between tokens).
//!
//! HDR histogram with 3 significant digits: a value is known to 0.1 %, or to 1.024 µs where that is coarser (below
//! 2 ms). Above an hour it saturates. Sum and count are exact, so the mean is too. Percentiles are nearest-rank and
//! report the upper edge of the bucket: they may overstate by the resolution, never understate.

use crate::time::nanos;
use hdrhistogram::Histogram as Hdr;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Smallest difference told apart, ns.
const LOWEST_NS: u64 = 1_000;
/// Value at which it saturates, ns: one hour.
const HIGHEST_NS: u64 = 3_600_000_000_000;

/// Values of one stored histogram, so that the sums of a thousand of them fit.
const MOST_VALUES: u64 = 1 << 52;

/// Latencies by count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Sparse", try_from = "Sparse")]
pub struct Histogram {
    buckets: Hdr<u64>,
    sum_ns: u64,
}

/// The stored form: occupied buckets only.
#[derive(Serialize, Deserialize)]
struct Sparse {
    /// Exact sum of all values, ns.
    sum_ns: u64,
    /// (upper edge in ns, count), ascending.
    buckets: Vec<(u64, u64)>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one (about 190 kB).
    #[must_use]
    pub fn new() -> Self {
        let buckets = Hdr::new_with_bounds(LOWEST_NS, HIGHEST_NS, 3);
        Self { buckets: buckets.expect("bounds are constants in range"), sum_ns: 0 }
    }

    /// Adds `count` times the same value.
    pub fn record_n(&mut self, value: Duration, count: u64) {
        self.record_nanos(nanos(value), count);
    }

    /// [`Histogram::record_n`] for a value in ns.
    #[inline]
    pub(crate) fn record_nanos(&mut self, ns: u64, count: u64) {
        self.buckets.saturating_record_n(ns, count);
        self.sum_ns = self.sum_ns.saturating_add(ns.saturating_mul(count));
    }

    /// Adds all values of another.
    pub fn merge(&mut self, other: &Self) {
        self.buckets.add(&other.buckets).expect("all histograms have the same bounds");
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// Values recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.len()
    }

    /// Exact sum of the values.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// Exact mean, rounded down to the nanosecond; none when empty.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        self.sum_ns.checked_div(self.count()).map(Duration::from_nanos)
    }

    /// The largest value, to the resolution; none when empty.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        (self.count() > 0).then(|| Duration::from_nanos(self.buckets.max()))
    }

    /// Nearest-rank percentile, `percent` in (0, 100]; none when empty.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let rank = (percent / 100.0 * self.count() as f64).ceil() as u64;
        self.at_ranks(&[rank.clamp(1, self.count().max(1))])[0]
    }

    /// The values at 1-based `ranks` (ascending) in one pass; none beyond the count.
    pub(crate) fn at_ranks(&self, ranks: &[u64]) -> Vec<Option<Duration>> {
        let mut found = Vec::with_capacity(ranks.len());
        let mut seen = 0;
        for bucket in self.buckets.iter_recorded() {
            seen += bucket.count_since_last_iteration();
            while found.len() < ranks.len() && ranks[found.len()] <= seen {
                let upper = bucket.value_iterated_to().min(self.buckets.max());
                found.push(Some(Duration::from_nanos(upper)));
            }
        }
        found.resize(ranks.len(), None);
        found
    }

    /// The buckets themselves, in ns.
    pub(crate) fn hdr(&self) -> &Hdr<u64> {
        &self.buckets
    }

    /// Occupied buckets, ascending: upper edge and count.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets
            .iter_recorded()
            .map(|b| (Duration::from_nanos(b.value_iterated_to()), b.count_since_last_iteration()))
    }
}

impl From<Histogram> for Sparse {
    fn from(histogram: Histogram) -> Self {
        let buckets = histogram.buckets().map(|(edge, count)| (nanos(edge), count)).collect();
        Self { sum_ns: histogram.sum_ns, buckets }
    }
}

impl TryFrom<Sparse> for Histogram {
    type Error = String;

    fn try_from(sparse: Sparse) -> Result<Self, String> {
        let mut histogram = Self::new();
        let all = sparse.buckets.iter().fold(0_u64, |all, b| all.saturating_add(b.1));
        if all > MOST_VALUES {
            return Err(format!("a histogram of {all} values: no run has more than {MOST_VALUES}"));
        }
        for (edge, count) in sparse.buckets {
            histogram
                .buckets
                .record_n(edge, count)
                .map_err(|e| format!("histogram bucket at {edge} ns: {e}"))?;
        }
        histogram.sum_ns = sparse.sum_ns;
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut h = Histogram::new();
        values.iter().for_each(|&v| h.record_nanos(v, 1));
        h
    }

    proptest! {
        #[test]
        fn percentiles_agree_with_sorting(
            mut values in prop::collection::vec(0..2_000_000_000u64, 1..300),
            percent in 0.5..100.0f64,
        ) {
            let h = of(&values);
            values.sort_unstable();
            let rank = ((percent / 100.0 * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let (exact, got) = (values[rank - 1], nanos(h.percentile(percent).unwrap()));
            prop_assert!(got >= exact && got <= exact + (exact / 1000).max(1_024), "{exact} {got}");
            prop_assert_eq!(h.sum_ns, values.iter().sum::<u64>());
        }

        #[test]
        fn merging_is_recording_both_and_storage_is_exact(
            a in prop::collection::vec(0..8_000_000_000_000u64, 0..50),
            b in prop::collection::vec(0..8_000_000_000_000u64, 0..50),
        ) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(&merged, &of(&[a, b].concat()));
            let json = serde_json::to_string(&merged).unwrap();
            prop_assert_eq!(serde_json::from_str::<Histogram>(&json).unwrap(), merged);
        }
    }

    #[test]
    fn empty_has_no_statistics() {
        let h = Histogram::new();
        assert_eq!((h.mean(), h.max(), h.percentile(99.0)), (None, None, None));
    }

    #[test]
    fn a_bad_stored_bucket_is_an_error() {
        let json = format!(r#"{{"sum_ns":1,"buckets":[[{},1]]}}"#, u64::MAX);
        assert!(serde_json::from_str::<Histogram>(&json).is_err());
        let many = format!(r#"{{"sum_ns": 1, "buckets": [[2000, 9], [3000, {}]]}}"#, u64::MAX);
        let error = serde_json::from_str::<Histogram>(&many).unwrap_err().to_string();
        assert!(error.contains("no run has more than"), "{error}");
    }
}
