//! `knee bench`: one configuration at one rate.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use engine::{Deployment, Iteration};
use loadgen::{Offered, Sustain};
use reports::{BenchReport, Detail, Inside, Report};
use serde_json::{Value, json};
use tuner::evidence::calibrate::StepLog;
use tuner::result::knobs;
use tuner::space::label;
use tuner::subject::bed::{Testbed, steps_of};
use tuner::subject::observation::{Detailed, Observation};
use tuner::subject::{Relax, Subject};
use workloads::Trace;

use super::output::{about, write_run};
use super::{Common, measure};
use crate::cli;
use crate::computing::is_here;
use crate::devices;
use crate::input;

pub(crate) fn run(args: &cli::Bench) -> Result<ExitCode> {
    args.output.check()?;
    let mut prepared = input::prepare(&scenario(args))?;
    if let Some(streams) = args.concurrency {
        prepared = prepared.closed_loop(streams);
    }
    let by = &args.scenario.instead.by;
    let sim = if is_here(&args.on.device) {
        by.none_beside("this machine")?;
        prepared.here(&args.on.device, &args.scenario, &args.computing, &args.knobs.config()?)?
    } else {
        let calibration = args.calibration.as_deref();
        prepared.on(
            devices::hardware(&args.on.device, calibration, &args.scenario.instead)?,
            &args.scenario,
        )?
    };
    let config = by.config(sim.engine(), sim.device(), &args.knobs)?;
    let deployment = sim.deployment(&config, Relax::Nothing)?;
    let natural = sim.natural_rate(sim.requests());
    let scale = scale(args, sim.trace())?;
    let (run, cost) = match &args.steps {
        None => measure(|| played(args, &sim, &deployment, scale, &mut |_| ())),
        Some(path) => measure(|| logged(args, &sim, &deployment, scale, path)),
    };
    let run = run?;
    let open = args.concurrency.is_none() && scale.is_finite() && natural > 0.0;
    let rate_rps = open.then_some(scale * natural);
    let sustain = lasting(&sim, &deployment, rate_rps, &run.observation)?;
    let config = &deployment.config;
    let report = BenchReport {
        about: about(&[sim.device()], sim.engine()),
        scenario: Common::new(prepared.seed, &sim).scenario(
            &sim.model().name,
            prepared.notes(),
            &cost,
        ),
        config: knobs(config),
        label: label(config),
        gpus: Some(deployment.gpus()),
        rate_rps,
        streams: args.concurrency,
        detail: Detail::new(&run),
        summary: run.observation.summary.clone(),
        sustain,
        unfit: run.observation.unfit.clone(),
        inside: Some(Inside { work: run.observation.work(), kv: run.observation.kv() }),
        live: None,
    };
    let (result, label) = (result(&report), report.label.clone());
    let more = |dir: &Path| write_run(dir, &label, &run);
    args.output.deliver_with(&Report::Bench(Box::new(report)), &result, more)?;
    Ok(ExitCode::SUCCESS)
}

/// The completed share of the offered rate from which the load is not checked against a saturated
/// run.
const KEEPS_UP: f64 = 0.995;

/// The verdict on whether the load could have gone on for ever. A load that comes faster than a simulation completes
/// everything offered at once could not, however soon after the last arrival a finite trace is worked off.
fn lasting(
    sim: &Testbed,
    deployment: &Deployment,
    rate_rps: Option<f64>,
    seen: &Observation,
) -> Result<Sustain> {
    let mut sustain = seen.sustain.clone();
    let keeps_up = |o: &Offered| o.request_throughput_rps >= KEEPS_UP * o.request_rate_rps;
    let doubtful = seen.summary.offered.as_ref().is_some_and(|o| !keeps_up(o));
    let Some(rps) = rate_rps.filter(|_| doubtful && sustain.sustained && sim.is_simulated()) else {
        return Ok(sustain);
    };
    let all = sim.observe(deployment, sim.requests(), f64::INFINITY)?.summary;
    let most = all.request_throughput_rps();
    // Of requests that wait for responses not all can be offered at once.
    if all.offered.is_none() && rps > most {
        sustain.sustained = false;
        sustain.reason = format!("all requests at once are completed at {most:.2} requests/s");
    }
    Ok(sustain)
}

/// The default number of requests that each stream of a closed loop sends.
const EACH: usize = 10;

