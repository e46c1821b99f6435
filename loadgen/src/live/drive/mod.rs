//! The loop that sends and reads: one thread, one poll, an absolute schedule.
//!
//! Sending and reading share a thread, yet reading cannot delay a send by more than one read: the time is looked at
//! after every read and whatever has come due goes out first. A thread of its own for pacing would need a core of
//! its own: where client and server share two, it waits for the scheduler instead (or, spinning, takes the core from
//! the server), and `cargo run --release -p knee-loadgen --example client_accuracy -- pacing` measures that. Waiting
//! ends by a timer descriptor `spin` before a send is due; the rest is polling.
//!
//! Tokens count from when the kernel says that their bytes arrived ([`crate::net::arrival`]), so
//! that a busy client, or one that had to wait for a core, does not make the server look slow.
//! Without the kernel's word they count from when the read returned, before a byte was looked at.
//! The longest time that bytes can have waited for the read is measured for every read and is part
//! of the audit.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use slab::Slab;
use workloads::Trace;

use super::conn::{Conn, Flight};
use super::conversation::{Hearing, Talks};
use super::endpoint::Endpoint;
use super::failure::{Kind, Tally};
use super::gauges::Gauges;
use super::meter::{Meter, Wire};
use super::prompt::{Asked, Prompter};
use super::vocabulary::Tokens;
use super::{LiveOptions, Progress};
use crate::error::Error;
use crate::net::{arrival::Receiver, clock, wait::Ready, wait::Wait};
use crate::record::Record;
use crate::recorder::Recorder;
use crate::replay::{Due, Replay};
use crate::slo::BoundSlo;
use crate::time::nanos;

mod answers;
mod connections;
mod descriptors;
mod ends;
mod piece;

use piece::Piece;

/// The interval at which the stop flag, time-outs and progress are looked at, ns.
const GLANCE: u64 = 100_000_000;
/// From the last preparation to the first send, ns.
const RUN_UP: u64 = 5_000_000;
/// Requests rendered ahead of time.
const AHEAD: usize = 32;
/// Time until the next send that is enough to render a request in, ns.
const LEISURE: u64 = 200_000;
/// The smallest difference of two times.
const INSTANT: Duration = Duration::from_nanos(1);
/// A wait shorter than this did not sleep: what it reports may have been there before, ns.
const NO_SLEEP: u64 = 3_000;

/// A run in progress.
pub(super) struct Drive<'a> {
    trace: &'a Trace,
    endpoint: &'a Endpoint,
    prompter: &'a Prompter,
    options: &'a LiveOptions,
    slo: &'a BoundSlo,
    /// After so long without a first token no target on it can be met any more, ns.
    patience: u64,
    pub(super) replay: Replay,
    pub(super) recorder: Recorder,
    pub(super) wires: Vec<Wire>,
    /// Gaps between tokens by request, where they are kept.
    pub(super) gaps: Vec<Vec<u64>>,
    pub(super) tally: Tally,
    pub(super) meter: Meter,
    gauges: &'a Gauges,
    pub(super) talks: Talks,
    /// True where the text of answers is to be counted where the server does not.
    pub(super) keep_texts: bool,
    /// True where the server's streams say why they end.
    pub(super) reasons: bool,
    /// Answers whose text is to be counted, as far as they have ended.
    texts: Vec<(u32, Hearing)>,
    wait: Wait,
    ready: Vec<Ready>,
    receiver: Receiver,
    conns: Slab<Conn>,
    idle: Vec<usize>,
    /// Being connected, and not for a request yet.
    connecting: Vec<usize>,
    most_conns: usize,
    /// Due, and no connection to be had.
    starving: VecDeque<Due>,
    /// Rendered ahead: (request, bytes), ascending.
    prepared: VecDeque<(u32, Vec<u8>)>,
    prepare_next: u32,
    buffers: Vec<Vec<u8>>,
    scratch: Vec<u8>,
    /// When times begin, ns of the clock.
    pub(super) origin: u64,
    /// Since when what the current events report can have been there.
    seen_from: u64,
    in_flight: usize,
    in_flight_since: u64,
    held_so_far: u128,
    no_spare_before: u64,
    /// So many answers in a row were left open after the mark of their end.
    left_open: u32,
    ends: Vec<Duration>,
    /// Bytes that are read and not understood yet: `filled` of them, cut into `pieces`.
    buffer: Vec<u8>,
    filled: usize,
    pieces: Vec<Piece>,
    /// The receiver of every request that ends. It says when it has had enough.
    tell: Option<Tell<'a>>,
    pub(super) progress: Progress,
}

