//! The test that a run holds its targets, and the margin. A search asks for it only here.

use crate::subject::observation::{Observation, Outside};
use loadgen::Judged;
use serde::{Deserialize, Serialize};

/// A typical request may last at most this share of a run that is to say anything about steady load.
const LONGEST: f64 = 0.25;

/// And at most this share of one that decides.
const SHORT: f64 = 0.05;

/// The least factor by which a trace must be longer than one that is too short to tell capacity.
const LONGER: usize = 8;

/// Fewer requests than this show nothing of a server.
const FEWEST: u64 = 10;

/// The verdict of a run on the rate that it was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The targets held, and the load could have gone on for ever.
    Held,
    /// Requests took longer than the targets allow.
    Missed,
    /// The targets held, but work was left over.
    NotSustainable,
    /// Too many requests came to nothing. Those that were taken may have been as quick as ever.
    Lost {
        /// True where most of them were refused for the time being (429, 503, a reset).
        refused: bool,
    },
    /// It does not tell.
    NotDecidable(Doubt),
}

/// Why a run does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// A typical request lasts too much of it.
    TooShort,
    /// It had too few requests.
    TooFew,
    /// Tokens came in bursts: their pace is not known.
    NoPace,
}

impl Verdict {
    /// The verdict of `observation`.
    #[must_use]
    pub fn of(observation: &Observation) -> Self {
        let Observation { summary, sustain, outside, .. } = observation;
        let Some(outside) = outside else {
            return match (summary.verdict.met, sustain.sustained) {
                (true, true) if sustain.request_share > LONGEST => {
                    Self::NotDecidable(Doubt::TooShort)
                }
                (true, true) => Self::Held,
                (true, false) => Self::NotSustainable,
                (false, _) => Self::Missed,
            };
        };
        // Latency alone would let any finite trace pass: it always drains.
        if outside.hopeless || !summary.verdict.met {
            outside.failure()
        } else if outside.requests < FEWEST {
            Self::NotDecidable(Doubt::TooFew)
        } else if sustain.falls_behind() {
            Self::NotSustainable
        } else {
            Self::Held
        }
    }

    /// The kind of thing that keeps the rate from holding; none where it held.
    #[must_use]
    pub fn limit(self) -> Option<Limit> {
        match self {
            Self::Held => None,
            Self::Missed => Some(Limit::Latency),
            Self::NotSustainable => Some(Limit::Throughput),
            Self::Lost { refused: true } => Some(Limit::Admission),
            Self::Lost { refused: false } => Some(Limit::Failures),
            Self::NotDecidable(_) => Some(Limit::Unknown),
        }
    }
}

impl Outside {
    /// Why targets were missed: whatever cost more requests.
    fn failure(&self) -> Verdict {
        let lost = self.refused + self.failed;
        if lost > 0 && lost >= self.late {
            Verdict::Lost { refused: self.refused >= self.failed }
        } else if self.doubt.is_some() {
            Verdict::NotDecidable(Doubt::NoPace)
        } else {
            Verdict::Missed
        }
    }
}

/// The kinds of thing that keep a rate from holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Requests take longer than the targets allow.
    Latency,
    /// Work is left over: it could not go on for ever.
    Throughput,
    /// The server refuses requests (429, 503, resets): those that it takes may be as quick as ever.
    Admission,
    /// Requests fail in other ways.
    Failures,
    /// The measurement does not tell.
    Unknown,
}

impl Limit {
    /// The same in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
            Self::Admission => "admission, not latency: the server refuses requests",
            Self::Failures => "failures, not latency",
            Self::Unknown => "not known",
        }
    }
}

/// The SLO held and the load could have gone on for ever. Latency alone would let any finite trace pass a throughput
/// target: it always drains. And a trace that arrives within the time of a few requests has no steady state at all.
#[must_use]
pub fn holds(observation: &Observation) -> bool {
    Verdict::of(observation) == Verdict::Held
}

/// True where the only thing wrong is that the requests are too few for such a rate.
#[must_use]
pub fn too_short(observation: &Observation) -> bool {
    Verdict::of(observation) == Verdict::NotDecidable(Doubt::TooShort)
}

/// True where a typical request takes so much of the run that it says little about load that goes on.
#[must_use]
pub fn short(observation: &Observation) -> bool {
    observation.sustain.request_share > SHORT
}

/// The factor by which the trace must be longer for a capacity to be a verdict on load that goes
/// on; 1 if it is long enough. `held` is the run at that capacity, `failing` the one that bounds
/// it, where they are known.
#[must_use]
pub fn longer(held: Option<&Observation>, failing: Option<&Observation>) -> usize {
    let share = held.map_or(0.0, |o| o.sustain.request_share);
    let factor = ((share / SHORT).ceil().max(1.0) as usize).next_power_of_two();
    if failing.is_some_and(too_short) { factor.max(LONGER) } else { factor }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::fake::Fake;
    use crate::subject::{Length, Relax, Subject, Trial};
    use engine::Config;

    #[test]
    fn a_trace_is_made_longer_for_either_bound_of_a_knee() {
        let fake = Fake::new(&["ttft=1s"]);
        let (config, relax) = (Config::default(), Relax::Nothing);
        let trial = Trial {
            config: &config,
            relax,
            length: Length::Requests(fake.requests),
            scale: 1e-3,
            verdict_only: false,
        };
        let held = |share: f64| {
            let mut observation = fake.run(&trial).unwrap();
            observation.sustain.request_share = share;
            observation
        };
        let of = |held: &Observation| longer(Some(held), None);
        assert_eq!([0.01, 0.05, 0.06, 0.2, 0.21].map(|s| of(&held(s))), [1, 1, 2, 4, 8]);
        assert_eq!(longer(None, None), 1);
        assert_eq!(longer(Some(&held(0.06)), Some(&held(0.2))), 2);
        assert_eq!(longer(Some(&held(0.06)), Some(&held(0.3))), 8);
    }
}
