//! Driving a real server: the requests and their times, the answers, and the trust that the figures deserve.
//!
//! [`Live::find`] asks the server what it serves and how it counts; [`Live::run`] replays a trace against it and
//! returns a [`LiveRun`]: the same [`Recording`] that a simulation makes, from the scheduled times and again from
//! the sends, every failure under its own name, and the [`Audit`] of the client itself.

mod answer;
mod api;
mod audit;
mod body;
mod call;
mod chunk;
mod conn;
mod conversation;
mod counts;
mod drive;
mod endpoint;
pub mod export;
mod failure;
mod fast_path;
mod form;
mod gauges;
mod greet;
mod http;
mod meter;
mod options;
mod probe;
mod prompt;
mod proxy;
mod ready;
mod run;
mod server;
mod shown;
mod sse;
mod tls;
mod transport;
mod until;
mod url;
mod vocabulary;
mod worker_part;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use workloads::{Arrival, Trace};

pub use api::Api;
pub use audit::{Audit, Trust};
pub use failure::Failures;
pub use form::Prompts;
pub use gauges::{Gauge, Gauges};
pub use meter::Wire;
pub use options::{LiveOptions, Progress};
pub use proxy::Proxies;
pub use ready::Patience;
pub use run::{LiveRun, Lost};
pub use server::Server;
pub use shown::{HIDDEN, ShownUrl};
pub use vocabulary::Tokens;
pub use worker_part::{Part, merge};

use crate::error::Error;
use crate::record::Record;
use crate::replay::{Replay, ReplayOptions};
use crate::slo::BoundSlo;
use counts::Doubtful;
use drive::Drive;
use endpoint::Endpoint;
use form::Form;
use probe::Probed;
use prompt::Prompter;
use vocabulary::Vocabulary;

/// A server that answers, and how it wants to be asked.
pub struct Live {
    endpoint: Endpoint,
    probed: Probed,
    tokens: Option<Tokens>,
}

impl Live {
    /// Finds the server, its model, and how prompts reach it.
    ///
    /// # Errors
    /// A server that does not answer: address, certificate, key, model.
    pub fn find(server: &Server, timeout: Duration) -> Result<Self, Error> {
        Self::find_at(Endpoint::find(server)?, server, timeout)
    }

    fn find_at(mut endpoint: Endpoint, server: &Server, timeout: Duration) -> Result<Self, Error> {
        let probed = probe::probe(&mut endpoint, server, timeout)?;
        Ok(Self { endpoint, probed, tokens: server.tokenizer.clone() })
    }

    /// True if a server answers there already, and well.
    ///
    /// # Errors
    /// An address, header or certificate that is not valid; a server that does not answer is not
    /// there.
    pub fn is_there(server: &Server, timeout: Duration) -> Result<bool, Error> {
        Ok(greet::answers(&mut Endpoint::find(server)?, timeout))
    }

    /// A server taken at the caller's word, nothing asked beforehand.
    ///
    /// # Errors
    /// An address, header or certificate that is not valid.
    pub fn assume(server: &Server, model: &str, prompts: Prompts) -> Result<Self, Error> {
        let vocabulary = server.tokenizer.as_ref().map(Vocabulary::of).transpose()?;
        let (model, form) = (model.to_owned(), Form::full(prompts));
        let vocabulary = vocabulary.unwrap_or_default();
        let probed = Probed { model, form, vocabulary, reasons: false };
        let tokens = server.tokenizer.clone();
        Ok(Self { endpoint: Endpoint::find(server)?, probed, tokens })
    }

    /// Makes ready for the turns of `trace` that repeat answers: from a server that does not say which tokens its
    /// answers are, answers come back as text, so prompts are text too.
    ///
    /// # Errors
    /// A server that does not answer.
    pub fn suit(&mut self, trace: &Trace, timeout: Duration) -> Result<(), Error> {
        if conversation::repeats_answers(trace) {
            probe::for_answers(&mut self.endpoint, &mut self.probed, timeout)?;
        }
        Ok(())
    }

