//! `knee tune` and the search under `knee plan`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use engine::config::Policy;
use engine::{Config, DeviceProfile, EngineProfile};
use reports::{Detail, Export, Report, TuneReport};
use serde_json::{Value, json};
use tuner::compare::{Comparison, PolicyResult, compare, policies};
use tuner::contest::meetings::{Decided, decide};
use tuner::contest::progress::Watch;
use tuner::evidence::accuracy;
use tuner::result::{Answer, Objective, Operating, TuneResult, config_of};
use tuner::space::{Scope, Space};
use tuner::subject::Stop;
use tuner::subject::bed::Testbed;
use tuner::subject::observation::Detailed;
use tuner::subject::study::{Identity, Study, build, digest, fingerprint};
use tuner::subject::{Relax, Subject};
use tuner::tune::{Demand, DeviceUnderTest, Method, Question, tune};

use super::output::{self, about, all, file, write_run};
use super::progress::Bar;
use super::timing::timed;
use super::{Common, INTERRUPTED, cancel, measure};
use crate::cli::{self, Computing, Output, Scenario};
use crate::computing::is_here;
use crate::devices;
use crate::input::{self, Prepared};
use crate::knobs::Knobs;

/// A search as both commands state it.
#[derive(Clone, Copy)]
pub(crate) struct Search<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) devices: &'a [String],
    pub(crate) gpus: u32,
    pub(crate) objective: Objective,
    pub(crate) method: Method,
    pub(crate) allow_fp8_kv: bool,
    pub(crate) threads: Option<usize>,
    pub(crate) knobs: &'a Knobs,
    /// Folder of the study, if runs are to be remembered.
    pub(crate) study: Option<&'a Path>,
    pub(crate) demand: Option<Demand>,
    /// Most tokens of a request; longer ones are left out, and their part of the demand with them.
    pub(crate) context: Option<u32>,
    /// The engine's settings, where this machine is the device.
    pub(crate) here: Option<Here<'a>>,
}

/// This machine as the device that is tuned for.
#[derive(Clone, Copy)]
pub(crate) struct Here<'a> {
    how: &'a Computing,
    /// Its profile, if it is known.
    profile: Option<&'a Path>,
    /// For real runs, at most.
    budget: Duration,
}

/// The outcome of a search: its result, and the machines that it ran on, for reports.
pub(crate) struct Searched {
    pub(crate) result: TuneResult,
    /// The real engine's answer, where one was asked.
    pub(crate) measured: Option<Answer>,
    pub(crate) sims: Vec<Testbed>,
    /// The store of runs, still open: where it cannot be written to the end, the answer is there all the same.
    pub(crate) study: Option<Study>,
}

pub(crate) fn run(args: &cli::Tune) -> Result<ExitCode> {
    args.output.check()?;
    let objective = match args.objective.to_ascii_lowercase().as_str() {
        "rps" => Objective::Rps,
        "tokens-per-gpu" => Objective::TokensPerGpu,
        "cost" => Objective::Cost,
        other => {
            let known = ["rps", "tokens-per-gpu", "cost"];
            let meant = workloads::meant(other, known);
            bail!("unknown objective `{other}`: {meant}expected {}", known.join(", "))
        }
    };
    let folder = args.output.folder();
    let searched = search(&Search {
        scenario: &args.scenario,
        devices: &args.device,
        gpus: args.gpus,
        objective,
        method: if args.exhaustive { Method::Exhaustive } else { Method::Halving },
        allow_fp8_kv: args.allow_fp8_kv,
        threads: args.work.threads,
        knobs: &args.knobs,
        study: folder.as_deref(),
        demand: None,
        context: None,
        here: here(args)?,
    })?;
    deliver(&args.output, searched)
}

/// The way this machine is tried, where it is the device.
fn here(args: &cli::Tune) -> Result<Option<Here<'_>>> {
    match &args.device[..] {
        [only] if is_here(only) => {
            args.scenario.instead.by.none_beside("this machine")?;
            let (how, profile) = (&args.computing, args.cpu_profile.as_deref());
            Ok(Some(Here { how, profile, budget: args.server.budget() }))
        }
        many if many.iter().any(|d| is_here(d)) => {
            bail!(
                "--device cpu goes alone: this machine computes the model, other devices are simulated; tune them in a run of their own"
            )
        }
        _ if args.cpu_profile.is_some() => bail!("--cpu-profile goes with --device cpu"),
        _ if args.server.has_budget() => {
            bail!("--budget is for real load: it goes with --url, --launch or --device cpu")
        }
        _ => Ok(None),
    }
}

