//! The error of predictions, learnt from recorded runs of real engines.
//!
//! A residual is ln(predicted / measured) of one statistic of one run. Runs on the same device are taken as draws from
//! one distribution of errors, so the error of the next prediction follows Student's t: its middle is the bias, its
//! width grows where few runs were compared.
//!
//! The uncertain part of a prediction is the time of iterations. The mean TPOT, which queueing
//! hardly touches, shows its error ([`pace`]). Its effect on latencies and capacity is simulated,
//! not derived. The residuals that ship are that statistic of `--example real_runs -- DIR --json
//! FILE`, its `uncertainty`; none of these runs was fitted to, and none is of an engine before
//! 2024, whose kernels no table measures.

use std::collections::BTreeMap;

use engine::engines::VERSION_SIGMA;
use engine::exec::cost::CostModel;
use engine::profile::borrowed::{OPERATOR_SIGMA, SIGMA};
use engine::{DeviceProfile, EngineProfile, ModelShape};
use serde::{Deserialize, Serialize};

use crate::evidence::validate::{COMPARED, Validation};

/// Fewest runs from which a spread can be told.
const RUNS: usize = 3;
/// The statistic that shows the time of iterations.
const PACE: &str = "tpot:mean";
const RESIDUALS: &str = include_str!("../../residuals.json");

/// The error of iteration times on a device, and the runs that show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The error.
    pub spread: Spread,
    /// Devices of the runs it was seen in: the device itself, or all others where too few runs of it were recorded.
    pub devices: Vec<String>,
}

/// The accuracy of iteration times of `model` on `device`; none of a device that does not ship, since its figures were
/// not compared. A device whose efficiencies are borrowed is as far off as all others together, and further by what
/// borrowing costs; so is a model with operators that no table of the device has, and a version of an engine that was
/// not measured.
#[must_use]
pub fn pace(
    device: &DeviceProfile,
    model: &ModelShape,
    engine: &EngineProfile,
) -> Option<Accuracy> {
    if device.like.is_none() {
        let shipped = DeviceProfile::load(&device.name).ok()?;
        // A price changes no time.
        let same = DeviceProfile { price: shipped.price.clone(), ..device.clone() };
        if shipped != same {
            return None;
        }
    }
    let all: Vec<Uncertainty> = serde_json::from_str(RESIDUALS).ok()?;
    let (spread, devices) = compared(&all, &device.name)?;
    let borrowed = if device.like.is_some() { SIGMA } else { 0.0 };
    let untabled = !CostModel::untabled(model, device).is_empty();
    let untabled = if untabled { OPERATOR_SIGMA } else { 0.0 };
    let version = if engine.times_of.is_some() { VERSION_SIGMA } else { 0.0 };
    let sigma = spread.sigma.hypot(borrowed).hypot(untabled).hypot(version);
    Some(Accuracy { spread: Spread { sigma, ..spread }, devices })
}

/// The spread over the runs of `device`, or over those of all devices where it has too few; and the devices.
fn compared(all: &[Uncertainty], device: &str) -> Option<(Spread, Vec<String>)> {
    let own = all.iter().find(|u| u.device == device);
    if let Some(spread) = own.and_then(|u| u.spread(PACE)) {
        return Some((spread, vec![device.to_owned()]));
    }
    let mut pooled = Uncertainty::new("all");
    let residuals = all.iter().filter_map(|u| u.residuals.get(PACE)).flatten().copied().collect();
    pooled.residuals.insert(PACE.to_owned(), residuals);
    Some((pooled.spread(PACE)?, all.iter().map(|u| u.device.clone()).collect()))
}

/// Residuals of the runs validated on one device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Uncertainty {
    /// The device.
    pub device: String,
    /// ln(predicted / measured) by `metric:statistic`, such as `ttft:p99`, one per setup.
    pub residuals: BTreeMap<String, Vec<f64>>,
}

/// The place of the truth relative to a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean of ln(predicted / measured): positive where predictions are too high.
    pub bias: f64,
    /// Standard deviation of the next one.
    pub sigma: f64,
    /// Runs it was seen in.
    pub runs: usize,
}

impl Uncertainty {
    /// No runs yet.
    #[must_use]
    pub fn new(device: impl Into<String>) -> Self {
        Self { device: device.into(), residuals: BTreeMap::new() }
    }