    /// The model that is asked for.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.probed.model
    }

    /// True where text prompts are of words that a tokenizer keeps apart.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.tokens.is_some()
    }

    /// The material of prompts: words, text or token ids.
    #[must_use]
    pub fn prompts(&self) -> Prompts {
        self.probed.form.prompts
    }

    /// Each form that the server did not take, and its meaning for the figures.
    #[must_use]
    pub fn given_up(&self) -> Vec<&'static str> {
        self.probed.form.given_up(self.endpoint.api, self.is_exact())
    }

    /// The API driven.
    #[must_use]
    pub fn api(&self) -> Api {
        self.endpoint.api
    }

    /// The server's address as it may be shown, without name, password and query; and the proxy before it.
    #[must_use]
    pub fn address(&self) -> (String, Option<&str>) {
        self.endpoint.shown()
    }

    /// Replays `trace`, judged by `slo`. `watch` is called ten times per second and ends the run by saying no.
    ///
    /// # Errors
    /// A rate that cannot be replayed, sockets that cannot be polled. A server's failures are results.
    pub fn run(
        &self,
        trace: &Trace,
        options: &LiveOptions,
        slo: &BoundSlo,
        watch: impl FnMut(&Progress) -> bool,
    ) -> Result<LiveRun, Error> {
        self.run_showing(trace, options, slo, &Gauges::default(), watch)
    }

    /// The same, with latencies to be seen in `gauges` as they come.
    ///
    /// # Errors
    /// As [`Live::run`].
    pub fn run_showing(
        &self,
        trace: &Trace,
        options: &LiveOptions,
        slo: &BoundSlo,
        gauges: &Gauges,
        mut watch: impl FnMut(&Progress) -> bool,
    ) -> Result<LiveRun, Error> {
        let closed = options.streams.map(|streams| closed_loop(trace, streams));
        let trace = closed.as_ref().unwrap_or(trace);
        let lift_session_cap = options.lift_session_cap && options.streams.is_none();
        let mut replay =
            Replay::new(trace, options.rate_scale, ReplayOptions { lift_session_cap })?;
        if let Some(worker) = options.worker {
            replay = replay.share(trace, worker);
        }
        let Probed { model, form, vocabulary, reasons } = &self.probed;
        let salt = (options.salt, options.shared_prefixes);
        let prompter = Prompter::new(&self.endpoint, (form, vocabulary), model, salt);
        let enough = AtomicBool::new(false);
        let (say, ended) = mpsc::channel();
        let tell = (!options.until.is_empty()).then_some((say, &enough));
        let mut drive =
            Drive::new(trace, replay, (&self.endpoint, &prompter), (options, slo), (gauges, tell))?;
        (drive.keep_texts, drive.reasons) = (self.tokens.is_some(), *reasons);
        await_start(options.start_at, &mut watch)?;
        let warm = options.streams.map_or(8, |streams| streams as usize);
        drive.warm(warm).map_err(|e| Error::Io("cannot connect".to_owned(), e.to_string()))?;
        let mut interrupted = false;
        let mut watched = |progress: &Progress| {
            let go_on = watch(progress);
            interrupted |= !go_on;
            go_on
        };
        std::thread::scope(|scope| {
            // It ends when it has seen enough, or when the drive's end of the channel is gone.
            let (wanted, enough) = (&options.until, &enough);
            if drive.tells() {
                scope.spawn(move || until::watch(wanted, ended, enough));
            }
            let outcome = drive.run(&mut watched);
            drive.tell_no_more();
            outcome
        })?;
        drive.count_texts(self.tokens.as_ref());
        let given_up = self.given_up().into_iter().map(str::to_owned).collect();
        Ok(LiveRun { interrupted, given_up, ..finish(drive, trace, options, slo) })
    }
}

/// Before the start, for what has to be done by then.
const EARLY: Duration = Duration::from_secs(2);

