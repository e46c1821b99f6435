//! The errors of predictions against a run that really happened.
//!
//! The recorded requests are sent again, at the instants at which they came, to a simulated
//! deployment with the recorded settings; the figures of both worlds for the same requests are
//! compared. Errors are signed percent of the measured value: above zero, the prediction was too
//! slow (or, for throughput, too high).

pub mod knee;
pub mod prompts;
pub mod read;
pub mod recorded;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::exec::Correction;
use engine::kv::page_slots;
use engine::memory::KvLayout;
use engine::{Config, Deployment, DeviceProfile, EngineProfile, ModelShape};
use loadgen::{Histogram, Metric, Record, Recording, Slo, Stats, Summary};
use serde::{Deserialize, Serialize};

use crate::subject::bed::Testbed;
use crate::subject::observation::{Detailed, KvSample};
use crate::subject::{Refused, Relax};
use recorded::Recorded;

pub use read::ReadError;
pub use recorded::Occupancy;

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The model.
    pub model: Arc<ModelShape>,
    /// The device.
    pub device: Arc<DeviceProfile>,
    /// The engine, whose time outside the device counts.
    pub engine: Arc<EngineProfile>,
    /// The engine's settings.
    pub config: Config,
    /// The calibrated corrections of the device's operators.
    pub correction: Option<Arc<Correction>>,
    /// KV blocks of one worker, where they were recorded; else what the memory account leaves.
    pub kv_blocks: Option<u32>,
    /// Requests the client kept in flight at most.
    pub in_flight: Option<u32>,
}

/// Latency statistics, milliseconds or percent; none where undefined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Four {
    /// Mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

impl Four {
    /// Each by name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, Option<f64>); 4] {
        [("mean", self.mean), ("p50", self.p50), ("p90", self.p90), ("p99", self.p99)]
    }

    fn of(stats: &Stats) -> Self {
        let [mean, p50, p90, p99] =
            [stats.mean, stats.p50, stats.p90, stats.p99].map(loadgen::Latency::millis);
        Self { mean, p50, p90, p99 }
    }

    fn zip(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        let both = |a: Option<f64>, b: Option<f64>| Some(f(a?, b?)).filter(|x| x.is_finite());
        Self {
            mean: both(self.mean, other.mean),
            p50: both(self.p50, other.p50),
            p90: both(self.p90, other.p90),
            p99: both(self.p99, other.p99),
        }
    }
}

/// One world's account of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Time to first token, ms.
    pub ttft: Four,
    /// Time per output token, ms.
    pub tpot: Four,
    /// End to end, ms.
    pub e2e: Four,
    /// Requests completed per second, from the first arrival to the last completion.
    pub throughput_rps: f64,
    /// TTFT, TPOT and E2E of every request compared, ms, ascending, for plots.
    pub values: [Vec<f64>; 3],
}

/// Signed errors of the prediction, percent of what was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// Time to first token.
    pub ttft: Four,
    /// Time per output token.
    pub tpot: Four,
    /// End to end.
    pub e2e: Four,
    /// Completed requests per second.
    pub throughput: Option<f64>,
}

/// The latencies that a recorded run tells, in the order of [`Side::values`].
pub const COMPARED: [Metric; 3] = [Metric::Ttft, Metric::Tpot, Metric::E2e];

impl Side {
    /// One latency; undefined where recorded runs do not tell it.
    #[must_use]
    pub fn of(&self, metric: Metric) -> Four {
        one([self.ttft, self.tpot, self.e2e], metric)
    }
}

impl Errors {
    /// One latency's; undefined where recorded runs do not tell it.
    #[must_use]
    pub fn of(&self, metric: Metric) -> Four {
        one([self.ttft, self.tpot, self.e2e], metric)
    }
}

fn one(compared: [Four; 3], metric: Metric) -> Four {
    COMPARED.iter().position(|m| *m == metric).map_or_else(Four::default, |at| compared[at])
}

