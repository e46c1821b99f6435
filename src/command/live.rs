//! The parts that every command which measures a server needs: from flags to a server found, and from a run to a
//! report.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use engine::EngineProfile;
use engine::model::gguf::Gguf;
use engine::model::tokenizer::Tokenizer;
use loadgen::{
    BoundSlo, Live, LiveOptions, LiveRun, Metric, Patience, Precision, Prompts, Proxies, Server,
    Span, Sustain, Tokens,
};
use reports::{BenchReport, Detail, LiveSide, Scenario};
use tuner::result::{DeviceInfo, WorkloadInfo};
use tuner::subject::Stop;
use tuner::subject::server::LiveStudy;
use tuner::subject::study::{build, fingerprint};
use tuner::subject::unfit::Unfit;
use workloads::Trace;

use super::output::{self, about};
use super::{host, secrets};
use crate::cli;
use crate::tell::tell;

/// The file in which a worker leaves its record, for `knee report`.
pub(crate) const PART: &str = "part.json";
/// The time that a server has for an answer before the run.
const PATIENCE: Duration = Duration::from_secs(30);

/// The default time that a server which is there has to become ready.
const READY: Duration = Duration::from_secs(30);
/// The same of one that we start.
const START: Duration = Duration::from_secs(600);

/// The server that the flags name, found, and asked how it wants `trace`; and its address as it may be shown.
pub(crate) fn find(
    args: &cli::Reach,
    model: Option<&str>,
    trace: &Trace,
) -> Result<(Live, String)> {
    let Some(url) = args.url.clone() else { bail!("give the server's address: --url") };
    let patience = Patience {
        ready: args.ready_timeout.unwrap_or(READY),
        there: args.ready_timeout.unwrap_or_default(),
        answer: PATIENCE,
    };
    let (stop, mut last) = (super::cancel()?, String::new());
    let mut watch = |why: &loadgen::Error| {
        let why = why.to_string();
        if why != last {
            tell(&format!("Waiting for the server: {why}"));
            last = why;
        }
        !stop.load(Ordering::Relaxed)
    };
    let live = suited(args, server(args, &url, model), trace, patience, &mut watch);
    if stop.load(Ordering::Relaxed) {
        return Err(Stop::Cancelled.into());
    }
    let live = live?;
    for what in live.given_up() {
        tell(&format!("The server does not take {what}."));
    }
    let address = live.address().0;
    Ok((live, address))
}

/// A server that we started ourselves. It may be broken: no answer is waited for longer than for a request's. `watch` is
/// told what it says while it is not ready, and ends the waiting by saying no.
pub(crate) fn launched(
    args: &cli::Reach,
    url: &str,
    trace: &Trace,
    watch: &mut dyn FnMut(&loadgen::Error) -> bool,
) -> Result<Live> {
    let limit = start_limit(args);
    let patience = Patience { ready: limit, there: limit, answer: PATIENCE.min(args.timeout) };
    suited(args, server(args, url, None), trace, patience, watch)
}

/// The time that a server which we start has until it takes requests.
pub(crate) fn start_limit(args: &cli::Reach) -> Duration {
    args.ready_timeout.unwrap_or(START)
}

fn suited(
    args: &cli::Reach,
    server: Server,
    trace: &Trace,
    patience: Patience,
    watch: &mut dyn FnMut(&loadgen::Error) -> bool,
) -> Result<Live> {
    let tokenizer = args.tokenizer.as_deref().map(tokens).transpose()?;
    let server = Server { tokenizer, ..server };
    let mut live = Live::find_when_ready(&server, patience, watch)?;
    if !args.unshared {
        live.suit(trace, patience.answer)?;
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
        proxies: Proxies::of_environment(),
        tokenizer: None,
    }
}

/// The counter of tokens in the file at `path`.
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

