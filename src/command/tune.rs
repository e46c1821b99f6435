//! `knee tune` and the search under `knee plan`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tuner::evaluate::Evaluate;
use tuner::progress::Watch;
use tuner::result::{Objective, TuneResult};
use tuner::space::{Scope, Space};
use tuner::study::{Identity, Study, fingerprint};
use tuner::trial::Simulator;
use tuner::tune::{Demand, DeviceUnderTest, Method, Request, tune};

use super::progress::Bar;
use super::{Common, cancel, check_out, measure, print_json};
use crate::cli::{self, Scenario};
use crate::input;
use crate::knobs::Knobs;

/// A search as both commands state it.
pub(crate) struct Search<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) devices: &'a [String],
    pub(crate) gpus: u32,
    pub(crate) objective: Objective,
    pub(crate) method: Method,
    pub(crate) allow_fp8_kv: bool,
    pub(crate) threads: Option<usize>,
    pub(crate) knobs: &'a Knobs,
    pub(crate) out: Option<&'a Path>,
    pub(crate) demand: Option<Demand>,
}

/// What a search leaves: its result, and what it ran on, for reports.
pub(crate) struct Searched {
    pub(crate) result: TuneResult,
    pub(crate) sims: Vec<Simulator>,
}

pub(crate) fn run(args: &cli::Tune) -> Result<ExitCode> {
    let objective = match args.objective.as_str() {
        "rps" => Objective::Rps,
        "tokens-per-gpu" => Objective::TokensPerGpu,
        "cost" => Objective::Cost,
        other => bail!("unknown objective `{other}`: expected rps, tokens-per-gpu or cost"),
    };
    let searched = search(&Search {
        scenario: &args.scenario,
        devices: &args.device,
        gpus: args.gpus,
        objective,
        method: if args.exhaustive { Method::Exhaustive } else { Method::Halving },
        allow_fp8_kv: args.allow_fp8_kv,
        threads: args.threads,
        knobs: &args.knobs,
        out: args.output.out.as_deref(),
        demand: None,
    })?;
    if args.output.json {
        print_json(&searched.result)?;
    }
    Ok(exit_code(&searched.result))
}

/// A search that was interrupted, or found nothing, has not succeeded.
pub(crate) fn exit_code(result: &TuneResult) -> ExitCode {
    if result.interrupted {
        return ExitCode::from(130);
    }
    if result.best.is_none() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// Searches, remembering every run in `out` where that is given.
pub(crate) fn search(search: &Search<'_>) -> Result<Searched> {
    check_out(search.out)?;
    if let Some(n) = search.threads {
        rayon::ThreadPoolBuilder::new().num_threads(n).build_global().context("--threads")?;
    }
    let prepared = input::prepare(search.scenario)?;
    let mut sims = Vec::new();
    for name in search.devices {
        let (trace, model) = (Arc::clone(&prepared.trace), Arc::clone(&prepared.model));
        sims.push(Simulator::new(trace, model, input::device(name)?, prepared.slo.clone()));
    }
    let Some(first) = sims.first() else { bail!("no device to tune for: name at least one") };
    let common = Common::new(search.scenario, first);
    let study = match search.out {
        Some(dir) => Some(Study::open(&dir.join("study.sqlite"), &identity(search.scenario, first))?),
        None => None,
    };
    let space = space(search, first.trace().block_tokens > 0)?;
    let bar = Bar::new();
    let watch = Watch { progress: &bar, cancel: cancel()? };
    let (outcome, cost) = measure(|| {
        let evaluators: Vec<Box<dyn Evaluate + '_>> = sims
            .iter()
            .map(|sim| -> Box<dyn Evaluate + '_> {
                match &study {
                    Some(study) => Box::new(study.record(sim, &profile_key(sim))),
                    None => Box::new(sim),
                }
            })
            .collect();
        let devices = sims.iter().zip(&evaluators).map(|(sim, evaluate)| DeviceUnderTest {
            info: Common::new(search.scenario, sim).device,
            evaluate: evaluate.as_ref(),
        });
        tune(&Request {
            devices: devices.collect(),
            space: &space,
            slo: prepared.slo.slo(),
            objective: search.objective,
            workload: common.workload.clone(),
            model: prepared.model.name.clone(),
            seed: common.seed,
            simulated: true,
            method: search.method,
            demand: search.demand,
            watch,
        })
    });
    bar.finish();
    let mut result = outcome?;
    (result.cpu_s, result.host) = (cost.cpu_s, common.host);
    if let Some(study) = study {
        study.close()?;
    }
    drop(prepared);
    Ok(Searched { result, sims })
}

fn space(search: &Search<'_>, shared_prefixes: bool) -> Result<Space> {
    let mut space = Space::new(Scope {
        gpus: search.gpus,
        fewer_gpus: search.objective != Objective::Rps,
        allow_lossy_kv: search.allow_fp8_kv,
        shared_prefixes,
    });
    for (name, value) in search.knobs.pins()? {
        space.pin(&name, &value)?;
    }
    Ok(space)
}

/// What a study's runs depend on besides the device.
fn identity(scenario: &Scenario, sim: &Simulator) -> Identity {
    let slo = sim.slo().slo();
    let targets: Vec<String> = slo.targets().iter().map(ToString::to_string).collect();
    let attainment = scenario.attainment.clone().unwrap_or_default();
    [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("trace", fingerprint(sim.trace())),
        ("model", format!("{:?}", sim.model())),
        ("slo", format!("{} {attainment}", targets.join(" "))),
    ]
    .map(|(what, value)| (what.to_owned(), value))
    .into()
}

/// A device's name and figures: the runs of another profile are not this one's.
fn profile_key(sim: &Simulator) -> String {
    format!("{:?}", sim.device())
}
