//! The command line: what can be typed. What it means is in `command`.

pub(crate) mod serve;

use std::path::PathBuf;

use clap::builder::ArgPredicate;
use clap::{ArgGroup, Args, Parser, Subcommand};
use engine::DeviceProfile;
use workloads::{DateOrder, Format, Mapping, TimeUnit};

use crate::computing::Computing;
use crate::knobs::Knobs;

mod live;
mod profile;

pub(crate) use live::{Fleet, Live, Mock, Reach, SERVED, TuneServer};
pub(crate) use profile::{Check, Import, Measure, Profile};

/// Which LLM-serving configuration gives the most throughput under your latency targets, and how many GPUs that takes.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true, max_term_width = 100, after_help = STATUS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Find the configuration that carries the most traffic under latency targets, also of servers (--url, --launch)
    Tune(Tune),
    /// Put batching and memory policies side by side, and try the papers' claims
    Compare(Compare),
    /// Run one configuration at one rate, or measure a server (--url)
    Bench(Bench),
    /// How many replicas and GPUs a demand takes, and what they cost
    Plan(Plan),
    /// Replay a recorded run and say how far the prediction is off
    Validate(Validate),
    /// Fit what no table contains (host time, operator factors) to a real run
    Calibrate(Calibrate),
    /// Look at, convert and synthesise traces
    #[command(subcommand)]
    Trace(Trace),
    /// Device profiles: make one from published tables, see what they hold
    #[command(subcommand)]
    Profile(Profile),
    /// Serve a model on this machine behind the OpenAI interface
    Serve(serve::Serve),
    /// Serve OpenAI's API from a clockwork of known latency, to try clients and load generators on
    Mock(Mock),
    /// Render the report of earlier results again
    Report(Report),
}

/// Heading of the flags that only files need.
const FILES: &str = "Trace files";

/// How commands end.
const STATUS: &str = "Exit status: 0 with an answer, 1 with a mistake to correct, 2 if nothing holds the targets, 130 if interrupted";

/// More threads than any one machine has.
const MOST_THREADS: u64 = 1024;
/// More GPUs than one deployment is cut from; the ways to cut them grow faster than their number.
const MOST_GPUS: u64 = 1024;

/// A whole number between two bounds.
fn whole<T: TryFrom<u64>, const LEAST: u64, const MOST: u64>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|n| (LEAST..=MOST).contains(n));
    number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| match MOST {
        u64::MAX => format!("expected a whole number from {LEAST}"),
        _ => format!("expected a whole number from {LEAST} to {MOST}"),
    })
}

/// A rate or factor.
fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err("expected a finite number above 0, such as 2.5".to_owned()),
    }
}

/// Traffic, model, device and targets.
#[derive(Debug, Clone, Args)]
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
    #[arg(long)]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) host: HostTime,
}

impl Scenario {
    /// The model, or the one when nobody says.
    pub(crate) fn model(&self) -> &str {
        self.model.as_deref().unwrap_or("llama-3.1-8b")
    }
}

/// Whose CPU time is added to an iteration.
#[derive(Debug, Clone, Args)]
pub(crate) struct HostTime {
    /// Host time of another engine than the profile's
    #[arg(long = "host-time", value_name = "vllm-v0|none", value_parser = clap::builder::PossibleValuesParser::new(DeviceProfile::hosts()))]
    pub(crate) of: Option<String>,
}

/// A trace, from a file or synthesised.
#[derive(Debug, Clone, Args)]
pub(crate) struct Workload {
    /// A preset (chat, code, summarization, rag-long, agentic, reasoning), a workload TOML, or a trace file (- for
    /// standard input)
    #[arg(long, default_value = "chat", value_name = "NAME|FILE")]
    pub(crate) workload: String,
    #[command(flatten)]
    pub(crate) read: Reading,
    /// Only the first N requests
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, { u64::MAX }>, allow_negative_numbers = true)]
    pub(crate) requests: Option<usize>,
    /// Shorten prompts so that none is longer than N tokens with its response (and responses, where they alone are)
    #[arg(long, value_name = "N", value_parser = whole::<u32, 2, { 1 << 30 }>, allow_negative_numbers = true)]
    pub(crate) cut: Option<u32>,
}