/// A recorded run beside its prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The run's name in the file.
    pub run: String,
    /// Requests/s asked for, where recorded; else as they came.
    pub rate_rps: f64,
    /// Requests sent.
    pub requests: usize,
    /// Of these, the ones compared: completed in both worlds.
    pub compared: usize,
    /// The causes of the failures that were recorded, and the number of each.
    #[serde(default)]
    pub failures: BTreeMap<String, u64>,
    /// The recorded figures.
    pub measured: Side,
    /// The predicted figures.
    pub predicted: Side,
    /// The difference.
    pub errors: Errors,
    /// Preemptions predicted.
    pub preemptions: u64,
    /// Prompt tokens predicted to be found in the prefix cache, share of all.
    pub cached: f64,
    /// Requests running and waiting, predicted, as an engine reports them.
    pub predicted_load: Vec<Occupancy>,
    /// The same, counted from records as `measured_load` is.
    pub predicted_from_records: Vec<Occupancy>,
    /// Requests running and waiting, measured; empty if admissions were not recorded.
    pub measured_load: Vec<Occupancy>,
}

/// Compares `recorded` with its simulation on `setup`.
///
/// # Errors
/// When the settings cannot be deployed.
pub fn validate(recorded: &Recorded, setup: &Setup) -> Result<Validation, Refused> {
    let run = rerun(recorded, setup, &mut |_| ())?;
    Ok(compare(recorded, &run))
}

/// Contexts beyond a model's own that are believed: what rotary scaling stretches them by, and twice that.
const MOST_STRETCH: u32 = 8;

/// The simulation of `recorded` alone; `watch` sees every iteration.
///
/// # Errors
/// When the settings cannot be deployed.
pub fn rerun(
    recorded: &Recorded,
    setup: &Setup,
    watch: &mut dyn FnMut(&engine::Iteration),
) -> Result<Detailed, Refused> {
    let (longest, most) = (recorded.longest(), setup.model.max_context);
    if longest > most.saturating_mul(MOST_STRETCH) {
        let (run, model) = (&recorded.name, &setup.model.name);
        return Err(Refused {
            reason: format!(
                "{run}: a request has {longest} tokens, {model} takes at most {most}: give the --model of the recorded run"
            ),
        });
    }
    let sim = simulator(recorded, setup);
    let deployment = deployment(&sim, setup)?;
    sim.rerun(&deployment, 1.0, watch)
}

/// A simulator that offers what was recorded, without targets, to workers of the recorded number of blocks.
pub(crate) fn simulator(recorded: &Recorded, setup: &Setup) -> Testbed {
    simulator_under(recorded, setup, &Slo::default())
}

/// The same under targets.
pub(crate) fn simulator_under(recorded: &Recorded, setup: &Setup, slo: &Slo) -> Testbed {
    let trace = Arc::new(recorded.trace(setup.in_flight));
    let slo = slo.bind(&trace.classes).expect("targets of a recorded run name no class");
    let (model, device) = (Arc::clone(&setup.model), Arc::clone(&setup.device));
    let sim = Testbed::new(trace, model, device, slo).under(Arc::clone(&setup.engine));
    let sim = sim.corrected(setup.correction.clone());
    match setup.kv_blocks {
        Some(blocks) => {
            let groups = KvLayout::new(&setup.model, &setup.config).groups;
            sim.with_kv_slots(blocks.saturating_mul(page_slots(&groups)))
        }
        None => sim,
    }
}

/// The recorded deployment, as configured.
pub(crate) fn deployment(sim: &Testbed, setup: &Setup) -> Result<Deployment, Refused> {
    let mut config = setup.config.clone();
    // The recorded requests were served, even beyond the length the model was trained for.
    config.allow_long_context |= sim.model().position_rows == 0;
    sim.deployment(&config, Relax::Nothing)
}

fn compare(recorded: &Recorded, run: &Detailed) -> Validation {
    let measured = recorded.records();
    let both = |(m, p): &(&Record, &Record)| m.completed() && p.completed();
    let (left, right): (Vec<Record>, Vec<Record>) =
        measured.iter().zip(&run.records).filter(both).map(|(m, p)| (*m, *p)).unzip();
    let (a, b) = (side(&left), side(&right));
    let span = measured.last().map_or(Duration::ZERO, |r| r.scheduled).as_secs_f64();
    let natural = if span > 0.0 { (measured.len() - 1) as f64 / span } else { 0.0 };
    let w = &run.observation.work();
    Validation {
        run: recorded.name.clone(),
        rate_rps: recorded.rate.unwrap_or(natural),
        requests: measured.len(),
        compared: left.len(),
        failures: recorded.failures.clone(),
        errors: errors(&a, &b),
        measured: a,
        predicted: b,
        preemptions: w.preemptions,
        cached: w.tokens_cached as f64 / w.tokens_looked_up.max(1) as f64,
        predicted_load: each_second(&run.kv_series),
        predicted_from_records: occupancy(&run.records),
        measured_load: occupancy(&measured),
    }
}

