//! `knee profile`: what can be typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::blocks::{Draw, Print};
use super::computing::Computing;
use super::headings::{MACHINE, OUTPUT, SEARCH, TRAFFIC};
use super::scenario::{Output, Scenario};
use super::values::rate;
use crate::knobs::Knobs;

/// `knee profile`.
#[derive(Debug, Subcommand)]
pub(crate) enum Profile {
    /// Fit published operator tables into a profile
    Import(Import),
    /// Measure this machine: time a model's operators and fit them into a profile
    Measure(Measure),
    /// Run a workload on this machine's engine and beside its simulation: how far apart are they?
    Check(Box<Check>),
    /// Show the range of a profile, its sources and its errors
    Show {
        /// A shipped device's name or a TOML file
        name: String,
        /// Show instead how fast it runs this model, at TP 1 to 8, beside the data sheet
        #[arg(long, value_name = "NAME|FILE")]
        model: Option<String>,
        #[command(flatten)]
        print: Print,
    },
}

/// `knee profile import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Folder that holds nvidia-vllm/, an unpacked wheel, aiconfigurator/, vidur/ or llmservingsim/
    pub(crate) dir: PathBuf,
    /// The profile to write; with --all the folder of all
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.toml")]
    pub(crate) to: PathBuf,
    /// Write the profile of every shipped device, each with the families that its sheet names
    #[arg(long, conflicts_with_all = ["device", "compose", "plot", "json"])]
    pub(crate) all: bool,
    /// Sheet of the device: a shipped device's name (default: that of the file), or a TOML file
    #[arg(long, help_heading = MACHINE, value_name = "NAME|FILE")]
    pub(crate) device: Option<String>,
    /// Take what the device's own tables lack from this family, as the sheet says; repeatable
    #[arg(long, value_name = "FAMILY", value_delimiter = ',')]
    pub(crate) compose: Vec<String>,
    #[command(flatten)]
    pub(crate) draw: Draw,
}

/// `knee profile measure`.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// A folder, a .gguf file, or tiny; with --weights random any shape
    #[arg(long, help_heading = MACHINE)]
    pub(crate) model: String,
    /// The device to time: cpu, or cuda:N
    #[arg(long, help_heading = MACHINE, default_value = "cpu")]
    pub(crate) device: String,
    /// The profile to write
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.toml")]
    pub(crate) to: PathBuf,
    /// Longest sequence it has to cover, tokens
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(16..))]
    pub(crate) longest: u32,
    #[command(flatten)]
    pub(crate) draw: Draw,
    #[command(flatten)]
    pub(crate) computing: Computing,
}

/// `knee profile check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) scenario: Scenario,
    /// The device that computes: cpu, or cuda:N
    #[arg(long, help_heading = MACHINE, default_value = "cpu")]
    pub(crate) device: String,
    /// Requests (or session starts) per second; default: the trace's own rate
    #[arg(long, help_heading = TRAFFIC, value_name = "RPS", value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: Option<f64>,
    /// Number of runs of the workload
    #[arg(long, help_heading = SEARCH, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) repeats: u32,
    /// Profile of this machine by `knee profile measure` (default: measured again before each run)
    #[arg(long, help_heading = MACHINE, value_name = "FILE")]
    pub(crate) cpu_profile: Option<PathBuf>,
    /// Search the highest rate under the targets too, simulated and for real
    #[arg(long, help_heading = SEARCH, requires = "slo")]
    pub(crate) capacity: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) computing: Computing,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}
