//! The answer to a search, in one form whatever was asked: a simulation, this machine, a server, or servers that were
//! started for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sentences::{BOUNDED, broke};
use super::{Baseline, CurvePoint, Latencies, Operating, P99, TuneResult};
use crate::knee::verdict::{self, Limit, Verdict};
use crate::subject::observation::Observation;

/// The answer: the rate that each contender carries, the others that were considered, and the fate
/// of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The origin of its capacities.
    pub source: Source,
    /// The highest rate that the winner holds, requests/s (session starts/s where later requests wait for responses);
    /// none where nothing held the targets, or nothing was decided.
    pub capacity_rps: Option<f64>,
    /// The lowest rate at which the winner failed, requests/s, if it did.
    pub fails_at_rps: Option<f64>,
    /// The rates between which four of five capacities lie, by the errors of recorded runs; none if
    /// these were not compared, or if the capacity was measured.
    #[serde(default)]
    pub interval_rps: Option<(f64, f64)>,
    /// The index of the contender that won; none if nothing held the targets.
    pub winner: Option<usize>,
    /// All that were considered.
    pub contenders: Vec<Contender>,
    /// True where the winner carries what it completes per second with everything offered at once: it held the targets
    /// at a higher rate, for as long as the trace lasts.
    #[serde(default)]
    pub bounded: bool,
    /// Measured over predicted capacity, where both are known: the winner's, or the geometric mean of all.
    pub residual: Option<f64>,
    /// The share that iterations took of the time that the profile says, where that was so far off that the simulation
    /// was made anew with it.
    #[serde(default)]
    pub pace: Option<f64>,
    /// Runs made.
    pub runs: u64,
    /// Seconds of real load; 0 where times are simulated.
    pub load_s: f64,
    /// The parts of the model that are left out, and those that were not measured on a device: a sentence each. None where
    /// the capacity was measured.
    #[serde(default)]
    pub notes: Vec<String>,
    /// True where the time was up before all was tried that could have changed the answer.
    #[serde(default)]
    pub out_of_time: bool,
    /// True where the user ended it early.
    #[serde(default)]
    pub interrupted: bool,
}

/// The origin of capacities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// True where times are predicted by a cost model, false where they are measured.
    pub simulated: bool,
    /// The device or the server.
    pub on: String,
}

/// A configuration, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contender {
    /// Its name for people.
    pub label: String,
    /// Every knob that is set, by its name in the engine asked, as typed.
    pub config: BTreeMap<String, String>,
    /// The same as flags of a server that is started with them, for a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// The device, where several were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// GPUs it takes, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// Capacity by simulation before it was measured, requests/s.
    pub predicted_rps: Option<f64>,
    /// Its fate.
    pub standing: Standing,
    /// The lowest rate that failed, at its last try, requests/s.
    pub fails_at_rps: Option<f64>,
    /// Every rate tried.
    pub tried: Vec<Tried>,
    /// Seconds until a server that was started took requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_s: Option<f64>,
    /// Why its search ended before it was done, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// File of what its server said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// The fate of a contender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It was not tried (so far), or was left out: why.
    Untried(Option<String>),
    /// It cannot run, did not start, died or hung.
    Failed(Failure),
    /// It holds the targets at no rate.
    Nothing,
    /// It failed at this rate, requests/s, which the best holds, or at the one that would have beaten it.
    Beaten(f64),
    /// It behaved to the nanosecond as another did, at a rate that holds and at one that fails: the other one went on.
    Twin,
    /// It carries this much, requests/s, as far as the search came.
    Carries(f64),
}

/// The reason why something did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The event, in a line.
    pub why: String,
    /// The last lines of its log.
    #[serde(default)]
    pub last_lines: Vec<String>,
}

