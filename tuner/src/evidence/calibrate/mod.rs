//! Residual constants from a real run: what the cost model's tables cannot contain, and by what factor they are off.
//!
//! An iteration takes Σ factor·part + fixed + per sequence·sequences, all of them linear and none negative. From a log
//! of steps every factor can be told; from request records only sums over a request's life are known, so that the
//! predicted schedule says which iterations those were, and it is predicted anew with every better guess. 30 % of the
//! rows, chosen by the seed, are held out and only judge.

mod nnls;
mod overlay;
mod steps;

use std::collections::BTreeMap;
use std::time::Duration;

use engine::exec::cost::{CostModel, Ranks};
use engine::profile::Host;
use engine::request::mix;
use engine::{Config, DeviceProfile, EngineProfile, ModelShape, Shape};
use serde::{Deserialize, Serialize};

pub use nnls::nnls;
pub use overlay::{HostTime, Overlay, OverlayError};
pub use steps::{StepLog, read_steps};

use crate::evidence::validate::recorded::Recorded;
use crate::evidence::validate::{Setup, rerun};
use crate::subject::Refused;
use crate::subject::bed::{Step, steps_of};

/// The part of an iteration that host time stands for.
const HOST: &str = "host";
/// Rows below which nothing can be told.
const ROWS: usize = 20;
/// Guesses of a schedule at most, and the change of host time at which it is found.
const ROUNDS: usize = 12;
const SETTLED: f64 = 1e-3;
/// Requests further off than so many times the median are fitted to other schedules than theirs.
const ODD: f64 = 3.0;

/// The coefficients that are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Host time: per iteration and per sequence.
    Host,
    /// Host time, and a factor for each operator class that the log exercises.
    All,
}

/// One constant and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coefficient {
    /// `host per iteration`, `host per sequence`, or an operator class.
    pub name: String,
    /// `µs`, or `x` for a factor.
    pub unit: String,
    /// Its value in the profile.
    pub before: f64,
    /// Its value after the fit.
    pub after: f64,
    /// Its standard error; none of what stayed or was held at zero.
    pub error: Option<f64>,
    /// Its source.
    pub source: String,
}

/// The errors of predicted times against real ones, percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Misses {
    /// Mean of the signed error.
    pub bias: f64,
    /// Mean of its size.
    pub mean: f64,
    /// Median of its size.
    pub p50: f64,
    /// 90th percentile of its size.
    pub p90: f64,
    /// 99th percentile of its size.
    pub p99: f64,
}

/// The result of a calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The kind of its rows: `steps` or `requests`.
    pub rows: String,
    /// Rows fitted to, and rows held out.
    pub fitted: usize,
    /// Rows that only judge.
    pub held_out: usize,
    /// The seed that chose them.
    pub seed: u64,
    /// Every constant.
    pub coefficients: Vec<Coefficient>,
    /// On the rows held out, with the profile's constants.
    pub before: Misses,
    /// On the same rows, with those found.
    pub after: Misses,
}

/// Why nothing could be fitted.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// Too little to fit to.
    #[error("{rows} rows are too few to fit {coefficients} coefficients: give at least {ROWS}")]
    Rows {
        /// Rows there are.
        rows: usize,
        /// Coefficients asked for.
        coefficients: usize,
    },
    /// More workers than one.
    #[error(
        "request records tell nothing about single iterations of {workers} workers; calibrate on one"
    )]
    Workers {
        /// Workers of the deployment.
        workers: u32,
    },
    /// The settings cannot be deployed.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// One equation: parts of the time, iterations, sequences, and the time.
#[derive(Clone)]
struct Row {
    parts: Vec<f64>,
    steps: f64,
    seqs: f64,
    seconds: f64,
    /// Not to be fitted to.
    odd: bool,
}

fn part_names() -> Vec<&'static str> {
    let parts = engine::exec::cost::Breakdown::default().parts();
    parts.iter().map(|p| p.0).filter(|name| *name != HOST).collect()
}

fn parts(cost: &CostModel, shape: &Shape) -> Vec<f64> {
    let parts = cost.breakdown(shape).parts();
    parts.iter().filter(|p| p.0 != HOST).map(|p| p.1).collect()
}

