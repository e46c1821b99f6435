//! One file per command: arguments in, library calls, results out.

mod bench;
mod bench_url;
mod calibrate;
mod check;
mod compare;
mod live;
mod mock;
mod output;
mod plan;
mod profile;
mod progress;
mod report;
mod secrets;
mod serve;
mod trace;
mod tune;
mod tune_launch;
mod tune_url;
mod validate;
mod view;
mod workers;

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use cpu_time::ProcessTime;
use tuner::evaluate::Evaluate;
use tuner::evaluate::Stop;
use tuner::plan::Price;
use tuner::result::{DeviceInfo, WorkloadInfo};
use tuner::trial::Testbed;

use crate::cli::{Cli, Command};

/// Runs what was typed.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Bench(args) if args.live.reach.url.is_some() => bench_url::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Tune(args) if args.server.launch.launch.is_some() => tune_launch::run(&args),
        Command::Tune(args) if args.server.reach.url.is_some() => tune_url::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Mock(args) => mock::run(args),
        Command::Report(args) => report::run(&args),
    }
}

/// Prints lines to standard output, without whatever in them would act on a terminal.
pub(crate) fn print(text: &str) -> Result<()> {
    print_as_is(&reports::plain_lines(text))
}

/// Says a line on standard error, in the same way.
pub(crate) fn tell(line: &str) {
    // Whether anybody can read it changes nothing.
    let _ = writeln!(std::io::stderr(), "{}", reports::plain(line));
}

/// Prints what is plain already and coloured, or data; a reader that has gone away (`| head`) is not an error.
pub(crate) fn print_as_is(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// Prints `value` as indented JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print_as_is(&(reports::plain_json(&serde_json::to_string_pretty(value)?) + "\n"))
}

/// What a computation cost.
pub(crate) struct Cost {
    /// Elapsed seconds.
    pub(crate) wall_s: f64,
    /// CPU seconds of this process, all threads.
    pub(crate) cpu_s: f64,
}

/// Runs `work` and says what it cost.
pub(crate) fn measure<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    let result = work();
    let cost = Cost { wall_s: wall.elapsed().as_secs_f64(), cpu_s: cpu.elapsed().as_secs_f64() };
    (result, cost)
}

/// What every stored result says about how it came to be.
pub(crate) struct Common {
    pub(crate) version: String,
    pub(crate) seed: u64,
    pub(crate) workload: WorkloadInfo,
    pub(crate) device: DeviceInfo,
    pub(crate) slo: Vec<String>,
    pub(crate) host: String,
    /// Whether times are predicted.
    pub(crate) simulated: bool,
}

impl Common {
    pub(crate) fn new(seed: u64, sim: &Testbed) -> Self {
        let (trace, device) = (sim.trace(), sim.device());
        let price = Price {
            usd_per_gpu_hour: device.price.per_gpu_hour,
            source: format!("{}, {}", device.price.source, device.price.date),
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed,
            workload: WorkloadInfo {
                name: trace.name.clone(),
                provenance: trace.provenance.clone(),
                requests: trace.requests.len(),
                requests_per_session: sim.requests_per_session(),
                natural_rps: sim.natural_rate(sim.requests()),
                output_tokens_per_request: sim.output_tokens_per_request(),
                repeats: sim.repeats(),
            },
            device: DeviceInfo {
                name: device.name.clone(),
                provenance: device.provenance.clone(),
                price: (device.price.per_gpu_hour > 0.0).then_some(price),
            },
            slo: sim.slo().slo().targets().iter().map(ToString::to_string).collect(),
            host: host(),
            simulated: sim.is_simulated(),
        }
    }
}

/// The processor this runs on.
pub(crate) fn host() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} x {}", cores, name.map_or("unknown processor", |n| n.1))
}

/// A flag that Ctrl-C (or SIGTERM) sets; a second one ends the process at once.
pub(crate) fn cancel() -> Result<&'static AtomicBool> {
    static CANCEL: AtomicBool = AtomicBool::new(false);
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.swap(true, Ordering::Relaxed) {
        ctrlc::set_handler(|| {
            if CANCEL.swap(true, Ordering::Relaxed) {
                std::process::exit(INTERRUPTED.into());
            }
        })
        .context("cannot handle Ctrl-C")?;
    }
    Ok(&CANCEL)
}

/// What a process ends with that Ctrl-C ended, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Whether it failed because the user ended it before there was anything to show.
pub(crate) fn was_interrupted(error: &anyhow::Error) -> bool {
    error.downcast_ref() == Some(&Stop::Cancelled)
}

impl Common {
    /// The same, as reports put it.
    pub(crate) fn scenario(self, model: &str, cost: &Cost) -> reports::Scenario {
        reports::Scenario {
            version: self.version,
            simulated: self.simulated,
            seed: self.seed,
            workload: self.workload,
            model: model.to_owned(),
            device: self.device,
            slo: self.slo,
            wall_s: cost.wall_s,
            cpu_s: cost.cpu_s,
            host: self.host,
        }
    }
}
