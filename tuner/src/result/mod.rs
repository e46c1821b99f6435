//! The result of a tuning run, as it is stored in `result.json`: plain data that reports draw and scripts read.
//!
//! Everything but `wall_s`, `cpu_s` and `host` depends on the inputs alone: not on the number of threads, and not on
//! whether the run was interrupted and resumed.

mod answer;
mod confidence;
mod latencies;
pub mod pareto;
mod sentences;
mod ties;

pub use answer::{Answer, Contender, Failure, Source, Standing, Tried};
pub use confidence::{Confidence, PassedOver};
pub use latencies::{Both, FlatP99, Form, Latencies, P99};
pub(crate) use sentences::BOUNDED;
pub use sentences::{against, attained, broke, missed, statistic};
pub use ties::{Tie, Tiebreak, Ties};

use crate::plan::{Chosen, Plan, Tier};
use crate::subject::observation::{KvShares, Observation, Work};
use crate::subject::unfit::Unfit;
use engine::{Config, KNOBS, KnobError};
use loadgen::Attained;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole of `result.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuneResult {
    /// Version of knee that made it.
    pub version: String,
    /// True where times are predicted by a cost model, false where they are measured.
    pub simulated: bool,
    /// The seed everything derives from.
    pub seed: u64,
    /// The traffic.
    pub workload: WorkloadInfo,
    /// Model name.
    pub model: String,
    /// True if it has experts, which ranks of one engine share.
    #[serde(default)]
    pub experts: bool,
    /// The parts of the model that are left out, and those that were not measured on a device: a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The engine that was asked for, as typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Device of the winner; of the first one tried if there is no winner.
    pub device: String,
    /// Every device tried.
    pub devices: Vec<DeviceInfo>,
    /// Targets in the SLO grammar.
    pub slo: Vec<String>,
    /// Share of requests that must meet all targets, percent, where asked for.
    pub attainment: Option<String>,
    /// The figure that was maximised (or, for cost, minimised).
    pub objective: Objective,
    /// Most GPUs a configuration was allowed.
    pub gpus: u32,
    /// The space: searched knobs with their values, and pins.
    pub space: Vec<String>,
    /// Configurations in it, over all devices.
    pub candidates: usize,
    /// Combinations refused without a run, by reason.
    pub refused: Vec<Refusal>,
    /// The winner at its capacity; none if nothing holds the SLO.
    pub best: Option<Operating>,
    /// Beside the winner, the best that each engine can be told, where no engine was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engines: Vec<EngineBest>,
    /// A queue in another order that carries more, and what keeps it from being the winner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reordered: Option<Reordered>,
    /// Configurations that carry as much as the winner; none where none was found, and where a demand was planned for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ties: Option<Ties>,
    /// The confidence in the winner's capacity; none if predictions for its device were never
    /// compared with real runs.
    #[serde(default)]
    pub confidence: Option<Confidence>,
    /// Why there is no winner, and what comes nearest.
    pub infeasible: Option<Infeasible>,
    /// Each policy preset at its best, on each device, in the order of presets.
    pub baselines: Vec<Baseline>,
    /// Why other policies' best lost to the winner.
    pub losers: Vec<Loser>,
    /// The effects of one knob more or less than the winner's.
    pub sensitivity: Vec<Neighbour>,
    /// Operating points seen on the whole trace that hold the SLO, on two pairs of axes.
    pub pareto: Pareto,
    /// The plans for a demand, where one was given: one per device.
    pub plans: Vec<Plan>,
    /// Plans for the requests within limits of context, where those were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<Tier>,
    /// The rule that decided between the plan that was chosen and the next best deployment; none without a demand, and where nothing
    /// else was found.
    #[serde(default)]
    pub chosen: Option<Chosen>,
    /// Doubts that a reader should know before believing the answer.
    pub warnings: Vec<String>,
    /// True where the search was told to end early: then it reports what it knew.
    pub interrupted: bool,
    /// Runs that all this took: at a rate, with everything offered at once, of other configurations to compare with. Runs
    /// that a study remembers count as well.
    pub trials: u64,
    /// Requests offered in them.
    pub simulated_requests: u64,
    /// Elapsed time, seconds.
    pub wall_s: f64,
    /// Processor time, seconds.
    pub cpu_s: f64,
    /// The machine that searched.
    pub host: String,
}

/// The best configuration found that an engine can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineBest {
    /// The engine.
    pub engine: String,
    /// Its name for people.
    pub title: String,
    /// The configuration at its capacity; none where none was found that holds the targets.
    pub best: Option<Operating>,
}

/// A queue in another order than first come, first served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reordered {
    /// The configuration at its capacity.
    pub at: Operating,
    /// The slowest TTFT of a thousand requests there, ms; none where too few ended.
    pub slowest_ttft_ms: Option<f64>,
    /// The same of the winner at its own capacity.
    pub winner_slowest_ttft_ms: Option<f64>,
    /// Why it did not win.
    pub why: String,
}

/// The figure to maximise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Requests/s of the whole deployment.
    #[default]
    Rps,
    /// Output tokens/s per GPU.
    TokensPerGpu,
    /// Output tokens per dollar.
    Cost,
}

/// The traffic a result is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadInfo {
    /// A preset's name or a file's stem.
    pub name: String,
    /// Its source.
    pub provenance: Vec<String>,
    /// Requests in it.
    pub requests: usize,
    /// Requests per session where later ones wait for responses; none where every request has a time of its own.
    /// With sessions, every rate counts session starts.
    pub requests_per_session: Option<f64>,
    /// Requests (or sessions) per second at scale 1.
    pub natural_rps: f64,
    /// Mean prompt tokens per request; none in results of earlier versions.
    #[serde(default)]
    pub prompt_tokens_per_request: Option<f64>,
    /// Mean output tokens per request (or session).
    pub output_tokens_per_request: f64,
    /// True where it goes on by repeating itself when a rate needs more requests than it has; else it is drawn on.
    #[serde(default)]
    pub repeats: bool,
}

impl WorkloadInfo {
    /// The unit that every rate counts per second.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        if self.requests_per_session.is_some() { "sessions/s" } else { "requests/s" }
    }
}

/// A device that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// The source of its figures.
    pub provenance: String,
    /// Its price, where known.
    pub price: Option<crate::plan::Price>,
}

/// Combinations refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason.
    pub reason: String,
    /// Their number.
    pub count: usize,
}

/// A configuration at its capacity. Latencies are null where undefined or infinite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operating {
    /// Every knob by name, as typed.
    pub config: BTreeMap<String, String>,
    /// Its name for people.
    pub label: String,
    /// Its policy preset.
    pub policy: String,
    /// Device name.
    pub device: String,
    /// GPUs it takes.
    pub gpus: u32,
    /// Requests of the trace on which that is known: more than it has where it was made longer.
    #[serde(default)]
    pub requests: usize,
    /// Highest rate that holds, requests/s (or session starts/s).
    pub capacity_rps: f64,
    /// Requests/s that met every target in that run, its drain included.
    pub goodput_rps: f64,
    /// The 99th percentile of each latency.
    #[serde(flatten)]
    pub p99: Latencies<P99>,
    /// True where the SLO held.
    pub slo_met: bool,
    /// The margin of each target.
    pub margins: Vec<Margin>,
    /// Share of requests that met all targets, where that decides.
    #[serde(default)]
    pub attained: Option<Attained>,
    /// Requests that it can never serve; they failed.
    #[serde(default)]
    pub unfit: Unfit,
    /// Output tokens/s of what was served.
    pub output_tokens_per_s: f64,
    /// Output tokens/s per GPU.
    pub tokens_per_s_per_gpu: f64,
    /// Output tokens/s that the median user sees: 1 / TPOT p50.
    pub tokens_per_s_per_user: Option<f64>,
    /// US dollars per hour, where the price is known.
    pub usd_per_hour: Option<f64>,
    /// US dollars per million output tokens at capacity.
    pub usd_per_million_tokens: Option<f64>,
    /// The engine's work.
    pub work: Work,
    /// The use of KV memory.
    pub kv: KvShares,
    /// Every rate tried on the whole trace, ascending.
    pub curve: Vec<CurvePoint>,
}

/// One target at capacity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Margin {
    /// As typed.
    pub target: String,
    /// The statistic, such as `ttft:p99`.
    pub measured: String,
    /// Its value, ms; null when infinite or undefined.
    pub value_ms: Option<f64>,
    /// The limit, ms.
    pub limit_ms: f64,
    /// Share of the limit left; null when infinite or undefined.
    pub margin: Option<f64>,
    /// True where it held.
    pub met: bool,
}

/// One rate that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Requests/s offered.
    pub rate_rps: f64,
    /// Median and 99th percentile of each latency.
    #[serde(flatten)]
    pub latencies: Latencies<Both>,
    /// Requests/s that met every target.
    pub goodput_rps: f64,
    /// Output tokens/s.
    pub output_tokens_per_s: f64,
    /// True where the targets held.
    pub slo_met: bool,
    /// True where the load could have gone on for ever.
    pub sustainable: bool,
}

/// A policy preset at its best on a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The preset.
    pub policy: String,
    /// The device.
    pub device: String,
    /// Its best configuration at capacity; none if none holds the SLO.
    pub best: Option<Operating>,
    /// Why none holds, and what comes nearest.
    pub infeasible: Option<Infeasible>,
}

/// Nothing holds the SLO.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Infeasible {
    /// One line.
    pub reason: String,
    /// The configuration that comes nearest on an empty machine.
    pub nearest: Option<String>,
    /// The values that it reaches there, per target: an SLO of these values is feasible at some rate.
    pub reaches: Vec<Margin>,
    /// Probability that it holds the targets there all the same, its times being shorter than predicted.
    #[serde(default)]
    pub p_feasible: Option<f64>,
}

/// A configuration that lost, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loser {
    /// Its policy preset.
    pub policy: String,
    /// Its name for people.
    pub label: String,
    /// Device name.
    pub device: String,
    /// Its capacity on the head used for attribution, requests/s; 0 where it never holds.
    pub capacity_rps: f64,
    /// The winner's.
    pub winner_rps: f64,
    /// GPUs it takes.
    #[serde(default = "one")]
    pub gpus: u32,
    /// The winner's.
    #[serde(default = "one")]
    pub winner_gpus: u32,
    /// Requests of the trace used for attribution.
    pub head: usize,
    /// The first thing to give way just above its capacity: a target, or the backlog.
    pub broke: String,
    /// The confirmed cause that explains most; none = unexplained.
    pub cause: Option<String>,
    /// Every cause that was suspected and checked.
    pub checked: Vec<Attribution>,
}

/// A suspected cause, checked by taking it away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attribution {
    /// The cause.
    pub cause: String,
    /// The observation that raised the suspicion.
    pub evidence: String,
    /// The change that took it away.
    pub relaxed: String,
    /// Capacity before, requests/s; 0 where it never holds.
    pub before_rps: f64,
    /// Capacity without the cause; equal to `before_rps` where it did not rise by at least 3 %.
    pub after_rps: f64,
    /// True where it rose.
    pub confirmed: bool,
}

/// The winner with one knob changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The knob.
    pub knob: String,
    /// Its value in the winner.
    pub from: String,
    /// Its value here.
    pub to: String,
    /// Capacity, requests/s, to within 2 %; 0 where it never holds.
    pub capacity_rps: f64,
    /// The winner's on the same requests.
    pub winner_rps: f64,
    /// True where the knob does nothing here: about the winner's knee, its runs are the winner's to the last figure.
    #[serde(default)]
    pub idle: bool,
    /// Requests of the trace used.
    pub head: usize,
    /// The first thing to give way above that capacity, or the reason that it cannot run.
    pub broke: String,
}

/// Points on two pairs of axes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pareto {
    /// Every passing run on the whole trace.
    pub points: Vec<ParetoPoint>,
    /// Indices of the front over tokens/s per GPU and tokens/s per user, by falling tokens/s per GPU.
    pub throughput_interactivity: Vec<usize>,
    /// Indices of the front over goodput per GPU and (low) p99 TTFT, by falling goodput.
    pub goodput_ttft: Vec<usize>,
}

/// One passing run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParetoPoint {
    /// The configuration's name for people.
    pub label: String,
    /// Its policy preset.
    pub policy: String,
    /// Device name.
    pub device: String,
    /// GPUs it takes.
    #[serde(default = "one")]
    pub gpus: u32,
    /// Requests/s offered.
    pub rate_rps: f64,
    /// Output tokens/s per GPU.
    pub tokens_per_s_per_gpu: f64,
    /// 1 / median TPOT, tokens/s.
    pub tokens_per_s_per_user: Option<f64>,
    /// Requests/s that met every target.
    pub goodput_rps: f64,
    /// The 99th percentile of each latency.
    #[serde(flatten)]
    pub p99: Latencies<P99>,
}

fn one() -> u32 {
    1
}

/// Every knob's value by name.
#[must_use]
pub fn knobs(config: &Config) -> BTreeMap<String, String> {
    KNOBS.iter().map(|k| (k.name.to_owned(), config.value(k))).collect()
}

/// The configuration of [`knobs`], so that a stored result can be run again. Knobs not named keep their defaults.
pub fn config_of(knobs: &BTreeMap<String, String>) -> Result<Config, KnobError> {
    let mut config = Config::default();
    if let Some(name) = knobs.keys().find(|name| engine::Knob::named(name).is_none()) {
        return Err(KnobError::Unknown { name: name.clone() });
    }
    // In the table's order: a policy sets several knobs, which come after it.
    for knob in KNOBS {
        knobs.get(knob.name).map_or(Ok(()), |value| config.set(knob.name, value))?;
    }
    Ok(config)
}

/// Of stored knobs, those that neither the defaults nor their policy explain, in the table's order: what a reader has
/// to be told beside the policy's name. Unknown knobs are left out.
#[must_use]
pub fn departures(knobs: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    // Planning ahead is what engines do, where it can be done.
    let mut preset = Config { async_scheduling: true, ..Config::default() };
    // A policy of another version explains nothing.
    let _ = knobs.get("policy").map(|policy| preset.set("policy", policy));
    let config = config_of(knobs).ok();
    let idle = |k: &engine::Knob| config.as_ref().is_some_and(|c| !k.applies(c));
    let differ =
        |k: &&engine::Knob| !idle(k) && knobs.get(k.name).is_some_and(|v| *v != preset.value(k));
    let named = KNOBS.iter().filter(differ);
    named.filter_map(|k| Some((k.name, knobs.get(k.name)?.clone()))).collect()
}

/// True where every knob's value is within its domain.
#[must_use]
pub fn settable(config: &Config) -> bool {
    config_of(&knobs(config)).is_ok()
}

/// Each target of a run's verdict.
#[must_use]
pub fn margins(observation: &Observation) -> Vec<Margin> {
    let targets = &observation.summary.verdict.targets;
    let margin = |t: &loadgen::Judged| Margin {
        target: t.target.to_string(),
        measured: t.measured.clone(),
        value_ms: t.value.millis(),
        limit_ms: t.target.limit.as_secs_f64() * 1e3,
        margin: t.margin,
        met: t.met,
    };
    targets.iter().map(margin).collect()
}

impl CurvePoint {
    /// From a run at `rate` requests/s.
    #[must_use]
    pub fn new(rate: f64, observation: &Observation) -> Self {
        let s = &observation.summary;
        Self {
            rate_rps: rate,
            latencies: Latencies::of(s),
            goodput_rps: s.goodput_rps(),
            output_tokens_per_s: s.output_tokens_per_s(),
            slo_met: s.verdict.met,
            sustainable: observation.sustain.sustained,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_configuration_is_the_one_that_was_run() {
        let mut c = Config { max_seqs: 77, prefix_cache: false, ..Config::default() };
        assert_eq!(config_of(&knobs(&c)), Ok(c.clone()));
        c.set("policy", "static").unwrap();
        c.set("allocator", "paged").unwrap();
        assert_eq!(config_of(&knobs(&c)), Ok(c.clone()));
        assert_eq!(
            departures(&knobs(&c)),
            [("allocator", "paged".to_owned()), ("max-seqs", "77".to_owned())]
        );
        let strange = BTreeMap::from([("seats".to_owned(), "1".to_owned())]);
        assert!(matches!(config_of(&strange), Err(KnobError::Unknown { .. })));
    }
}