/// CPU time of an iteration that shows, µs: per iteration and per sequence.
fn host_of(device: &DeviceProfile, engine: &EngineProfile, config: &Config) -> [f64; 2] {
    engine.host_time(device, config).shown.map(|ns| ns / 1e3)
}

fn sequences(shape: &Shape) -> f64 {
    f64::from(shape.prefill_seqs) + f64::from(shape.decode_seqs)
}

/// The cost of iterations of `model` on `device` as `config` deploys it.
fn cost(model: &ModelShape, device: &DeviceProfile, config: &Config) -> CostModel {
    let ranks = Ranks { tp: config.tp, dp: config.dp, ep: config.ep, pp: config.pp };
    let of = |model: &ModelShape| {
        CostModel::on(model, device, ranks, config.kv_dtype, config.max_batch_tokens)
    };
    match config.quantization {
        Some(format) => of(&model.clone().quantised(format)),
        None => of(model),
    }
}

/// Constants from a log of steps of `model` on `device`.
///
/// # Errors
/// When there are too few steps.
pub fn from_steps(
    steps: &[Step],
    model: &ModelShape,
    device: &DeviceProfile,
    config: &Config,
    scope: Scope,
    seed: u64,
) -> Result<Calibration, CalibrateError> {
    let cost = cost(model, device, config);
    let row = |step: &Step| Row {
        parts: parts(&cost, &step.shape),
        steps: 1.0,
        seqs: sequences(&step.shape),
        seconds: step.seconds,
        odd: false,
    };
    let rows: Vec<Row> = steps.iter().map(row).collect();
    let known = host_of(device, &EngineProfile::any(), config);
    let found = fit(&rows, scope, seed, known)?;
    Ok(account(&rows, ("steps", scope, seed), (device, known), &found))
}

/// Host time from the requests of a run: the time from each one's first token to its last is that of the iterations
/// in between.
///
/// # Errors
/// When there are too few requests, more workers than one, or the settings cannot be deployed.
pub fn from_requests(
    recorded: &Recorded,
    setup: &Setup,
    seed: u64,
) -> Result<Calibration, CalibrateError> {
    let workers = setup.config.workers() * setup.config.engines();
    if workers > 1 || setup.config.pp > 1 {
        return Err(CalibrateError::Workers { workers: workers * setup.config.pp });
    }
    let mut guess = setup.clone();
    let known = host_of(&setup.device, &setup.engine, &setup.config);
    let mut host = known;
    let first = lives(recorded, &guess)?;
    let mut rows = first;
    let mut found = trimmed(&rows, seed, host)?;
    for _ in 0..ROUNDS {
        let next = found.host();
        // A step of half the way: the schedule moves with the guess, and two could take turns for ever.
        let middle = [0, 1].map(|i| (host[i] + next[i]) / 2.0);
        let settled = (0..2).all(|i| (middle[i] - host[i]).abs() <= SETTLED * host[i].max(1.0));
        host = middle;
        if settled {
            break;
        }
        let mut device = (*setup.device).clone();
        let source = "a guess on the way to the fit".to_owned();
        device.host = Some(Host { step_us: host[0], seq_us: host[1], source });
        guess.device = device.into();
        rows = lives(recorded, &guess)?;
        found = trimmed(&rows, seed, host)?;
    }
    // Judged by schedules that each side predicts for itself: the profile's own, and the one found.
    let mut calibration =
        account(&rows, ("requests", Scope::Host, seed), (&setup.device, known), &found);
    let own = lives(recorded, setup)?;
    calibration.before = misses(&own, seed, &Found::of_profile(known));
    Ok(calibration)
}