/// Until shortly before `start`, or until the user does not want to wait any more.
fn await_start(
    start: Option<SystemTime>,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<(), Error> {
    let Some(start) = start else { return Ok(()) };
    loop {
        let left = start.duration_since(SystemTime::now()).map_err(|_| drive::too_late())?;
        if left <= EARLY {
            return Ok(());
        }
        if !watch(&Progress::default()) {
            return Err(Error::Endpoint("interrupted before the start".to_owned()));
        }
        std::thread::sleep((left - EARLY).min(Duration::from_millis(100)));
    }
}

/// Sorts out what a drive collected: warm-up out, token counts by the server's own account.
fn finish(drive: Drive<'_>, trace: &Trace, options: &LiveOptions, slo: &BoundSlo) -> LiveRun {
    let Drive { recorder, wires, tally, mut meter, talks, origin: origin_ns, mut gaps, .. } = drive;
    meter.answers = (talks.returned, talks.made_up);
    let mut recording = recorder.into_recording();
    let warming = trace.classes.len();
    recording.itl.truncate(warming);
    recording.records.retain(|r| usize::from(r.class) < warming);
    let asked = |r: &Record| trace.requests[r.request as usize];
    let short = recording.records.iter().filter(|r| {
        let got = wires[r.request as usize].output().unwrap_or(r.output);
        r.completed() && got < asked(r).output
    });
    let short = short.count() as u64;
    for record in &mut recording.records {
        let wire = &wires[record.request as usize];
        if let Some(tokens) = wire.output().filter(|_| record.completed()) {
            record.output = tokens;
        }
        record.input = wire.prompt_tokens.unwrap_or(record.input);
    }
    let mut kept = |r: &Record| gaps.get_mut(r.request as usize).map(std::mem::take);
    let gaps: Vec<Vec<u64>> = recording.records.iter().filter_map(&mut kept).collect();
    let wires: Vec<Wire> = recording.records.iter().map(|r| wires[r.request as usize]).collect();
    let mut from_send = recording.clone();
    for (record, wire) in from_send.records.iter_mut().zip(&wires) {
        record.scheduled = wire.sent.unwrap_or(record.scheduled);
    }
    let mut audit = Audit::new(&meter, &recording, &wires, (options, slo, short));
    let failures = tally.named();
    audit.judge_failures(&recording.records, &failures);
    audit.judge_counts(&Doubtful::of(&recording.records, &wires, |r| asked(r).output));
    audit.judge_steadiness(&recording.records, trace, options);
    let (given_up, interrupted) = (Vec::new(), false);
    LiveRun { recording, from_send, wires, gaps, failures, audit, given_up, interrupted, origin_ns }
}

/// From the start of one stream of a closed loop to the next: sent all at once, the last would be late.
const STAGGER: Duration = Duration::from_micros(50);

/// The same requests with `streams` of them (or of their sessions) always under way: everything waits from the
/// start for one of so many seats, of which one more is given every 50 µs.
fn closed_loop(trace: &Trace, streams: u32) -> Trace {
    let mut trace = trace.clone();
    let mut fresh = trace.requests.iter().filter_map(|r| r.session).max().map_or(0, |s| s + 1);
    let mut latest: BTreeMap<u32, u32> = BTreeMap::new();
    let mut begun = 0;
    for (index, request) in (0u32..).zip(&mut trace.requests) {
        let session = request.session.unwrap_or_else(|| {
            fresh += 1;
            fresh - 1
        });
        request.session = Some(session);
        if matches!(request.arrival, Arrival::At(_)) {
            request.arrival = match latest.get(&session) {
                Some(&previous) => Arrival::After { previous, think: Duration::ZERO },
                None => Arrival::At(STAGGER * begun),
            };
            begun = streams.min(begun + 1);
        }
        latest.insert(session, index);
    }
    trace.max_concurrent_sessions = Some(streams);
    trace
}