/// One rate tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Requests (or sessions) per second offered.
    pub rate_rps: f64,
    /// True where the targets held and the load could have gone on.
    pub held: bool,
    /// The 99th percentile of each latency.
    #[serde(flatten)]
    pub p99: Latencies<P99>,
    /// The reason for its failure; empty where it held.
    pub why: String,
    /// The same as a kind; none of a rate that held.
    pub limit: Option<Limit>,
    /// True where nothing was wrong but that the requests were too few for such a rate.
    pub too_few: bool,
    /// The time for which it was offered in real time, s; none if the engine's clock jumps over its
    /// waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_s: Option<f64>,
    /// True where that was long enough beside its requests for its holding to say that it would hold for ever; or as
    /// long as any rate is offered.
    pub steady: bool,
    /// Real time until the last answer, s; with shorter probes that held before this one.
    pub seconds: f64,
    /// Requests per second that a server finished, by its tokens, in the second half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_rps: Option<f64>,
    /// Seconds in iterations over what the profile says of them, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<f64>,
    /// True where the machine was slower than in other runs, so that a failure says nothing of the configuration.
    #[serde(default)]
    pub slow_machine: bool,
}

impl Failure {
    /// A failure of which there is no log.
    #[must_use]
    pub fn of(why: impl Into<String>) -> Self {
        Self { why: why.into(), last_lines: Vec::new() }
    }
}

impl Standing {
    /// The rate that it carries, requests/s.
    #[must_use]
    pub fn carries(&self) -> Option<f64> {
        match self {
            Self::Carries(rps) => Some(*rps),
            _ => None,
        }
    }
}

impl Tried {
    /// The line for `observation` at `rate_rps`.
    #[must_use]
    pub fn of(rate_rps: f64, observation: &Observation) -> Self {
        let verdict = Verdict::of(observation);
        let (held, summary) = (verdict == Verdict::Held, &observation.summary);
        let outside = observation.outside.as_ref();
        Self {
            rate_rps,
            held,
            p99: Latencies::of(summary),
            why: if held { String::new() } else { broke(observation) },
            limit: verdict.limit(),
            too_few: verdict::too_short(observation),
            offered_s: outside.map(|o| o.offered_s),
            steady: outside.is_none_or(|o| o.steady),
            seconds: outside.map_or(0.0, |o| o.took_s),
            finished_rps: outside.and_then(|o| o.finished_rps),
            pace: observation.pace(),
            slow_machine: false,
        }
    }
}

impl Contender {
    /// A configuration of which nothing is known.
    #[must_use]
    pub fn new(label: String, config: BTreeMap<String, String>) -> Self {
        Self {
            label,
            config,
            flags: None,
            device: None,
            gpus: None,
            predicted_rps: None,
            standing: Standing::Untried(None),
            fails_at_rps: None,
            tried: Vec::new(),
            ready_s: None,
            note: None,
            log: None,
        }
    }

    /// The same, left out for a reason.
    #[must_use]
    pub fn left_out(self, why: impl Into<String>) -> Self {
        Self { standing: Standing::Untried(Some(why.into())), ..self }
    }

    /// The last try of the lowest rate that failed.
    #[must_use]
    pub fn first_to_fail(&self) -> Option<&Tried> {
        let rate = self.fails_at_rps?;
        self.tried.iter().rev().find(|t| !t.held && t.rate_rps == rate)
    }
}

impl Answer {
    /// The answer where `contenders[winner]` carries the most.
    #[must_use]
    pub fn new(source: Source, contenders: Vec<Contender>, winner: Option<usize>) -> Self {
        let won = winner.and_then(|i| contenders.get(i));
        Self {
            source,
            capacity_rps: won.and_then(|c| c.standing.carries()),
            fails_at_rps: won.and_then(|c| c.fails_at_rps),
            interval_rps: None,
            winner,
            bounded: false,
            residual: None,
            pace: None,
            runs: contenders.iter().map(|c| c.tried.len() as u64).sum(),
            load_s: contenders.iter().flat_map(|c| &c.tried).map(|t| t.seconds).sum(),
            notes: Vec::new(),
            out_of_time: false,
            interrupted: false,
            contenders,
        }
    }

    /// The contender that won, and what it carries, requests/s.
    #[must_use]
    pub fn best(&self) -> Option<(&Contender, f64)> {
        let contender = self.contenders.get(self.winner?)?;
        Some((contender, contender.standing.carries()?))
    }

