//! Policies side by side on one trace: throughput with all requests at once, capacity under the SLO, and latencies at
//! equal rates.
//!
//! All policies get the same KV bytes, seats and token budget; only scheduler and allocator differ.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use engine::config::KnobError;
use engine::{Config, KNOBS, Knob};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::claims::Claims;
use crate::knee::verdict;
use crate::knee::{Effort, FLOOR, Knee, Prober, place_of, rate_at};
use crate::result::{DeviceInfo, FlatP99, Latencies, WorkloadInfo};
use crate::subject::bed::Testbed;
use crate::subject::observation::Observation;
use crate::subject::{Length, Relax, Stop, Subject, Trial};

/// The whole of a comparison, as it is stored. Everything but `wall_s`, `cpu_s` and `host` depends on inputs alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompareResult {
    /// Version of knee that made it.
    pub version: String,
    /// True if times are predicted by a cost model, false if measured.
    pub simulated: bool,
    /// The seed the traffic was made from.
    pub seed: u64,
    /// The traffic.
    pub workload: WorkloadInfo,
    /// Model name.
    pub model: String,
    /// The parts of it that are left out, and those that were not measured on the device: a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The device.
    pub device: DeviceInfo,
    /// KV slots of one worker, the same for all.
    pub kv_slots: u64,
    /// Targets in the SLO grammar.
    pub slo: Vec<String>,
    /// Names of the policies in the order asked for.
    pub order: Vec<String>,
    /// Each policy, by name.
    pub policies: BTreeMap<String, PolicyResult>,
    /// Claims of papers, tried here; empty when that was left out.
    pub claims: Claims,
    /// Elapsed time, seconds.
    pub wall_s: f64,
    /// Processor time, seconds.
    pub cpu_s: f64,
    /// The machine that ran it.
    pub host: String,
}

/// One policy's share of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyResult {
    /// Its name: a policy's, perhaps with a change (`static, no padding`).
    pub name: String,
    /// All knobs, as typed.
    pub config: Vec<(String, String)>,
    /// GPUs it takes.
    #[serde(default = "one")]
    pub gpus: u32,
    /// Output tokens per second with all requests offered at once.
    pub saturated_output_tokens_per_s: f64,
    /// Highest rate that holds the SLO, requests/s; none when no rate does.
    pub capacity_rps: Option<f64>,
    /// Requests/s at which the latencies below are quoted: the first of the rates asked for.
    pub rate_rps: f64,
    /// The 99th percentile of each latency at that rate; none of any when requests were lost.
    #[serde(flatten)]
    pub p99: Latencies<FlatP99>,
    /// Share of held KV memory that is wasted, percent, with all requests offered at once.
    pub kv_waste_percent: f64,
    /// Sequences per iteration with all requests offered at once.
    pub mean_batch: f64,
    /// The run with all requests at once.
    pub saturated: Observation,
    /// Runs at every rate, in ascending order.
    pub at: Vec<AtRate>,
}

fn one() -> u32 {
    1
}

/// A run at a rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AtRate {
    /// Requests/s offered.
    pub rate_rps: f64,
    /// The observation at that rate.
    pub observation: Observation,
}

/// The policies to compare.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Name and configuration, in the order shown.
    pub entries: Vec<(String, Config)>,
    /// Requests/s at which latencies are compared; empty = chosen from the capacities.
    pub rates: Vec<f64>,
}

/// The named policies on top of `base`: `static`, `continuous`, `paged`, `chunked`, `disagg`. The `pins`, knobs and their
/// values as typed, hold for each whatever the policy says.
///
/// # Errors
/// A name that is no policy, a value that a knob does not take, a pin that does nothing under any of the policies.
pub fn policies(
    base: &Config,
    pins: &[(String, String)],
    names: &[String],
) -> Result<Vec<(String, Config)>, KnobError> {
    let with = |name: &String| {
        let mut config = base.clone();
        config.set("policy", name)?;
        let pins = pins.iter().filter(|(knob, _)| knob != "policy");
        pins.clone().try_for_each(|(knob, value)| config.set(knob, value)).map(|()| config)
    };
    let configs = names.iter().map(with).collect::<Result<Vec<_>, KnobError>>()?;
    for knob in pins.iter().filter_map(|(name, _)| Knob::named(name)) {
        knob.check_in(&configs)?;
    }
    let canonical = configs.iter().map(Config::canonical);
    Ok(names.iter().cloned().zip(canonical).collect())
}

