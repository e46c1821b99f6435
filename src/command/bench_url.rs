//! `knee bench --url`: a server under one load.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use loadgen::{LiveOptions, LiveRun, Slo, export};
use reports::{BenchReport, Report};
use tuner::live::lengthened;
use workloads::Trace;

use super::bench::result;
use super::live::{Measured, Watch, find, options, scenario};
use super::{Interrupted, cancel, measure};
use crate::cli;
use crate::input;

/// How long a figure is waited for, unless somebody says.
const LONGEST: Duration = Duration::from_secs(300);
/// Requests kept ready for that, at most.
const MOST: usize = 1_000_000;

pub(crate) fn run(args: &cli::Bench) -> Result<ExitCode> {
    args.output.check()?;
    if !args.live.export.is_empty() && args.output.folder().is_none() {
        bail!("--export writes a file: say where with --out");
    }
    if args.knobs.any() {
        bail!("a server has its own configuration: leave the engine's flags out with --url");
    }
    let slo = Slo::parse(&args.scenario.slo, args.scenario.attainment.as_deref())?;
    let (trace, seed) = input::workload(&args.scenario.workload)?;
    let slo = slo.bind(&trace.classes)?;
    let scale = scale(args, &trace)?;
    let sent = until(args, &trace, scale)?;
    let (live, url) = find(&args.live.reach, args.scenario.model.as_deref())?;
    let options = LiveOptions {
        rate_scale: scale,
        streams: args.live.concurrency,
        most_in_flight: args.live.max_in_flight,
        duration: args.live.duration.or((!args.live.until_ci.is_empty()).then_some(LONGEST)),
        until: args.live.until_ci.clone(),
        warmup: args.live.warmup,
        keep_gaps: !args.live.export.is_empty(),
        ..options(&args.live.reach, &slo)
    };
    let stop = cancel()?;
    let began = SystemTime::now();
    let mut watch = Watch::new(sent.requests.len(), args.output.json);
    let (run, cost) = measure(|| {
        live.run(&sent, &options, &slo, |progress| {
            watch.update(progress);
            !stop.load(Ordering::Relaxed)
        })
    });
    watch.finish();
    let run = run?;
    let run = if run.interrupted { run.without_unfinished() } else { run };
    if run.recording.records.is_empty() {
        return if run.interrupted { Err(Interrupted.into()) } else { nothing(args) };
    }
    let open = args.live.concurrency.is_none();
    let cost = (cost.wall_s, cost.cpu_s);
    let measured = Measured {
        run: &run,
        sent: &sent,
        slo: &slo,
        scenario: scenario(Some((&live, &url)), &trace, &slo, seed, cost),
        label: label(args, &run, &trace),
        rate_rps: open.then(|| scale * trace.offered_rate()).filter(|r| *r > 0.0),
    };
    let report = measured.report();
    if let Some(dir) = args.output.folder() {
        write(&dir, args, &run, &report, began)?;
    }
    let flat = result(&report);
    args.output.deliver(&Report::Bench(Box::new(report)), &flat)?;
    Ok(if run.interrupted { ExitCode::from(super::INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Every request and every latency, for other tools.
fn write(
    dir: &Path,
    args: &cli::Bench,
    run: &LiveRun,
    report: &BenchReport,
    began: SystemTime,
) -> Result<()> {
    let mut bytes = Vec::new();
    reports::csv::requests(&run.recording.records, &mut bytes)?;
    reports::write_file(dir, "requests.csv", &bytes)?;
    bytes.clear();
    export::jsonl(run, &mut bytes)?;
    reports::write_file(dir, "requests.jsonl", &bytes)?;
    bytes.clear();
    export::hdr(run, began, &mut bytes)?;
    reports::write_file(dir, "latencies.hlog", &bytes)?;
    for tool in &args.live.export {
        let (summary, model, rate) = (&report.summary, &report.scenario.model, report.rate_rps);
        let (name, file) = match tool.as_str() {
            "vllm" => ("vllm.json", export::vllm(run, summary, model, rate)),
            _ => {
                let file = export::aiperf(run, summary, began, &report.about.command);
                ("profile_export_aiperf.json", file)
            }
        };
        reports::write_file(dir, name, file.to_string().as_bytes())?;
    }
    Ok(())
}

fn nothing(args: &cli::Bench) -> Result<ExitCode> {
    bail!(
        "nothing was sent after the warm-up of {:?}: give a longer workload or a shorter --warmup",
        args.live.warmup
    )
}

/// The trace, over and over where it is not known beforehand how much of it a figure takes.
fn until(args: &cli::Bench, trace: &Arc<Trace>, scale: f64) -> Result<Arc<Trace>> {
    if args.live.until_ci.is_empty() {
        return Ok(Arc::clone(trace));
    }
    let longest = args.live.duration.unwrap_or(LONGEST).as_secs_f64();
    let needed = match args.live.concurrency {
        Some(_) => MOST,
        None => {
            input::need_rate(trace)?;
            (scale * trace.offered_rate() * longest * 1.05).ceil() as usize + 8
        }
    };
    Ok(Arc::new(lengthened(trace, needed.min(MOST))))
}

/// By how much the trace is sped up; what is sent as others end has no speed.
fn scale(args: &cli::Bench, trace: &Trace) -> Result<f64> {
    match (args.rate, args.rate_scale) {
        _ if args.live.concurrency.is_some() => Ok(1.0),
        (Some(rate), _) => input::scale(trace, rate),
        (None, scale) => input::fitting(trace, scale.unwrap_or(1.0)),
    }
}

/// The load in a line.
fn label(args: &cli::Bench, run: &LiveRun, trace: &Trace) -> String {
    let api = match args.live.reach.api {
        loadgen::Api::Completions => "completions",
        loadgen::Api::Chat => "chat",
    };
    let load = match args.live.concurrency {
        Some(n) => format!("closed loop, {n} streams"),
        None => "open loop".to_owned(),
    };
    let limit =
        args.live.max_in_flight.map_or_else(String::new, |n| format!(", at most {n} in flight"));
    let share = if trace.block_tokens == 0 || args.live.reach.unshared {
        "all prompts unique"
    } else {
        "prefixes shared as the workload says"
    };
    format!("{api}; {load}{limit}; {} requests counted; {share}", run.recording.records.len())
}
