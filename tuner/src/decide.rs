//! The real engine decides: what a simulation found best is tried where it would run.
//!
//! A real run costs what it lasts, so few are made; and on a machine that others use too, two runs in different minutes
//! cannot be compared. So the likeliest winner leads: its knee is searched alone, from where the simulation puts it. Then
//! all finalists meet at the rate where it fails, in the same minutes ([`Evaluate::run_together`]). Whoever holds there
//! leads on from there, and who does not is out. It ends where nobody holds, or when the time for it is up. Finalists that
//! are expected to carry clearly less than the first are not tried at all. At last the winner is run with everything
//! offered at once: it carries no more than it completes per second then, however well it meets the targets for as long as
//! the trace lasts.
//!
//! The finalists rest on a profile that was measured in seconds, maybe in a bad minute. The first runs show it: a
//! single one that the machine is clearly faster than its profile, the first search that it is slower. The simulation is
//! then made anew at that pace, once, and those whom it recommends join the race.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::Config;
use serde::{Deserialize, Serialize};

use crate::evaluate::Evaluate;
use crate::evaluate::Stop;
use crate::progress::Watch;
use crate::result::{BOUNDED, Neighbour, TuneResult, config_of};
use crate::space;
use race::Race;

mod race;

/// The factor by which one configuration's prediction may be off against another's.
pub(crate) const SLACK: f64 = 1.15;

/// Neighbours of the winner that are finalists, at most, and what they must be expected to carry of its capacity. A knob
/// that does nothing makes no finalist: to measure the winner again under another name finds only noise.
const NEIGHBOURS: usize = 3;
const NEAR: f64 = 0.97;

/// The real engine's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Everything considered, best prediction first.
    pub finalists: Vec<Finalist>,
    /// The index of the one that carries most; none if nothing held the targets.
    pub winner: Option<usize>,
    /// The rate at which the winner failed, requests/s, if it did.
    #[serde(default)]
    pub fails_at_rps: Option<f64>,
    /// True where the winner carries what it completes per second with everything offered at once: it held the targets at a
    /// higher rate, for as long as the trace lasts.
    #[serde(default)]
    pub bounded: bool,
    /// The winner's measured over its predicted capacity.
    pub residual: Option<f64>,
    /// Real runs made.
    pub runs: u64,
    /// Seconds they took, waiting for arrivals not counted: the engine's clock jumps over it.
    pub took_s: f64,
    /// True where the time was up before all was tried that could have changed the answer.
    #[serde(default)]
    pub out_of_time: bool,
    /// What iterations took of the time that the profile says, where that was so far off that the simulation was made anew
    /// with it.
    #[serde(default)]
    pub pace: Option<f64>,
}

/// A configuration that simulation recommends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finalist {
    /// Its name for people.
    pub label: String,
    /// Every knob by name, as typed.
    pub config: BTreeMap<String, String>,
    /// Capacity by simulation, requests/s; none where only the simulation before the last recommended it.
    pub predicted_rps: Option<f64>,
    /// Its fate.
    pub outcome: FinalistOutcome,
    /// Every real run, by rate.
    pub tried: Vec<Tried>,
}

/// The fate of a finalist on the real engine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalistOutcome {
    /// It carries this much, requests/s.
    Carries(f64),
    /// It failed at this rate; the winner holds it, or carries the next less.
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
    /// True where the targets held and the load could have gone on.
    pub held: bool,
    /// Percentiles, ms.
    pub ttft_p99_ms: Option<f64>,
    /// The same.
    pub tpot_p99_ms: Option<f64>,
    /// True where nothing was wrong but that the requests were too few for such a rate.
    pub too_few: bool,
    /// Seconds in iterations over what the profile says of them, where that is known.
    pub pace: Option<f64>,
    /// True where the machine was slower than in other runs, so that a failure says nothing of the configuration.
    #[serde(default)]
    pub slow_machine: bool,
}

/// Tries on `real` what `screen` recommends, which simulates; once more where the first runs show that iterations take
/// another share of the time that the profile says: that share. Runs take `budget` at most; none begins after that.
/// Returns the simulation's result with the decision in it.
///
/// # Errors
/// When it was cancelled before anything was known, the engine refuses what was screened, or `screen` fails.
pub fn decide<E: From<Stop>>(
    mut screen: impl FnMut(Option<f64>) -> Result<TuneResult, E>,
    real: &dyn Evaluate,
    budget: Duration,
    watch: &Watch<'_>,
) -> Result<TuneResult, E> {
    let mut result = screen(None)?;
    if result.interrupted {
        return Ok(result);
    }
    let mut race = Race::new(real, budget, watch);
    if let Some(pace) = race.run(&result, None)? {
        let mut anew = screen(Some(pace))?;
        if !anew.interrupted {
            race.run(&anew, Some(pace))?;
            anew.trials += result.trials;
            anew.simulated_requests += result.simulated_requests;
            (anew.wall_s, anew.cpu_s) = (anew.wall_s + result.wall_s, anew.cpu_s + result.cpu_s);
            result = anew;
        }
    }
    let decision = race.decision();
    result.interrupted = watch.cancelled();
    result.warnings.extend(decision.doubt());
    result.decision = Some(decision);
    Ok(result)
}

/// The best of each policy and the winner's best neighbours. Policies differ in kind, and it is kinds that a prediction
/// may be wrong about; neighbours differ by what a machine's noise may hide.
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
    // A knob may do nothing because the configuration stays the same.
    let winner = config_of(&best.config).ok();
    let idle = screened.sensitivity.iter().filter(|n| n.idle);
    let idle = idle.filter_map(|n| config_of(&changed(n)).ok());
    let idle: Vec<_> = idle.filter(|same| winner.as_ref() != Some(same)).collect();
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
            let (predicted_rps, tried) = (Some(predicted_rps), Vec::new());
            let finalist = Finalist { label, config: knobs, predicted_rps, outcome, tried };
            finalists.push((config, finalist));
        }
    }
    finalists
}

impl Decision {
    /// A reason to doubt it.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        if self.out_of_time {
            let seconds = self.took_s.round();
            return Some(format!(
                "the time for real runs was up after {seconds} s: more of it (--budget) may change the answer"
            ));
        }
        if self.bounded {
            return Some(BOUNDED.to_owned());
        }
        let (finalist, _) = self.best()?;
        let bound = finalist.tried.iter().rfind(|t| Some(t.rate_rps) == self.fails_at_rps)?;
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
mod tests;