/// The ground of a search: predictions, and the engine that has the last word, where there is one.
fn beds(search: &Search<'_>, prepared: &Prepared) -> Result<(Vec<Testbed>, Option<Testbed>)> {
    let Some(Here { how, profile, .. }) = search.here else {
        let devices = devices::devices(search.devices, &search.scenario.instead)?;
        let on = |device| prepared.on(device, search.scenario);
        return Ok((devices.into_iter().map(on).collect::<Result<_>>()?, None));
    };
    let device = search.devices.first().map_or("cpu", String::as_str);
    let here = how.load(device, search.scenario.model(), &Config::default())?;
    let profile = match profile {
        Some(path) => DeviceProfile::load(&path.display().to_string())?,
        None => {
            let longest = prepared.trace.longest().min(here.shape.max_context);
            timed(&here, longest)?.profile
        }
    };
    let bed = prepared.like(&here, profile.clone())?;
    let real = prepared.like(&here, profile)?.computed(here.machine).profiled();
    Ok((vec![bed], Some(real)))
}

/// Runs the winner once more for its report, and hands everything over. A search that was interrupted, or found
/// nothing, has not succeeded.
pub(crate) fn deliver(output: &Output, searched: Searched) -> Result<ExitCode> {
    let Searched { result, measured, sims, study } = searched;
    let sim = sims.iter().find(|s| s.device().name == result.device);
    let run = match (&result.best, sim) {
        (Some(best), Some(sim)) => Some(winner(best, sim)?),
        _ => None,
    };
    let mut policies = Vec::new();
    if let (Some(_), Some((_, config)), Some(sim)) = (output.folder(), &run, sim) {
        policies = beside(sim, config, &result)?;
    }
    let devices: Vec<_> = sims.iter().map(|s| s.device().as_ref()).collect();
    let engine =
        sims.first().map_or_else(|| Arc::new(EngineProfile::any()), |s| Arc::clone(s.engine()));
    let detail = run.as_ref().map(|(run, _)| Detail::new(run));
    let told = told(&result, measured.as_ref())?;
    let found = told["answer"]["winner"] != Value::Null;
    let code = match (found, result.interrupted) {
        (_, true) => ExitCode::from(INTERRUPTED),
        (false, false) => ExitCode::from(2),
        (true, false) => ExitCode::SUCCESS,
    };
    let report = TuneReport::new(about(&devices, &engine), result, measured, policies, detail);
    let exports = report.exports.clone();
    let more = |dir: &Path| {
        let run = run.as_ref().map(|(run, _)| run);
        let written =
            run.map_or_else(Vec::new, |run| write_run(dir, "the winner at its capacity", run));
        let export = |e: &Export| file(&dir.join("exports"), &e.file, e.text.as_bytes());
        written.into_iter().chain(exports.iter().map(export)).collect()
    };
    let delivered = output.deliver_with(&Report::Tune(Box::new(report)), &told, more);
    let closed = study.map_or(Ok(()), |study| study.close().map_err(Into::into));
    all([delivered, closed])?;
    Ok(code)
}

/// The result for scripts: the answer first. Simulated results on the way to a measured answer have
/// a place of their own, so that no script takes them for the answer.
fn told(result: &TuneResult, measured: Option<&Answer>) -> Result<Value> {
    let mut told = match measured {
        None => serde_json::to_value(result)?,
        Some(_) => json!({
            "version": result.version,
            "simulated": false,
            "seed": result.seed,
            "workload": result.workload,
            "model": result.model,
            "device": result.device,
            "slo": result.slo,
            "attainment": result.attainment,
            "host": result.host,
            "interrupted": result.interrupted,
            "screening": result,
        }),
    };
    told["answer"] = json!(measured.map_or_else(|| result.answer(), Clone::clone));
    Ok(told)
}

