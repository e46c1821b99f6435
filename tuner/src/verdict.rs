//! Whether a run counts as holding its targets, and by how much: the only place where the search asks.

use crate::observation::Observation;
use loadgen::Judged;

/// A typical request may last at most this share of a run that is to say anything about steady load.
const LONGEST: f64 = 0.25;

/// And at most this share of one that decides.
pub const SHORT: f64 = 0.05;

/// The SLO held and the load could have gone on for ever. Latency alone would let any finite trace pass a throughput
/// target: it always drains. And a trace that arrives within the time of a few requests has no steady state at all.
#[must_use]
pub fn holds(observation: &Observation) -> bool {
    calm(observation) && observation.sustain.request_share <= LONGEST
}

/// Whether the only thing wrong is that the requests are too few for such a rate.
#[must_use]
pub fn too_short(observation: &Observation) -> bool {
    calm(observation) && observation.sustain.request_share > LONGEST
}

/// Whether a typical request takes so much of the run that it says little about load that goes on.
#[must_use]
pub fn short(observation: &Observation) -> bool {
    observation.sustain.request_share > SHORT
}

fn calm(observation: &Observation) -> bool {
    observation.summary.verdict.met && observation.sustain.sustained
}

/// Measured over limit of the target that is closest to breaking or furthest beyond: at most 1 where all hold,
/// infinite where requests were lost. 0 without targets.
#[must_use]
pub fn worst(observation: &Observation) -> f64 {
    let verdict = &observation.summary.verdict;
    if let Some(attained) = &verdict.attainment {
        let allowed = (1.0 - attained.required).max(1e-9);
        return (1.0 - attained.share) / allowed;
    }
    verdict.targets.iter().map(used).fold(0.0, f64::max)
}

/// The target that [`worst`] speaks of; none without targets.
#[must_use]
pub fn tightest(observation: &Observation) -> Option<&Judged> {
    let targets = &observation.summary.verdict.targets;
    targets.iter().max_by(|a, b| used(a).total_cmp(&used(b)))
}

/// Measured over limit of one target.
#[must_use]
pub fn used(target: &Judged) -> f64 {
    match target.margin {
        Some(margin) => 1.0 - margin,
        None if target.met => 0.0,
        None => f64::INFINITY,
    }
}