/// The channel for ended requests, and the flag that says that they are enough.
pub(super) type Tell<'a> = (Sender<Record>, &'a AtomicBool);

impl<'a> Drive<'a> {
    pub(super) fn new(
        trace: &'a Trace,
        replay: Replay,
        (endpoint, prompter): (&'a Endpoint, &'a Prompter),
        (options, slo): (&'a LiveOptions, &'a BoundSlo),
        (gauges, tell): (&'a Gauges, Option<Tell<'a>>),
    ) -> Result<Self, Error> {
        let io = |e: io::Error| Error::Io("cannot poll sockets".to_owned(), e.to_string());
        Ok(Self {
            trace,
            endpoint,
            prompter,
            options,
            slo,
            patience: patience(slo),
            replay,
            // A class more than the trace has, for what is warm-up.
            recorder: Recorder::new(trace.requests.len(), trace.classes.len() + 1),
            wires: vec![Wire::default(); trace.requests.len()],
            gaps: vec![Vec::new(); if options.keep_gaps { trace.requests.len() } else { 0 }],
            tally: Tally::default(),
            meter: Meter::default(),
            gauges,
            talks: Talks::new(trace, prompter.shares()),
            keep_texts: false,
            reasons: false,
            texts: Vec::new(),
            wait: Wait::new().map_err(io)?,
            ready: Vec::new(),
            receiver: Receiver::new(),
            conns: Slab::new(),
            idle: Vec::new(),
            connecting: Vec::new(),
            most_conns: descriptors::most()
                .min(options.most_in_flight.map_or(usize::MAX, |n| n as usize)),
            starving: VecDeque::new(),
            prepared: VecDeque::new(),
            prepare_next: 0,
            buffers: Vec::new(),
            scratch: Vec::new(),
            origin: 0,
            seen_from: 0,
            in_flight: 0,
            in_flight_since: 0,
            held_so_far: 0,
            no_spare_before: 0,
            left_open: 0,
            ends: Vec::new(),
            buffer: vec![0; 512 << 10],
            filled: 0,
            pieces: Vec::new(),
            tell,
            progress: Progress::default(),
        })
    }

    /// Until everything is sent and answered, or `stop` says so.
    pub(super) fn run(&mut self, watch: &mut dyn FnMut(&Progress) -> bool) -> Result<(), Error> {
        self.drive(watch).map_err(|e| Error::Io("the run stopped".to_owned(), e.to_string()))
    }

    fn drive(&mut self, watch: &mut dyn FnMut(&Progress) -> bool) -> io::Result<()> {
        self.prepare(AHEAD);
        let cpu = clock::thread_cpu();
        self.origin = match self.options.start_at {
            None => clock::now() + RUN_UP,
            Some(start) => {
                let left = start.duration_since(SystemTime::now());
                clock::now() + nanos(left.map_err(|_| io::Error::other(too_late()))?)
            }
        };
        self.in_flight_since = self.origin;
        self.seen_from = self.origin;
        let mut glance = self.origin + GLANCE;
        while clock::now() < self.origin {
            self.wait.wait(self.origin)?;
            self.take_events();
        }
        let spin = nanos(self.options.spin);
        let mut looked = self.origin;
        loop {
            let before = clock::now();
            self.send_due(before);
            if self.is_over(before) {
                break;
            }
            if before >= glance {
                glance = before + GLANCE;
                self.give_up_late(before);
                if !self.report(before, watch) {
                    self.cancel(before);
                    break;
                }
            }
            let next = self.next_due().unwrap_or(u64::MAX).saturating_sub(spin).min(glance);
            if next > before + LEISURE {
                self.prepare(1);
                self.prepare_turn();
                self.top_up(before);
            }
            let asleep = clock::now();
            self.wait.wait(next)?;
            let awake = clock::now();
            // Bytes reported now came while it slept, or since it last looked.
            let slept = awake - asleep > NO_SLEEP;
            self.seen_from = if slept { awake } else { looked };
            looked = awake;
            self.take_events();
        }
        let end = clock::now();
        self.meter.cpu = clock::thread_cpu().saturating_sub(cpu);
        self.meter.wall = Duration::from_nanos(end.saturating_sub(self.origin));
        self.report(end, watch);
        Ok(())
    }