/// The winner's run at its capacity.
fn winner(best: &Operating, sim: &Testbed) -> Result<(Detailed, Config)> {
    let config = config_of(&best.config)?;
    let deployment = sim.deployment(&config, Relax::Nothing)?;
    let scale = best.capacity_rps / sim.natural_rate(best.requests);
    Ok((sim.detail_of(&deployment, best.requests, scale)?, config))
}

/// The policies at equal rates: those of one worker with the winner's other knobs on as many GPUs, and disaggregation,
/// whose workers are searched for, at its best. Those that cannot run so are left out.
fn beside(sim: &Testbed, winner: &Config, result: &TuneResult) -> Result<Vec<PolicyResult>> {
    let split = |config: &Config| config.scheduler.traits().disaggregates;
    let one = winner.tp * winner.pp;
    let replicas = if split(winner) { winner.gpus() / one } else { winner.replicas };
    let mut entries = Vec::new();
    if winner.gpus() == one * replicas {
        let prompt_kv = Config::default().prompt_kv;
        let base = Config { mix: false, prompt_kv, replicas, ..winner.clone() };
        let names: Vec<String> = Policy::of_one_worker().map(|p| p.name().to_owned()).collect();
        entries = policies(&base, &[], &names)?;
    }
    let here = result.baselines.iter().filter(|b| b.device == result.device);
    for best in here.filter_map(|b| b.best.as_ref()) {
        let config = config_of(&best.config)?;
        if split(&config) {
            entries.push((best.policy.clone(), config));
        }
    }
    entries.retain(|(_, config)| sim.deployment(config, Relax::Nothing).is_ok());
    if entries.len() < 2 {
        return Ok(Vec::new());
    }
    compare(sim, &Comparison { entries, rates: Vec::new() }, cancel()?).or_else(|stop| match stop {
        Stop::Cancelled | Stop::Gone(_) => Ok(Vec::new()),
        Stop::Refused(refused) => Err(refused.into()),
    })
}

/// Searches, remembering every run where a study is given.
pub(crate) fn search(search: &Search<'_>) -> Result<Searched> {
    if let Some(n) = search.threads {
        rayon::ThreadPoolBuilder::new().num_threads(n).build_global().context("--threads")?;
    }
    let mut prepared = input::prepare(search.scenario)?;
    let mut demand = search.demand;
    if let Some(most) = search.context {
        let (within, share) = prepared.within(most);
        prepared = within;
        demand = demand.map(|demand| Demand { rps: demand.rps * share, ..demand });
    }
    let search = &Search { demand, ..*search };
    input::need_rate(&prepared.trace)?;
    let (mut sims, real) = beds(search, &prepared)?;
    let Some(first) = sims.first() else { bail!("no device to tune for: name at least one") };
    let study = match search.study {
        Some(dir) => Some(output::study(dir, &identity(search.scenario, first))?),
        None => None,
    };
    let bar = Bar::new();
    let watch = Watch { progress: &bar, cancel: cancel()? };
    let decided = match (&real, search.here) {
        (Some(real), Some(here)) => {
            let screen = |pace: Option<f64>| {
                let at = |pace| sims.iter().map(|sim| sim.paced(pace)).collect::<Vec<_>>();
                let paced = pace.map(at);
                let beds = paced.as_ref().unwrap_or(&sims);
                let screened = run_search(search, &prepared, beds, study.as_ref(), &watch)?;
                // The figures reported were simulated at the last pace.
                if let Some(paced) = paced.filter(|_| !screened.interrupted) {
                    sims = paced;
                }
                Ok(screened)
            };
            let on = real.device().name.clone();
            decide(screen, (&on, real), here.budget, &watch)
        }
        _ => run_search(search, &prepared, &sims, study.as_ref(), &watch)
            .map(|screened| Decided { screened, answer: None }),
    };
    bar.finish();
    let Decided { screened: result, answer: measured } = decided?;
    Ok(Searched { result, measured, sims, study })
}

