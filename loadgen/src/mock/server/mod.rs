//! The mock's loop: sockets in, due tokens out.
//!
//! Service time is the monotonic clock without the stalls, so that a stall delays everything under
//! way and nothing needs to know of it. All tokens due at an instant leave in one write per stream.
//! A request is served from when it arrived, not from when this loop found the time to read it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use slab::Slab;

use super::fault::Fault;
use super::log::{Log, Truth};
use super::reply::{Event, Protocol, Voice};
use super::{MockOptions, Served};
use crate::net::{arrival, arrival::Receiver, clock, wait::Wait};
use crate::time::nanos;

mod chunked;
mod requests;

/// Token of the listener, out of the connections' way.
const LISTENER: usize = usize::MAX - 1;
/// Time between two looks at the stop flag, ns.
const GLANCE: u64 = 100_000_000;
/// A dripping answer's pause between bytes, ns.
const DRIP: u64 = 1_000_000_000;

pub(super) struct Server {
    listener: TcpListener,
    wait: Wait,
    receiver: Receiver,
    options: MockOptions,
    /// The model's name as JSON.
    model: String,
    conns: Slab<Conn>,
    /// Tokens to come: (service time, connection, its generation).
    due: BinaryHeap<Reverse<(u64, usize, u64)>>,
    /// Connections whose request waits for a slot, with their generation.
    queue: VecDeque<(usize, u64)>,
    running: u32,
    /// The latest instant at which a slot became free that a request may have waited for.
    freed: u64,
    generations: u64,
    started: u64,
    created: u64,
    log: Log,
    served: Served,
    buffer: Vec<u8>,
}

/// A client.
struct Conn {
    stream: TcpStream,
    /// Received and not understood yet.
    inbox: Vec<u8>,
    /// Not taken by the socket yet, from `sent` on.
    outbox: Vec<u8>,
    sent: usize,
    /// Changes with every request, so that stale timers and queue entries can be told.
    generation: u64,
    work: Option<Work>,
    /// To be closed once the outbox is empty.
    closing: bool,
    /// Was told to go on and send its body.
    continued: bool,
    /// Its answer leaves byte by byte.
    dripping: bool,
    /// Its client speaks HTTP/1.0.
    old: bool,
}

/// A request under way.
struct Work {
    truth: Truth,
    voice: Voice,
    stream: bool,
    usage: bool,
    fault: Option<Fault>,
    output: u32,
    emitted: u32,
    /// Service time of the first token.
    first_due: u64,
    holds_slot: bool,
    event: Event,
}

/// The state in which reading and answering left a connection.
#[derive(PartialEq, Eq)]
enum Fate {
    Open,
    Closed,
}

