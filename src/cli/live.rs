//! The flags about real servers: reaching and driving one, and the mock.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use loadgen::{Api, FaultShare, Wanted, Worker, parse_duration, parse_instant};
use tuner::contest::turns::flags::{Dialect, Values};

use super::blocks::Listen;
use super::headings::{LAUNCH, LIVE, OUTPUT, SEARCH};
use super::values::{url, whole};

/// The flags that say which server is measured: --url, --launch.
pub(crate) const SERVED: &str = "served";
/// Load that is spent at most, by default.
const BUDGET: Duration = Duration::from_secs(600);

/// Most streams a client is asked to hold.
pub(crate) const MOST_STREAMS: u64 = 1 << 24;

/// A server, and how prompts reach it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = LIVE)]
pub(crate) struct Reach {
    /// Measure the OpenAI-compatible server at this address, such as http://localhost:8000 or localhost:8000
    #[arg(long, value_name = "URL", value_parser = url, conflicts_with = "device", group = SERVED)]
    pub(crate) url: Option<String>,
    /// Its endpoint: completions or chat
    #[arg(long, value_name = "API", default_value = "completions", requires = SERVED)]
    pub(crate) api: Api,
    /// Give a request up so long after it was due
    #[arg(long, value_name = "TIME", requires = SERVED, default_value = "10min", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Time that a server has until it takes requests (default: 10min for one that is started here, 30s for one that
    /// is there and says that it is not ready, else 0s)
    #[arg(long, value_name = "TIME", requires = SERVED, value_parser = parse_duration)]
    pub(crate) ready_timeout: Option<Duration>,
    /// Key sent as a bearer token (default: OPENAI_API_KEY)
    #[arg(long, value_name = "KEY", requires = SERVED)]
    pub(crate) api_key: Option<String>,
    /// Header sent with every request; repeatable
    #[arg(long, value_name = "NAME:VALUE", requires = SERVED, value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// Certificates (PEM) to trust besides the system's
    #[arg(long, value_name = "FILE", requires = SERVED)]
    pub(crate) ca_cert: Option<PathBuf>,
    /// The client's own certificate (PEM), for servers that ask for one
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub(crate) client_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
    /// The model's tokenizer (tokenizer.json, a folder that holds one, or a GGUF file): prompts are then text of exactly
    /// as many tokens as asked for, and answers that the server does not count are counted by it
    #[arg(long, value_name = "FILE", requires = SERVED)]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Make every prompt unique, even where the workload shares prefixes
    #[arg(long, requires = SERVED)]
    pub(crate) unshared: bool,
    /// Number that makes this run's prompts different from those of others (default: from the clock)
    #[arg(long, value_name = "N", requires = SERVED)]
    pub(crate) salt: Option<u64>,
}

/// The flags of one load on a server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = LIVE)]
pub(crate) struct Live {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Hold requests back while so many are under way; their latencies count from when they were due
    #[arg(long, value_name = "N", requires = "url", value_parser = whole::<u32, 1, MOST_STREAMS>)]
    pub(crate) max_in_flight: Option<u32>,
    /// Send for so long at most
    #[arg(long, value_name = "TIME", requires = "url", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Send (the workload again and again) until half of a figure's 95 % interval is so small a share of it, such as
    /// ttft:p99=5% or e2e:mean=2%; repeatable; for --duration at most (default then: 5min)
    #[arg(long, value_name = "FIGURE=PERCENT", requires = "url", conflicts_with = "worker")]
    pub(crate) until_ci: Vec<Wanted>,
    /// Be one of N clients under one schedule: send only the requests that are worker I's (from 0); with --start-at
    #[arg(long, value_name = "I/N", requires = "url", requires = "start_at")]
    pub(crate) worker: Option<Worker>,
    /// Begin at this instant: seconds since 1970, or such as 2026-05-04T12:00:00Z
    #[arg(long, value_name = "INSTANT", requires = "url", value_parser = parse_instant)]
    pub(crate) start_at: Option<SystemTime>,
    /// Print what runs this command as N workers, and measure nothing: k8s=N (an Indexed Job) or slurm=N (an array)
    #[arg(long, value_name = "SYSTEM=N", requires = "url", requires = "start_at", conflicts_with = "worker", value_parser = fleet)]
    pub(crate) workers: Option<Fleet>,
    /// Write the result as other tools' too: vllm (vllm.json), aiperf (profile_export_aiperf.json and profile_export.jsonl)
    #[arg(long, help_heading = OUTPUT, value_name = "TOOL,...", requires = "url", value_delimiter = ',', ignore_case = true, value_parser = ["vllm", "aiperf"])]
    pub(crate) export: Vec<String>,
    /// Send for so long before counting
    #[arg(long, value_name = "TIME", requires = "url", default_value = "0s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
}

