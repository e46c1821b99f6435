//! The real engine decides: what a simulation found best is tried where it would run, the likeliest winner first.
//!
//! A real run costs what it lasts, so few are made. The first finalist's knee is searched from where the simulation
//! puts it. What it carries against what was predicted is the *residual*; it corrects what is expected of the others.
//! Each of them is first tried at the best rate measured so far and goes on only if it holds; one that is expected to
//! carry clearly less than that, by all that was learnt, is not tried at all.

use std::collections::BTreeMap;
use std::time::Instant;

use engine::Config;
use serde::{Deserialize, Serialize};

use crate::capacity::{Effort, Knee, Probe, Prober, Stop, TRIES, place_of, rate_at};
use crate::evaluate::{Evaluate, Relax};
use crate::pace::Paces;
use crate::progress::{Status, Watch};
use crate::result::{Neighbour, TuneResult, config_of};
use crate::{space, verdict};

/// What a prediction may be off beyond the residual.
pub(crate) const SLACK: f64 = 1.15;

/// Neighbours of the winner that are finalists, at most, and what they must be expected to carry of its capacity. A knob
/// that does nothing makes no finalist: to measure the winner again under another name finds only noise.
const NEIGHBOURS: usize = 3;
const NEAR: f64 = 0.97;

/// What the real engine said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Everything considered, best prediction first.
    pub finalists: Vec<Finalist>,
    /// Which of them carries most; none if nothing held the targets.
    pub winner: Option<usize>,
    /// Geometric mean of measured over predicted capacity; none where nothing was measured.
    pub residual: Option<f64>,
    /// Real runs made.
    pub runs: u64,
    /// Seconds they took, waiting for arrivals not counted: the engine's clock jumps over it.
    pub took_s: f64,
}

/// A configuration that simulation recommends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finalist {
    /// What a person calls it.
    pub label: String,
    /// Every knob by name, as typed.
    pub config: BTreeMap<String, String>,
    /// Capacity by simulation, requests/s.
    pub predicted_rps: f64,
    /// What became of it.
    pub outcome: FinalistOutcome,
    /// Every real run, by rate.
    pub tried: Vec<Tried>,
}

/// What the real engine made of a finalist.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalistOutcome {
    /// It carries this much, requests/s.
    Carries(f64),
    /// It failed at this rate, which another holds.
    Beaten(f64),
    /// It failed at every rate tried.
    Nothing,
    /// Expected to carry too little to be tried.
    Untried,
}

/// One real run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Requests/s offered.
    pub rate_rps: f64,
    /// Whether the targets held and the load could have gone on.
    pub held: bool,
    /// Percentiles, ms.
    pub ttft_p99_ms: Option<f64>,
    /// The same.
    pub tpot_p99_ms: Option<f64>,
    /// Whether all that was wrong is that the requests were too few for such a rate.
    pub too_few: bool,
    /// Seconds in iterations over what the profile says of them, where that is known.
    pub pace: Option<f64>,
    /// Whether the machine was slower than in other runs, so that a failure says nothing of the configuration.
    #[serde(default)]
    pub slow_machine: bool,
}

/// Tries what `screened` recommends on `real`.
///
/// # Errors
/// When it was cancelled before anything was known, or the engine refuses what was screened.
pub fn decide(
    screened: &TuneResult,
    real: &dyn Evaluate,
    watch: &Watch<'_>,
) -> Result<Decision, Stop> {
    let mut all = finalists(screened);
    let mut decision =
        Decision { finalists: Vec::new(), winner: None, residual: None, runs: 0, took_s: 0.0 };
    let (total, began) = (all.len(), Instant::now());
    let mut best: Option<i32> = None;
    let (mut ratios, mut paces) = (Vec::new(), Paces::default());
    for (i, (config, finalist)) in all.iter_mut().enumerate() {
        let best_of = |w: usize, k| (rate_at(k), format!("finalist {}", w + 1));
        watch.progress.update(&Status {
            phase: "deciding on this machine".to_owned(),
            done: i,
            total,
            best: decision.winner.zip(best).map(|(w, k)| best_of(w, k)),
        });
        let residual = geometric_mean(&ratios).unwrap_or(1.0);
        let expected = finalist.predicted_rps * residual;
        if best.is_some_and(|k| expected * SLACK < rate_at(k)) {
            continue;
        }
        let prober = Prober::new(real, config, Relax::Nothing, real.requests(), watch.cancel)?;
        let mut prober = prober.on_machine(paces.clone());
        let outcome = run(&mut prober, place_of(expected), best);
        let probes = prober.into_probes();
        decision.runs += probes.len() as u64;
        probes.iter().for_each(|p| paces.note(p.observation.work.pace));
        finalist.tried = probes.iter().map(|p| Tried::of(p, &paces)).collect();
        finalist.outcome = match outcome {
            Ok(Found::Carries(k)) => {
                ratios.push(rate_at(k) / finalist.predicted_rps);
                if best.is_none_or(|b| k > b) {
                    (best, decision.winner) = (Some(k), Some(i));
                }
                FinalistOutcome::Carries(rate_at(k))
            }
            Ok(Found::Beaten(k)) => FinalistOutcome::Beaten(rate_at(k)),
            Ok(Found::Nothing) => FinalistOutcome::Nothing,
            Err(Stop::Cancelled) if decision.winner.is_some() => break,
            Err(stop) => return Err(stop),
        };
    }
    decision.took_s = began.elapsed().as_secs_f64();
    decision.residual = geometric_mean(&ratios);
    decision.finalists = all.into_iter().map(|(_, finalist)| finalist).collect();
    Ok(decision)
}

