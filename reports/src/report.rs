//! The data of a report: plain, and stored beside the page so that it can be drawn again.
//!
//! Results of the tuner are kept as they are; what a single run showed is thinned to what a plot can resolve, so that
//! a stored report is some hundred kilobytes, however long the trace.

use crate::plot::thinned;
use loadgen::{Audit, Counted, Failures, Histogram, Metric, Precision, Record, Summary, Sustain};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tuner::claims::Claims;
use tuner::compare::PolicyResult;
use tuner::evidence::fidelity::Fidelity;
use tuner::evidence::validate::knee::Capacity;
use tuner::evidence::validate::{Occupancy, Validation};
use tuner::export::Missing;
use tuner::result::{Answer, DeviceInfo, TuneResult, WorkloadInfo};
use tuner::subject::observation::{Detailed, IterationSpan, KvSample, KvShares, Work};
use tuner::subject::unfit::Unfit;

/// Version of the stored form.
pub const SCHEMA: &str = "knee.report/4";

/// Any report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// `knee tune`.
    Tune(Box<TuneReport>),
    /// `knee compare`.
    Compare(Box<CompareReport>),
    /// `knee bench`.
    Bench(Box<BenchReport>),
    /// `knee validate`.
    Validate(Box<ValidationReport>),
    /// `knee profile check`.
    Fidelity(Box<FidelityReport>),
    /// `knee tune --url` and `--launch`.
    Served(Box<ServedReport>),
}

/// The load that a server carries, or the best of several that were started with other flags.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServedReport {
    /// The command behind it, and its assumptions.
    pub about: About,
    /// On what.
    pub scenario: Scenario,
    /// The command that starts a server, with `{flags}` in it; none of a server that was found running.
    pub command: Option<String>,
    /// Share of requests that must meet every target, where that was asked for.
    pub attainment: Option<f64>,
    /// Every configuration, and the best.
    pub answer: Answer,
    /// The best configuration at its capacity.
    pub best: Option<BenchReport>,
}

/// The best configuration and everything that speaks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuneReport {
    /// The command behind it, and its assumptions.
    pub about: About,
    /// The result of the search by simulation.
    pub result: TuneResult,
    /// The real engine's answer, where one was asked.
    #[serde(default)]
    pub measured: Option<Answer>,
    /// The winner in the words of serving systems, the one that honours the most of it first.
    pub exports: Vec<Export>,
    /// Policies at equal rates; may be empty.
    pub policies: Vec<PolicyResult>,
    /// The winner's run at its capacity.
    pub detail: Option<Detail>,
}

/// Policies side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompareReport {
    /// The command behind it, and its assumptions.
    pub about: About,
    /// On what.
    pub scenario: Scenario,
    /// Each policy's results, in the order shown.
    pub policies: Vec<PolicyResult>,
    /// The papers' claims tried here.
    pub claims: Claims,
}

/// One configuration at one rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// The command behind it, and its assumptions.
    pub about: About,
    /// On what.
    pub scenario: Scenario,
    /// Every knob by name, as typed.
    pub config: BTreeMap<String, String>,
    /// Its label for people.
    pub label: String,
    /// GPUs it takes; none where a server does not tell.
    pub gpus: Option<u32>,
    /// Requests/s offered; none where all arrived at once or as others ended.
    pub rate_rps: Option<f64>,
    /// Requests (or sessions) kept under way in a simulated closed loop.
    #[serde(default)]
    pub streams: Option<u32>,
    /// Latencies, throughput, goodput.
    pub summary: Summary,
    /// The verdict on whether the offered load could have gone on for ever.
    pub sustain: Sustain,
    /// Requests that could never be served, where the engine tells.
    #[serde(default)]
    pub unfit: Unfit,
    /// The figures that only a simulation sees.
    pub inside: Option<Inside>,
    /// The figures that only a measurement has.
    pub live: Option<LiveSide>,
    /// Everything over time.
    pub detail: Detail,
}

/// An engine from the inside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inside {
    /// Its work.
    pub work: Work,
    /// The uses of KV memory, as means over time.
    pub kv: KvShares,
}

/// The course of a server's measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveSide {
    /// The same run with latencies counted from the sends.
    pub from_send: Summary,
    /// The client's account of itself.
    pub audit: Audit,
    /// The precision of the usual figures.
    #[serde(default)]
    pub precision: Vec<Precision>,
    /// Failures by name.
    pub failures: BTreeMap<String, Failures>,
    /// The parts of the requests meant for it that the server did not take.
    #[serde(default)]
    pub given_up: Vec<String>,
    /// True if the user ended it early.
    pub interrupted: bool,
}

/// The command behind a report, and its assumptions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The command that made it.
    pub command: String,
    /// The assumptions that a reader has to believe.
    pub assumptions: Vec<Assumption>,
}

/// Something taken for granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assumption {
    /// The assumption.
    pub what: String,
    /// Its source.
    pub source: String,
}

