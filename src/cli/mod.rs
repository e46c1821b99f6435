//! The command line as it is typed. Its meaning is in `command`.

mod blocks;
mod computing;
mod device;
pub(crate) mod headings;
mod live;
mod profile;
mod results;
mod scenario;
pub(crate) mod serve;
mod values;

use std::path::PathBuf;

use clap::builder::ArgPredicate;
use clap::{ArgGroup, Args, Parser, Subcommand};
use workloads::Format;

use crate::knobs::Knobs;
use crate::tell::Voice;
pub(crate) use blocks::By;
use blocks::{On, Print, Recorded, Work};
pub(crate) use computing::{Computing, Random};
pub(crate) use device::{Add, Device};
use headings::{KNOBS, MACHINE, OUTPUT, RECORDED, SEARCH, TRAFFIC};
pub(crate) use live::{Fleet, Live, MOST_STREAMS, Mock, Reach, SERVED, TuneServer};
pub(crate) use profile::{Check, Import, Measure, Profile};
pub(crate) use results::{Diff, Require};
pub(crate) use scenario::{Instead, Output, Reading, Scenario, Workload};
pub(crate) use values::gpus;
use values::{above_zero, percent, rate, tokens, whole};

/// Which LLM-serving configuration gives the most throughput under your latency targets, and how many GPUs that takes.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true, max_term_width = 100, after_help = STATUS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say nothing on standard error but mistakes: no notes, no progress
    #[arg(long, short, global = true, help_heading = OUTPUT, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more on standard error: where results go, what is remembered, what each part of a search took
    #[arg(long, short, global = true, help_heading = OUTPUT)]
    pub(crate) verbose: bool,
}

impl Cli {
    /// The loudness that was asked for.
    pub(crate) fn voice(&self) -> Voice {
        match (self.quiet, self.verbose) {
            (true, _) => Voice::Quiet,
            (_, true) => Voice::Verbose,
            _ => Voice::Usual,
        }
    }
}

/// The command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Find the configuration that carries the most traffic under latency targets, also of servers (--url, --launch)
    Tune(Tune),
    /// Put batching and memory policies side by side, and try the papers' claims
    Compare(Compare),
    /// Run one configuration at one rate, or measure a server (--url)
    Bench(Bench),
    /// Size a deployment: the replicas and GPUs that a demand takes, and their cost
    Plan(Plan),
    /// Replay a recorded run and say how far the prediction is off
    Validate(Validate),
    /// Fit what no table contains (host time, operator factors) to a real run
    Calibrate(Calibrate),
    /// Look at, convert and synthesise traces
    #[command(subcommand)]
    Trace(Trace),
    /// List the devices that are known: what was measured of each, and what is borrowed
    Devices(Print),
    /// List the engines that are known: their versions, what was measured of each, and the sources
    Engines(Print),
    /// Describe a device that is not listed
    #[command(subcommand)]
    Device(Device),
    /// Device profiles: make one from published tables, see what they hold
    #[command(subcommand)]
    Profile(Profile),
    /// The models that are known, and what one is made of
    Models(Models),
    /// Serve a model on this machine behind the OpenAI interface
    Serve(serve::Serve),
    /// Serve OpenAI's API from a clockwork of known latency, to try clients and load generators on
    Mock(Mock),
    /// Render the report of earlier results again
    Report(Report),
    /// Say what changed from one result to another
    Diff(Diff),
    /// Hold a result to requirements, for continuous integration
    Check(Require),
    /// Show the settings of knee.toml that are in force, and where each comes from
    Config(Print),
    /// Print the completions of a shell
    Completions(Completions),
    /// Write the manual, a page per command
    Man(Man),
}

/// The statuses that commands end with.
const STATUS: &str = "Exit status: 0 with an answer, 1 with a mistake to correct, 2 if nothing holds the targets, 130 if interrupted";

