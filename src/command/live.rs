//! What every command needs that measures a server: from flags to a server found, and a line of progress.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use loadgen::{
    BoundSlo, Live, LiveOptions, LiveRun, Metric, Progress, Prompts, Server, Summary, Sustain,
};
use reports::{About, BenchReport, Detail, LiveSide, Scenario};
use tuner::result::{DeviceInfo, WorkloadInfo};
use workloads::{Arrival, Trace};

use super::host;
use super::output::typed;
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
    Ok((suited(args, &server(args, &url, model), trace, PATIENCE)?, url))
}

/// A server that we started ourselves. It may be broken: it is not waited for longer than for a request.
pub(crate) fn launched(args: &cli::Reach, url: &str, trace: &Trace) -> Result<Live> {
    suited(args, &server(args, url, None), trace, PATIENCE.min(args.timeout))
}

fn suited(args: &cli::Reach, server: &Server, trace: &Trace, patience: Duration) -> Result<Live> {
    let mut live = Live::find(server, patience)?;
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
    }
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

/// What is measured, as reports put it; `live` is none where no server was found.
pub(crate) fn scenario(
    live: Option<(&Live, &str)>,
    trace: &Trace,
    slo: &BoundSlo,
    seed: u64,
    (wall_s, cpu_s): (f64, f64),
) -> Scenario {
    let prompts = |live: &Live| match live.prompts() {
        Prompts::Ids => "prompts are token ids of the exact length".to_owned(),
        Prompts::Text { per_word, overhead } => format!(
            "prompts are words: by the server's count {per_word:.3} tokens per word and {overhead:.1} for the template"
        ),
    };
    let (name, provenance, model) = live.map_or_else(Default::default, |(live, url)| {
        (url.to_owned(), prompts(live), live.model().to_owned())
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

/// How a run goes, on standard error: a line that changes on a terminal, a line every ten seconds elsewhere.
pub(crate) struct Watch {
    bar: Option<ProgressBar>,
    total: usize,
    said: Duration,
}

impl Watch {
    pub(crate) fn new(total: usize, quiet: bool) -> Self {
        let seen = std::io::stderr().is_terminal();
        let bar = (seen && !quiet).then(|| {
            let bar = ProgressBar::new(total as u64);
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            let style = ProgressStyle::with_template("{elapsed:>6} [{bar:24}] {pos}/{len} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar
        });
        let said = if quiet { Duration::MAX } else { Duration::ZERO };
        Self { bar, total, said }
    }

    pub(crate) fn update(&mut self, p: &Progress) {
        let rate = p.completed as f64 / p.elapsed.as_secs_f64().max(1e-9);
        let text = format!("{} in flight, {} failed, {rate:.1} requests/s", p.in_flight, p.failed);
        match &self.bar {
            Some(bar) => {
                bar.set_position(p.completed + p.failed);
                bar.set_message(text);
            }
            None if p.elapsed >= self.said.saturating_add(Duration::from_secs(10)) => {
                self.said = p.elapsed;
                let (at, done) = (p.elapsed.as_secs(), p.completed + p.failed);
                eprintln!("{at:>5} s: {done} of {} done, {text}", self.total);
            }
            None => {}
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