/// Compares on `sim`'s trace under its SLO.
///
/// # Errors
/// When one of the configurations cannot run, or the user ended it.
pub fn compare(
    sim: &Testbed,
    comparison: &Comparison,
    cancel: &AtomicBool,
) -> Result<Vec<PolicyResult>, Stop> {
    let knees = comparison
        .entries
        .par_iter()
        .map(|(_, config)| capacity(sim, config, cancel))
        .collect::<Result<Vec<_>, Stop>>()?;
    let rates = if comparison.rates.is_empty() {
        default_rates(&knees, sim.natural_rate(sim.requests()))
    } else {
        comparison.rates.clone()
    };
    // All meet the same minutes at each load, for the sake of measured times.
    let natural = sim.natural_rate(sim.requests());
    let together = |scale: f64| {
        let (relax, length) = (Relax::Nothing, Length::Requests(sim.requests()));
        let configs = comparison.entries.iter().map(|(_, config)| config);
        let trials: Vec<_> = configs
            .map(|config| Trial { config, relax, length, scale, verdict_only: false })
            .collect();
        sim.side_by_side(&trials)
    };
    let saturated = together(f64::INFINITY)?;
    let mut at = vec![Vec::with_capacity(rates.len()); knees.len()];
    for &rate_rps in &rates {
        for (at, observation) in at.iter_mut().zip(together(rate_rps / natural)?) {
            at.push(AtRate { rate_rps, observation });
        }
    }
    let rows = comparison.entries.iter().zip(knees).zip(saturated.into_iter().zip(at));
    Ok(rows.map(|((entry, knee), (full, at))| row(entry, knee, full, at)).collect())
}

/// Half of the largest capacity first, where latencies are quoted, then a quarter, three quarters and nearly all.
fn default_rates(knees: &[Option<f64>], natural: f64) -> Vec<f64> {
    let best = knees.iter().flatten().copied().max_by(f64::total_cmp);
    best.map_or(vec![natural], |best| [0.5, 0.25, 0.75, 0.95].map(|share| share * best).to_vec())
}

/// The highest rate at which `config` holds the SLO, on a longer trace where the whole one is too short for it.
///
/// # Errors
/// When it cannot run, or the user ended it.
pub fn capacity(sim: &Testbed, config: &Config, cancel: &AtomicBool) -> Result<Option<f64>, Stop> {
    let (start, effort) = if sim.is_simulated() {
        let thorough = Effort { confirm: Effort::FINAL.confirm, ..Effort::COLD };
        (sim.natural_rate(sim.requests()), thorough)
    } else {
        // The highest load it can carry is near, and costs one run.
        let full = sim.saturated(config).map_err(Stop::Refused)?;
        let effort = Effort { bounded: true, ..Effort::REAL };
        (full.summary.request_throughput_rps().max(rate_at(FLOOR)), effort)
    };
    let (mut head, mut start) = (sim.requests(), place_of(start));
    loop {
        let mut prober = Prober::new(sim, config, Relax::Nothing, head, cancel)?;
        let Knee::Between { lo, hi } = prober.knee(start, effort)? else { return Ok(None) };
        let seen = |k: i32| prober.probe(k).map(|p| &p.observation);
        let factor = verdict::longer(seen(lo), hi.and_then(seen));
        if factor == 1 || head == sim.most() {
            return Ok(Some(rate_at(lo)));
        }
        (head, start) = ((factor * head).min(sim.most()), lo);
    }
}

fn row(
    (name, config): &(String, Config),
    capacity_rps: Option<f64>,
    full: Observation,
    mut at: Vec<AtRate>,
) -> PolicyResult {
    // There is always a rate: the common one, or one by the capacities.
    let AtRate { rate_rps, observation: first } = &at[0];
    let (rate_rps, p99) = (*rate_rps, Latencies::of(&first.summary));
    at.sort_by(|a, b| a.rate_rps.total_cmp(&b.rate_rps));
    PolicyResult {
        name: name.clone(),
        config: KNOBS.iter().map(|k| (k.name.to_owned(), config.value(k))).collect(),
        gpus: config.gpus(),
        saturated_output_tokens_per_s: full.summary.output_tokens_per_s(),
        capacity_rps,
        rate_rps,
        p99,
        kv_waste_percent: full.kv().waste_percent(),
        mean_batch: full.work().mean_batch,
        saturated: full,
        at,
    }
}
