//! One file per command: arguments in, library calls, results out.

mod bench;
mod bench_url;
mod calibrate;
mod check;
mod common;
mod compare;
mod config;
mod device;
mod engines;
mod interrupt;
mod live;
mod mock;
mod models;
mod output;
mod plan;
mod print;
mod profile;
mod progress;
mod question;
mod report;
mod results;
mod secrets;
mod serve;
mod served;
mod shells;
mod timing;
mod trace;
mod tune;
mod tune_launch;
mod tune_url;
mod validate;
mod view;
mod workers;

use std::process::ExitCode;

use anyhow::Result;

pub(crate) use common::{Common, Cost, host, measure};
pub(crate) use interrupt::{INTERRUPTED, cancel, was_interrupted};
pub(crate) use print::{print, print_as_is, print_json, terminal};
pub(crate) use question::ask;

use crate::cli::{self, Cli, Command};
use crate::settings::Settings;
pub(crate) use crate::tell::tell;

/// Runs what was typed.
pub(crate) fn run(cli: Cli, settings: &Settings) -> Result<ExitCode> {
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
        Command::Devices(print) => device::list(print.json),
        Command::Engines(print) => engines::list(print.json),
        Command::Device(cli::Device::Add(args)) => device::add(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Mock(args) => mock::run(args),
        Command::Report(args) => report::run(&args),
        Command::Diff(args) => results::diff(&args),
        Command::Check(args) => results::check(&args),
        Command::Config(print) => config::run(settings, print.json),
        Command::Completions(args) => shells::completions(&args),
        Command::Man(args) => shells::man(&args),
    }
}
