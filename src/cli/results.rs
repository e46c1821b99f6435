//! `knee diff` and `knee check`: what can be typed about results that are there.

use std::path::PathBuf;

use clap::Args;
use loadgen::Target;

use super::headings::{OUTPUT, REQUIRED};
use super::values::{percent, rate};

/// `knee diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Folder of the earlier result, or a file in it
    pub(crate) before: PathBuf,
    /// Folder of the later one
    pub(crate) after: PathBuf,
    /// Write the differences as a page too
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.html")]
    pub(crate) html: Option<PathBuf>,
    /// Print JSON
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
}

/// `knee check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 if every requirement is met, 1 if one is not, 2 with a mistake to correct"
)]
pub(crate) struct Require {
    /// Folder of the result, or a file in it
    pub(crate) result: PathBuf,
    /// The rate that it must carry under its targets; of a single run its goodput
    #[arg(long, help_heading = REQUIRED, value_name = "RPS", value_parser = rate)]
    pub(crate) min_rps: Option<f64>,
    /// Limit of a latency such as ttft=200ms (p99) or tpot:p50=20ms; repeatable
    #[arg(long, help_heading = REQUIRED, value_name = "TARGET", value_delimiter = ',')]
    pub(crate) max: Vec<Target>,
    /// Folder of an earlier result of the same question, which it must be as good as
    #[arg(long, help_heading = REQUIRED, value_name = "DIR")]
    pub(crate) against: Option<PathBuf>,
    /// The part of a figure by which it may be worse than in --against
    #[arg(long, help_heading = REQUIRED, value_name = "PERCENT", default_value = "3%", value_parser = percent)]
    pub(crate) tolerance: f64,
    /// Write the requirements as JUnit's XML, a test each
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.xml")]
    pub(crate) junit: Option<PathBuf>,
    /// Print JSON
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
}
