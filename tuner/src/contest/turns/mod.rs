//! The flags with which a server carries most: one server per configuration, started, measured and ended, in turn.
//!
//! A real server costs its start and the load it is tried with, so few are started and little is asked of each. The
//! server's own defaults come first: what they carry is what every other configuration has to beat. The rest come in
//! the order listed, or, where a simulation has ranked them, the likeliest winner first, and are tried as
//! [`crate::contest::meetings`] tries its finalists: first at a rate a little above the best one so far, and no further unless
//! they hold it; and not at all when, by all that was learnt about the simulation's error, they are clearly slower.
//! A server that does not start, dies or hangs is a failed trial and nothing worse.

pub mod flags;
mod screen;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::contest::meetings::SLACK;
use crate::subject::server::{Aim, Searched, Shot};

pub use screen::{Screened, screen};

/// By how much another configuration must beat the best one: real runs do not repeat closer.
pub const BETTER: f64 = 1.03;

/// One set of a server's flags.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name for people.
    pub label: String,
    /// Every flag set, by name, as typed.
    pub knobs: BTreeMap<String, String>,
    /// The same in the server's words, for a shell.
    pub flags: String,
    /// Capacity by simulation, requests/s, where there was one.
    pub predicted_rps: Option<f64>,
}

/// The fate of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It carries this much, requests/s.
    Carries(f64),
    /// It failed at this rate, which is just above what another holds.
    Beaten(f64),
    /// It failed at every rate tried, or with one request at a time.
    Nothing,
    /// It did not start, died or hung: why, and what it said last.
    Failed(Failure),
    /// It was not started, and why.
    Untried(String),
}

/// A server that did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The event, in a line.
    pub why: String,
    /// The last lines of its log.
    pub last_lines: Vec<String>,
}

/// A configuration and what was seen of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The configuration.
    #[serde(flatten)]
    pub candidate: Candidate,
    /// Its fate.
    pub outcome: Outcome,
    /// Seconds until it took requests.
    pub ready_s: Option<f64>,
    /// The lowest rate that failed, requests/s.
    pub fails_at_rps: Option<f64>,
    /// Every rate offered, in order.
    pub shots: Vec<Shot>,
    /// Why its search ended before it was done, if it did ([`crate::subject::server::Found::note`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// File of what the server said.
    pub log: Option<String>,
}

/// Every configuration, and the best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Race {
    /// In the order tried, those not tried last.
    pub trials: Vec<Trial>,
    /// The index of the one that carries most; none if nothing held the targets.
    pub winner: Option<usize>,
    /// Geometric mean of measured over predicted capacity, where both are known.
    pub residual: Option<f64>,
    /// Seconds of load.
    pub load_s: f64,
    /// True where the user ended it early.
    pub interrupted: bool,
}

/// The rules of a race.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// The time that a rate must hold; see [`Aim::probe`].
    pub probe: Option<Duration>,
    /// Load to spend at most, on all together.
    pub budget: Duration,
    /// True where each is measured in full, even where another carries more.
    pub in_full: bool,
}

/// The measurement of one configuration; its capacity is in `searched`.
pub struct Seen {
    /// The search, or why there was none.
    pub searched: Result<Searched, Failure>,
    /// Seconds until the server took requests.
    pub ready_s: Option<f64>,
    /// File of what it said.
    pub log: Option<String>,
    /// Rates offered before it failed.
    pub shots: Vec<Shot>,
}

