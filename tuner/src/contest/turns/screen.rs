//! Configurations ranked by simulation, so that real servers are started for the likeliest winners only.

use std::sync::atomic::AtomicBool;

use engine::Config;
use rayon::prelude::*;

use super::flags::Dialect;
use crate::contest::entry::{Candidate, Entry};
use crate::knee::{Effort, Knee, Prober, place_above, place_of, rate_at};
use crate::result::{Contender, Failure, Standing, Tried};
use crate::subject::server::Aim;
use crate::subject::{Relax, Stop, Subject};

/// A simulation's verdict on some configurations.
#[derive(Debug, Clone, PartialEq)]
pub struct Screened {
    /// Those that hold the targets, most promising first, equals in the order given.
    pub ranked: Vec<Contender>,
    /// The others, each with why it was left out.
    pub refused: Vec<Contender>,
    /// Names that mean nothing to the simulation: it does not tell configurations apart by them.
    pub strange: Vec<String>,
}

/// Finds what each of `contenders` carries by `simulation`; none when it was cancelled.
pub fn screen(
    contenders: Vec<Contender>,
    dialect: Dialect,
    simulation: &(dyn Subject + Sync),
    cancel: &AtomicBool,
) -> Option<Screened> {
    let seen: Vec<_> = contenders
        .into_par_iter()
        .map(|contender| match dialect.config(&contender.config) {
            Ok((config, strange)) => {
                let found = searched(simulation, &config, &Aim::default(), cancel);
                (contender, found.map(|found| found.standing), strange)
            }
            Err(why) => (contender, Ok(Standing::Untried(Some(why))), Vec::new()),
        })
        .collect();
    let mut screened = Screened { ranked: Vec::new(), refused: Vec::new(), strange: Vec::new() };
    for (contender, standing, strange) in seen {
        screened.strange.extend(strange);
        let why = match standing.ok()? {
            Standing::Carries(rps) => {
                screened.ranked.push(Contender { predicted_rps: Some(rps), ..contender });
                continue;
            }
            Standing::Failed(failure) => format!("by simulation it cannot run: {}", failure.why),
            Standing::Untried(Some(why)) => why,
            _ => "by simulation it holds the targets at no rate".to_owned(),
        };
        screened.refused.push(contender.left_out(why));
    }
    screened.strange.sort();
    screened.strange.dedup();
    let predicted = |c: &Contender| c.predicted_rps.unwrap_or_default();
    screened.ranked.sort_by(|a, b| predicted(b).total_cmp(&predicted(a)));
    Some(screened)
}

/// `config` as a search of `subject` finds it, told as `aim` says: where a rate is to be beaten, that one is tried first
/// and decides whether the search goes on.
///
/// # Errors
/// When it was cancelled, or the subject can be measured no more.
pub fn searched(
    subject: &dyn Subject,
    config: &Config,
    aim: &Aim,
    cancel: &AtomicBool,
) -> Result<Contender, Stop> {
    let (requests, beat) = (subject.requests(), aim.beat.map(place_above));
    let mut entry = Entry::new(Candidate { device: 0, config: config.clone(), group: 0 });
    let start = place_of(aim.expected.unwrap_or_else(|| subject.natural_rate(requests)));
    let found = Prober::new(subject, config, Relax::Nothing, requests, cancel).and_then(|mut p| {
        let knee = p.overtake(beat, start, Effort::COLD);
        entry.probes = p.into_probes();
        knee
    });
    entry.standing = match (found, aim.beat) {
        (Ok(Knee::Between { lo, .. }), _) => Standing::Carries(rate_at(lo)),
        (Ok(Knee::Nowhere), Some(beat)) => Standing::Beaten(beat),
        (Ok(Knee::Nowhere), None) => Standing::Nothing,
        (Err(Stop::Refused(refused)), _) => Standing::Failed(Failure::of(refused.reason)),
        (Err(stop), _) => return Err(stop),
    };
    Ok(entry.contender(|probe| Tried::of(probe.rate(), &probe.observation)))
}