    fn since(&self, at: u64) -> Duration {
        Duration::from_nanos(at.saturating_sub(self.origin))
    }

    fn is_over(&self, now: u64) -> bool {
        let sent = self.replay.is_done() || self.is_closing(now);
        sent && self.in_flight == 0 && self.starving.is_empty()
    }

    /// True where the time for sending is over.
    fn is_closing(&self, now: u64) -> bool {
        self.is_enough() || self.options.duration.is_some_and(|d| now >= self.origin + nanos(d))
    }

    fn is_enough(&self) -> bool {
        self.tell.as_ref().is_some_and(|(_, enough)| enough.load(Ordering::Relaxed))
    }

    /// True if there is a receiver of ended requests.
    pub(super) fn tells(&self) -> bool {
        self.tell.is_some()
    }

    /// Counts the tokens of answers that the server did not count.
    pub(super) fn count_texts(&mut self, tokens: Option<&Tokens>) {
        for (request, heard) in self.texts.drain(..) {
            self.wires[request as usize].tokenized = tokens.and_then(|t| heard.tokens(t));
        }
    }

    /// Lets the receiver know that the run is over.
    pub(super) fn tell_no_more(&mut self) {
        self.tell = None;
    }

    /// When the next send is due.
    fn next_due(&self) -> Option<u64> {
        let due = self.origin + nanos(self.replay.peek().filter(|_| !self.is_enough())?);
        let last = self.options.duration.map_or(u64::MAX, |d| self.origin + nanos(d));
        (due < last).then_some(due)
    }

    /// Sends what is due, however late it is noticed; nothing that is due after the end of the duration.
    fn send_due(&mut self, now: u64) {
        if self.is_enough() {
            return;
        }
        let end = self.options.duration.map_or(Duration::MAX, |d| d.saturating_sub(INSTANT));
        while let Some(due) = self.replay.next(self.since(now).min(end)) {
            let request = &self.trace.requests[due.request as usize];
            let warming = due.at < self.options.warmup;
            let class = if warming { self.trace.classes.len() as u16 } else { request.class };
            self.recorder.arrive(due.request, class, request.input, due.at);
            self.progress.due += 1;
            self.count_flights(1, now);
            self.launch(due);
        }
    }

    /// Puts a request on a connection.
    fn launch(&mut self, due: Due) {
        let key = match self.idle.pop().or_else(|| self.connecting.pop()) {
            Some(key) => key,
            None if self.conns.len() >= self.most_conns => {
                self.wires[due.request as usize].held_back = true;
                self.starving.push_back(due);
                return;
            }
            None => match self.open() {
                Ok(key) => key,
                Err(e) => {
                    self.fail(due.request, (Kind::of(&e), e.to_string()), None, clock::now());
                    return;
                }
            },
        };
        let bytes = self.bytes(due.request);
        let at = self.origin + nanos(due.at);
        let deadline = at.saturating_add(nanos(self.options.timeout));
        let flight = Flight::new(due.request, at, deadline);
        self.talks.sent(due.request);
        let heard = self.talks.awaits(due.request) || self.keep_texts;
        let hearing = heard.then(|| Box::new(Hearing::new(self.prompter.writes_ids())));
        let conn = &mut self.conns[key];
        conn.board(flight, bytes);
        conn.answer.stream.hearing = hearing;
        if conn.established {
            self.pump(key);
        }
    }

