//! The distance of the simulation from the engine that runs here: the same requests computed
//! several times and simulated once.
//!
//! A machine that others share does not repeat itself, so an error is told beside how far apart the repeats are: a
//! prediction that is closer than twice their standard deviation cannot be told from another repeat.

use std::sync::atomic::AtomicBool;

use engine::{Config, Deployment};
use loadgen::{Metric, Record};
use serde::{Deserialize, Serialize};

use crate::evidence::validate::{Four, Side, side};
use crate::knee::{Effort, Knee, Prober, place_of, rate_at};
use crate::subject::bed::{Step, Testbed, steps_of};
use crate::subject::observation::Detailed;
use crate::subject::{Refused, Relax, Stop, Subject};

/// One run on the real engine.
#[derive(Debug, Clone)]
pub struct Played {
    /// Every request.
    pub records: Vec<Record>,
    /// Every iteration.
    pub steps: Vec<Step>,
}

/// A figure of both worlds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name, with its statistic.
    pub name: String,
    /// True where it is a time, in milliseconds; else requests/s.
    pub is_time: bool,
    /// By repeat.
    pub measured: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// Standard deviation of the repeats, percent of their mean; none of a single one.
    pub spread: Option<f64>,
    /// By simulation.
    pub predicted: f64,
    /// Signed, percent of the median: above zero, predicted too high.
    pub error: f64,
    /// Largest error that is good enough, percent, where there is one.
    pub aim: Option<f64>,
}

impl Figure {
    fn new(
        name: &str,
        is_time: bool,
        measured: Vec<f64>,
        predicted: f64,
        aim: Option<f64>,
    ) -> Self {
        let median = median(&measured);
        let n = measured.len() as f64;
        let mean = measured.iter().sum::<f64>() / n;
        let squares: f64 = measured.iter().map(|x| (x - mean).powi(2)).sum();
        let spread = (measured.len() > 1).then(|| 100.0 * (squares / (n - 1.0)).sqrt() / mean);
        let error = 100.0 * (predicted / median - 1.0);
        Self { name: name.to_owned(), is_time, measured, median, spread, predicted, error, aim }
    }

    /// True where the error is within the aim, or within twice the spread of the repeats.
    #[must_use]
    pub fn holds(&self) -> Option<bool> {
        let allowed = self.aim?.max(2.0 * self.spread.unwrap_or(0.0));
        Some(self.error.abs() <= allowed)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { f64::NAN } else { 0.5 * (sorted[(n - 1) / 2] + sorted[n / 2]) }
}

/// Times of iterations, predicted for the very batches that were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// The kind of iterations.
    pub of: String,
    /// Their number, over all repeats.
    pub count: usize,
    /// Seconds measured and predicted in all of them.
    pub measured_s: f64,
    /// The same, predicted.
    pub predicted_s: f64,
    /// Mean and 95th percentile of the unsigned error of one iteration, percent.
    pub mean_error: f64,
    /// The same.
    pub p95_error: f64,
}

/// A capacity, predicted and measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BothKnees {
    /// Requests/s carried for real; none if none.
    pub measured_rps: Option<f64>,
    /// By simulation.
    pub predicted_rps: Option<f64>,
    /// Real runs made.
    pub runs: u64,
}

impl BothKnees {
    /// Signed, percent.
    #[must_use]
    pub fn error(&self) -> Option<f64> {
        Some(100.0 * (self.predicted_rps? / self.measured_rps? - 1.0))
    }
}

/// The result of the comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// Real runs.
    pub repeats: usize,
    /// Requests of each.
    pub requests: usize,
    /// Requests/s offered.
    pub rate_rps: f64,
    /// Latencies and throughput.
    pub figures: Vec<Figure>,
    /// Iterations: all, those of decodes only, those with prompts.
    pub steps: Vec<Steps>,
    /// TTFT, TPOT and E2E of each repeat's requests, ms, ascending.
    pub measured: Vec<[Vec<f64>; 3]>,
    /// The same, predicted.
    pub predicted: [Vec<f64>; 3],
    /// Iterations as (predicted, measured) ms.
    pub pairs: Vec<(f64, f64)>,
    /// The highest rate under targets, where it was asked for.
    pub capacity: Option<BothKnees>,
}

/// Runs `real` once.
///
/// # Errors
/// When the machine fails.
pub fn play(real: &Testbed, deployment: &Deployment, scale: f64) -> Result<Played, Refused> {
    let mut steps = Vec::new();
    let run = real.watched(deployment, scale, &mut |it| steps.extend(steps_of(it)))?;
    Ok(Played { records: run.records, steps })
}