/// The subject of a measurement or a simulation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Version of knee.
    pub version: String,
    /// True if times are predicted by a cost model, false if measured.
    pub simulated: bool,
    /// The seed everything derives from.
    pub seed: u64,
    /// The traffic.
    pub workload: WorkloadInfo,
    /// Model name.
    pub model: String,
    /// The parts of it that are left out, and those that were not measured on the device: a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The device.
    pub device: DeviceInfo,
    /// Targets in the SLO grammar.
    pub slo: Vec<String>,
    /// Elapsed time, seconds.
    pub wall_s: f64,
    /// Processor time, seconds.
    pub cpu_s: f64,
    /// The machine it ran on.
    pub host: String,
}

/// The configuration for one serving system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// The system, such as `vLLM`.
    pub name: String,
    /// The usual name of a file that holds it.
    #[serde(default)]
    pub file: String,
    /// The engine that it runs, by the name of its package.
    #[serde(default)]
    pub engine: String,
    /// The words that start the engine in it, before the model.
    #[serde(default)]
    pub starts: String,
    /// A command or a manifest, ready to paste.
    pub text: String,
    /// The features that the configuration wants and the system lacks.
    pub missing: Vec<Missing>,
    /// Knobs and values that keep a search to what it can do.
    pub pins: Vec<(String, String)>,
    /// The best that its engine can be told, where that is not the winner: the text is of it.
    #[serde(default)]
    pub own: Option<Own>,
}

/// A configuration beside the winner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// Its name for people.
    pub label: String,
    /// Its capacity, requests/s.
    pub capacity_rps: f64,
}

/// One run over time, thinned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// KV classes, running and waiting; at most [`SAMPLES`].
    pub kv: Vec<KvSample>,
    /// Output over time.
    pub output: Vec<Output>,
    /// Every iteration of a window of some seconds at the busiest time.
    pub window: Vec<IterationSpan>,
    /// Latency distributions of TTFT, TPOT, ITL and E2E.
    pub distributions: Vec<Distribution>,
}

/// Work delivered in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Its middle, seconds since the run's origin.
    pub at_s: f64,
    /// Output tokens/s, each request's spread evenly from its first token to its last.
    pub tokens_per_s: f64,
    /// Requests completed per second.
    pub completed_rps: f64,
}

/// Shares of a population up to a latency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The latency.
    pub metric: Metric,
    /// (latency in ms, share of all requests offered (ITL: of all gaps) at or below), ascending; the last share is
    /// below 1 where requests were lost.
    pub points: Vec<(f64, f64)>,
}

/// Samples kept of a series.
pub const SAMPLES: usize = 400;
/// Length of the window of iterations, seconds, and how many it may hold.
const WINDOW: (f64, usize) = (3.0, 1500);

impl Detail {
    /// The part of a run that a report keeps.
    #[must_use]
    pub fn new(run: &Detailed) -> Self {
        Self {
            kv: thinned(&run.kv_series, SAMPLES),
            window: window(&run.iterations, &run.kv_series),
            ..Self::outside(&run.records, &run.itl)
        }
    }

    /// The part that a report keeps of a run seen from outside only.
    #[must_use]
    pub fn outside(all: &[Record], itl: &Histogram) -> Self {
        let of = |metric: Metric| Distribution {
            metric,
            points: match metric.counted() {
                Counted::Requests => of_records(metric, all),
                Counted::Gaps => of_histogram(itl),
            },
        };
        Self {
            kv: Vec::new(),
            output: output(all, SAMPLES / 2),
            window: Vec::new(),
            distributions: Metric::ALL.map(of).into(),
        }
    }

    /// The distribution of a metric.
    #[must_use]
    pub fn distribution(&self, metric: Metric) -> Option<&Distribution> {
        self.distributions.iter().find(|d| d.metric == metric)
    }
}

fn of_records(metric: Metric, records: &[Record]) -> Vec<(f64, f64)> {
    let mut values: Vec<u128> =
        records.iter().filter_map(|r| metric.of(r)).map(|d| d.as_nanos()).collect();
    values.sort_unstable();
    // Requests without this latency by nature (one output token has no TPOT) are no part of the population.
    let lost = records.iter().filter(|r| !r.completed() && metric.of(r).is_none()).count();
    let all = (values.len() + lost).max(1) as f64;
    let points: Vec<(f64, f64)> = values
        .iter()
        .zip(1u32..)
        .map(|(v, rank)| (*v as f64 / 1e6, f64::from(rank) / all))
        .collect();
    quantiles(&points)
}

fn of_histogram(itl: &Histogram) -> Vec<(f64, f64)> {
    let mut seen = 0;
    let points: Vec<(f64, f64)> = itl
        .buckets()
        .map(|(edge, count)| {
            seen += count;
            (edge.as_secs_f64() * 1e3, seen as f64 / itl.count() as f64)
        })
        .collect();
    quantiles(&points)
}