/// A row per request that decodes: the iterations between its first and its last token as predicted, and the time
/// really taken.
fn lives(recorded: &Recorded, setup: &Setup) -> Result<Vec<Row>, CalibrateError> {
    let c = &setup.config;
    let cost = cost(&setup.model, &setup.device, c);
    let width = part_names().len();
    // Sums up to the end of every iteration.
    let mut ends: Vec<Duration> = vec![Duration::ZERO];
    let mut sums: Vec<Vec<f64>> = vec![vec![0.0; width + 1]];
    let run = rerun(recorded, setup, &mut |it| {
        for (step, end) in steps_of(it).zip(&it.ends) {
            let mut sum = sums[sums.len() - 1].clone();
            let with = parts(&cost, &step.shape).into_iter().chain([sequences(&step.shape)]);
            sum.iter_mut().zip(with).for_each(|(s, x)| *s += x);
            sums.push(sum);
            ends.push(*end);
        }
    })?;
    let at = |t: Duration| ends.partition_point(|e| *e <= t) - 1;
    let measured = recorded.records();
    let row = |(m, p): (&loadgen::Record, &loadgen::Record)| {
        let real = m.e2e()?.checked_sub(m.ttft()?)?.as_secs_f64();
        let (from, to) = (at(p.first_token?), at(p.last_token?));
        let sum: Vec<f64> = sums[to].iter().zip(&sums[from]).map(|(b, a)| b - a).collect();
        let (seqs, steps) = (sum[width], (to - from) as f64);
        (m.output > 1 && real > 0.0 && to > from).then(|| Row {
            parts: sum[..width].to_vec(),
            steps,
            seqs,
            seconds: real,
            odd: false,
        })
    };
    Ok(measured.iter().zip(&run.records).filter_map(row).collect())
}

/// Coefficients in the order: per iteration (s), per sequence (s), then a factor per part.
#[derive(Clone)]
struct Found {
    values: Vec<f64>,
    errors: Vec<Option<f64>>,
    /// Of the parts: whether the factor was fitted.
    fitted: Vec<bool>,
}

impl Found {
    fn of_profile(host_us: [f64; 2]) -> Self {
        let n = part_names().len();
        let values = host_us.map(|us| us * 1e-6).into_iter().chain(vec![1.0; n]).collect();
        Self { values, errors: vec![None; n + 2], fitted: vec![false; n] }
    }

    fn host(&self) -> [f64; 2] {
        [self.values[0] * 1e6, self.values[1] * 1e6]
    }

    fn predict(&self, row: &Row) -> f64 {
        let parts = row.parts.iter().zip(&self.values[2..]);
        self.values[0] * row.steps
            + self.values[1] * row.seqs
            + parts.map(|(p, f)| p * f).sum::<f64>()
    }
}

fn is_held_out(index: usize, seed: u64) -> bool {
    mix(seed, index as u64) % 10 < 3
}

/// Least squares of relative errors, so that short steps count as much as long ones.
fn fit(rows: &[Row], scope: Scope, seed: u64, known: [f64; 2]) -> Result<Found, CalibrateError> {
    let n = part_names().len();
    let total: f64 = rows.iter().flat_map(|r| &r.parts).sum();
    let share =
        |j: usize| rows.iter().map(|r| r.parts[j]).sum::<f64>() / total.max(f64::MIN_POSITIVE);
    // A part that the log hardly exercises cannot be told from the log.
    let fitted: Vec<bool> = (0..n).map(|j| scope == Scope::All && share(j) > 1e-4).collect();
    let columns = 2 + fitted.iter().filter(|f| **f).count();
    if rows.len() < ROWS.max(2 * columns) {
        return Err(CalibrateError::Rows { rows: rows.len(), coefficients: columns });
    }
    let equation = |row: &Row| {
        let rest: f64 = row.parts.iter().zip(&fitted).filter(|p| !p.1).map(|p| p.0).sum();
        let free = row.parts.iter().zip(&fitted).filter(|p| *p.1).map(|p| *p.0);
        let cells = [row.steps, row.seqs].into_iter().chain(free).chain([row.seconds - rest]);
        cells.map(|x| x / row.seconds).collect::<Vec<f64>>()
    };
    let train = rows.iter().enumerate().filter(|(i, r)| !r.odd && !is_held_out(*i, seed));
    let solved = nnls(&train.map(|(_, r)| equation(r)).collect::<Vec<_>>());
    let mut found = Found { values: vec![1.0; n + 2], errors: vec![None; n + 2], fitted };
    (found.values[0], found.values[1]) = (known[0] * 1e-6, known[1] * 1e-6);
    let free = (0..n).filter(|&j| found.fitted[j]).map(|j| j + 2).collect::<Vec<_>>();
    for (to, (value, error)) in [0, 1].into_iter().chain(free).zip(solved) {
        (found.values[to], found.errors[to]) = (value, error);
    }
    Ok(found)
}