/// Asks `sims`, or what `study` remembers of them.
fn run_search(
    search: &Search<'_>,
    prepared: &Prepared,
    sims: &[Testbed],
    study: Option<&Study>,
    watch: &Watch<'_>,
) -> Result<TuneResult> {
    let space = space(search, prepared.trace.block_tokens > 0, &sims[0])?;
    let evaluators: Vec<Box<dyn Subject + '_>> = sims
        .iter()
        .map(|sim| -> Box<dyn Subject + '_> {
            match study {
                Some(study) => Box::new(study.record(sim, &profile_key(sim))),
                None => Box::new(sim),
            }
        })
        .collect();
    let about: Vec<Common> = sims.iter().map(|sim| Common::new(prepared.seed, sim)).collect();
    let [common, ..] = &about[..] else { bail!("no device to tune for: name at least one") };
    let devices = sims.iter().zip(&about).zip(&evaluators);
    let devices = devices.map(|((sim, about), subject)| DeviceUnderTest {
        info: about.device.clone(),
        subject: subject.as_ref(),
        accuracy: accuracy::pace(sim.device(), sim.model(), sim.engine()),
    });
    let request = Question {
        devices: devices.collect(),
        space: &space,
        slo: prepared.slo.slo(),
        objective: search.objective,
        workload: common.workload.clone(),
        model: sims[0].model().name.clone(),
        experts: sims[0].model().has_experts(),
        notes: prepared.notes(),
        engine: search.scenario.instead.by.engine.clone(),
        engines: beside_it(search),
        seed: common.seed,
        simulated: true,
        method: search.method,
        demand: search.demand,
        watch: *watch,
    };
    let (outcome, cost) = measure(|| tune(&request));
    let mut result = outcome?;
    (result.cpu_s, result.host) = (cost.cpu_s, common.host.clone());
    Ok(result)
}

/// The engines whose best is shown beside the winner: all that have a command, where none was named and the answer is
/// simulated.
fn beside_it(search: &Search<'_>) -> Vec<Arc<EngineProfile>> {
    let by = &search.scenario.instead.by;
    if by.engine.is_some() || search.here.is_some() || search.demand.is_some() {
        return Vec::new();
    }
    let commands = EngineProfile::names().filter(|name| *name != "knee");
    commands.map(|name| Arc::new(EngineProfile::newest(name).clone())).collect()
}

fn space(search: &Search<'_>, shared_prefixes: bool, sim: &Testbed) -> Result<Space> {
    let (by, engine) = (&search.scenario.instead.by, sim.engine());
    let experts = sim.model().has_experts();
    // Refuses what the engine cannot be told.
    by.config(engine, sim.device(), search.knobs)?;
    let mut space = Space::new(Scope {
        gpus: search.gpus,
        fewer_gpus: search.objective != Objective::Rps,
        allow_lossy_kv: search.allow_fp8_kv,
        shared_prefixes,
        experts,
    })
    .from(engine.config(sim.device()));
    for (name, value) in search.knobs.pins()? {
        space.pin(&name, &value)?;
    }
    if by.engine.is_some() {
        space = space.told_to(Arc::clone(engine));
    }
    // A plan tries replicas as well, whatever a single one may take.
    match search.demand {
        Some(_) => space.sized(search.gpus.saturating_mul(2)).check()?,
        None => space.check()?,
    }
    Ok(space)
}

/// The inputs that a study's runs depend on, besides the device. Those that people know by name come first in the
/// alphabet: a study of something else is refused with the first difference.
fn identity(scenario: &Scenario, sim: &Testbed) -> Identity {
    let (trace, model) = (sim.trace(), sim.model());
    let mut slo: Vec<String> = sim.slo().slo().targets().iter().map(ToString::to_string).collect();
    slo.extend(scenario.attainment.clone());
    [
        ("build", build().to_owned()),
        ("model", model.name.clone()),
        ("model, in figures", format!("{model:?}")),
        ("slo", if slo.is_empty() { "no targets".to_owned() } else { slo.join(" ") }),
        ("trace", format!("{}, {} requests", trace.name, trace.requests.len())),
        ("trace, in figures", fingerprint(trace)),
    ]
    .map(|(what, value)| (what.to_owned(), value))
    .into()
}

/// A device's name and a hash of its figures, and of what calibration found: the runs of another profile are not this
/// one's.
fn profile_key(sim: &Testbed) -> String {
    let device = sim.device();
    let figures = format!("{device:?} {:?} {:?}", sim.correction(), sim.engine());
    format!("{} {}", device.name, digest(&figures))
}
