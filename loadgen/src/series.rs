//! A run over time, for plots: rates and first-token latencies in a bounded number of equal windows.

use crate::latency::{Latency, Population};
use crate::metric::Metric;
use crate::percentile::{Percentile, Statistic};
use crate::record::{Outcome, Record};
use crate::time::nanos;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One window of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Its beginning, seconds since the run's origin.
    pub start_s: f64,
    /// Its length, seconds.
    pub length_s: f64,
    /// Scheduled arrivals per second.
    pub arrivals_rps: f64,
    /// Completions per second.
    pub completions_rps: f64,
    /// Output tokens of the requests completed in it, per second.
    pub output_tokens_per_s: f64,
    /// Requests in the system (arrived, neither completed nor rejected nor failed) at its end.
    pub outstanding: u64,
    /// Median TTFT of the requests that arrived in it.
    pub ttft_p50: Latency,
    /// 99th percentile of their TTFT.
    pub ttft_p99: Latency,
}

/// Cuts a run, from its first arrival to its last token, into `windows` equal windows (at least one). Empty for a
/// run without requests or without duration. A rejected or failed request counts as gone on arrival.
#[must_use]
pub fn windows(records: &[Record], windows: usize) -> Vec<Window> {
    let windows = windows.max(1);
    let first = records.iter().map(|r| r.scheduled).min().unwrap_or_default();
    let last = |r: &Record| r.last_token.unwrap_or(r.scheduled).max(r.scheduled);
    let end = records.iter().map(last).max().unwrap_or_default();
    let length = end.saturating_sub(first);
    if length.is_zero() {
        return Vec::new();
    }
    let index = |at: Duration| {
        let share = u128::from(nanos(at.saturating_sub(first))) * windows as u128;
        ((share / u128::from(nanos(length))) as usize).min(windows - 1)
    };
    let mut arrived: Vec<Vec<&Record>> = vec![Vec::new(); windows];
    let (mut completed, mut tokens) = (vec![0u64; windows], vec![0u64; windows]);
    let mut gone = vec![0u64; windows];
    for record in records {
        arrived[index(record.scheduled)].push(record);
        match record.last_token.filter(|_| record.completed()) {
            Some(at) => {
                let window = index(at.max(record.scheduled));
                completed[window] += 1;
                tokens[window] += u64::from(record.output);
            }
            None if record.outcome != Outcome::Unfinished => gone[index(record.scheduled)] += 1,
            None => {}
        }
    }
    let length_s = length.as_secs_f64() / windows as f64;
    let mut outstanding = 0;
    let window = |i: usize| {
        outstanding += arrived[i].len() as u64;
        outstanding -= completed[i] + gone[i];
        let mut ttft = Population::of_requests(Metric::Ttft, arrived[i].iter().copied());
        Window {
            start_s: first.as_secs_f64() + i as f64 * length_s,
            length_s,
            arrivals_rps: arrived[i].len() as f64 / length_s,
            completions_rps: completed[i] as f64 / length_s,
            output_tokens_per_s: tokens[i] as f64 / length_s,
            outstanding,
            ttft_p50: ttft.statistic(Statistic::Percentile(Percentile::P50)),
            ttft_p99: ttft.statistic(Statistic::Percentile(Percentile::P99)),
        }
    };
    (0..windows).map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(at: u64, first: u64, last: u64, outcome: Outcome) -> Record {
        let ms = Duration::from_millis;
        let due = Record::due(0, ms(at), 1);
        match outcome {
            Outcome::Rejected => Record { output: 10, outcome, ..due },
            _ => Record { outcome, ..due.answered(ms(first), ms(last), 10) },
        }
    }

    #[test]
    fn every_request_is_in_its_window() {
        let records = [
            record(1_000, 1_100, 1_500, Outcome::Completed),
            record(1_200, 1_500, 3_000, Outcome::Completed),
            record(1_900, 0, 0, Outcome::Rejected),
            record(2_500, 2_900, 3_000, Outcome::Unfinished),
        ];
        let w = windows(&records, 2);
        assert_eq!((w[0].start_s, w[1].start_s, w[0].length_s), (1.0, 2.0, 1.0));
        assert_eq!((w[0].arrivals_rps, w[1].arrivals_rps), (3.0, 1.0));
        assert_eq!((w[0].completions_rps, w[1].completions_rps), (1.0, 1.0));
        assert_eq!((w[0].output_tokens_per_s, w[1].output_tokens_per_s), (10.0, 10.0));
        assert_eq!((w[0].outstanding, w[1].outstanding), (1, 1));
        assert_eq!(w[0].ttft_p50, Latency::Finite(Duration::from_millis(300)));
        assert_eq!(w[0].ttft_p99, Latency::Infinite, "a third of its arrivals were rejected");
        let many = windows(&records, 7);
        let total =
            |f: fn(&Window) -> f64| many.iter().map(|w| f(w) * w.length_s).sum::<f64>().round();
        assert_eq!((total(|w| w.arrivals_rps), total(|w| w.completions_rps)), (4.0, 2.0));
    }

    #[test]
    fn a_run_without_completions_has_no_windows() {
        assert!(windows(&[], 10).is_empty());
        assert!(windows(&[record(5, 5, 5, Outcome::Rejected)], 10).is_empty());
    }
}