/// The scenario, with as many requests of one size as a closed loop takes.
pub(super) fn scenario(args: &cli::Bench) -> cli::Scenario {
    let mut scenario = args.scenario.clone();
    let workload = &mut scenario.workload;
    if let (Some(streams), Some(_), None) = (args.concurrency, workload.isl, workload.requests) {
        workload.requests = Some(EACH * streams as usize);
    }
    scenario
}

/// The run; of a closed loop as its clients make it.
fn played(
    args: &cli::Bench,
    sim: &Testbed,
    deployment: &Deployment,
    scale: f64,
    watch: &mut dyn FnMut(&Iteration),
) -> Result<Detailed> {
    let run = match args.concurrency {
        Some(_) => sim.rerun(deployment, scale, watch),
        None => sim.watched(deployment, scale, watch),
    };
    run.map_err(Into::into)
}

/// The run, every iteration written to `path`.
fn logged(
    args: &cli::Bench,
    sim: &Testbed,
    deployment: &Deployment,
    scale: f64,
    path: &Path,
) -> Result<Detailed> {
    let failed = || format!("cannot write {}", path.display());
    let file = std::fs::File::create(path).with_context(failed)?;
    let mut log = StepLog::new(std::io::BufWriter::new(file)).with_context(failed)?;
    let mut outcome = Ok(());
    let run = played(args, sim, deployment, scale, &mut |it| {
        for step in steps_of(it) {
            if outcome.is_ok() {
                outcome = log.push(&step);
            }
        }
    });
    // Steps of a run that a failing device ended are kept.
    outcome.and_then(|()| log.finish()).with_context(failed)?;
    run
}

/// By how much the trace is sped up.
fn scale(args: &cli::Bench, trace: &Trace) -> Result<f64> {
    match (args.rate, args.rate_scale) {
        _ if args.saturated => Ok(f64::INFINITY),
        _ if args.concurrency.is_some() => Ok(1.0),
        (Some(rate), _) => input::scale(trace, rate),
        (None, scale) => input::fitting(trace, scale.unwrap_or(1.0)),
    }
}

/// The result for scripts: flat figures, and their origin. A key whose value a measurement from outside does not have
/// is null.
pub(crate) fn result(report: &BenchReport) -> Value {
    let (w, kv) = report.inside.as_ref().map(|i| (i.work, i.kv)).unzip();
    let mut flat = report.summary.flat();
    let mut put = |key: &str, value: Value| flat.insert(key.to_owned(), value);
    put("iterations", json!(w.map(|w| w.iterations)));
    put("preemptions", json!(w.map(|w| w.preemptions)));
    put("tokens_executed", json!(w.map(|w| w.tokens_executed)));
    put("tokens_padded", json!(w.map(|w| w.tokens_padded)));
    put("tokens_recomputed", json!(w.map(|w| w.tokens_recomputed)));
    put("tokens_drafted", json!(w.map(|w| w.tokens_drafted)));
    put("tokens_accepted", json!(w.map(|w| w.tokens_accepted)));
    put("mean_batch", json!(w.map(|w| w.mean_batch)));
    put("kv", json!(kv));
    put("kv_slots", json!(w.map(|w| w.kv_slots)));
    put("sustained", json!(report.sustain.sustained));
    put("slo_met", json!(report.summary.verdict.met));
    put("targets", json!(report.summary.verdict.targets));
    put("all_targets", json!(report.summary.verdict.attainment));
    put("unfit", json!(report.unfit));
    put("streams", json!(report.streams));
    let s = &report.scenario;
    put("simulated", json!(s.simulated));
    put("version", json!(s.version));
    put("seed", json!(s.seed));
    put("workload", json!(s.workload));
    put("model", json!(s.model));
    put("notes", json!(s.notes));
    put("device", json!(s.device.name));
    put("gpus", json!(report.gpus));
    put("slo", json!(s.slo));
    put("config", json!(report.config));
    put("wall_s", json!(s.wall_s));
    put("cpu_s", json!(s.cpu_s));
    put("host", json!(s.host));
    if let Some(live) = &report.live {
        put("from_send", Value::Object(live.from_send.flat()));
        put("audit", json!(live.audit));
        put("precision", json!(live.precision));
        put("failures", json!(live.failures));
        put("interrupted", json!(live.interrupted));
        put("cached_tokens", Value::Null);
        put("rate_rps", json!(report.rate_rps));
    }
    Value::Object(flat)
}
