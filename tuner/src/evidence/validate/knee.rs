//! The error in the number that GPUs are bought by: the rate up to which a latency stays within its limit.
//!
//! If one setup was recorded at three rates or more, and the latency crosses the limit between two
//! of them, both worlds' capacities are read off the same rates in the same way. Otherwise capacity
//! was not validated, and only its sensitivity to latencies is known.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use engine::Deployment;
use loadgen::{Metric, Slo, Statistic, Target};
use serde::{Deserialize, Serialize};

use super::recorded::Recorded;
use super::{Setup, Validation, deployment, side, simulator, simulator_under};
use crate::knee::{Effort, Knee as Found, Prober, STEP, place_of};
use crate::subject::bed::Testbed;
use crate::subject::observation::Observation;
use crate::subject::unfit::Unfit;
use crate::subject::{Refused, Relax, Stop, Subject, Trial};

/// Rates of one setup that make a knee visible.
const RATES: usize = 3;
/// The least ratio of the highest rate's TTFT to the lowest's at which the knee lies between the
/// rates.
const RISE: f64 = 4.0;
/// The factor by which the limit is moved to see capacity move: far enough for the 1 % grid of
/// rates.
const MOVE: f64 = 1.25;

/// The evidence on capacity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capacity {
    /// The setup was recorded around its knee.
    Validated {
        /// The limit, as a target.
        target: String,
        /// Rates recorded.
        rates: usize,
        /// The rate at which the measured latency crosses the limit, requests/s.
        measured_rps: f64,
        /// The rate at which the predicted latency does, requests/s.
        predicted_rps: f64,
        /// Signed, percent.
        error: f64,
    },
    /// It was not.
    NotNearTheKnee {
        /// Why not.
        reason: String,
        /// The effect of latency errors on capacity, if the simulation has a knee.
        sensitivity: Option<Sensitivity>,
    },
}

/// The dependence of capacity on a limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// The limit.
    pub target: String,
    /// Capacity predicted under it, requests/s.
    pub capacity_rps: f64,
    /// Percent by which capacity falls when the limit is 1 % tighter: when this latency alone moves.
    pub of_limit: f64,
    /// Percent by which it falls when every iteration takes 1 % longer: the same load at 1 % less, under a limit that is
    /// 1 % tighter on that clock.
    pub of_time: f64,
}

/// Capacity of a setup from its runs; `target` is the limit, by default the geometric mean of the mean TTFT at the
/// lowest and at the highest rate, which lies on the steepest part of a knee.
///
/// # Errors
/// When the settings cannot be deployed.
pub fn capacity(
    runs: &[(Recorded, Validation)],
    setup: &Setup,
    target: Option<&Target>,
) -> Result<Capacity, Refused> {
    let mut at: Vec<&(Recorded, Validation)> = runs.iter().collect();
    at.sort_by(|a, b| a.1.rate_rps.total_cmp(&b.1.rate_rps));
    at.dedup_by(|a, b| a.1.rate_rps == b.1.rate_rps);
    let not = |reason: String| -> Result<Capacity, Refused> {
        let sensitivity = match at.last() {
            Some((recorded, v)) => sensitivity(recorded, v, setup, target)?,
            None => None,
        };
        Ok(Capacity::NotNearTheKnee { reason, sensitivity })
    };
    if at.len() < RATES {
        return not(format!("recorded at {} of the {RATES} rates it takes", at.len()));
    }
    let Some(target) = target.cloned().or_else(|| middle(&at)) else {
        return not(format!("mean TTFT rises less than {RISE}-fold over the rates recorded"));
    };
    let limit = target.limit.as_secs_f64() * 1e3;
    let points = |of: fn(&Validation) -> &super::Side| -> Vec<(f64, f64)> {
        let one = |r: &&(Recorded, Validation)| Some((r.1.rate_rps, statistic(of(&r.1), &target)?));
        at.iter().filter_map(one).collect()
    };
    let Some(measured) = crossing(&points(|v| &v.measured), limit) else {
        return not(format!("{target} is not crossed between the rates recorded"));
    };
    let mut predicted = points(|v| &v.predicted);
    extend(&mut predicted, &at, setup, &target, limit)?;
    match crossing(&predicted, limit) {
        Some(rps) => Ok(Capacity::Validated {
            target: target.to_string(),
            rates: at.len(),
            measured_rps: measured,
            predicted_rps: rps,
            error: 100.0 * (rps / measured - 1.0),
        }),
        None => not(format!(
            "no knee predicted between half the lowest rate and twice the highest ({target})"
        )),
    }
}

/// A limit between the lowest and the highest rate's mean TTFT.
fn middle(at: &[&(Recorded, Validation)]) -> Option<Target> {
    let mean = |r: &(Recorded, Validation)| r.1.measured.ttft.mean;
    let (low, high) = (mean(at.first()?)?, mean(at.last()?)?);
    if high < RISE * low {
        return None;
    }
    let us = ((low * high).sqrt() * 1e3).round() as u64;
    let limit = Duration::from_micros(us);
    Some(Target { metric: Metric::Ttft, statistic: Statistic::Mean, class: None, limit })
}

fn statistic(side: &super::Side, target: &Target) -> Option<f64> {
    let four = side.of(target.metric);
    let wanted = target.subject();
    let name = wanted.rsplit(':').next()?;
    four.named().into_iter().find(|(n, _)| *n == name)?.1
}

/// The rate at which points of rising rate first cross `limit` upwards, by straight lines between
/// logarithms.
fn crossing(points: &[(f64, f64)], limit: f64) -> Option<f64> {
    let over = points.iter().position(|p| p.1 > limit)?;
    let ((r0, y0), (r1, y1)) = (points[over.checked_sub(1)?], points[over]);
    let share = (limit / y0).ln() / (y1 / y0).ln();
    Some(r0 * (r1 / r0).powf(share))
}