/// How to understand a trace file.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reading {
    /// Seed of everything synthesised (default: the preset's own)
    #[arg(long, value_name = "N", value_parser = whole::<u64, 0, { u64::MAX }>, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    /// Format of the trace file, where its content would be taken for another
    #[arg(long, help_heading = FILES, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Unit of numbers in a time column that does not say its own
    #[arg(long, help_heading = FILES, value_name = "s|ms|us|ns")]
    pub(crate) time_unit: Option<TimeUnit>,
    /// Arrivals per second for a file without times
    #[arg(long, help_heading = FILES, value_name = "RPS", value_parser = above_zero, allow_negative_numbers = true)]
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
    /// Whether day or month comes first in dates such as 06/07/2025
    #[arg(long, help_heading = FILES, value_name = "dmy|mdy")]
    pub(crate) date_order: Option<DateOrder>,
}

/// Where results go.
#[derive(Debug, Clone, Args)]
pub(crate) struct Output {
    /// Folder for the report and its data (default: knee-out, unless --json); `tune` resumes from it
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print the result as JSON instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
}

/// `knee tune`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new(SERVED).multiple(true))]
pub(crate) struct Tune {
    #[command(flatten)]
    pub(crate) scenario: Scenario,
    /// Hardware profiles: names (see `knee profile list`) or TOML files; cpu: this machine, where the real engine decides
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "h100-sxm",
        default_value_if("launch", ArgPredicate::IsPresent, None)
    )]
    pub(crate) device: Vec<String>,
    /// GPUs to use at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u32, 1, MOST_GPUS>, allow_negative_numbers = true)]
    pub(crate) gpus: u32,
    /// What to maximise: rps, tokens-per-gpu or cost
    #[arg(long, default_value = "rps")]
    pub(crate) objective: String,
    /// Try every configuration of the space in full instead of screening
    #[arg(long)]
    pub(crate) exhaustive: bool,
    /// Search number formats of the KV cache that change the model's answers, too (fp8)
    #[arg(long)]
    pub(crate) allow_fp8_kv: bool,
    /// Threads (default: all)
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, MOST_THREADS>, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) server: TuneServer,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Profile of this machine by `knee profile measure` (default with --device cpu: measured first)
    #[arg(long, value_name = "FILE")]
    pub(crate) cpu_profile: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) computing: Computing,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}

/// `knee compare`.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    #[command(flatten)]
    pub(crate) scenario: Scenario,
    /// Policies to compare
    #[arg(long, value_delimiter = ',', default_value = "static,continuous,paged,chunked")]
    pub(crate) policy: Vec<String>,
    /// Requests/s at which latencies are compared (default: chosen from the capacities)
    #[arg(long, value_delimiter = ',', value_name = "RPS,...", value_parser = above_zero, allow_negative_numbers = true)]
    pub(crate) rates: Vec<f64>,
    /// Hardware profile (a name or a TOML file), or this machine, with the real engine: cpu, cuda:N, or as many GPUs as
    /// --tp and --pp make parts (cuda:0-3; not tested on several GPUs)
    #[arg(long, default_value = "h100-sxm")]
    pub(crate) device: String,
    /// Leave the papers' claims untried, as they are on a real engine and on a profile with a correction
    #[arg(long)]
    pub(crate) no_claims: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) computing: Computing,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}

/// `knee bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) scenario: Scenario,
    /// Hardware profile (a name or a TOML file), or this machine, with the real engine: cpu, cuda:N, or as many GPUs as
    /// --tp and --pp make parts (cuda:0-3; not tested on several GPUs)
    #[arg(long, default_value = "h100-sxm")]
    pub(crate) device: String,
    /// Requests (or session starts) per second; default: the trace's own rate
    #[arg(long, value_name = "RPS", value_parser = above_zero, allow_negative_numbers = true, conflicts_with_all = ["rate_scale", "saturated"])]
    pub(crate) rate: Option<f64>,
    /// Speed of the trace: 2 = twice its own rate
    #[arg(
        long,
        value_name = "FACTOR",
        value_parser = above_zero,
        allow_negative_numbers = true,
        conflicts_with = "saturated"
    )]
    pub(crate) rate_scale: Option<f64>,
    /// Offer all requests at once
    #[arg(long, conflicts_with = "url")]
    pub(crate) saturated: bool,
    /// What `knee calibrate` wrote for this device
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub(crate) calibration: Option<PathBuf>,
    /// Log every iteration to this CSV file: what was computed, and how long it took
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub(crate) steps: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) live: Live,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) computing: Computing,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}