/// The way it is driven, whatever the load.
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
    let tightest = |span| {
        let targets = slo.slo().targets().iter().filter(|t| t.metric.span() == span);
        targets.map(|t| t.limit).min()
    };
    tightest(Span::Start).zip(tightest(Span::Pace))
}

/// A server, as reports put it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) model: String,
    /// The way prompts reach it.
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
        let through = live.address().1.map_or_else(String::new, |proxy| {
            format!("; everything went through the proxy {}", secrets::url(proxy))
        });
        let prompts = prompts + &through;
        Self { url: secrets::url(url), model: live.model().to_owned(), prompts }
    }
}

/// The subject of a measurement, as reports put it; `place` is none where no server was found.
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
        notes: Vec::new(),
        device: DeviceInfo { name, provenance, price: None },
        slo: slo.slo().targets().iter().map(ToString::to_string).collect(),
        wall_s,
        cpu_s,
        host: format!("the client ran on {}", host()),
    }
}

/// The earlier measurements of real servers, in the folder that results go to; none if no folder
/// was named. Besides the server's flags, their runs depend on `what` and the load.
pub(crate) fn study(
    args: &cli::Tune,
    what: (&str, String),
    trace: &Trace,
    slo: &BoundSlo,
) -> Result<Option<LiveStudy>> {
    let Some(dir) = args.output.folder() else { return Ok(None) };
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
        ("tokenizer", format!("{:?}", reach.tokenizer)),
        ("headers", secrets::headers(&reach.header)),
        ("trace", format!("{}, {} requests", trace.name, trace.requests.len())),
        ("trace, in figures", fingerprint(trace)),
    ];
    let identity = identity.map(|(what, value)| (what.to_owned(), value)).into();
    let study: LiveStudy = output::study(&dir, &identity)?;
    if !study.is_empty() && !args.output.json {
        let dir = dir.display();
        tell(&format!(
            "{dir} has the measurements of an earlier search, which are not repeated (another --out begins anew)"
        ));
    }
    Ok(Some(study))
}

/// The traffic, as reports put it.
fn workload(trace: &Trace) -> WorkloadInfo {
    let requests = trace.requests.len();
    let starts = trace.starts().max(1);
    let tokens: u64 = trace.requests.iter().map(|r| u64::from(r.output)).sum();
    WorkloadInfo {
        name: trace.name.clone(),
        provenance: trace.provenance.clone(),
        requests,
        requests_per_session: (starts < requests).then(|| requests as f64 / starts as f64),
        natural_rps: trace.offered_rate(),
        prompt_tokens_per_request: Some(trace.mean_prompt()),
        output_tokens_per_request: tokens as f64 / starts as f64,
        repeats: false,
    }
}

/// The result of a measurement, for reports.
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
        let mut detail = Detail::outside(&run.recording.records, &run.recording.itl_of_all());
        detail.distributions.retain(|d| run.metrics().any(|metric| metric == d.metric));
        BenchReport {
            unfit: Unfit::default(),
            about: about(&[], &EngineProfile::bare()),
            scenario,
            config: BTreeMap::new(),
            label,
            gpus: None,
            rate_rps,
            streams: None,
            detail,
            summary: run.summary(slo),
            sustain: Sustain::new(sent, &run.recording.records),
            inside: None,
            live: Some(LiveSide {
                from_send: run.summary_from_send(slo),
                audit: run.audit.clone(),
                precision: precision(run),
                failures: run.failures.clone(),
                given_up: run.given_up.clone(),
                interrupted: run.interrupted,
            }),
        }
    }
}

/// The precision of figures, of those that there are.
fn precision(run: &LiveRun) -> Vec<Precision> {
    let all = loadgen::precisions(&run.recording.records).into_iter();
    let metric = |p: &Precision| Metric::named(p.measured.split(':').next()?);
    let paced = |p: &Precision| metric(p).is_some_and(|metric| metric.span() == Span::Pace);
    all.filter(|p| !run.audit.paceless || !paced(p)).collect()
}