/// Simulates the runs at the ends slower and faster until the prediction crosses the limit, too.
fn extend(
    points: &mut Vec<(f64, f64)>,
    at: &[&(Recorded, Validation)],
    setup: &Setup,
    target: &Target,
    limit: f64,
) -> Result<(), Refused> {
    let at_scale =
        |run: &(Recorded, Validation), scale: f64| -> Result<Option<(f64, f64)>, Refused> {
            let sim = simulator(&run.0, setup);
            let detailed = sim.rerun(&deployment(&sim, setup)?, scale, &mut |_| ())?;
            let value = statistic(&side(&detailed.records), target);
            Ok(value.map(|v| (run.1.rate_rps * scale, v)))
        };
    let (Some(first), Some(last)) = (at.first(), at.last()) else { return Ok(()) };
    let mut scale = 1.0;
    while points.last().is_some_and(|p| p.1 <= limit) && scale < 2.0 {
        scale *= 1.05;
        points.extend(at_scale(last, scale)?);
    }
    let mut scale = 1.0;
    while points.first().is_some_and(|p| p.1 > limit) && scale > 0.5 {
        scale /= 1.05;
        if let Some(p) = at_scale(first, scale)? {
            points.insert(0, p);
        }
    }
    Ok(())
}

/// The change of the capacity predicted for the traffic of one run with its latencies. Without a
/// target, the limit is a mean TTFT of four times the quickest one measured, and a second at least.
fn sensitivity(
    recorded: &Recorded,
    validation: &Validation,
    setup: &Setup,
    target: Option<&Target>,
) -> Result<Option<Sensitivity>, Refused> {
    let target = match target {
        Some(target) => target.clone(),
        None => default_target(validation),
    };
    let at = |limit: f64| -> Result<Option<i32>, Refused> {
        let limit = Duration::from_secs_f64(limit);
        let slo = Slo::new(vec![Target { limit, ..target.clone() }], None).unwrap_or_default();
        let sim = simulator_under(recorded, setup, &slo);
        let pinned = Pinned { deployment: deployment(&sim, setup)?, sim };
        pinned.knee()
    };
    let limit = target.limit.as_secs_f64();
    let (Some(low), Some(middle), Some(high)) = (at(limit / MOVE)?, at(limit)?, at(limit * MOVE)?)
    else {
        return Ok(None);
    };
    let moved = f64::from(high - low) * STEP.ln() / (2.0 * MOVE.ln());
    Ok(Some(Sensitivity {
        target: target.to_string(),
        capacity_rps: crate::knee::rate_at(middle),
        of_limit: moved,
        of_time: 1.0 + moved,
    }))
}

fn default_target(validation: &Validation) -> Target {
    let quickest = validation.measured.values[0].first().copied().unwrap_or(0.0);
    let limit = Duration::from_millis((4.0 * quickest).max(1000.0).round() as u64);
    Target { metric: Metric::Ttft, statistic: Statistic::Mean, class: None, limit }
}

/// One deployment, whatever configuration is asked for.
struct Pinned {
    sim: Testbed,
    deployment: Deployment,
}

impl Pinned {
    /// The place of its capacity; none where even an idle machine misses the target.
    fn knee(&self) -> Result<Option<i32>, Refused> {
        static GO_ON: AtomicBool = AtomicBool::new(false);
        let all = self.requests();
        let ask = || -> Result<Found, Stop> {
            let config = &self.deployment.config;
            let mut prober = Prober::new(self, config, Relax::Nothing, all, &GO_ON)?;
            prober.knee(place_of(self.natural_rate(all)), Effort::COLD)
        };
        match ask() {
            Ok(Found::Between { lo, .. }) => Ok(Some(lo)),
            Ok(Found::Nowhere) | Err(Stop::Cancelled | Stop::Gone(_)) => Ok(None),
            Err(Stop::Refused(refused)) => Err(refused),
        }
    }
}

impl Subject for Pinned {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        Ok(self.sim.observe(&self.deployment, trial.head(self), trial.scale)?)
    }

    fn requests(&self) -> usize {
        self.sim.requests()
    }

    fn natural_rate(&self, head: usize) -> f64 {
        self.sim.natural_rate(head)
    }

    fn output_tokens_per_request(&self) -> f64 {
        self.sim.output_tokens_per_request()
    }

    fn served_tokens_per_request(&self, _: &engine::Config) -> Result<f64, Refused> {
        Ok(self.sim.served_tokens(&self.deployment))
    }

    fn ceiling(&self, config: &engine::Config) -> Result<f64, Refused> {
        self.sim.ceiling(config)
    }

    fn unfit(&self, _: &engine::Config) -> Result<Unfit, Refused> {
        Ok(Unfit::of(&self.deployment, &self.sim.trace().requests))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crossing_lies_on_the_line_between_logarithms() {
        let points: Vec<(f64, f64)> = [1.0, 2.0, 4.0, 8.0].map(|r: f64| (r, r.powi(3))).to_vec();
        let at = crossing(&points, 5f64.powi(3)).unwrap();
        assert!((at - 5.0).abs() < 1e-12, "{at}");
        assert_eq!(crossing(&points, 0.5), None, "above it from the start");
        assert_eq!(crossing(&points, 1e6), None, "never reached");
    }

    #[test]
    fn the_first_crossing_counts() {
        let points = [(1.0, 1.0), (2.0, 4.0), (3.0, 1.0), (4.0, 9.0)];
        assert!(crossing(&points, 2.0).unwrap() < 2.0);
    }
}
