//! Statistics of latencies over all requests offered, not only over those that survived.
//!
//! A request that was rejected, failed or never finished has no latency, and leaving it out would reward a server
//! for shedding exactly the load it cannot carry. It counts as infinitely late instead: with 2 % of the requests
//! lost, p99 is infinite and p50 is that of the slower 51st of 100. Percentiles are nearest-rank: of n values the
//! ⌈p·n⌉-th smallest, exact for TTFT, TPOT and E2E, to the histogram's resolution for ITL. Means are over those
//! that have the latency, and exact; a *target* on a mean is judged as infinite once a request is lost.

use crate::histogram::Histogram;
use crate::metric::Metric;
use crate::percentile::{Percentile, Statistic};
use crate::record::Record;
use crate::time::nanos;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A statistic of latencies. Serialised as decimal seconds, `null` when undefined, `"infinite"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "Option<Repr>", from = "Option<Repr>")]
pub enum Latency {
    /// No request has it (TPOT where every output is a single token).
    #[default]
    Undefined,
    /// Measured.
    Finite(Duration),
    /// So many requests were lost that this statistic falls among them.
    Infinite,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Repr {
    Seconds(#[serde(with = "crate::time::seconds")] Duration),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Infinite,
}

impl From<Latency> for Option<Repr> {
    fn from(latency: Latency) -> Self {
        match latency {
            Latency::Undefined => None,
            Latency::Finite(time) => Some(Repr::Seconds(time)),
            Latency::Infinite => Some(Repr::Word(Word::Infinite)),
        }
    }
}

impl From<Option<Repr>> for Latency {
    fn from(repr: Option<Repr>) -> Self {
        match repr {
            None => Self::Undefined,
            Some(Repr::Seconds(time)) => Self::Finite(time),
            Some(Repr::Word(Word::Infinite)) => Self::Infinite,
        }
    }
}

impl Latency {
    /// The measured time.
    #[must_use]
    pub fn finite(self) -> Option<Duration> {
        match self {
            Self::Finite(time) => Some(time),
            Self::Undefined | Self::Infinite => None,
        }
    }

    /// In milliseconds; none unless finite.
    #[must_use]
    pub fn millis(self) -> Option<f64> {
        self.finite().map(|time| time.as_nanos() as f64 / 1e6)
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined => f.pad("–"),
            Self::Finite(time) => fmt::Debug::fmt(time, f),
            Self::Infinite => f.pad("∞"),
        }
    }
}

impl From<Option<Duration>> for Latency {
    fn from(time: Option<Duration>) -> Self {
        time.map_or(Self::Undefined, Self::Finite)
    }
}

/// One metric's distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Over the requests (ITL: gaps) that have it.
    pub mean: Latency,
    /// Median.
    pub p50: Latency,
    /// 90th percentile.
    pub p90: Latency,
    /// 95th percentile.
    pub p95: Latency,
    /// 99th percentile.
    pub p99: Latency,
    /// 99.9th percentile.
    pub p999: Latency,
    /// The worst.
    pub max: Latency,
}

/// All the latencies of one metric and class.
pub(crate) enum Population {
    /// One per request, and how many requests have none because they were lost.
    Requests { ns: Vec<u64>, lost: u64 },
    /// Gaps, and how many gaps the lost requests stand for.
    Gaps { itl: Histogram, lost: u64 },
}

impl Population {
    /// Of `records`, one latency each; of ITL, the longest gap.
    pub(crate) fn of_requests<'a>(
        metric: Metric,
        records: impl Iterator<Item = &'a Record>,
    ) -> Self {
        let (mut ns, mut lost) = (Vec::with_capacity(records.size_hint().1.unwrap_or(0)), 0);
        for record in records {
            if record.completed() {
                ns.extend(metric.of(record).map(nanos));
            } else {
                lost += 1;
            }
        }
        Self::Requests { ns, lost }
    }

    /// Every gap of `records`. A lost request stands for as many infinite gaps as a completed one has on average,
    /// so that a share of requests lost is the same share of gaps lost.
    pub(crate) fn of_gaps<'a>(itl: Histogram, records: impl Iterator<Item = &'a Record>) -> Self {
        let (mut completed, mut gaps, mut lost) = (0, 0, 0u64);
        for record in records {
            if record.completed() {
                completed += 1;
                gaps += u64::from(record.output.saturating_sub(1));
            } else {
                lost += 1;
            }
        }
        let lost = if completed == 0 { lost } else { (lost * gaps).div_ceil(completed) };
        Self::Gaps { itl, lost }
    }

    fn lost(&self) -> u64 {
        match self {
            Self::Requests { lost, .. } | Self::Gaps { lost, .. } => *lost,
        }
    }

    fn mean(&self) -> Latency {
        match self {
            Self::Requests { ns, .. } => {
                let sum: u128 = ns.iter().map(|&ns| u128::from(ns)).sum();
                sum.checked_div(ns.len() as u128).map(|ns| Duration::from_nanos(ns as u64)).into()
            }
            Self::Gaps { itl, .. } => itl.mean().into(),
        }
    }

    /// Nearest-rank percentiles, `percentiles` ascending.
    fn percentiles(&mut self, percentiles: &[Percentile]) -> Vec<Latency> {
        let finite = match self {
            Self::Requests { ns, .. } => ns.len() as u64,
            Self::Gaps { itl, .. } => itl.count(),
        };
        let count = finite + self.lost();
        let ranks: Vec<u64> = percentiles.iter().map(|p| p.rank(count)).collect();
        let times = match self {
            Self::Requests { ns, .. } => select(ns, &ranks),
            Self::Gaps { itl, .. } => itl.at_ranks(&ranks),
        };
        let absent = if count == 0 { Latency::Undefined } else { Latency::Infinite };
        times.into_iter().map(|time| time.map_or(absent, Latency::Finite)).collect()
    }

    /// One statistic, as a target judges it.
    pub(crate) fn statistic(&mut self, statistic: Statistic) -> Latency {
        match statistic {
            Statistic::Mean if self.lost() > 0 => Latency::Infinite,
            Statistic::Mean => self.mean(),
            Statistic::Percentile(p) => self.percentiles(&[p])[0],
        }
    }

    /// The statistics of every report.
    pub(crate) fn stats(&mut self) -> Stats {
        const SHOWN: [u32; 6] = [50_000, 90_000, 95_000, 99_000, 99_900, 100_000];
        let shown = SHOWN.map(|p| Percentile::new(p).expect("constants in range"));
        let mean = self.mean();
        let [p50, p90, p95, p99, p999, max] = self.percentiles(&shown)[..] else {
            unreachable!("a latency per percentile asked for")
        };
        Stats { mean, p50, p90, p95, p99, p999, max }
    }
}

/// The values at 1-based ascending `ranks`, none beyond the end. Each selection narrows the next one's search.
fn select(values: &mut [u64], ranks: &[u64]) -> Vec<Option<Duration>> {
    let mut from = 0;
    let mut at = |rank: u64| {
        let index = usize::try_from(rank.checked_sub(1)?).ok()?;
        let tail = values.get_mut(from..).filter(|tail| index < from + tail.len())?;
        let (_, &mut ns, _) = tail.select_nth_unstable(index - from);
        from = index;
        Some(Duration::from_nanos(ns))
    };
    ranks.iter().map(|&rank| at(rank)).collect()
}