    /// The reasons to doubt it.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.interrupted {
            doubts.push("the search was interrupted: its results so far are shown".to_owned());
        }
        let notes = self.contenders.iter().filter_map(|c| Some((&c.label, c.note.as_ref()?)));
        doubts.extend(notes.map(|(of, note)| format!("{of}: the search ended early: {note}")));
        doubts.extend(self.doubt());
        doubts
    }

    /// The reason to doubt the winner's capacity.
    fn doubt(&self) -> Option<String> {
        if self.out_of_time {
            let seconds = self.load_s.round();
            return Some(format!(
                "the time for real runs was up after {seconds} s: more of it (--budget) may change the answer"
            ));
        }
        if self.bounded {
            return Some(BOUNDED.to_owned());
        }
        let (winner, _) = self.best()?;
        let bound = winner.tried.iter().rfind(|t| Some(t.rate_rps) == self.fails_at_rps)?;
        let by = if bound.too_few {
            "the number of requests, not by the targets: use more of them (--requests)"
        } else if bound.slow_machine {
            "runs that met this machine slower than usual: decide again when it has less to do"
        } else {
            return None;
        };
        Some(format!("the measured capacity is bounded by {by}"))
    }

    /// Runs in which the machine was slower than in others.
    #[must_use]
    pub fn slow_runs(&self) -> usize {
        self.contenders.iter().flat_map(|c| &c.tried).filter(|t| t.slow_machine).count()
    }

    /// The reasons for which contenders were not tried, and the number that each kept out.
    #[must_use]
    pub fn untried(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for contender in &self.contenders {
            if let Standing::Untried(Some(why)) = &contender.standing {
                *reasons.entry(why.as_str()).or_default() += 1;
            }
        }
        reasons
    }

    /// Contenders that failed, and how.
    pub fn failures(&self) -> impl Iterator<Item = (&Contender, &Failure)> {
        self.contenders.iter().filter_map(|c| match &c.standing {
            Standing::Failed(failure) => Some((c, failure)),
            _ => None,
        })
    }
}

impl TuneResult {
    /// The answer by simulation: each policy's best on each device as a contender.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let mut met: Vec<Contender> = self.baselines.iter().map(Baseline::contender).collect();
        let is_best = |c: &Contender, b: &Operating| {
            c.config == b.config && c.device.as_ref() == Some(&b.device)
        };
        let mut winner = None;
        if let Some(best) = &self.best {
            let known = met.iter().position(|c| is_best(c, best));
            winner = Some(known.unwrap_or_else(|| {
                met.push(best.contender());
                met.len() - 1
            }));
        }
        let devices: Vec<&str> = self.devices.iter().map(|d| d.name.as_str()).collect();
        let source = Source { simulated: self.simulated, on: devices.join(", ") };
        Answer {
            interval_rps: self.confidence.as_ref().map(|c| (c.low_rps, c.high_rps)),
            interrupted: self.interrupted,
            notes: self.notes.clone(),
            runs: self.trials,
            ..Answer::new(source, met, winner)
        }
    }
}

impl Baseline {
    fn contender(&self) -> Contender {
        self.best.as_ref().map_or_else(
            || Contender {
                device: Some(self.device.clone()),
                standing: Standing::Nothing,
                note: self.infeasible.as_ref().map(|why| why.reason.clone()),
                ..Contender::new(self.policy.clone(), BTreeMap::new())
            },
            Operating::contender,
        )
    }
}

impl Operating {
    fn contender(&self) -> Contender {
        let failed = self.curve.iter().filter(|p| !p.holds()).map(|p| p.rate_rps);
        Contender {
            device: Some(self.device.clone()),
            gpus: Some(self.gpus),
            standing: Standing::Carries(self.capacity_rps),
            fails_at_rps: failed.reduce(f64::min),
            tried: self.curve.iter().map(CurvePoint::tried).collect(),
            ..Contender::new(self.label.clone(), self.config.clone())
        }
    }
}

impl CurvePoint {
    fn holds(&self) -> bool {
        self.slo_met && self.sustainable
    }

    fn tried(&self) -> Tried {
        let (limit, why) = match (self.slo_met, self.sustainable) {
            (true, true) => (None, ""),
            (false, _) => (Some(Limit::Latency), "targets missed"),
            (true, false) => (Some(Limit::Throughput), "work was left over"),
        };
        Tried {
            rate_rps: self.rate_rps,
            held: self.holds(),
            p99: (&self.latencies).into(),
            why: why.to_owned(),
            limit,
            too_few: false,
            offered_s: None,
            steady: true,
            seconds: 0.0,
            finished_rps: None,
            pace: None,
            slow_machine: false,
        }
    }
}
