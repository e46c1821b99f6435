//! One file per command: arguments in, library calls, results out.

mod bench;
mod trace;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use cpu_time::ProcessTime;

use crate::cli::{Cli, Command};

/// Runs what was typed.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Bench(args) => bench::run(&args),
        Command::Trace(args) => trace::run(&args),
        _ => anyhow::bail!("under construction"),
    }
}

/// Prints to standard output; a reader that has gone away (`| head`) is not an error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints `value` as indented JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
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