/// `knee tune`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new(SERVED).multiple(true))]
pub(crate) struct Tune {
    #[command(flatten)]
    pub(crate) scenario: Scenario,
    /// Hardware profiles: names (see `knee devices`) or TOML files; cpu: this machine, where the real engine decides
    #[arg(
        long,
        help_heading = MACHINE,
        value_delimiter = ',',
        default_value = "h100-sxm",
        default_value_if("launch", ArgPredicate::IsPresent, None)
    )]
    pub(crate) device: Vec<String>,
    /// GPUs to use at most
    #[arg(long, help_heading = MACHINE, value_name = "N", default_value_t = 1, value_parser = gpus, allow_negative_numbers = true)]
    pub(crate) gpus: u32,
    /// Figure to optimise: rps, tokens-per-gpu or cost
    #[arg(long, help_heading = SEARCH, default_value = "rps")]
    pub(crate) objective: String,
    /// Try every configuration of the space in full instead of screening
    #[arg(long, help_heading = SEARCH)]
    pub(crate) exhaustive: bool,
    /// Search number formats of the KV cache that change the model's answers, too (fp8)
    #[arg(long, help_heading = SEARCH)]
    pub(crate) allow_fp8_kv: bool,
    #[command(flatten)]
    pub(crate) work: Work,
    #[command(flatten)]
    pub(crate) server: TuneServer,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Profile of this machine by `knee profile measure` (default with --device cpu: measured first)
    #[arg(long, help_heading = MACHINE, value_name = "FILE")]
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
    #[arg(long, help_heading = SEARCH, value_delimiter = ',', default_value = "static,continuous,paged,chunked")]
    pub(crate) policy: Vec<String>,
    /// Requests/s at which latencies are compared (default: chosen from the capacities)
    #[arg(long, help_heading = SEARCH, value_delimiter = ',', value_name = "RPS,...", value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rates: Vec<f64>,
    #[command(flatten)]
    pub(crate) on: On,
    /// Leave the papers' claims untried, as they are on a real engine and on a profile with a correction
    #[arg(long, help_heading = SEARCH)]
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
    #[command(flatten)]
    pub(crate) on: On,
    /// Requests (or session starts) per second; default: the trace's own rate
    #[arg(long, help_heading = TRAFFIC, value_name = "RPS", value_parser = rate, allow_negative_numbers = true, conflicts_with_all = ["rate_scale", "saturated"])]
    pub(crate) rate: Option<f64>,
    /// Speed of the trace: 2 = twice its own rate
    #[arg(
        long,
        help_heading = TRAFFIC,
        value_name = "FACTOR",
        value_parser = above_zero,
        allow_negative_numbers = true,
        conflicts_with = "saturated"
    )]
    pub(crate) rate_scale: Option<f64>,
    /// Offer all requests at once
    #[arg(long, help_heading = TRAFFIC, conflicts_with = "url")]
    pub(crate) saturated: bool,
    /// A closed loop: keep so many requests (or sessions) under way, whatever their arrival times
    #[arg(long, help_heading = TRAFFIC, value_name = "N", value_parser = whole::<u32, 1, MOST_STREAMS>, conflicts_with_all = ["rate", "rate_scale", "saturated"])]
    pub(crate) concurrency: Option<u32>,
    /// File that `knee calibrate` wrote for this device
    #[arg(long, help_heading = MACHINE, value_name = "FILE", conflicts_with = "url")]
    pub(crate) calibration: Option<PathBuf>,
    /// Log every iteration to this CSV file: what was computed, and how long it took
    #[arg(long, help_heading = OUTPUT, value_name = "FILE", conflicts_with = "url")]
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

/// The settings of a recorded run.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// Hardware profile: a name, a TOML file, or a calibration
    #[arg(long, help_heading = MACHINE, default_value = "h100-sxm")]
    pub(crate) device: String,
    /// Model shape: a name or a TOML file
    #[arg(long, help_heading = MACHINE, default_value = "llama-3.1-8b")]
    pub(crate) model: String,
    /// KV blocks of a worker as the engine logged them (default: what memory leaves)
    #[arg(long, help_heading = MACHINE, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kv_blocks: Option<u32>,
    #[command(flatten)]
    pub(crate) instead: Instead,
    /// Requests that the client kept in flight at most
    #[arg(long, help_heading = RECORDED, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: Option<u32>,
    /// File that `knee calibrate` wrote for this device
    #[arg(long, help_heading = MACHINE, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}

/// `knee validate`.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The recorded run, a row per request: JSON lines or CSV, also gzipped
    #[arg(long, help_heading = RECORDED, value_name = "FILE")]
    pub(crate) requests: PathBuf,
    #[command(flatten)]
    pub(crate) recorded: Recorded,
    /// Running and waiting as the engine reported them: CSV with t, running, waiting
    #[arg(long, help_heading = RECORDED, value_name = "FILE")]
    pub(crate) timeseries: Option<PathBuf>,
    /// The limit that capacity is read off at, such as ttft:mean=1s (default: in the middle of the knee)
    #[arg(long, help_heading = TRAFFIC, value_name = "TARGET")]
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
    #[arg(long, help_heading = RECORDED, value_name = "FILE", conflicts_with_all = ["requests", "prompts"])]
    pub(crate) steps: Option<PathBuf>,
    /// A recorded run, a row per request
    #[arg(long, help_heading = RECORDED, value_name = "FILE")]
    pub(crate) requests: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) recorded: Recorded,
    /// Constants to fit: host (time per iteration and sequence) or all (and a factor per operator class; from steps
    /// only)
    #[arg(long, value_name = "host|all")]
    pub(crate) fit: Option<String>,
    /// Seed of which rows are held out
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// File to write the constants to
    #[arg(long, help_heading = OUTPUT, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) print: Print,
    #[command(flatten)]
    pub(crate) setup: Setup,
}