/// Statistics of completed requests.
#[must_use]
pub fn side(records: &[Record]) -> Side {
    let recording = Recording { records: records.to_vec(), itl: vec![Histogram::default()] };
    let slo = Slo::default().bind(&[]).expect("no target names a class");
    let summary = Summary::new(&recording, &slo);
    let [ttft, tpot, e2e] = COMPARED.map(|metric| Four::of(&summary.stats(metric)));
    let values = COMPARED.map(|metric| values(metric, records));
    Side { ttft, tpot, e2e, throughput_rps: summary.request_throughput_rps(), values }
}

fn values(metric: Metric, records: &[Record]) -> Vec<f64> {
    let ms = |t: Duration| t.as_nanos() as f64 / 1e6;
    let mut values: Vec<f64> = records.iter().filter_map(|r| metric.of(r)).map(ms).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// `predicted` against `measured`.
#[must_use]
pub fn errors(measured: &Side, predicted: &Side) -> Errors {
    let percent = |m: f64, p: f64| 100.0 * (p / m - 1.0);
    Errors {
        ttft: measured.ttft.zip(predicted.ttft, percent),
        tpot: measured.tpot.zip(predicted.tpot, percent),
        e2e: measured.e2e.zip(predicted.e2e, percent),
        throughput: Some(percent(measured.throughput_rps, predicted.throughput_rps))
            .filter(|x| x.is_finite()),
    }
}

/// Instants at which a run is looked at: a chart resolves no more, and a clock that is set during a run makes it last for
/// decades.
const MOST_INSTANTS: u64 = 20_000;

/// Whole seconds up to `end`: all, or every so many where there are very many.
fn seconds(end: u64) -> impl Iterator<Item = u64> {
    let step = end.div_ceil(MOST_INSTANTS).max(1);
    (step..=end).step_by(step as usize)
}

/// A series at whole seconds.
fn each_second(series: &[KvSample]) -> Vec<Occupancy> {
    let end = series.last().map_or(0.0, |s| s.at_s).ceil() as u64;
    let at = |second: u64| {
        let after = series.partition_point(|s| s.at_s <= second as f64);
        let s = after.checked_sub(1).map(|i| series[i])?;
        Some(Occupancy { at_s: second as f64, running: s.running, waiting: s.waiting })
    };
    seconds(end).filter_map(at).collect()
}

/// Requests running and waiting at whole seconds, from the times of their arrival, admission and
/// end. A preempted request that waits again counts as running: a record does not tell.
fn occupancy(records: &[Record]) -> Vec<Occupancy> {
    if records.iter().any(|r| r.admitted.is_none()) {
        return Vec::new();
    }
    let end = records.iter().filter_map(|r| r.last_token).max().unwrap_or_default();
    let sorted = |of: fn(&Record) -> Option<Duration>| {
        let mut times: Vec<Duration> = records.iter().filter_map(of).collect();
        times.sort_unstable();
        times
    };
    let started = |r: &Record| r.admitted.filter(|a| r.last_token.is_some_and(|e| e > *a));
    let over = |r: &Record| r.last_token.filter(|e| r.admitted.is_some_and(|a| *e > a));
    let arrived = sorted(|r| Some(r.scheduled));
    let admitted = sorted(|r| r.admitted.map(|a| a.max(r.scheduled)));
    let (started, over) = (sorted(started), sorted(over));
    let at = |second: u64| {
        let t = Duration::from_secs(second);
        let by = |times: &[Duration]| times.partition_point(|at| *at <= t);
        let (running, waiting) = (by(&started) - by(&over), by(&arrived) - by(&admitted));
        Occupancy { at_s: second as f64, running: running as u32, waiting: waiting as u32 }
    };
    seconds(end.as_secs()).map(at).collect()
}

#[cfg(test)]
mod tests;