impl Server {
    pub(super) fn bind(
        address: impl ToSocketAddrs,
        options: MockOptions,
        log: Option<Box<dyn Write + Send>>,
    ) -> io::Result<Self> {
        let address = address
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "no such address"))?;
        let mut listener = TcpListener::bind(address)?;
        let wait = Wait::new()?;
        wait.registry().register(&mut listener, Token(LISTENER), Interest::READABLE)?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        Ok(Self {
            listener,
            wait,
            receiver: Receiver::new(),
            model: serde_json::Value::from(options.model.as_str()).to_string(),
            options,
            conns: Slab::new(),
            due: BinaryHeap::new(),
            queue: VecDeque::new(),
            running: 0,
            freed: 0,
            generations: 0,
            started: clock::now(),
            created,
            log: Log::new(log),
            served: Served::default(),
            buffer: vec![0; 256 << 10],
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    pub(super) fn serve(mut self, stop: &AtomicBool) -> io::Result<Served> {
        self.started = clock::now();
        let mut flushed = self.started;
        while !stop.load(Ordering::Relaxed) {
            let now = clock::now();
            self.emit_due(now);
            let next = self.due.peek().map_or(u64::MAX, |d| self.wall(d.0.0));
            self.wait.wait(next.min(now + GLANCE))?;
            self.receiver.set_clock();
            let ready: Vec<_> = self.wait.ready().collect();
            for event in ready {
                if event.token == LISTENER {
                    self.accept();
                } else {
                    self.progress(event.token, event.writable, event.closed);
                }
            }
            if now > flushed + 10 * GLANCE {
                self.log.flush();
                flushed = now;
            }
        }
        let open: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        open.into_iter().for_each(|key| self.close(key));
        self.log.close()?;
        Ok(self.served)
    }

    /// Service time at an instant of the clock: time since the start without the stalls.
    fn service(&self, wall: u64) -> u64 {
        let since = wall.saturating_sub(self.started);
        let stalled = |&(at, lasts): &(_, _)| since.saturating_sub(nanos(at)).min(nanos(lasts));
        since - self.options.stalls.iter().map(stalled).sum::<u64>()
    }

    /// The instant at which service time gets there: the end of a stall, if it stands still there.
    fn wall(&self, service: u64) -> u64 {
        let mut since = service;
        for &(at, lasts) in &self.options.stalls {
            if since >= nanos(at) {
                since += nanos(lasts);
            }
        }
        self.started + since
    }

    fn accept(&mut self) {
        // Out of descriptors, the rest waits in the backlog; another error concerns one client.
        while let Ok((mut stream, _)) = self.listener.accept() {
            let _ = stream.set_nodelay(true);
            arrival::note(&stream);
            let entry = self.conns.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.wait.registry().register(&mut stream, Token(entry.key()), interest).is_err() {
                continue;
            }
            entry.insert(Conn {
                stream,
                inbox: Vec::new(),
                outbox: Vec::new(),
                sent: 0,
                generation: 0,
                work: None,
                closing: false,
                continued: false,
                dripping: false,
                old: false,
            });
            self.served.connections += 1;
        }
    }

    /// Reads and writes what a connection can.
    fn progress(&mut self, key: usize, writable: bool, closed: bool) {
        if !self.conns.contains(key) {
            return;
        }
        if (writable && self.flush(key) == Fate::Closed)
            || self.receive(key, closed) == Fate::Closed
        {
            self.close(key);
        }
    }

    /// Gives the request of a connection a slot, from when it arrived at `at`, and at once what is due at once.
    fn seat(&mut self, key: usize, at: u64) -> Fate {
        // It may have arrived while the slot was another's.
        let Some(due) = self.occupy(key, at.max(self.freed)) else { return Fate::Open };
        let now = clock::now();
        if self.wall(due) <= now {
            return self.emit(key, now);
        }
        self.due.push(Reverse((due, key, self.conns[key].generation)));
        Fate::Open
    }

    /// Puts the request of a connection on a slot that it has had since `at`; the service time of its first token.
    fn occupy(&mut self, key: usize, at: u64) -> Option<u64> {
        let service = self.service(at);
        let work = self.conns[key].work.as_mut()?;
        self.running += 1;
        self.served.peak_streams = self.served.peak_streams.max(u64::from(self.running));
        work.holds_slot = true;
        work.truth.started_ns = Some(at);
        let tokens = if work.stream { 0 } else { work.output - 1 };
        let delay = nanos(self.options.itl).saturating_mul(u64::from(tokens));
        work.first_due = service + nanos(self.options.ttft) + delay;
        Some(work.first_due)
    }

    fn emit_due(&mut self, now: u64) {
        let service = self.service(now);
        while let Some(&Reverse((due, key, generation))) = self.due.peek() {
            if due > service || self.wall(due) > now {
                return;
            }
            self.due.pop();
            let current = self.conns.get(key).is_some_and(|c| c.generation == generation);
            if current && self.emit(key, clock::now()) == Fate::Closed {
                self.close(key);
            }
        }
    }

    /// Sends every token that is due, and the end with the last.
    fn emit(&mut self, key: usize, now: u64) -> Fate {
        let service = self.service(now);
        let itl = nanos(self.options.itl);
        let conn = &mut self.conns[key];
        let Some(work) = &mut conn.work else { return self.drip(key, service) };
        if !work.stream {
            return self.emit_whole(key, now);
        }
        let behind = service.saturating_sub(work.first_due).checked_div(itl);
        let so_far = behind.map_or(u64::MAX, |n| n + 1).min(u64::from(work.output)) as u32;
        let cut = work.fault == Some(Fault::Cut) && so_far > work.output / 2;
        let so_far = if cut { work.output / 2 } else { so_far };
        let fresh = so_far - work.emitted;
        let out = &mut conn.outbox;
        if work.emitted == 0 && fresh > 0 {
            out.extend_from_slice(work.voice.head());
            if work.voice.protocol == Protocol::Chat {
                out.extend_from_slice(&work.voice.role(&self.model));
            }
            work.truth.first_ns = Some(now);
        }
        let last = so_far == work.output;
        for place in work.emitted..so_far - u32::from(last) {
            work.event.append(place, out);
        }
        if last {
            work.voice.event(&self.model, true).append(so_far - 1, out);
            let usage = work.usage.then_some((work.truth.prompt_tokens, work.output));
            out.extend_from_slice(&work.voice.end(&self.model, usage));
        }
        work.emitted = so_far;
        self.served.tokens += u64::from(fresh);
        let first = work.truth.first_ns.unwrap_or(now);
        if fresh > 0 && self.log.is_kept() {
            work.truth.writes.push((now - first, fresh));
        }
        if !last && !cut {
            let next = (work.first_due + u64::from(so_far) * itl, key, conn.generation);
            self.due.push(Reverse(next));
        }
        let drips = conn.dripping;
        if cut {
            let _ = self.flush(key);
            self.finish(key, "cut");
            return Fate::Closed;
        }
        if last {
            self.served.completed += 1;
            let outcome = if drips { "drip" } else { "complete" };
            if drips {
                // The rest of the outbox now leaves byte by byte; the request is over for the log
                // and its slot.
                let generation = self.conns[key].generation;
                self.due.push(Reverse((service + DRIP, key, generation)));
                self.conclude(key, outcome);
                return Fate::Open;
            }
            if self.flush(key) == Fate::Closed {
                return Fate::Closed;
            }
            return self.finish(key, outcome);
        }
        self.flush(key)
    }

    fn emit_whole(&mut self, key: usize, now: u64) -> Fate {
        let Some(work) = &mut self.conns[key].work else { return Fate::Open };
        work.truth.first_ns = Some(now);
        work.truth.writes.push((0, work.output));
        self.served.tokens += u64::from(work.output);
        self.served.completed += 1;
        let bytes = work.voice.whole(&self.model, work.truth.prompt_tokens, work.output);
        if self.send(key, &bytes) == Fate::Closed {
            return Fate::Closed;
        }
        self.finish(key, "complete")
    }

    /// One more byte of a dripping answer.
    fn drip(&mut self, key: usize, service: u64) -> Fate {
        let conn = &mut self.conns[key];
        let Some(byte) = conn.outbox.get(conn.sent..=conn.sent) else { return Fate::Open };
        match conn.stream.write(byte) {
            Ok(n) => conn.sent += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Fate::Closed,
        }
        if conn.sent == conn.outbox.len() {
            conn.dripping = false;
            return self.flush(key);
        }
        self.due.push(Reverse((service + DRIP, key, conn.generation)));
        Fate::Open
    }

    /// The request of a connection is over; the connection goes on with the next.
    fn finish(&mut self, key: usize, outcome: &str) -> Fate {
        self.conclude(key, outcome);
        if self.conns[key].closing {
            return self.flush(key);
        }
        self.answer_next(key, clock::now())
    }

    /// Logs the request of a connection and gives its slot to the next in line.
    fn conclude(&mut self, key: usize, outcome: &str) {
        let Some(mut work) = self.conns[key].work.take() else { return };
        if self.log.is_kept() {
            work.truth.end_ns = clock::now();
            outcome.clone_into(&mut work.truth.outcome);
            self.log.push(&work.truth);
        }
        if !work.holds_slot {
            return;
        }
        if self.options.slots == Some(self.running) {
            self.freed = clock::now();
        }
        self.running -= 1;
        while let Some((next, generation)) = self.queue.pop_front() {
            let waits = self.conns.get(next).is_some_and(|c| {
                c.generation == generation && c.work.as_ref().is_some_and(|w| !w.holds_slot)
            });
            if waits {
                // Through the timers, not by recursion: a long queue of instant answers would be a deep stack.
                if let Some(due) = self.occupy(next, clock::now()) {
                    self.due.push(Reverse((due, next, generation)));
                }
                return;
            }
        }
    }

    fn send(&mut self, key: usize, bytes: &[u8]) -> Fate {
        self.conns[key].outbox.extend_from_slice(bytes);
        self.flush(key)
    }

    /// Hands the socket what it takes.
    fn flush(&mut self, key: usize) -> Fate {
        let conn = &mut self.conns[key];
        while conn.sent < conn.outbox.len() && !conn.dripping {
            match conn.stream.write(&conn.outbox[conn.sent..]) {
                Ok(0) => return Fate::Closed,
                Ok(n) => conn.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Fate::Open,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Fate::Closed,
            }
        }
        if conn.dripping {
            return Fate::Open;
        }
        conn.outbox.clear();
        conn.sent = 0;
        if conn.closing && conn.work.is_none() { Fate::Closed } else { Fate::Open }
    }

    /// Drops a connection and whatever it was waiting for.
    fn close(&mut self, key: usize) {
        if !self.conns.contains(key) {
            return;
        }
        self.conclude(key, "gone");
        let mut conn = self.conns.remove(key);
        let _ = self.wait.registry().deregister(&mut conn.stream);
    }
}
