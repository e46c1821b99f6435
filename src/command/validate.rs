//! `knee validate`: a recorded run, replayed.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use loadgen::{Metric, Target};
use reports::{Assumption, Report, ValidationReport};
use serde_json::{Value, json};
use tuner::evidence::validate::knee::capacity;
use tuner::evidence::validate::prompts::with_prompts;
use tuner::evidence::validate::recorded::Recorded;
use tuner::evidence::validate::{self, COMPARED, Setup, Side, read};
use tuner::result::knobs;

use super::output::about;
use crate::cli;
use crate::devices;
use crate::shape::shape;

/// A limit that both worlds know: of all requests, and of a statistic that is compared.
fn limit(text: &str) -> Result<Target> {
    let target: Target = text.parse()?;
    let compared = ["mean", "p50", "p90", "p99"];
    let statistic = target.statistic.to_string();
    if target.class.is_some() || !COMPARED.contains(&target.metric) {
        bail!(
            "--slo {text}: recorded runs have no classes and no gaps between tokens: use {}",
            COMPARED.map(Metric::name).join(", ")
        );
    }
    if !compared.contains(&statistic.as_str()) {
        bail!("--slo {text}: compared are {}, such as ttft:mean=1s", compared.join(", "));
    }
    Ok(target)
}

/// One world's figures of a run, as JSON.
fn figures(side: &Side) -> Value {
    let of = |metric: Metric| (metric.name().to_owned(), json!(side.of(metric)));
    let rps = ("throughput_rps".to_owned(), json!(side.throughput_rps));
    COMPARED.into_iter().map(of).chain([rps]).collect()
}

pub(crate) fn run(args: &cli::Validate) -> Result<ExitCode> {
    args.output.check()?;
    let setup = setup(&args.setup)?;
    let target = args.slo.as_deref().map(limit).transpose()?;
    let reported_load = match &args.timeseries {
        Some(path) => read::read_load(path)?,
        None => Vec::new(),
    };
    let runs =
        recorded(&args.requests, args.recorded.run.as_deref(), args.recorded.prompts.as_deref())?;
    let mut both = Vec::new();
    for run in runs {
        let validation = validate::validate(&run, &setup)?;
        both.push((run, validation));
    }
    let capacity = capacity(&both, &setup, target.as_ref())?;
    let runs: Vec<_> = both.into_iter().map(|b| b.1).collect();
    let file = args.requests.display().to_string();
    let errors = match &runs[..] {
        [run] => json!(run.errors),
        _ => json!(null),
    };
    let config = settings(&setup);
    let result = json!({
        "file": file,
        "model": setup.model.name,
        "device": setup.device.name,
        "engine": setup.engine.label(),
        "config": config,
        "errors": errors,
        "runs": runs.iter().map(|v| json!({
            "run": v.run,
            "rate_rps": v.rate_rps,
            "requests": v.requests,
            "compared": v.compared,
            "failures": v.failures,
            "preemptions": v.preemptions,
            "cached": v.cached,
            "measured": figures(&v.measured),
            "predicted": figures(&v.predicted),
            "errors": v.errors,
        })).collect::<Vec<_>>(),
        "capacity": capacity,
        "simulated": true,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let mut about = about(&[&setup.device], &setup.engine);
    about.assumptions.retain(|a| !a.what.contains("per GPU and hour"));
    about.assumptions.extend(calibrated(&setup));
    let report = ValidationReport {
        about,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        file,
        model: setup.model.name.clone(),
        device: setup.device.name.clone(),
        config,
        runs,
        capacity,
        reported_load,
    };
    args.output.deliver(&Report::Validate(Box::new(report.thinned())), &result)?;
    Ok(ExitCode::SUCCESS)
}

/// The runs of a file, or the one asked for; with the prompts that were sent, where another file has them.
pub(crate) fn recorded(
    path: &Path,
    run: Option<&str>,
    prompts: Option<&Path>,
) -> Result<Vec<Recorded>> {
    let mut runs = read::read(path)?;
    if let Some(name) = run {
        let names: Vec<String> = runs.iter().map(|r| r.name.clone()).collect();
        runs.retain(|r| r.name == name);
        if runs.is_empty() {
            bail!("{}: no run `{name}`: it holds {}", path.display(), names.join(", "));
        }
    }
    for run in runs.iter().filter(|run| !run.failures.is_empty()) {
        let (n, of) = (run.failures.values().sum::<u64>(), run.rows.len());
        let what = read::failures(&run.failures);
        super::tell(&format!(
            "knee: note: {}: {n} of {of} requests had failed ({what}): they are sent again and not compared",
            run.name
        ));
    }
    let Some(prompts) = prompts else { return Ok(runs) };
    match <[Recorded; 1]>::try_from(runs) {
        Ok([run]) => Ok(vec![with_prompts(run, prompts)?]),
        Err(_) => bail!("--prompts are of one run: choose it with --run"),
    }
}

/// The settings of a run, as typed.
pub(crate) fn setup(args: &cli::Setup) -> Result<Setup> {
    let hardware = devices::hardware(&args.device, args.calibration.as_deref(), &args.instead)?;
    let by = &args.instead.by;
    let engine = by.profile()?;
    let config = by.config(&engine, &hardware.profile, &args.knobs)?;
    if let Some(note) = engine.note() {
        super::tell(&format!("knee: note: {note}"));
    }
    Ok(Setup {
        model: Arc::new(shape(&args.model)?),
        device: hardware.profile,
        engine,
        config,
        correction: hardware.correction,
        kv_blocks: args.kv_blocks,
        in_flight: args.in_flight,
    })
}

fn settings(setup: &Setup) -> std::collections::BTreeMap<String, String> {
    let mut config = knobs(&setup.config);
    let more = [("kv-blocks", setup.kv_blocks), ("in-flight", setup.in_flight)];
    config.extend(more.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.to_string()))));
    config
}

fn calibrated(setup: &Setup) -> Option<Assumption> {
    let correction = setup.correction.as_ref()?;
    let what = format!("{}: factors {correction}", setup.device.name);
    Some(Assumption { what, source: "calibration".to_owned() })
}