impl Race {
    /// Runs `candidates` against each other. `measure` starts a server and searches it as told; `go_on` says no when the
    /// user wants the end.
    pub fn run(
        candidates: Vec<Candidate>,
        rules: Rules,
        go_on: &dyn Fn() -> bool,
        measure: &mut dyn FnMut(usize, &Candidate, &Aim) -> Seen,
    ) -> Self {
        let mut race = Self {
            trials: Vec::new(),
            winner: None,
            residual: None,
            load_s: 0.0,
            interrupted: false,
        };
        let mut ratios = Vec::new();
        for (i, candidate) in candidates.into_iter().enumerate() {
            let expected = candidate.predicted_rps.map(|p| p * race.residual.unwrap_or(1.0));
            let untried = race.untried(rules, expected, go_on());
            let trial = match untried {
                Some(why) => Trial::untried(candidate, why),
                None => {
                    let beat = race.best().map(|(_, rps)| BETTER * rps).filter(|_| !rules.in_full);
                    let left = (rules.budget.as_secs_f64() - race.load_s).max(0.0);
                    let budget = Duration::from_secs_f64(left);
                    let aim = Aim { probe: rules.probe, budget, beat, expected };
                    let seen = measure(i, &candidate, &aim);
                    Trial::of(candidate, seen, beat, go_on())
                }
            };
            race.load_s += trial.shots.iter().map(|s| s.seconds).sum::<f64>();
            if let Outcome::Carries(rps) = trial.outcome {
                ratios.extend(trial.candidate.predicted_rps.map(|p| rps / p));
                if race.best().is_none_or(|(_, best)| rps > best) {
                    race.winner = Some(i);
                }
            }
            race.trials.push(trial);
            race.residual = geometric_mean(&ratios);
        }
        race.interrupted = !go_on();
        race
    }

    /// Why a configuration is not to be started, if so.
    fn untried(&self, rules: Rules, expected: Option<f64>, go_on: bool) -> Option<String> {
        let best = self.best().map(|(_, rps)| rps);
        let hopeless = |e: &f64| !rules.in_full && best.is_some_and(|b| e * SLACK < b);
        if !go_on {
            return Some("interrupted".to_owned());
        }
        if self.load_s >= rules.budget.as_secs_f64() {
            return Some("the budget of load was spent".to_owned());
        }
        expected
            .filter(hopeless)
            .map(|e| format!("expected to carry {e:.2} requests/s, too little"))
    }

    /// The best configuration and what it carries, requests/s.
    #[must_use]
    pub fn best(&self) -> Option<(&Trial, f64)> {
        let trial = self.trials.get(self.winner?)?;
        match trial.outcome {
            Outcome::Carries(rps) => Some((trial, rps)),
            _ => None,
        }
    }
}

fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let sum: f64 = ratios.iter().map(|r| r.ln()).sum();
    (!ratios.is_empty()).then(|| (sum / ratios.len() as f64).exp())
}

impl Trial {
    /// A configuration that was not started.
    #[must_use]
    pub fn untried(candidate: Candidate, why: String) -> Self {
        let outcome = Outcome::Untried(why);
        let (shots, note, log) = (Vec::new(), None, None);
        Self { candidate, outcome, ready_s: None, fails_at_rps: None, shots, note, log }
    }

    fn of(candidate: Candidate, seen: Seen, beat: Option<f64>, go_on: bool) -> Self {
        let Seen { searched, ready_s, log, shots } = seen;
        let (outcome, fails_at_rps, shots, note) = match searched {
            Ok(Searched { found, .. }) => {
                let first_failed = found.shots.first().is_some_and(|s| !s.passed);
                let outcome = match (found.capacity_rps, beat) {
                    (Some(rps), _) => Outcome::Carries(rps),
                    (None, Some(beat)) if first_failed => Outcome::Beaten(beat),
                    (None, _) if !go_on => Outcome::Untried("interrupted".to_owned()),
                    (None, _) => Outcome::Nothing,
                };
                (outcome, found.fails_at_rps, found.shots, found.note)
            }
            Err(_) if !go_on => (Outcome::Untried("interrupted".to_owned()), None, shots, None),
            Err(failure) => (Outcome::Failed(failure), None, shots, None),
        };
        Self { candidate, outcome, ready_s, fails_at_rps, shots, note, log }
    }
}

#[cfg(test)]
mod tests;