/// Points of an ascending distribution, half of them by share, half closing in on the tail.
fn quantiles(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= SAMPLES {
        return points.to_vec();
    }
    let half = SAMPLES / 2;
    let even = (0..half).map(|i| i as f64 / half as f64);
    // The tail down to one in ten thousand.
    let tail = (1..=half).map(|i| 1.0 - 10f64.powf(-4.0 * i as f64 / half as f64));
    let mut shares: Vec<f64> = even.chain(tail).chain([1.0]).collect();
    shares.sort_by(f64::total_cmp);
    let mut kept: Vec<usize> = shares
        .into_iter()
        .map(|s| points.partition_point(|p| p.1 < s).min(points.len() - 1))
        .collect();
    kept.dedup();
    kept.into_iter().map(|i| points[i]).collect()
}

/// Output in `bins` equal stretches of the run.
fn output(records: &[Record], bins: usize) -> Vec<Output> {
    let end = records.iter().filter_map(|r| r.last_token).max().unwrap_or_default().as_secs_f64();
    if end <= 0.0 {
        return Vec::new();
    }
    let width = end / bins as f64;
    let bin = |t: f64| ((t / width) as usize).min(bins - 1);
    let (mut tokens, mut completed) = (vec![0.0; bins], vec![0.0; bins]);
    for r in records {
        let (Some(first), Some(last)) = (r.first_token, r.last_token) else { continue };
        let (from, to) = (first.as_secs_f64(), last.as_secs_f64());
        if r.completed() {
            completed[bin(to)] += 1.0;
        }
        let n = f64::from(r.output);
        for (b, sum) in tokens.iter_mut().enumerate().take(bin(to) + 1).skip(bin(from)) {
            let (start, stop) = (b as f64 * width, (b + 1) as f64 * width);
            let overlap = (to.min(stop) - from.max(start)).max(0.0);
            *sum += if to > from { n * overlap / (to - from) } else { n };
        }
    }
    let sums = tokens.into_iter().zip(completed).enumerate();
    sums.map(|(b, (tokens, completed))| Output {
        at_s: (b as f64 + 0.5) * width,
        tokens_per_s: tokens / width,
        completed_rps: completed / width,
    })
    .collect()
}

/// Iterations around the time with most sequences running.
fn window(spans: &[IterationSpan], series: &[KvSample]) -> Vec<IterationSpan> {
    let Some(last) = spans.last() else { return Vec::new() };
    let busiest = series.iter().filter(|s| s.at_s <= last.start_s).max_by_key(|s| s.running);
    let middle = busiest.map_or(0.0, |s| s.at_s);
    let from = (middle - WINDOW.0 / 2.0).min(last.start_s - WINDOW.0).max(0.0);
    let inside = |s: &&IterationSpan| s.start_s + s.length_s >= from && s.start_s < from + WINDOW.0;
    spans.iter().filter(inside).take(WINDOW.1).copied().collect()
}

/// Recorded runs beside their predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationReport {
    /// The command behind it, and its assumptions.
    pub about: About,
    /// Version of knee.
    pub version: String,
    /// The file of requests.
    pub file: String,
    /// The model.
    pub model: String,
    /// The device.
    pub device: String,
    /// Every knob by name, and what else the run was made with.
    pub config: BTreeMap<String, String>,
    /// The runs, thinned to what a plot resolves.
    pub runs: Vec<Validation>,
    /// The findings about capacity.
    pub capacity: Capacity,
    /// Requests running and waiting as the engine itself reported, where that was given.
    pub reported_load: Vec<Occupancy>,
}

impl ValidationReport {
    /// The same with distributions and series thinned.
    #[must_use]
    pub fn thinned(mut self) -> Self {
        for run in &mut self.runs {
            for side in [&mut run.measured, &mut run.predicted] {
                for values in &mut side.values {
                    *values = thinned(values, SAMPLES);
                }
            }
            run.measured_load = thinned(&run.measured_load, SAMPLES);
            run.predicted_load = thinned(&run.predicted_load, SAMPLES);
            run.predicted_from_records = thinned(&run.predicted_from_records, SAMPLES);
        }
        self.reported_load = thinned(&self.reported_load, SAMPLES);
        self
    }
}

/// This machine's engine beside its simulation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FidelityReport {
    /// The command behind it, and its assumptions.
    pub about: About,
    /// Version of knee.
    pub version: String,
    /// The model.
    pub model: String,
    /// The way it was computed.
    pub device: String,
    /// The machine.
    pub host: String,
    /// The origin of its times.
    pub profile: String,
    /// The traffic.
    pub workload: String,
    /// The targets, as typed; may be empty.
    pub targets: String,
    /// Seed of what was synthesised.
    pub seed: u64,
    /// Every knob by name, as typed.
    pub config: BTreeMap<String, String>,
    /// The findings, thinned to what a plot resolves.
    pub fidelity: Fidelity,
}

impl FidelityReport {
    /// The same with distributions and iterations thinned.
    #[must_use]
    pub fn thinned(mut self) -> Self {
        let found = &mut self.fidelity;
        for values in found.measured.iter_mut().flatten().chain(&mut found.predicted) {
            *values = thinned(values, SAMPLES);
        }
        found.pairs = thinned(&found.pairs, 5 * SAMPLES);
        self
    }
}
