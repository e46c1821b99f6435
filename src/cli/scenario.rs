//! The flags that most commands share: traffic, model and targets, and where results go.

use std::path::PathBuf;

use clap::Args;
use workloads::{DateOrder, Format, Mapping, TimeUnit};

use super::blocks::By;
use super::headings::{FILES, MACHINE, OUTPUT, TRAFFIC};
use super::values::{priced, rate, share, whole};

/// Traffic, model, device and targets.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = TRAFFIC)]
pub(crate) struct Scenario {
    /// Latency targets.
    #[arg(
        help = "Latency target METRIC[:pNN][@CLASS]=TIME, such as ttft=200ms or tpot:p50=40ms (default p99); repeatable",
        long,
        value_name = "TARGET"
    )]
    pub(crate) slo: Vec<String>,
    /// Share of requests that must meet every target, instead of a percentile per target: 99%
    #[arg(long, value_name = "PERCENT")]
    pub(crate) attainment: Option<String>,
    #[command(flatten)]
    pub(crate) workload: Workload,
    /// A model's shape: a name (llama-3.1-70b, ...) or a TOML file (default: llama-3.1-8b); with --device cpu a model: a
    /// folder, a .gguf file, hf:ORG/NAME or tiny; of a server, the model's name
    #[arg(long, help_heading = MACHINE)]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) instead: Instead,
}

impl Scenario {
    /// The model, or the default one.
    pub(crate) fn model(&self) -> &str {
        self.model.as_deref().unwrap_or("llama-3.1-8b")
    }
}

/// The engine around devices, and settings that replace those of their profiles.
#[derive(Debug, Clone, Args)]
pub(crate) struct Instead {
    #[command(flatten)]
    pub(crate) by: By,
    /// US dollars per GPU and hour of a device, such as h200-sxm=2.80; repeatable
    #[arg(long, help_heading = MACHINE, value_name = "DEVICE=USD", value_delimiter = ',', value_parser = priced)]
    pub(crate) price: Vec<(String, f64)>,
    /// TOML file of such prices: a line DEVICE = USD for each
    #[arg(long, help_heading = MACHINE, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
}

/// A trace, from a file or synthesised.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = TRAFFIC)]
pub(crate) struct Workload {
    /// A preset (chat, code, summarization, rag-long, agentic, reasoning), a workload TOML, or a trace file (- for
    /// standard input)
    #[arg(long, default_value = "chat", value_name = "NAME|FILE")]
    pub(crate) workload: String,
    /// Instead of a workload: independent prompts of so many tokens, with --osl
    #[arg(long, value_name = "N", requires = "osl", conflicts_with = "workload", value_parser = whole::<u32, 1, { 1 << 30 }>)]
    pub(crate) isl: Option<u32>,
    /// Response tokens of each
    #[arg(long, value_name = "N", requires = "isl", value_parser = whole::<u32, 1, { 1 << 30 }>)]
    pub(crate) osl: Option<u32>,
    /// The shortest prompts and responses, as a share of --isl and --osl; lengths lie evenly between
    #[arg(long, value_name = "SHARE", requires = "isl", default_value_t = 1.0, value_parser = share)]
    pub(crate) range_ratio: f64,
    #[command(flatten)]
    pub(crate) read: Reading,
    /// Only the first N requests
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, { u64::MAX }>, allow_negative_numbers = true)]
    pub(crate) requests: Option<usize>,
    /// Shorten prompts so that none is longer than N tokens with its response (and responses, where they alone are)
    #[arg(long, value_name = "N", value_parser = whole::<u32, 2, { 1 << 30 }>, allow_negative_numbers = true)]
    pub(crate) cut: Option<u32>,
}

/// The reading of a trace file.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reading {
    /// Seed of everything synthesised (default: the preset's own)
    #[arg(long, value_name = "N", value_parser = whole::<u64, 0, { u64::MAX }>, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    /// Format of the trace file, where its content would be taken for another (`knee trace formats`)
    #[arg(long, help_heading = FILES, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Unit of numbers in a time column that does not say its own
    #[arg(long, help_heading = FILES, value_name = "s|ms|us|ns")]
    pub(crate) time_unit: Option<TimeUnit>,
    /// Arrivals per second for a file without times
    #[arg(long, help_heading = FILES, value_name = "RPS", value_parser = rate, allow_negative_numbers = true)]
    pub(crate) arrival_rate: Option<f64>,
    /// Tokens per block identity in the file, where they are not the format's usual number
    #[arg(long, help_heading = FILES, value_name = "N", value_parser = whole::<u32, 1, { 1 << 30 }>, allow_negative_numbers = true)]
    pub(crate) block_tokens: Option<u32>,
    /// Keep requests that the file marks as failed and that had no response
    #[arg(long, help_heading = FILES)]
    pub(crate) keep_failed: bool,
    /// A column, or a path of keys, that its name does not tell: input=usage.prompt_tokens, output=..., time=sent:ms,
    /// session=..., class=...
    #[arg(long, help_heading = FILES, value_name = "FIELD=COLUMN", value_delimiter = ',')]
    pub(crate) map: Vec<Mapping>,
    /// Order of day and month in dates such as 06/07/2025
    #[arg(long, help_heading = FILES, value_name = "dmy|mdy")]
    pub(crate) date_order: Option<DateOrder>,
}

/// The places that results go to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = OUTPUT)]
pub(crate) struct Output {
    /// Folder for the report and its data, where the same question goes on (default: a folder of its own below knee-out,
    /// with the link knee-out/latest; none with --json)
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print the result as JSON instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
}