    /// Adds what the validations of one setup showed, at one rate or several: rates of one server err alike, so their
    /// mean is one residual.
    pub fn add(&mut self, rates: &[&Validation]) {
        let mut seen: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for e in rates.iter().map(|v| &v.errors) {
            for metric in COMPARED {
                for (name, error) in e.of(metric).named() {
                    if let Some(error) = error.filter(|e| *e > -100.0) {
                        let key = format!("{}:{name}", metric.name());
                        seen.entry(key).or_default().push((error / 100.0).ln_1p());
                    }
                }
            }
        }
        for (key, residuals) in seen {
            let mean = residuals.iter().sum::<f64>() / residuals.len() as f64;
            self.residuals.entry(key).or_default().push(mean);
        }
    }

    /// The spread of one statistic, such as `ttft:p99`; none of fewer than three runs.
    #[must_use]
    pub fn spread(&self, statistic: &str) -> Option<Spread> {
        let residuals = self.residuals.get(statistic).filter(|r| r.len() >= RUNS)?;
        let n = residuals.len() as f64;
        let bias = residuals.iter().sum::<f64>() / n;
        let squares: f64 = residuals.iter().map(|r| (r - bias) * (r - bias)).sum();
        let sigma = (squares / (n - 1.0) * (1.0 + 1.0 / n)).sqrt();
        Some(Spread { bias, sigma, runs: residuals.len() })
    }
}

impl Spread {
    /// Probability that the true value is within `limit` where `predicted` was predicted (same unit, both positive).
    #[must_use]
    pub fn p_within(&self, predicted: f64, limit: f64) -> f64 {
        let margin = (limit / predicted).ln() + self.bias;
        if self.sigma == 0.0 {
            return if margin >= 0.0 { 1.0 } else { 0.0 };
        }
        student(margin / self.sigma, self.runs as f64 - 1.0)
    }

    /// Factors on a predicted value between which the true one lies with probability `level` (in (0, 1)).
    #[must_use]
    pub fn factors(&self, level: f64) -> (f64, f64) {
        let t = student_quantile(0.5 + level / 2.0, self.runs as f64 - 1.0);
        ((-self.bias - t * self.sigma).exp(), (-self.bias + t * self.sigma).exp())
    }
}

/// Student's t distribution function with `df` degrees of freedom, by Simpson's rule over the angle: with
/// t = √df·tan θ the density becomes cos^(df−1) θ, smooth on a bounded interval.
fn student(t: f64, df: f64) -> f64 {
    const STEPS: u32 = 2000;
    let area = |to: f64| {
        let h = to / f64::from(STEPS);
        let f = |i: u32| (f64::from(i) * h).cos().max(0.0).powf(df - 1.0);
        let inner = (1..STEPS).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 });
        (f(0) + f(STEPS) + inner.sum::<f64>()) * h / 3.0
    };
    let half = area(std::f64::consts::FRAC_PI_2);
    let part = area((t.abs() / df.sqrt()).atan()) / half / 2.0;
    if t >= 0.0 { 0.5 + part } else { 0.5 - part }
}