/// What a recorded run was made with.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// Hardware profile: a name, a TOML file, or a calibration
    #[arg(long, default_value = "h100-sxm")]
    pub(crate) device: String,
    /// Model shape: a name or a TOML file
    #[arg(long, default_value = "llama-3.1-8b")]
    pub(crate) model: String,
    /// KV blocks of a worker as the engine logged them (default: what memory leaves)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kv_blocks: Option<u32>,
    #[command(flatten)]
    pub(crate) host: HostTime,
    /// Requests that the client kept in flight at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: Option<u32>,
    /// What `knee calibrate` wrote for this device
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}

/// `knee validate`.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The recorded run, a row per request: JSON lines or CSV, also gzipped
    #[arg(long, value_name = "FILE")]
    pub(crate) requests: PathBuf,
    /// Only this run of a file that holds several
    #[arg(long, value_name = "NAME")]
    pub(crate) run: Option<String>,
    /// The prompts that were sent, so that those which begin alike share KV: JSON lines in order of arrival, each
    /// with prompt_token_ids
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Running and waiting as the engine reported them: CSV with t, running, waiting
    #[arg(long, value_name = "FILE")]
    pub(crate) timeseries: Option<PathBuf>,
    /// The limit that capacity is read off at, such as ttft:mean=1s (default: in the middle of the knee)
    #[arg(long, value_name = "TARGET")]
    pub(crate) slo: Option<String>,
    #[command(flatten)]
    pub(crate) setup: Setup,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `knee calibrate`.
#[derive(Debug, Args)]
pub(crate) struct Calibrate {
    /// A log of steps: CSV as `knee bench --steps` writes it
    #[arg(long, value_name = "FILE", conflicts_with = "requests")]
    pub(crate) steps: Option<PathBuf>,
    /// A recorded run, a row per request
    #[arg(long, value_name = "FILE")]
    pub(crate) requests: Option<PathBuf>,
    /// Which run of a file that holds several
    #[arg(long, value_name = "NAME")]
    pub(crate) run: Option<String>,
    /// The prompts that were sent, so that those which begin alike share KV: JSON lines in order of arrival, each
    /// with prompt_token_ids
    #[arg(long, value_name = "FILE", conflicts_with = "steps")]
    pub(crate) prompts: Option<PathBuf>,
    /// What to fit: host (time per iteration and sequence) or all (and a factor per operator class; from steps only)
    #[arg(long, value_name = "host|all")]
    pub(crate) fit: Option<String>,
    /// Seed of which rows are held out
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where to write the constants found
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) setup: Setup,
}

/// `knee plan`.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) scenario: Scenario,
    /// Requests (or session starts) per second to serve, such as 40rps
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    pub(crate) demand: String,
    /// Share of capacity kept free
    #[arg(long, default_value = "10%", value_name = "PERCENT", allow_hyphen_values = true)]
    pub(crate) headroom: String,
    /// Hardware profiles to choose from
    #[arg(long, value_delimiter = ',', default_value = "h100-sxm,h200-sxm,a100-sxm")]
    pub(crate) device: Vec<String>,
    /// GPUs of one replica at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u32, 1, MOST_GPUS>, allow_negative_numbers = true)]
    pub(crate) gpus: u32,
    /// Threads (default: all)
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, MOST_THREADS>, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}

/// `knee trace`.
#[derive(Debug, Subcommand)]
pub(crate) enum Trace {
    /// What a trace is like: rate, burstiness, lengths, shared prefixes
    Inspect {
        /// A trace file (- for standard input), a preset or a workload TOML
        source: String,
        /// Also say how much of it fits the context window of this model: as in `knee bench`
        #[arg(long, value_name = "MODEL")]
        model: Option<String>,
        #[command(flatten)]
        read: Reading,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a trace in another format
    Convert {
        /// The trace file (- for standard input)
        file: PathBuf,
        /// mooncake, azure or jsonl
        #[arg(long, value_name = "FORMAT")]
        to: Format,
        /// Where to (default: standard output)
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        read: Reading,
    },
    /// Make a trace from a preset or a workload TOML
    Synth {
        /// The preset or TOML file
        source: String,
        /// mooncake, azure or jsonl
        #[arg(long, value_name = "FORMAT", default_value = "jsonl")]
        to: Format,
        /// Where to (default: standard output)
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Seed (default: the preset's own)
        #[arg(long, value_name = "N", value_parser = whole::<u64, 0, { u64::MAX }>, allow_negative_numbers = true)]
        seed: Option<u64>,
    },
}

/// `knee report`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Folder of an earlier run; or those of all workers of one, put together in --out
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Folder for what several workers saw together (default: knee-out)
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print the stored report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
