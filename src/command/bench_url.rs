//! `knee bench --url`: a server under one load.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use loadgen::{Gauges, Live, LiveOptions, LiveRun, Part, Slo, export};
use reports::{BenchReport, Report};
use tuner::subject::Stop;
use tuner::subject::server::lengthened;
use tuner::subject::study::fingerprint;
use workloads::Trace;

use super::bench::{result, scenario as sized};
use super::live::{Measured, PART, Place, find, options, scenario};
use super::output::file;
use super::view::{Load, View};
use super::{cancel, measure};
use crate::cli;
use crate::input;

/// The longest wait for a figure, by default.
const LONGEST: Duration = Duration::from_secs(300);
/// Requests kept ready for that, at most.
const MOST: usize = 1_000_000;

pub(crate) fn run(args: &cli::Bench) -> Result<ExitCode> {
    args.output.check()?;
    if !args.live.export.is_empty() && args.output.folder().is_none() {
        bail!("--export writes a file: name its folder with --out");
    }
    args.scenario.instead.by.none_beside("the server")?;
    if args.knobs.any() {
        bail!("a server has its own configuration: leave the engine's flags out with --url");
    }
    if let (Some(fleet), Some(start)) = (args.live.workers, args.live.start_at) {
        super::print(&super::workers::script(fleet, start))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.live.worker.is_some() && args.output.folder().is_none() {
        bail!("a worker writes its measurements to a folder: name it with --out");
    }
    let slo = Slo::parse(&args.scenario.slo, args.scenario.attainment.as_deref())?;
    let (trace, seed) = input::workload(&sized(args).workload)?;
    let slo = slo.bind(&trace.classes)?;
    let scale = scale(args, &trace)?;
    let sent = until(args, &trace, scale)?;
    let (live, url) = find(&args.live.reach, args.scenario.model.as_deref(), &trace)?;
    let options = LiveOptions {
        rate_scale: scale,
        streams: share(args, args.concurrency)?,
        most_in_flight: share(args, args.live.max_in_flight)?,
        worker: args.live.worker,
        start_at: args.live.start_at,
        duration: args.live.duration.or((!args.live.until_ci.is_empty()).then_some(LONGEST)),
        until: args.live.until_ci.clone(),
        warmup: args.live.warmup,
        keep_gaps: !args.live.export.is_empty(),
        ..options(&args.live.reach, &slo)
    };
    let options = match (args.live.worker, args.live.start_at) {
        // Prompts that are shared between requests are shared between workers.
        (Some(_), Some(start)) if args.live.reach.salt.is_none() => {
            LiveOptions { salt: since_epoch(start).as_nanos() as u64, ..options }
        }
        _ => options,
    };
    let stop = cancel()?;
    let began = SystemTime::now();
    let gauges = Arc::new(Gauges::default());
    let view = View::open(load(&sent, &options), &gauges, &slo, args.output.json);
    let (run, cost) = measure(|| {
        live.run_showing(&sent, &options, &slo, &gauges, |progress| {
            view.show(progress);
            !stop.load(Ordering::Relaxed)
        })
    });
    view.close();
    if run.is_err() && stop.load(Ordering::Relaxed) {
        return Err(Stop::Cancelled.into());
    }
    let run = run?;
    let run = if run.interrupted { run.without_unfinished() } else { run };
    if run.recording.records.is_empty() {
        return if run.interrupted { Err(Stop::Cancelled.into()) } else { nothing(args) };
    }
    let open = args.concurrency.is_none();
    let cost = (cost.wall_s, cost.cpu_s);
    let place = Place::of(&live, &url);
    let measured = Measured {
        run: &run,
        sent: &sent,
        slo: &slo,
        scenario: scenario(Some(&place), &trace, &slo, seed, cost),
        label: label(args, &live, &run, &trace),
        rate_rps: open.then(|| scale * trace.offered_rate()).filter(|r| *r > 0.0),
    };
    let report = measured.report();
    let flat = result(&report);
    let part = args.live.worker.map(|worker| {
        let agreed = agreed(args, &report, &trace);
        Part::new(&run, &sent, worker, &options, agreed)
    });
    let exported = exported(args, &run, &report, began);
    let more = |dir: &Path| {
        let mut written = records(dir, &run, began);
        written.extend(exported.iter().map(|(name, text)| file(dir, name, text.as_bytes())));
        written.extend(part.map(|part| file(dir, PART, &serde_json::to_vec(&part)?)));
        written
    };
    args.output.deliver_with(&Report::Bench(Box::new(report)), &flat, more)?;
    if run.interrupted {
        return Ok(ExitCode::from(super::INTERRUPTED));
    }
    match run.lost().filter(|_| run.is_empty()) {
        Some(lost) => bail!("nothing completed, so nothing was measured: {}", lost.words),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The load to be sent, for the progress view.
fn load(sent: &Trace, options: &LiveOptions) -> Load {
    let worker = |requests: usize| match options.worker {
        Some(worker) => worker.owns(sent).into_iter().filter(|own| *own).count(),
        None => requests,
    };
    let lasts = sent.span().div_f64(options.rate_scale);
    Load {
        requests: worker(sent.requests.len()) as u64,
        lasts: match (options.streams, options.duration) {
            (None, Some(duration)) => Some(lasts.min(duration)),
            (None, None) => Some(lasts),
            (Some(_), duration) => duration,
        },
        may_end_early: !options.until.is_empty(),
    }
}

/// The run in other tools' forms: names of files, and what is in them.
fn exported(
    args: &cli::Bench,
    run: &LiveRun,
    report: &BenchReport,
    began: SystemTime,
) -> Vec<(&'static str, String)> {
    let (summary, model, rate) = (&report.summary, &report.scenario.model, report.rate_rps);
    let export = |tool: &String| match tool.to_ascii_lowercase().as_str() {
        "vllm" => vec![("vllm.json", export::vllm(run, summary, model, rate).to_string())],
        _ => {
            let file = export::aiperf(run, summary, began, &report.about.command);
            vec![
                ("profile_export.jsonl", export::aiperf_records(run, began)),
                ("profile_export_aiperf.json", file.to_string()),
            ]
        }
    };
    args.live.export.iter().flat_map(export).collect()
}

/// Every request as CSV and JSON lines, and an HDR log.
pub(crate) fn records(dir: &Path, run: &LiveRun, began: SystemTime) -> Vec<Result<()>> {
    let requests = || {
        let mut bytes = Vec::new();
        reports::csv::requests(&run.recording.records, &mut bytes)?;
        file(dir, "requests.csv", &bytes)
    };
    let lines = || {
        let mut bytes = Vec::new();
        export::jsonl(run, &mut bytes)?;
        file(dir, "requests.jsonl", &bytes)
    };
    let latencies = || {
        let mut bytes = Vec::new();
        export::hdr(run, began, &mut bytes)?;
        file(dir, "latencies.hlog", &bytes)
    };
    vec![requests(), lines(), latencies()]
}

/// A worker's part of what all of them hold together.
fn share(args: &cli::Bench, whole: Option<u32>) -> Result<Option<u32>> {
    let (Some(worker), Some(whole)) = (args.live.worker, whole) else { return Ok(whole) };
    match worker.part_of(whole) {
        0 => bail!("{whole} streams are too few for {} workers: each needs one", worker.of),
        part => Ok(Some(part)),
    }
}

fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The facts that all workers of one run share.
fn agreed(args: &cli::Bench, report: &BenchReport, trace: &Trace) -> BTreeMap<String, String> {
    let (s, live) = (&report.scenario, &args.live);
    let start = live.start_at.map(|at| since_epoch(at).as_nanos());
    [
        ("start", format!("{start:?}")),
        ("number of workers", format!("{:?}", live.worker.map(|w| w.of))),
        ("workload", format!("{} {}", s.workload.name, fingerprint(trace))),
        ("rate", format!("{:?}", report.rate_rps)),
        ("streams", format!("{:?}", args.concurrency)),
        ("warm-up", format!("{:?}", live.warmup)),
        ("model", s.model.clone()),
        ("targets", s.slo.join(" ")),
    ]
    .map(|(what, value)| (what.to_owned(), value))
    .into()
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
    let needed = match args.concurrency {
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
        _ if args.concurrency.is_some() => Ok(1.0),
        (Some(rate), _) => input::scale(trace, rate),
        (None, scale) => input::fitting(trace, scale.unwrap_or(1.0)),
    }
}

/// The load in a line.
fn label(args: &cli::Bench, live: &Live, run: &LiveRun, trace: &Trace) -> String {
    let api = live.api().name();
    let load = match args.concurrency {
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
    let answers = match run.audit.answers_returned {
        0 => String::new(),
        turns => format!("; {turns} turns repeat what the server had answered"),
    };
    let counted = run.recording.records.len();
    format!("{api}; {load}{limit}; {counted} requests counted; {share}{answers}")
}