/// Its inverse for `p` above a half, by bisection.
fn student_quantile(p: f64, df: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if student(middle, df) < p { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn student_agrees_with_tables() {
        // 97.5 % quantiles of any statistics book.
        for (df, t) in [(2.0, 4.302_653), (5.0, 2.570_582), (30.0, 2.042_272)] {
            assert!((student_quantile(0.975, df) - t).abs() < 1e-4, "{df}");
            assert!((student(-t, df) - 0.025).abs() < 1e-6);
        }
        assert!((student(1.0, 1.0) - 0.75).abs() < 1e-6, "Cauchy");
    }

    #[test]
    fn every_shipped_device_has_error_bars_and_no_other_has() {
        let dense = ModelShape::load("llama-3.1-8b").unwrap();
        for name in DeviceProfile::names() {
            let mut device = DeviceProfile::load(name).unwrap();
            let any = EngineProfile::any();
            let (low, high) = pace(&device, &dense, &any).expect(name).spread.factors(0.8);
            assert!(0.5 < low && low < 1.0 && 1.0 < high && high < 2.0, "{name}: {low} to {high}");
            device.peak_flops *= 1.01;
            // A device that borrows is, whatever its data sheet says, as far off as borrowing is.
            assert_eq!(pace(&device, &dense, &any).is_some(), device.like.is_some(), "{name}");
        }
    }

    #[test]
    fn borrowed_efficiencies_widen_the_interval_and_a_price_does_not() {
        let dense = ModelShape::load("llama-3.1-8b").unwrap();
        let pace = |device: &DeviceProfile| pace(device, &dense, &EngineProfile::any());
        let width = |device: &DeviceProfile| pace(device).unwrap().spread.sigma;
        let of = |name: &str| DeviceProfile::load(name).unwrap();
        assert!(width(&of("mi300x")) > SIGMA && width(&of("mi300x")) > width(&of("b200")));
        let mut cheap = of("h100-sxm");
        cheap.price.per_gpu_hour = 1.0;
        assert_eq!(pace(&cheap), pace(&of("h100-sxm")));
    }

    #[test]
    fn an_operator_without_a_table_widens_the_interval() {
        let width = |device: &str, model: &str| {
            let device = DeviceProfile::load(device).unwrap();
            let model = ModelShape::load(model).unwrap();
            pace(&device, &model, &EngineProfile::any()).unwrap().spread.sigma
        };
        let (dense, experts) = ("llama-3.1-8b", "openai/gpt-oss-20b");
        // Experts in this format were timed on the one, and on the other not.
        assert_eq!(width("h100-sxm", experts), width("h100-sxm", dense));
        let (known, not) = (width("a40", dense), width("a40", experts));
        assert!((not - known.hypot(OPERATOR_SIGMA)).abs() < 1e-12, "{known} {not}");
        // Mamba was timed nowhere.
        let mamba = width("h100-sxm", "nvidia/Nemotron-H-56B-Base-8K");
        assert!(mamba > OPERATOR_SIGMA, "{mamba}");
    }

    #[test]
    fn a_version_that_was_not_measured_widens_the_interval() {
        let (device, model) =
            (DeviceProfile::load("h100").unwrap(), ModelShape::load("llama-3.1-8b"));
        let model = model.unwrap();
        let width = |engine: &str| {
            let engine = EngineProfile::load(engine).unwrap();
            pace(&device, &model, &engine).unwrap().spread.sigma
        };
        let (measured, not) = (width("vllm@0.15"), width("vllm@0.16"));
        assert!((not - measured.hypot(VERSION_SIGMA)).abs() < 1e-12, "{measured} {not}");
    }

    fn with(residuals: &[f64]) -> Uncertainty {
        let residuals = [("ttft:p99".to_owned(), residuals.to_vec())].into();
        Uncertainty { device: "x".into(), residuals }
    }

    #[test]
    fn two_runs_are_no_spread() {
        assert_eq!(with(&[0.1, -0.1]).spread("ttft:p99"), None);
        assert_eq!(with(&[0.1, -0.1, 0.0]).spread("tpot:p99"), None);
    }

    #[test]
    fn a_prediction_on_the_limit_is_a_coin_and_bias_counts() {
        let fair = with(&[0.1, -0.1, 0.05, -0.05]).spread("ttft:p99").unwrap();
        assert!((fair.p_within(200.0, 200.0) - 0.5).abs() < 1e-9);
        assert!(fair.p_within(150.0, 200.0) > 0.95);
        let slow = with(&[0.3, 0.1, 0.25, 0.15]).spread("ttft:p99").unwrap();
        assert!(slow.p_within(200.0, 200.0) > 0.9, "predictions too high: the truth is lower");
        let sure = with(&[0.1, 0.1, 0.1]).spread("ttft:p99").unwrap();
        assert!(sure.p_within(100.0, 95.0) > 0.999 && sure.p_within(100.0, 90.0) < 0.001);
    }

    #[test]
    fn intervals_hold_as_often_as_they_promise() {
        // Draws of a known distribution (a low-discrepancy one): the next residual is inside as often as promised.
        let s = with(&[-0.08, -0.03, 0.0, 0.03, 0.08]).spread("ttft:p99").unwrap();
        let (low, high) = s.factors(0.9);
        assert!(low < 1.0 && 1.0 < high && (low * high - 1.0).abs() < 1e-9);
        let inside = s.p_within(1.0, high) - s.p_within(1.0, low);
        assert!((inside - 0.9).abs() < 1e-4, "{inside}");
    }
}