/// `knee plan`.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) scenario: Scenario,
    /// Requests (or session starts) per second to serve, such as 40 (or 2400rpm)
    #[arg(long, help_heading = TRAFFIC, value_name = "RPS", value_parser = rate, allow_hyphen_values = true)]
    pub(crate) demand: f64,
    /// Share of capacity kept free
    #[arg(long, help_heading = SEARCH, default_value = "10%", value_name = "PERCENT", value_parser = percent, allow_hyphen_values = true)]
    pub(crate) headroom: f64,
    /// Hardware profiles to choose from
    #[arg(long, help_heading = MACHINE, value_delimiter = ',', default_value = "h100-sxm,h200-sxm,a100-sxm")]
    pub(crate) device: Vec<String>,
    /// GPUs of one replica at most
    #[arg(long, help_heading = MACHINE, value_name = "N", default_value_t = 1, value_parser = gpus, allow_negative_numbers = true)]
    pub(crate) gpus: u32,
    /// Also plan for the requests within these limits of context (prompt and response together), such as 16k,64k,256k:
    /// how many GPUs less?
    #[arg(long, help_heading = SEARCH, value_name = "TOKENS,...", value_delimiter = ',', value_parser = tokens)]
    pub(crate) context: Vec<u32>,
    #[command(flatten)]
    pub(crate) work: Work,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}

/// `knee models`.
#[derive(Debug, Args)]
pub(crate) struct Models {
    /// Describe this model: a name, a folder or file with its config.json, hf:ORG/NAME, a TOML file
    pub(crate) name: Option<String>,
    /// Describe it with its layers' weights in this format: bf16, fp8, fp8_block, nvfp4, mxfp4, int8, int4
    #[arg(long, help_heading = KNOBS, value_name = "FORMAT", requires = "name")]
    pub(crate) quantization: Option<engine::format::Format>,
    #[command(flatten)]
    pub(crate) print: Print,
}

/// `knee trace`.
#[derive(Debug, Subcommand)]
pub(crate) enum Trace {
    /// Describe a trace: rate, burstiness, lengths, shared prefixes
    Inspect {
        /// A trace file (- for standard input), a preset or a workload TOML
        source: String,
        /// Also say how much of it fits the context window of this model: as in `knee bench`
        #[arg(long, value_name = "MODEL")]
        model: Option<String>,
        #[command(flatten)]
        read: Reading,
        #[command(flatten)]
        print: Print,
    },
    /// List the formats of trace files
    Formats,
    /// Write a trace in another format
    Convert {
        /// The trace file (- for standard input)
        file: PathBuf,
        /// One of those that `knee trace formats` says are written
        #[arg(long, help_heading = OUTPUT, value_name = "FORMAT")]
        to: Format,
        /// File to write (default: standard output)
        #[arg(long, short, help_heading = OUTPUT, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        read: Reading,
    },
    /// Make a trace from a preset or a workload TOML
    Synth {
        /// The preset or TOML file
        source: String,
        /// One of those that `knee trace formats` says are written
        #[arg(long, help_heading = OUTPUT, value_name = "FORMAT", default_value = "jsonl")]
        to: Format,
        /// File to write (default: standard output)
        #[arg(long, short, help_heading = OUTPUT, value_name = "FILE")]
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
    #[arg(default_value = "knee-out/latest", value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `knee completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// `knee man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder to write the pages to, such as ~/.local/share/man/man1
    pub(crate) dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory;

    use super::*;

    /// Every command that is no group of others, by its whole name.
    fn commands(name: &str, command: &clap::Command) -> Vec<(String, clap::Command)> {
        let inner: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
        if inner.is_empty() {
            return vec![(name.to_owned(), command.clone())];
        }
        inner.iter().flat_map(|c| commands(&format!("{name} {}", c.get_name()), c)).collect()
    }

    #[test]
    fn a_flag_stands_under_its_heading() {
        let mut seen: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for (command, parsed) in commands("knee", &Cli::command()) {
            for flag in parsed.get_arguments().filter_map(|a| Some((a.get_long()?, a))) {
                let (name, heading) = (flag.0, flag.1.get_help_heading().unwrap_or("Options"));
                let under = seen.entry(name.to_owned()).or_default();
                under.entry(heading.to_owned()).or_default().push(command.clone());
            }
        }
        // The same name for another thing.
        let others = ["api-key", "model", "output", "policy", "requests", "seed", "steps"];
        for (flag, under) in &seen {
            let two = under.len() > 1 && !others.contains(&flag.as_str());
            assert!(!two, "--{flag} stands under different headings: {under:?}");
        }
        let places: [(&str, &[&str]); 7] = [
            (headings::OUTPUT, &["out", "json", "to", "plot", "export"]),
            (headings::LIVE, &["url", "api", "timeout"]),
            (headings::LAUNCH, &["launch", "flags", "tries"]),
            (headings::HERE, &["isa", "kv-memory", "precision", "weights"]),
            (headings::FILES, &["format", "time-unit", "map"]),
            (headings::TRAFFIC, &["slo", "workload", "rate", "demand"]),
            (headings::MACHINE, &["device", "gpus", "calibration"]),
        ];
        for (heading, flag) in
            places.iter().flat_map(|(h, flags)| flags.iter().map(move |f| (h, f)))
        {
            let under = &seen[*flag];
            assert!(under.keys().eq([heading]), "--{flag} stands under {under:?}, not {heading}");
        }
        for knob in engine::KNOBS.iter().map(|knob| knob.name).filter(|knob| *knob != "policy") {
            assert!(seen[knob].contains_key(KNOBS), "--{knob}");
        }
    }
}