/// Host time fitted twice, the second time without the rows that the first was furthest from. Under
/// preemption a single block decides which sequence gives way, and a request that another schedule
/// ruled says nothing about iterations.
fn trimmed(rows: &[Row], seed: u64, known: [f64; 2]) -> Result<Found, CalibrateError> {
    let first = fit(rows, Scope::Host, seed, known)?;
    let off = |r: &Row| (first.predict(r) / r.seconds - 1.0).abs();
    let mut sizes: Vec<f64> = rows.iter().map(off).collect();
    sizes.sort_by(f64::total_cmp);
    let limit = ODD * sizes[sizes.len() / 2];
    let marked: Vec<Row> = rows.iter().map(|r| Row { odd: off(r) > limit, ..r.clone() }).collect();
    fit(&marked, Scope::Host, seed, known)
}

fn misses(rows: &[Row], seed: u64, found: &Found) -> Misses {
    let held = rows.iter().enumerate().filter(|(i, _)| is_held_out(*i, seed));
    let errors: Vec<f64> =
        held.map(|(_, r)| 100.0 * (found.predict(r) / r.seconds - 1.0)).collect();
    if errors.is_empty() {
        return Misses::default();
    }
    let n = errors.len();
    let mut sizes: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let at = |percent: usize| sizes[(percent * n).div_ceil(100).max(1) - 1];
    Misses {
        bias: errors.iter().sum::<f64>() / n as f64,
        mean: sizes.iter().sum::<f64>() / n as f64,
        p50: at(50),
        p90: at(90),
        p99: at(99),
    }
}

fn account(
    rows: &[Row],
    (what, scope, seed): (&str, Scope, u64),
    (device, known): (&DeviceProfile, [f64; 2]),
    found: &Found,
) -> Calibration {
    let held_out = (0..rows.len()).filter(|i| is_held_out(*i, seed)).count();
    let fitted = rows.len() - held_out;
    let source = format!("fitted to {fitted} {what}");
    let host = |i: usize, name: &str, before: f64| Coefficient {
        name: format!("{HOST} {name}"),
        unit: "µs".to_owned(),
        before,
        after: found.values[i] * 1e6,
        error: found.errors[i].map(|e| e * 1e6),
        source: source.clone(),
    };
    let mut coefficients =
        vec![host(0, "per iteration", known[0]), host(1, "per sequence", known[1])];
    for (j, name) in part_names().into_iter().enumerate() {
        let source = match (scope, found.fitted[j]) {
            (_, true) => source.clone(),
            (Scope::All, false) => format!("{} (not exercised by these {what})", device.name),
            (Scope::Host, false) => format!("{} (not fitted)", device.name),
        };
        let (name, unit) = (name.to_owned(), "x".to_owned());
        let (after, error) = (found.values[j + 2], found.errors[j + 2]);
        coefficients.push(Coefficient { name, unit, before: 1.0, after, error, source });
    }
    Calibration {
        rows: what.to_owned(),
        fitted,
        held_out,
        seed,
        coefficients,
        before: misses(rows, seed, &Found::of_profile(known)),
        after: misses(rows, seed, found),
    }
}

impl Calibration {
    /// The file that lays it over `device`; `input` is what it was fitted to.
    #[must_use]
    pub fn overlay(&self, device: &str, input: &str) -> Overlay {
        let value =
            |name: &str| self.coefficients.iter().find(|c| c.name == name).map_or(0.0, |c| c.after);
        let fitted = |c: &&Coefficient| c.unit == "x" && c.source.starts_with("fitted");
        let factors: BTreeMap<String, f64> =
            self.coefficients.iter().filter(fitted).map(|c| (c.name.clone(), c.after)).collect();
        let source = format!(
            "fitted to {} of {} {} of {input}, seed {}; on those held out, mean error {:.2} % instead of {:.2} %",
            self.fitted,
            self.fitted + self.held_out,
            self.rows,
            self.seed,
            self.after.mean,
            self.before.mean
        );
        let host =
            HostTime { step_us: value("host per iteration"), seq_us: value("host per sequence") };
        Overlay { device: device.to_owned(), source, host: Some(host), factors }
    }
}

#[cfg(test)]
mod tests;
