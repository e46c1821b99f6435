//! `knee bench`: one configuration at one rate.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use engine::Deployment;
use reports::{BenchReport, Detail, Report};
use serde_json::{Value, json};
use tuner::calibrate::{StepLog, steps_of};
use tuner::evaluate::{Evaluate, Relax};
use tuner::observation::Detailed;
use tuner::result::knobs;
use tuner::space::label;
use tuner::trial::Testbed;
use workloads::Trace;

use super::output::{about, write_run};
use super::{Common, measure};
use crate::cli;
use crate::computing::is_here;
use crate::input;

pub(crate) fn run(args: &cli::Bench) -> Result<ExitCode> {
    args.output.check()?;
    let prepared = input::prepare(&args.scenario)?;
    let sim = if is_here(&args.device) {
        prepared.here(&args.scenario, &args.computing)?
    } else {
        let calibration = args.calibration.as_deref();
        prepared
            .on(input::hardware(&args.device, calibration, &args.scenario.host)?, &args.scenario)?
    };
    let deployment = sim.deployment(&args.knobs.config()?, Relax::Nothing)?;
    let natural = sim.natural_rate(sim.requests());
    let scale = scale(args, sim.trace())?;
    let (run, cost) = match &args.steps {
        None => measure(|| sim.detail(&deployment, scale)),
        Some(path) => {
            let (run, cost) = measure(|| logged(&sim, &deployment, scale, path));
            (run?, cost)
        }
    };
    let config = &deployment.config;
    let report = BenchReport {
        about: about(&[sim.device()]),
        scenario: Common::new(prepared.seed, &sim).scenario(&sim.model().name, &cost),
        config: knobs(config),
        label: label(config),
        gpus: deployment.gpus(),
        rate_rps: (scale.is_finite() && natural > 0.0).then_some(scale * natural),
        detail: Detail::new(&run),
        observation: run.observation.clone(),
    };
    if let Some(dir) = args.output.folder() {
        write_run(&dir, &report.label, &run)?;
    }
    let result = result(&report);
    args.output.deliver(&Report::Bench(Box::new(report)), &result)?;
    Ok(ExitCode::SUCCESS)
}

/// The run, every iteration written to `path`.
fn logged(sim: &Testbed, deployment: &Deployment, scale: f64, path: &Path) -> Result<Detailed> {
    let failed = || format!("cannot write {}", path.display());
    let file = std::fs::File::create(path).with_context(failed)?;
    let mut log = StepLog::new(std::io::BufWriter::new(file)).with_context(failed)?;
    let mut outcome = Ok(());
    let run = sim.watched(deployment, scale, &mut |it| {
        for step in steps_of(it) {
            if outcome.is_ok() {
                outcome = log.push(&step);
            }
        }
    });
    outcome.and_then(|()| log.finish()).with_context(failed)?;
    Ok(run)
}

/// By how much the trace is sped up.
fn scale(args: &cli::Bench, trace: &Trace) -> Result<f64> {
    match (args.rate, args.rate_scale) {
        _ if args.saturated => Ok(f64::INFINITY),
        (Some(rate), _) => input::scale(trace, rate),
        (None, scale) => input::fitting(trace, scale.unwrap_or(1.0)),
    }
}

/// What scripts read: flat figures, and what they are of.
fn result(report: &BenchReport) -> Value {
    let (o, w) = (&report.observation, &report.observation.work);
    let mut flat = o.summary.flat();
    let mut put = |key: &str, value: Value| flat.insert(key.to_owned(), value);
    put("iterations", json!(w.iterations));
    put("preemptions", json!(w.preemptions));
    put("tokens_executed", json!(w.tokens_executed));
    put("tokens_padded", json!(w.tokens_padded));
    put("tokens_recomputed", json!(w.tokens_recomputed));
    put("mean_batch", json!(w.mean_batch));
    put("kv", json!(o.kv));
    put("kv_slots", json!(w.kv_slots));
    put("sustained", json!(o.sustain.sustained));
    put("slo_met", json!(o.summary.verdict.met));
    let s = &report.scenario;
    put("simulated", json!(s.simulated));
    put("version", json!(s.version));
    put("seed", json!(s.seed));
    put("workload", json!(s.workload));
    put("model", json!(s.model));
    put("device", json!(s.device.name));
    put("gpus", json!(report.gpus));
    put("slo", json!(s.slo));
    put("config", json!(report.config));
    put("wall_s", json!(s.wall_s));
    put("cpu_s", json!(s.cpu_s));
    put("host", json!(s.host));
    Value::Object(flat)
}
