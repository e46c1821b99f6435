//! The real engine's answer beside a simulation's: the finalists, and every real run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sentences::BOUNDED;

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
