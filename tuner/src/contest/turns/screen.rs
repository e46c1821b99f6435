//! Configurations ranked by simulation, so that real servers are started for the likeliest winners only.

use std::sync::atomic::AtomicBool;

use engine::Config;
use rayon::prelude::*;

use super::Candidate;
use super::flags::Dialect;
use crate::knee::{Effort, Knee, Prober, place_of, rate_at};
use crate::subject::{Evaluate, Relax, Stop};

/// What a simulation says of some configurations.
#[derive(Debug, Clone, PartialEq)]
pub struct Screened {
    /// Those that hold the targets, most promising first, equals in the order given.
    pub ranked: Vec<Candidate>,
    /// The others, and why.
    pub refused: Vec<(Candidate, String)>,
    /// Names that mean nothing to the simulation: it does not tell configurations apart by them.
    pub strange: Vec<String>,
}

/// Finds what each of `candidates` carries by `simulation`; none when it was cancelled.
pub fn screen(
    candidates: Vec<Candidate>,
    dialect: Dialect,
    simulation: &(dyn Evaluate + Sync),
    cancel: &AtomicBool,
) -> Option<Screened> {
    let seen: Vec<_> = candidates
        .into_par_iter()
        .map(|candidate| match dialect.config(&candidate.knobs) {
            Ok((config, strange)) => (candidate, knee(&config, simulation, cancel), strange),
            Err(why) => (candidate, Ok(Err(why)), Vec::new()),
        })
        .collect();
    let mut screened = Screened { ranked: Vec::new(), refused: Vec::new(), strange: Vec::new() };
    for (candidate, rps, strange) in seen {
        match rps.ok()? {
            Ok(rps) => screened.ranked.push(Candidate { predicted_rps: Some(rps), ..candidate }),
            Err(why) => screened.refused.push((candidate, why)),
        }
        screened.strange.extend(strange);
    }
    screened.strange.sort();
    screened.strange.dedup();
    let predicted = |c: &Candidate| c.predicted_rps.unwrap_or_default();
    screened.ranked.sort_by(|a, b| predicted(b).total_cmp(&predicted(a)));
    Some(screened)
}

/// What `config` carries, requests/s, or why nothing; an error when it was cancelled.
fn knee(
    config: &Config,
    simulation: &(dyn Evaluate + Sync),
    cancel: &AtomicBool,
) -> Result<Result<f64, String>, ()> {
    let start = place_of(simulation.natural_rate(simulation.requests()));
    let searched = Prober::new(simulation, config, Relax::Nothing, simulation.requests(), cancel)
        .and_then(|mut prober| prober.knee(start, Effort::COLD));
    match searched {
        Ok(Knee::Between { lo, .. }) => Ok(Ok(rate_at(lo))),
        Ok(Knee::Nowhere) => Ok(Err("by simulation it holds the targets at no rate".to_owned())),
        Err(Stop::Refused(refused)) => Ok(Err(format!("by simulation it cannot run: {refused}"))),
        Err(Stop::Cancelled | Stop::Gone(_)) => Err(()),
    }
}
