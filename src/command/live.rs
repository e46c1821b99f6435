//! What every command needs that measures a server: from flags to a server found, and from a run to a report.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use engine::model::gguf::Gguf;
use engine::model::tokenizer::Tokenizer;
use loadgen::{
    BoundSlo, Live, LiveOptions, LiveRun, Metric, Prompts, Server, Summary, Sustain, Tokens,
};
use reports::{About, BenchReport, Detail, LiveSide, Scenario};
use tuner::live::LiveStudy;
use tuner::result::{DeviceInfo, WorkloadInfo};
use tuner::study::{build, fingerprint};
use tuner::unfit::Unfit;
use workloads::{Arrival, Trace};

use super::output::typed;
use super::{host, secrets};
use crate::cli;

/// Where a worker leaves what it saw, for `knee report`.
pub(crate) const PART: &str = "part.json";
/// How long a server may take to answer a question before the run.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server that the flags name, found, and asked how it wants `trace`.
pub(crate) fn find(
    args: &cli::Reach,
    model: Option<&str>,
    trace: &Trace,
) -> Result<(Live, String)> {
    let Some(url) = args.url.clone() else { bail!("give the server's address: --url") };
    Ok((suited(args, server(args, &url, model), trace, PATIENCE)?, url))
}

/// A server that we started ourselves. It may be broken: it is not waited for longer than for a request.
pub(crate) fn launched(args: &cli::Reach, url: &str, trace: &Trace) -> Result<Live> {
    suited(args, server(args, url, None), trace, PATIENCE.min(args.timeout))
}

fn suited(args: &cli::Reach, server: Server, trace: &Trace, patience: Duration) -> Result<Live> {
    let tokenizer = args.tokenizer.as_deref().map(tokens).transpose()?;
    let mut live = Live::find(&Server { tokenizer, ..server }, patience)?;
    if !args.unshared {
        live.suit(trace, patience)?;
    }
    Ok(live)
}

/// A server at `url`, reached as the flags say.
pub(crate) fn server(args: &cli::Reach, url: &str, model: Option<&str>) -> Server {
    Server {
        url: url.to_owned(),
        api: args.api,
        model: model.map(str::to_owned),
        api_key: args.api_key.clone().or_else(|| std::env::var("OPENAI_API_KEY").ok()),
        headers: args.header.clone(),
        ca: args.ca_cert.clone(),
        identity: args.client_cert.clone().zip(args.client_key.clone()),
        tokenizer: None,
    }
}

/// What counts tokens as the file at `path` says.
fn tokens(path: &Path) -> Result<Tokens> {
    let tokenizer = if path.is_dir() {
        Tokenizer::open(&path.join("tokenizer.json"))?
    } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        Tokenizer::of_gguf(&Gguf::open(path)?)?
    } else {
        Tokenizer::open(path)?
    };
    Ok(Tokens::new(move |text| tokenizer.encode(text, false).ok().map(|ids| ids.len())))
}

/// How it is driven, whatever the load.
pub(crate) fn options(args: &cli::Reach, slo: &BoundSlo) -> LiveOptions {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
    LiveOptions {
        timeout: args.timeout,
        fluid: fluid(slo),
        salt: args.salt.unwrap_or_else(clock),
        shared_prefixes: !args.unshared,
        ..LiveOptions::default()
    }
}

/// The pace of the fluidity index: the tightest targets on the first token and from token to token.
fn fluid(slo: &BoundSlo) -> Option<(Duration, Duration)> {
    let tightest = |metrics: &[Metric]| {
        let targets = slo.slo().targets().iter().filter(|t| metrics.contains(&t.metric));
        targets.map(|t| t.limit).min()
    };
    tightest(&[Metric::Ttft]).zip(tightest(&[Metric::Itl, Metric::Tpot]))
}

/// A server, as reports put it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) model: String,
    /// How prompts reach it.
    pub(crate) prompts: String,
}

impl Place {
    pub(crate) fn of(live: &Live, url: &str) -> Self {
        let prompts = match live.prompts() {
            Prompts::Ids => "prompts are token ids of the exact length".to_owned(),
            Prompts::Text { overhead, .. } if live.is_exact() => format!(
                "prompts are text of the exact length by the tokenizer given, {overhead:.0} tokens of each the server's own"
            ),
            Prompts::Text { per_word, overhead } => format!(
                "prompts are words: by the server's count {per_word:.3} tokens per word and {overhead:.1} for the template"
            ),
        };
        Self { url: secrets::url(url), model: live.model().to_owned(), prompts }
    }
}

