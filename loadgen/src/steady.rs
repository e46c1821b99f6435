//! The uncertainty of a run's figures, and the test that the run was steady enough to have figures.
//!
//! Latencies of neighbouring requests are alike (they met the same queue), so that formulas for
//! independent values promise too much. The requests, in order of arrival, are cut into 20 batches
//! of equal size. The spread of the batches includes the likeness of neighbours. A mean lies within
//! t·s/√20 of the batches' mean, with t = 2.093 for 95 % of cases. For a percentile the batches are
//! asked which share of them lies above it; the interval of that share, read off the whole
//! distribution, is that of the percentile. Against M/M/1 queues, whose figures are known (`tests`
//! below), the intervals hold the truth in nine cases of ten and more; those of p99 at a load of
//! 0.8 over 20,000 requests in 17 of 20: bursts that make a p99 are few. A formula for independent
//! values holds the mean there in 12 of 20 at best.
//!
//! A run that begins with an empty server (or a cold cache) is better or worse at first than it is
//! later. MSER-5 (White, 1997) finds the end of that beginning: it is the cut that leaves the
//! surest mean of the rest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::metric::Metric;
use crate::percentile::{Percentile, Statistic};
use crate::record::Record;
use crate::slo::Target;
use crate::time::nanos;

/// Parts of a run that are compared with each other.
const BATCHES: usize = 20;
/// 97.5 % point of Student's t with 19 degrees of freedom.
const T: f64 = 2.093;
/// Requests per batch below which nothing is said.
const LEAST: usize = 5;
/// Values that one point of MSER-5 is the mean of.
const FIVE: usize = 5;
/// Fewer requests than this have no beginning to tell from the rest.
const FEWEST: usize = 200;
/// Change of the mean from which a beginning matters.
const MATERIAL: f64 = 0.05;

/// A figure and where it lies with 95 % probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Precision {
    /// The name of the figure, such as `ttft:p99`.
    pub measured: String,
    /// The figure, ms.
    pub value_ms: f64,
    /// Lower end, ms.
    pub low_ms: f64,
    /// Upper end, ms; none where too few requests lie above the figure to say.
    pub high_ms: Option<f64>,
}

impl Precision {
    /// Half of the interval as a share of the figure; infinite without an upper end.
    #[must_use]
    pub fn share(&self) -> f64 {
        let half = |high: f64| (high - self.low_ms) / 2.0 / self.value_ms;
        self.high_ms.map_or(f64::INFINITY, half)
    }
}

/// A precision asked for: `ttft:p99=5%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// The latency.
    pub metric: Metric,
    /// The statistic of that latency.
    pub statistic: Statistic,
    /// Half of its interval as a share of it, at most.
    pub share: f64,
}

impl FromStr for Wanted {
    type Err = Error;

    /// `METRIC[:pNN|:mean]=SHARE`, p99 by default.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Precision(text.to_owned());
        let (figure, share) = text.split_once('=').ok_or_else(bad)?;
        let target: Target = format!("{figure}=1s").parse()?;
        let share = share.strip_suffix('%').and_then(|s| s.trim().parse::<f64>().ok());
        let share = share.filter(|s| *s > 0.0 && *s < 100.0).ok_or_else(bad)? / 100.0;
        if target.class.is_some() || !target.metric.per_request() {
            return Err(bad());
        }
        Ok(Self { metric: target.metric, statistic: target.statistic, share })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}={}%", self.metric.name(), self.statistic, 100.0 * self.share)
    }
}

/// A latency of every request that has or should have it, in ns; lost ones are beyond all measure.
pub(crate) fn values<'a>(metric: Metric, records: impl Iterator<Item = &'a Record>) -> Vec<u64> {
    records.filter_map(|r| value(metric, r)).collect()
}

/// The same of one request; none where it has none by nature, as one token has no TPOT.
pub(crate) fn value(metric: Metric, record: &Record) -> Option<u64> {
    if record.completed() { metric.of(record).map(nanos) } else { Some(u64::MAX) }
}

/// A figure of `values`, ns, in the order in which their requests arrived; none where too few say anything, or so many
/// were lost that there is none.
pub(crate) fn precision(metric: Metric, statistic: Statistic, values: &[u64]) -> Option<Precision> {
    let (value, low, high) = match statistic {
        Statistic::Mean => mean(values)?,
        Statistic::Percentile(p) => percentile(values, p)?,
    };
    let ms = |ns: f64| ns / 1e6;
    Some(Precision {
        measured: format!("{}:{statistic}", metric.name()),
        value_ms: ms(value),
        low_ms: ms(low.max(0.0)),
        high_ms: high.map(ms),
    })
}