enum Found {
    Carries(i32),
    Beaten(i32),
    Nothing,
}

fn run(prober: &mut Prober<'_>, expected: i32, best: Option<i32>) -> Result<Found, Stop> {
    let start = match best {
        Some(best) => {
            let better = best + Effort::REAL.resolution;
            if !prober.passes_again(better, TRIES)? {
                return Ok(Found::Beaten(better));
            }
            expected.max(better)
        }
        None => expected,
    };
    Ok(match prober.knee(start, Effort::REAL)? {
        Knee::Between { lo, .. } => Found::Carries(lo),
        Knee::Nowhere => Found::Nothing,
    })
}

/// The best of each policy and the winner's best neighbours, most promising first. Policies differ in kind, and it is
/// kinds that a prediction may be wrong about; neighbours differ by what a machine's noise may hide.
fn finalists(screened: &TuneResult) -> Vec<(Config, Finalist)> {
    let Some(best) = &screened.best else { return Vec::new() };
    let policies = screened.baselines.iter().filter_map(|b| b.best.as_ref());
    let policies = std::iter::once(best)
        .chain(policies)
        .map(|o| (o.label.clone(), o.config.clone(), o.capacity_rps));
    let mut near: Vec<&Neighbour> = (screened.sensitivity.iter())
        .filter(|n| !n.idle && n.capacity_rps > NEAR * best.capacity_rps)
        .collect();
    near.sort_by(|a, b| b.capacity_rps.total_cmp(&a.capacity_rps));
    let changed = |n: &Neighbour| {
        let mut config = best.config.clone();
        config.insert(n.knob.clone(), n.to.clone());
        config
    };
    let idle = screened.sensitivity.iter().filter(|n| n.idle);
    let idle: Vec<_> = idle.filter_map(|n| config_of(&changed(n)).ok()).collect();
    let near = near.into_iter().take(NEIGHBOURS).map(|n| {
        let config = changed(n);
        let label = config_of(&config).map_or_else(|_| best.label.clone(), |c| space::label(&c));
        (label, config, n.capacity_rps)
    });
    let mut finalists: Vec<(Config, Finalist)> = Vec::new();
    for (label, knobs, predicted_rps) in policies.chain(near) {
        let Ok(config) = config_of(&knobs) else { continue };
        if finalists.iter().all(|(known, _)| *known != config) && !idle.contains(&config) {
            let outcome = FinalistOutcome::Untried;
            let tried = Vec::new();
            let finalist = Finalist { label, config: knobs, predicted_rps, outcome, tried };
            finalists.push((config, finalist));
        }
    }
    finalists.sort_by(|a, b| b.1.predicted_rps.total_cmp(&a.1.predicted_rps));
    finalists
}

impl Tried {
    fn of(probe: &Probe, paces: &Paces) -> Self {
        let s = &probe.observation.summary;
        Self {
            rate_rps: probe.rate(),
            held: probe.passes(),
            ttft_p99_ms: s.ttft.p99.millis(),
            tpot_p99_ms: s.tpot.p99.millis(),
            too_few: verdict::too_short(&probe.observation),
            pace: probe.observation.work.pace,
            slow_machine: paces.is_slow(probe.observation.work.pace),
        }
    }
}

pub(crate) fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let sum: f64 = ratios.iter().map(|r| r.ln()).sum();
    (!ratios.is_empty()).then(|| (sum / ratios.len() as f64).exp())
}