/// Puts `repeats` beside the simulation `run` of `deployment`, at `rate_rps`.
///
/// # Panics
/// Without a repeat.
#[must_use]
pub fn compare(
    repeats: &[Played],
    run: &Detailed,
    deployment: &Deployment,
    rate_rps: f64,
) -> Fidelity {
    assert!(!repeats.is_empty(), "something was run");
    let predicted = side(&run.records);
    let sides: Vec<_> = repeats.iter().map(|r| side(&r.records)).collect();
    let mut figures = Vec::new();
    let time = |metric: Metric, statistic: &str, aim: Option<f64>| {
        let of = |s: &Side| named(s.of(metric), statistic);
        let measured: Vec<f64> = sides.iter().filter_map(of).collect();
        let name = format!("{} {statistic}", metric.label());
        let found = of(&predicted).filter(|_| measured.len() == sides.len());
        found.map(|p| Figure::new(&name, true, measured, p, aim))
    };
    for (metric, statistic, aim) in [
        (Metric::Ttft, "p50", Some(10.0)),
        (Metric::Ttft, "p99", None),
        (Metric::Tpot, "p50", Some(5.0)),
        (Metric::Tpot, "p99", Some(5.0)),
        (Metric::E2e, "p50", None),
        (Metric::E2e, "p99", None),
    ] {
        figures.extend(time(metric, statistic, aim));
    }
    let rps = sides.iter().map(|s| s.throughput_rps).collect();
    figures.push(Figure::new("requests/s", false, rps, predicted.throughput_rps, None));
    let pairs = pairs(repeats, deployment);
    let steps = [("all", None), ("decodes only", Some(false)), ("with prompts", Some(true))];
    Fidelity {
        repeats: repeats.len(),
        requests: run.records.len(),
        rate_rps,
        figures,
        steps: steps.into_iter().filter_map(|(of, prompts)| errors(of, &pairs, prompts)).collect(),
        measured: sides.into_iter().map(|s| s.values).collect(),
        predicted: predicted.values,
        pairs: pairs.into_iter().map(|p| (1e3 * p.predicted, 1e3 * p.measured)).collect(),
        capacity: None,
    }
}

fn named(four: Four, statistic: &str) -> Option<f64> {
    four.named().into_iter().find(|(name, _)| *name == statistic)?.1
}

/// An iteration in both worlds, seconds.
struct Pair {
    prompts: bool,
    predicted: f64,
    measured: f64,
}

fn pairs(repeats: &[Played], deployment: &Deployment) -> Vec<Pair> {
    let pair = |step: &Step| Pair {
        prompts: step.shape.prefill_seqs > 0,
        predicted: deployment.cost.stage_ns(&step.shape) as f64 * 1e-9,
        measured: step.seconds,
    };
    repeats.iter().flat_map(|r| &r.steps).map(pair).collect()
}

fn errors(of: &str, pairs: &[Pair], prompts: Option<bool>) -> Option<Steps> {
    let wanted: Vec<&Pair> =
        pairs.iter().filter(|p| prompts.is_none_or(|prompts| p.prompts == prompts)).collect();
    let mut errors: Vec<f64> =
        wanted.iter().map(|p| 100.0 * (p.predicted / p.measured - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    let p95_error = *errors.get((errors.len().max(1) - 1) * 95 / 100)?;
    Some(Steps {
        of: of.to_owned(),
        count: wanted.len(),
        measured_s: wanted.iter().map(|p| p.measured).sum(),
        predicted_s: wanted.iter().map(|p| p.predicted).sum(),
        mean_error: errors.iter().sum::<f64>() / errors.len() as f64,
        p95_error,
    })
}

/// The highest rate of `config` under the targets, simulated on `sim` and for real.
///
/// # Errors
/// When it cannot run, or was cancelled.
pub fn knees(
    sim: &dyn Subject,
    real: &dyn Subject,
    config: &Config,
    cancel: &AtomicBool,
) -> Result<BothKnees, Stop> {
    let natural = place_of(sim.natural_rate(sim.requests()));
    let knee = |subject, start, effort| {
        let mut prober = Prober::new(subject, config, Relax::Nothing, sim.requests(), cancel)?;
        let knee = prober.knee(start, effort)?;
        let lo = match knee {
            Knee::Between { lo, .. } => Some(lo),
            Knee::Nowhere => None,
        };
        Ok::<_, Stop>((lo, prober.into_probes().len() as u64))
    };
    let (predicted, _) = knee(sim, natural, Effort::COLD)?;
    let (measured, runs) = knee(real, predicted.unwrap_or(natural), Effort::REAL)?;
    let (measured_rps, predicted_rps) = (measured.map(rate_at), predicted.map(rate_at));
    Ok(BothKnees { measured_rps, predicted_rps, runs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_judged_by_the_spread_of_repeats() {
        let figure = |measured: &[f64], predicted| {
            Figure::new("x", true, measured.to_vec(), predicted, Some(5.0))
        };
        let exact = figure(&[100.0, 100.0, 100.0], 104.0);
        assert_eq!((exact.median, exact.spread), (100.0, Some(0.0)));
        assert!((exact.error - 4.0).abs() < 1e-9);
        assert_eq!(exact.holds(), Some(true));
        assert_eq!(figure(&[100.0, 100.0, 100.0], 106.0).holds(), Some(false));
        // A standard deviation of 10 % allows 20.
        let noisy = figure(&[90.0, 100.0, 110.0], 119.0);
        assert!((noisy.spread.unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(noisy.holds(), Some(true));
        assert_eq!(figure(&[90.0, 100.0, 110.0], 121.0).holds(), Some(false));
        assert_eq!(figure(&[100.0], 106.0).spread, None);
        assert_eq!(figure(&[1.0, 2.0, 4.0, 8.0], 3.0).error, 0.0);
    }

    #[test]
    fn iterations_with_prompts_are_told_from_decodes() {
        let pair = |prompts, predicted, measured| Pair { prompts, predicted, measured };
        let pairs = [pair(true, 2.0, 1.0), pair(false, 0.9, 1.0), pair(false, 1.1, 1.0)];
        let decodes = errors("decodes only", &pairs, Some(false)).unwrap();
        assert_eq!(decodes.count, 2);
        assert!((decodes.mean_error - 10.0).abs() < 1e-9);
        assert!((decodes.predicted_s / decodes.measured_s - 1.0).abs() < 1e-9);
        assert!((errors("all", &pairs, None).unwrap().mean_error - 40.0).abs() < 1e-9);
        assert_eq!(errors("none", &[], None), None);
    }
}