/// The precision of the usual figures of a run: mean and p99 of TTFT, mean of TPOT and E2E.
#[must_use]
pub fn precisions(records: &[Record]) -> Vec<Precision> {
    let p99 = Statistic::Percentile(Percentile::P99);
    let usual = [
        (Metric::Ttft, Statistic::Mean),
        (Metric::Ttft, p99),
        (Metric::Tpot, Statistic::Mean),
        (Metric::E2e, Statistic::Mean),
    ];
    let one = |(metric, statistic)| precision(metric, statistic, &values(metric, records.iter()));
    usual.into_iter().filter_map(one).collect()
}

type Interval = (f64, f64, Option<f64>);

fn batches(values: &[u64]) -> Option<impl Iterator<Item = &[u64]>> {
    let n = values.len();
    let batch = move |i: usize| &values[i * n / BATCHES..(i + 1) * n / BATCHES];
    (n >= BATCHES * LEAST).then(|| (0..BATCHES).map(batch))
}

/// From the batches' mean to either end of its interval.
fn half_width(of_batches: &[f64]) -> f64 {
    let n = of_batches.len() as f64;
    let mean = of_batches.iter().sum::<f64>() / n;
    let squares: f64 = of_batches.iter().map(|x| (x - mean).powi(2)).sum();
    T * (squares / (n - 1.0) / n).sqrt()
}

fn mean(values: &[u64]) -> Option<Interval> {
    if values.contains(&u64::MAX) {
        return None;
    }
    let of = |batch: &[u64]| batch.iter().map(|v| *v as f64).sum::<f64>() / batch.len() as f64;
    let half = half_width(&batches(values)?.map(of).collect::<Vec<_>>());
    let mean = of(values);
    Some((mean, mean - half, Some(mean + half)))
}

fn percentile(values: &[u64], p: Percentile) -> Option<Interval> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = |rank: u64| sorted.get(rank.max(1) as usize - 1).copied().filter(|v| *v < u64::MAX);
    let (n, rank) = (values.len() as u64, p.rank(values.len() as u64));
    let value = at(rank)?;
    let above =
        |batch: &[u64]| batch.iter().filter(|v| **v > value).count() as f64 / batch.len() as f64;
    let half = half_width(&batches(values)?.map(above).collect::<Vec<_>>());
    // Without spread between batches a rank is still only known to one.
    let ranks = ((half * n as f64).ceil() as u64).max(1);
    let low = at(rank.saturating_sub(ranks)).unwrap_or_default();
    Some((value as f64, low as f64, at(rank + ranks).map(|v| v as f64)))
}