impl Decision {
    /// What to think of before it is believed.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        let (finalist, rps) = self.best()?;
        // By rate, several tries at one in their order: the last try at the lowest failure bounds the answer.
        let above = finalist.tried.iter().find(|t| t.rate_rps > rps)?.rate_rps;
        let bound = finalist.tried.iter().rfind(|t| t.rate_rps <= above)?;
        let by = if bound.too_few {
            "the number of requests, not by the targets: use more of them (--requests)"
        } else if bound.slow_machine {
            "runs that met this machine slower than usual: decide again when it has less to do"
        } else {
            return None;
        };
        Some(format!("the measured capacity is bounded by {by}"))
    }

    /// Real runs in which the machine was slower than in others.
    #[must_use]
    pub fn slow_runs(&self) -> usize {
        self.finalists.iter().flat_map(|f| &f.tried).filter(|t| t.slow_machine).count()
    }

    /// The finalist that won, and what it carries, requests/s.
    #[must_use]
    pub fn best(&self) -> Option<(&Finalist, f64)> {
        let finalist = self.finalists.get(self.winner?)?;
        match finalist.outcome {
            FinalistOutcome::Carries(rps) => Some((finalist, rps)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::progress::Silent;
    use crate::result::{DeviceInfo, Objective, WorkloadInfo};
    use crate::space::{Scope, Space};
    use crate::tune::{DeviceUnderTest, Method, Request, tune};
    use std::sync::atomic::{AtomicBool, Ordering};

    static GO_ON: AtomicBool = AtomicBool::new(false);
    const WATCH: Watch<'_> = Watch { progress: &Silent, cancel: &GO_ON };

    fn screened(fake: &Fake) -> TuneResult {
        let scope =
            Scope { gpus: 1, fewer_gpus: false, shared_prefixes: false, allow_lossy_kv: false };
        let workload = WorkloadInfo {
            name: "closed".to_owned(),
            provenance: Vec::new(),
            requests: fake.requests,
            requests_per_session: None,
            natural_rps: fake.natural_rate(fake.requests),
            output_tokens_per_request: 250.0,
        };
        let info = DeviceInfo { name: "x".to_owned(), provenance: String::new(), price: None };
        tune(&Request {
            devices: vec![DeviceUnderTest { info, evaluate: fake, accuracy: None }],
            space: &Space::new(scope),
            slo: fake.slo.slo(),
            objective: Objective::Rps,
            workload,
            model: "closed".to_owned(),
            seed: 1,
            simulated: true,
            method: Method::Halving,
            demand: None,
            watch: WATCH,
        })
        .unwrap()
    }

    fn knee(real: &Fake, config: &Config) -> f64 {
        let mut prober = Prober::new(real, config, Relax::Nothing, real.requests, &GO_ON).unwrap();
        match prober.knee(0, Effort::COLD).unwrap() {
            Knee::Between { lo, .. } => rate_at(lo),
            Knee::Nowhere => 0.0,
        }
    }

    #[test]
    fn a_slower_machine_is_decided_on_its_own_in_few_runs() {
        let targets = &["ttft=300ms", "tpot=40ms"];
        let result = screened(&Fake::new(targets));
        let real = Fake { prompt: 1100.0, output: 300.0, ..Fake::new(targets) };
        let decision = decide(&result, &real, &WATCH).unwrap();
        assert_eq!(decision.runs, real.runs.load(Ordering::Relaxed));
        let (winner, rps) = decision.best().unwrap();
        let truth = |f: &Finalist| knee(&real, &config_of(&f.config).unwrap());
        let best = decision.finalists.iter().map(truth).fold(0.0, f64::max);
        assert!((rps / truth(winner) - 1.0).abs() < 0.04, "{rps} of {}", truth(winner));
        assert!(rps > 0.96 * best, "{rps} of {best}");
        let residual = decision.residual.unwrap();
        assert!((0.5..0.95).contains(&residual), "{residual}");
        assert!(decision.runs < 4 * decision.finalists.len() as u64 + 8, "{}", decision.runs);
        for f in &decision.finalists {
            match f.outcome {
                FinalistOutcome::Untried => assert!(f.tried.is_empty()),
                FinalistOutcome::Beaten(k) => {
                    assert!(f.tried.iter().any(|t| !t.held && t.rate_rps == k));
                }
                FinalistOutcome::Carries(k) => {
                    assert!(f.tried.iter().any(|t| t.held && t.rate_rps == k));
                }
                FinalistOutcome::Nothing => assert!(f.tried.iter().all(|t| !t.held)),
            }
        }
    }

    /// What the knobs of a neighbour do not change, the real engine is not asked about.
    #[test]
    fn what_does_nothing_is_not_tried() {
        let result = screened(&Fake::new(&["ttft=300ms", "tpot=40ms"]));
        let (idle, live): (Vec<&Neighbour>, Vec<_>) =
            result.sensitivity.iter().partition(|n| n.idle);
        let has = |all: &[&Neighbour], knob: &str| all.iter().any(|n| n.knob == knob);
        assert!(has(&idle, "victim") && has(&live, "max-batch-tokens"));
        assert!(idle.iter().all(|n| n.capacity_rps == n.winner_rps));
        let best = &result.best.as_ref().unwrap().config;
        for (_, finalist) in finalists(&result) {
            for n in &idle {
                let mut same = best.clone();
                same.insert(n.knob.clone(), n.to.clone());
                assert!(finalist.config != same, "{} = {}", n.knob, n.to);
            }
        }
    }

    #[test]
    fn what_holds_nothing_has_no_winner() {
        let result = screened(&Fake::new(&["ttft=300ms"]));
        let real = Fake::new(&["ttft=1ms"]);
        let decision = decide(&result, &real, &WATCH).unwrap();
        assert_eq!((decision.winner, decision.residual), (None, None));
        assert!(decision.finalists.iter().all(|f| f.outcome == FinalistOutcome::Nothing));
    }

    #[test]
    fn cancelled_before_anything_is_known() {
        let result = screened(&Fake::new(&["ttft=300ms"]));
        let cancel = AtomicBool::new(true);
        let watch = Watch { progress: &Silent, cancel: &cancel };
        assert_eq!(decide(&result, &Fake::new(&["ttft=1s"]), &watch), Err(Stop::Cancelled));
    }
}