    /// The bytes of a request, rendered ahead or now.
    fn bytes(&mut self, request: u32) -> Vec<u8> {
        if let Ok(found) = self.prepared.binary_search_by_key(&request, |p| p.0)
            && let Some((_, bytes)) = self.prepared.remove(found)
        {
            return bytes;
        }
        self.prepare_next = self.prepare_next.max(request + 1);
        self.render(request)
    }

    fn render(&mut self, index: u32) -> Vec<u8> {
        let mut bytes = self.buffers.pop().unwrap_or_default();
        let passages = &self.talks.passages(self.trace, index);
        let awaited = self.talks.awaits(index);
        let asked = Asked { trace: self.trace, index, passages, awaited };
        self.prompter.render(&asked, &mut self.scratch, &mut bytes);
        bytes
    }

    /// Renders up to `most` of the next requests that wait for no answer.
    fn prepare(&mut self, most: usize) {
        let target = AHEAD.min(self.prepared.len() + most);
        while self.prepared.len() < target {
            let Some(next) = self.trace.requests.get(self.prepare_next as usize) else { return };
            let request = self.prepare_next;
            self.prepare_next += 1;
            let waits = !matches!(next.arrival, workloads::Arrival::At(_));
            if !waits && self.replay.owns(request) && self.talks.is_ready(request) {
                let bytes = self.render(request);
                self.prepared.push_back((request, bytes));
            }
        }
    }

    /// Renders the request that is due next, if that has been waiting for an answer.
    fn prepare_turn(&mut self) {
        let Some(Due { request, .. }) = self.replay.upcoming() else { return };
        if let Err(place) = self.prepared.binary_search_by_key(&request, |p| p.0)
            && self.prepared.len() < 2 * AHEAD
            && self.talks.is_ready(request)
        {
            let bytes = self.render(request);
            self.prepared.insert(place, (request, bytes));
        }
    }

    /// Hands the socket what it takes of a request.
    fn pump(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        let Some(flight) = &mut conn.flight else { return };
        if flight.sent == 0 {
            flight.sent = clock::now();
            let wire = &mut self.wires[flight.request as usize];
            wire.sent = Some(Duration::from_nanos(flight.sent.saturating_sub(self.origin)));
            if !wire.held_back {
                self.gauges.late.record(flight.sent.saturating_sub(flight.due));
            }
            self.progress.sent += 1;
            let (ttft, _) = self.options.fluid.unwrap_or_default();
            flight.expected = flight.due + nanos(ttft);
        }
        while conn.written < conn.out.len() {
            match conn.io.write(&conn.out[conn.written..]) {
                Ok(0) => return,
                Ok(n) => conn.written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.broken(key, Kind::of(&e), &e.to_string());
                    return;
                }
            }
        }
    }

    fn report(&mut self, now: u64, watch: &mut dyn FnMut(&Progress) -> bool) -> bool {
        self.progress.elapsed = self.since(now);
        self.progress.in_flight = self.in_flight as u64;
        let too_late = now.saturating_sub(self.patience);
        let missed = |c: &Conn| {
            let unanswered = c.answer.stream.chunks == 0;
            c.flight.as_ref().is_some_and(|f| f.late || (unanswered && f.due < too_late))
        };
        self.progress.missing = self.conns.iter().filter(|(_, c)| missed(c)).count() as u64;
        watch(&self.progress)
    }
}

/// A schedule whose beginning is over cannot be kept.
pub(super) fn too_late() -> Error {
    Error::Endpoint("the instant of --start-at has passed: give a later one".to_owned())
}

/// The loosest limit on the first token, ns; without one, none.
fn patience(slo: &BoundSlo) -> u64 {
    let targets = slo.slo().targets().iter();
    let first = targets.filter(|t| t.metric.from_arrival());
    first.map(|t| nanos(t.limit)).max().unwrap_or(u64::MAX)
}