/// Requests at the beginning that are unlike the rest, where they change the mean by 5 % and by more than it is known
/// to; all of them where no steady rest is found.
pub(crate) fn beginning(values: &[u64]) -> Option<usize> {
    let finite: Vec<u64> = values.iter().copied().filter(|v| *v < u64::MAX).collect();
    if finite.len() < FEWEST || finite.len() < values.len() {
        return None;
    }
    let points: Vec<f64> = finite
        .chunks_exact(FIVE)
        .map(|five| five.iter().map(|v| *v as f64).sum::<f64>() / FIVE as f64)
        .collect();
    let (mut sum, mut squares, mut best) = (0.0, 0.0, (f64::INFINITY, 0));
    for (d, x) in points.iter().enumerate().rev() {
        (sum, squares) = (sum + x, squares + x * x);
        let left = (points.len() - d) as f64;
        // The last few always look sure: too little is left of them to differ.
        let score = (squares - sum * sum / left) / (left * left);
        if d < points.len() * 3 / 4 && score <= best.0 {
            best = (score, d);
        }
    }
    let cut = best.1 * FIVE;
    let of = |v: &[u64]| v.iter().map(|x| *x as f64).sum::<f64>() / v.len() as f64;
    let (all, rest) = (of(&finite), mean(&finite[cut..]));
    let (settled, low, high) = rest?;
    let change = (all - settled).abs();
    let unsure = high.map_or(0.0, |high| (high - low) / 2.0);
    let matters = change > MATERIAL * all && change > unsure;
    let never = best.1 >= points.len() / 2;
    matters.then_some(if never { values.len() } else { cut })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    fn exponential(rng: &mut ChaCha8Rng, mean: f64) -> f64 {
        -mean * (1.0 - rng.random::<f64>()).ln()
    }

    /// Sojourn times, ns, of `n` customers of an M/M/1 queue of load `rho` with services of 1 ms on average, that has
    /// run before; their mean is 1/(1 − rho) ms, and they are exponential.
    fn queue(seed: u64, rho: f64, before: usize, n: usize) -> Vec<u64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut wait, mut sojourns) = (0.0_f64, Vec::with_capacity(n));
        for i in 0..before + n {
            let service = exponential(&mut rng, 1.0);
            if i >= before {
                sojourns.push(((wait + service) * 1e6) as u64);
            }
            wait = (wait + service - exponential(&mut rng, 1.0 / rho)).max(0.0);
        }
        sojourns
    }

    /// The number of intervals, of 200, that hold the truth.
    fn coverage(rho: f64, n: usize, statistic: Statistic, truth_ms: f64) -> usize {
        let holds = |seed: &u64| {
            let p = precision(Metric::Ttft, statistic, &queue(*seed, rho, 2_000, n)).unwrap();
            p.low_ms <= truth_ms && p.high_ms.is_none_or(|high| truth_ms <= high)
        };
        (0..200).filter(holds).count()
    }

    #[test]
    fn intervals_hold_the_truth_of_known_queues() {
        for (rho, n) in [(0.5, 4_000), (0.8, 20_000)] {
            let mean = 1.0 / (1.0 - rho);
            let of_mean = coverage(rho, n, Statistic::Mean, mean);
            let p99 = Statistic::Percentile(Percentile::P99);
            let of_p99 = coverage(rho, n, p99, mean * 100_f64.ln());
            assert!((175..=200).contains(&of_mean), "mean at {rho}: {of_mean} of 200");
            assert!((160..=200).contains(&of_p99), "p99 at {rho}: {of_p99} of 200");
        }
    }

    #[test]
    fn independence_would_promise_too_much() {
        let naive = |seed: &u64| {
            let values = queue(*seed, 0.8, 2_000, 20_000);
            let of = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
            let ms: Vec<f64> = values.iter().map(|v| *v as f64 / 1e6).collect();
            let mean = of(&ms);
            let variance = of(&ms.iter().map(|x| (x - mean).powi(2)).collect::<Vec<_>>());
            (mean - 5.0).abs() < 1.96 * (variance / ms.len() as f64).sqrt()
        };
        let held = (0..200).filter(naive).count();
        assert!(held < 120, "{held} of 200: then batches would not be needed");
    }

    #[test]
    fn an_interval_narrows_as_a_run_lasts() {
        let share = |n: usize| {
            let p = precision(Metric::Ttft, Statistic::Mean, &queue(1, 0.5, 2_000, n)).unwrap();
            p.share()
        };
        assert!(share(64_000) < share(4_000) / 2.5, "{} {}", share(64_000), share(4_000));
    }

    #[test]
    fn too_little_says_nothing() {
        let p99 = Statistic::Percentile(Percentile::P99);
        assert_eq!(precision(Metric::Ttft, Statistic::Mean, &[1; 99]), None);
        let few = precision(Metric::Ttft, p99, &queue(1, 0.5, 100, 100)).unwrap();
        assert_eq!((few.high_ms, few.share()), (None, f64::INFINITY), "one request lies above it");
        let mut lost = vec![1_000_000; 1_000];
        lost[500] = u64::MAX;
        assert_eq!(precision(Metric::Ttft, Statistic::Mean, &lost), None);
        assert_eq!(precision(Metric::Ttft, p99, &lost).unwrap().value_ms, 1.0);
        lost[..20].fill(u64::MAX);
        assert_eq!(precision(Metric::Ttft, p99, &lost), None, "it is infinite");
    }

    #[test]
    fn a_beginning_is_told_where_it_matters() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut values: Vec<u64> =
            (0..4_000).map(|_| (exponential(&mut rng, 10.0) * 1e6) as u64).collect();
        assert_eq!(beginning(&values), None);
        values[..300].iter_mut().for_each(|v| *v += 40_000_000);
        let cut = beginning(&values).unwrap();
        assert!((290..=350).contains(&cut), "{cut}");
        let growing: Vec<u64> = (0..4_000).map(|i| 1_000_000 + i * 10_000).collect();
        assert_eq!(beginning(&growing), Some(4_000), "it never settles");
        let steady =
            (0..100).filter(|s| beginning(&queue(*s, 0.5, 2_000, 4_000)).is_some()).count();
        assert!(steady <= 5, "{steady} of 100 steady runs are suspected");
    }

    #[test]
    fn a_precision_is_typed_like_a_target() {
        let wanted: Wanted = "ttft:mean=2.5%".parse().unwrap();
        assert_eq!((wanted.metric, wanted.statistic), (Metric::Ttft, Statistic::Mean));
        assert!((wanted.share - 0.025).abs() < 1e-12);
        assert_eq!("e2e=5%".parse::<Wanted>().unwrap().to_string(), "e2e:p99=5%");
        for bad in
            ["", "ttft", "ttft=", "ttft=5", "ttft=0%", "ttft=200%", "itl=5%", "x=5%", "ttft@a=5%"]
        {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }
}