/// A system that runs several workers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fleet {
    /// A Kubernetes Indexed Job.
    Kubernetes(u32),
    /// A Slurm array.
    Slurm(u32),
}

/// `k8s=N` or `slurm=N`.
fn fleet(text: &str) -> Result<Fleet, String> {
    let bad = || "expected k8s=N or slurm=N with N from 1 to 1000, such as k8s=4".to_owned();
    let (system, number) = text.split_once('=').ok_or_else(bad)?;
    let number = whole::<u32, 1, 1000>(number).map_err(|_| bad())?;
    match system.to_ascii_lowercase().as_str() {
        "k8s" => Ok(Fleet::Kubernetes(number)),
        "slurm" => Ok(Fleet::Slurm(number)),
        _ => Err(bad()),
    }
}

/// The flags of a search for the highest rate of a server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = LIVE)]
pub(crate) struct TuneServer {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Time that a rate must hold (default: four times an unhurried request, 8 s at least, up to 2 min where requests
    /// under load outlast that)
    #[arg(long, value_name = "TIME", requires = SERVED, value_parser = parse_duration)]
    pub(crate) probe: Option<Duration>,
    /// Load to spend at most, on servers or on the engine here (default: 10min)
    #[arg(long, help_heading = SEARCH, value_name = "TIME", value_parser = parse_duration)]
    budget: Option<Duration>,
    #[command(flatten)]
    pub(crate) launch: Launch,
}

impl TuneServer {
    /// Load to spend at most.
    pub(crate) fn budget(&self) -> Duration {
        self.budget.unwrap_or(BUDGET)
    }

    /// True if it was given.
    pub(crate) fn has_budget(&self) -> bool {
        self.budget.is_some()
    }
}

/// Servers that are started to be measured.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = LAUNCH)]
pub(crate) struct Launch {
    /// Start a server per configuration with this shell command, {flags} and {port} filled in; --device: simulate first
    #[arg(long, value_name = "COMMAND", group = SERVED)]
    pub(crate) launch: Option<String>,
    /// The server's kind, for the names of its flags: vllm or knee
    #[arg(long, value_name = "vllm|knee", requires = "launch", default_value = "vllm")]
    pub(crate) flags: Dialect,
    /// Values of a flag to try, such as max-num-seqs=16,64,256; repeatable (default: seats and token budget)
    #[arg(long, value_name = "NAME=VALUE,...", requires = "launch")]
    pub(crate) knob: Vec<Values>,
    /// Start so many configurations at most besides the server's own defaults (default: 4 after a simulation, else all)
    #[arg(long, value_name = "N", requires = "launch", value_parser = whole::<usize, 1, 10_000>)]
    pub(crate) tries: Option<usize>,
}

/// `NAME:VALUE`.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// `knee mock`.
#[derive(Debug, Args)]
pub(crate) struct Mock {
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// Name of the model served
    #[arg(long, value_name = "NAME", default_value = "mock")]
    pub(crate) model: String,
    /// From getting a slot to the first token
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_duration)]
    pub(crate) ttft: Duration,
    /// From token to token
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = parse_duration)]
    pub(crate) itl: Duration,
    /// Requests served at once, the others in a queue (default: no limit)
    #[arg(long, value_name = "N", value_parser = whole::<u32, 1, { 1 << 30 }>)]
    pub(crate) slots: Option<u32>,
    /// Tokens of a response whose request does not say
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = whole::<u32, 1, { 1 << 20 }>)]
    pub(crate) output: u32,
    /// Stand still so long after the start for so long; repeatable
    #[arg(long, value_name = "AT:TIME", value_parser = stall)]
    pub(crate) stall: Vec<(Duration, Duration)>,
    /// Answer 503 until so long after the start
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub(crate) ready_after: Duration,
    /// Misbehave: a status, cut, hang, drip, not-sse or no-usage, and to which share of requests (429=5%); repeatable
    #[arg(long, value_name = "KIND[=SHARE]")]
    pub(crate) fault: Vec<FaultShare>,
    /// Retry-After of 429 and 503
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(crate) retry_after: Duration,
    /// Key that clients must send
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Seed of which requests are befallen by faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write a JSON line per request to this file: when it arrived and when its tokens left
    #[arg(long, help_heading = OUTPUT, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Write every prompt and answer into it too
    #[arg(long, help_heading = OUTPUT, requires = "log")]
    pub(crate) log_prompts: bool,
}

/// `AT:TIME`, both durations.
fn stall(text: &str) -> Result<(Duration, Duration), String> {
    let (at, lasts) = text.split_once(':').ok_or("expected AT:TIME, such as 10s:1s")?;
    Ok((parse_duration(at)?, parse_duration(lasts)?))
}