/// What is measured, as reports put it; `place` is none where no server was found.
pub(crate) fn scenario(
    place: Option<&Place>,
    trace: &Trace,
    slo: &BoundSlo,
    seed: u64,
    (wall_s, cpu_s): (f64, f64),
) -> Scenario {
    let (name, provenance, model) = place.map_or_else(Default::default, |place| {
        (place.url.clone(), place.prompts.clone(), place.model.clone())
    });
    Scenario {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        simulated: false,
        seed,
        workload: workload(trace),
        model,
        device: DeviceInfo { name, provenance, price: None },
        slo: slo.slo().targets().iter().map(ToString::to_string).collect(),
        wall_s,
        cpu_s,
        host: format!("the client ran on {}", host()),
    }
}

/// What was measured of real servers before, in the folder that results go to; none where nobody named one. What the
/// runs depend on besides the server's flags is `what` and the load.
pub(crate) fn study(
    args: &cli::Tune,
    what: (&str, String),
    trace: &Trace,
    slo: &BoundSlo,
) -> Result<Option<LiveStudy>> {
    let Some(dir) = &args.output.out else { return Ok(None) };
    let targets: Vec<String> = slo.slo().targets().iter().map(ToString::to_string).collect();
    let reach = &args.server.reach;
    let identity = [
        what,
        ("build", build().to_owned()),
        ("api", format!("{:?}", reach.api)),
        ("model", args.scenario.model.clone().unwrap_or_else(|| "the server's".to_owned())),
        ("probe", format!("{:?}", args.server.probe)),
        ("shared prefixes", (!reach.unshared).to_string()),
        (
            "slo",
            [targets, args.scenario.attainment.clone().into_iter().collect()].concat().join(" "),
        ),
        ("timeout", format!("{:?}", reach.timeout)),
        ("trace", format!("{}, {} requests", trace.name, trace.requests.len())),
        ("trace, in figures", fingerprint(trace)),
    ];
    let identity = identity.map(|(what, value)| (what.to_owned(), value)).into();
    let study = LiveStudy::open(&dir.join("study.sqlite"), &identity)?;
    if !study.is_empty() && !args.output.json {
        let dir = dir.display();
        eprintln!(
            "{dir} has what an earlier search measured: it is not measured again (another --out begins anew)"
        );
    }
    Ok(Some(study))
}

/// The traffic, as reports put it.
fn workload(trace: &Trace) -> WorkloadInfo {
    let requests = trace.requests.len();
    let starts =
        trace.requests.iter().filter(|r| matches!(r.arrival, Arrival::At(_))).count().max(1);
    let tokens: u64 = trace.requests.iter().map(|r| u64::from(r.output)).sum();
    WorkloadInfo {
        name: trace.name.clone(),
        provenance: trace.provenance.clone(),
        requests,
        requests_per_session: (starts < requests).then(|| requests as f64 / starts as f64),
        natural_rps: trace.offered_rate(),
        output_tokens_per_request: tokens as f64 / starts as f64,
        repeats: false,
    }
}

/// What a measurement comes to, for reports.
pub(crate) struct Measured<'a> {
    pub(crate) run: &'a LiveRun,
    /// The trace that the run's records count through.
    pub(crate) sent: &'a Trace,
    pub(crate) slo: &'a BoundSlo,
    pub(crate) scenario: Scenario,
    pub(crate) label: String,
    pub(crate) rate_rps: Option<f64>,
}

impl Measured<'_> {
    pub(crate) fn report(self) -> BenchReport {
        let Measured { run, sent, slo, scenario, label, rate_rps } = self;
        BenchReport {
            unfit: Unfit::default(),
            about: About { command: typed(), assumptions: Vec::new() },
            scenario,
            config: BTreeMap::new(),
            label,
            gpus: None,
            rate_rps,
            detail: Detail::outside(&run.recording.records, &run.recording.itl_of_all()),
            summary: Summary::new(&run.recording, slo),
            sustain: Sustain::new(sent, &run.recording.records),
            inside: None,
            live: Some(LiveSide {
                from_send: Summary::new(&run.from_send, slo),
                audit: run.audit.clone(),
                precision: loadgen::precisions(&run.recording.records),
                failures: run.failures.clone(),
                interrupted: run.interrupted,
            }),
        }
    }
}
