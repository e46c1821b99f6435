//! The reading half of the loop: what arrives on a connection, and how a request ends.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::super::answer::{Answer, Trouble};
use super::super::chunk::Finish;
use super::super::conn::{Conn, Flight};
use super::super::failure::Kind;
use super::super::talk::Hearing;
use super::{Drive, GLANCE};
use crate::net::{clock, wait::Ready};
use crate::record::Outcome;
use crate::time::nanos;

/// Free bytes of the buffer that are enough for a read.
const ROOM: usize = 64 << 10;
/// How long an answer may stay open after the mark of its end (ten times as long after its last token), ns.
const LINGER: u64 = 100_000_000;

/// What one read brought.
pub(super) struct Piece {
    key: usize,
    /// Tells the connection from later ones in its place.
    serial: u64,
    /// So many of the buffer, after those of the pieces before.
    bytes: usize,
    /// When it arrived; where nobody knows, when it was read.
    at: u64,
    lag: Lag,
    end: Option<End>,
}

/// Time between the arrival of bytes and their read, ns.
#[derive(Clone, Copy)]
enum Lag {
    Known(u64),
    AtMost(u64),
}

/// Why no more will come.
enum End {
    Closed,
    Broken(Kind, String),
}

impl Drive<'_> {
    /// Goes on with every connection that can, and sends what comes due in between. All that is there is read before
    /// any of it is looked at: when many tokens come at once, the last one's time does not depend on what it takes to
    /// understand the others even where the kernel does not stamp them.
    pub(super) fn take_events(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        ready.extend(self.wait.ready());
        if !ready.is_empty() {
            self.receiver.set_clock();
        }
        let mut next = self.next_due().unwrap_or(u64::MAX);
        for event in ready.drain(..) {
            let now = self.advance(event);
            if self.origin > 0 && now >= next {
                self.send_due(now);
                next = self.next_due().unwrap_or(u64::MAX);
            }
        }
        self.ready = ready;
        self.understand();
    }

    /// Goes on with one connection; the time of its last read, 0 if there was none.
    fn advance(&mut self, event: Ready) -> u64 {
        let key = event.token;
        let Some(conn) = self.conns.get_mut(key) else { return 0 };
        if !conn.established {
            match conn.io.establish() {
                Ok(false) => return 0,
                Ok(true) => {
                    conn.established = true;
                    if conn.flight.is_some() {
                        self.pump(key);
                    } else {
                        self.connecting.retain(|&k| k != key);
                        self.idle.push(key);
                    }
                }
                Err(e) => {
                    self.no_spare_before = clock::now() + 10 * GLANCE;
                    self.broken(key, connecting(Kind::of(&e)), &e.to_string());
                    return 0;
                }
            }
        } else if event.writable {
            match conn.io.flush() {
                Ok(true) if conn.flight.is_some() && conn.written < conn.out.len() => {
                    self.pump(key);
                }
                Ok(_) => {}
                Err(e) => {
                    self.broken(key, Kind::of(&e), &e.to_string());
                    return 0;
                }
            }
        }
        // Sending may have failed, and its place may be another connection's by now.
        let there = self.conns.get(key).is_some_and(|c| c.established);
        if there { self.receive(key, event.closed) } else { 0 }
    }

    /// Reads what is there; when.
    fn receive(&mut self, key: usize, closed: bool) -> u64 {
        let serial = self.conns[key].serial;
        loop {
            if self.buffer.len() - self.filled < ROOM {
                self.understand();
            }
            let Some(conn) = self.conns.get_mut(key).filter(|c| c.serial == serial) else {
                return 0;
            };
            let free = &mut self.buffer[self.filled..];
            let room = free.len();
            let read = conn.io.read(free, &mut self.receiver);
            let now = clock::now();
            let (bytes, end) = match read {
                Ok(0) => (0, Some(End::Closed)),
                Ok(n) => (n, None),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return now,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => (0, Some(End::Broken(reading(Kind::of(&e)), e.to_string()))),
            };
            let more = end.is_none() && (bytes == room || closed || !conn.io.short_read_empties());
            let (at, lag) = match conn.io.arrived().filter(|_| bytes > 0) {
                Some(at) => (at, Lag::Known(now.saturating_sub(at))),
                None => (now, Lag::AtMost(now.saturating_sub(self.seen_from))),
            };
            self.filled += bytes;
            self.pieces.push(Piece { key, serial, bytes, at, lag, end });
            if !more {
                return now;
            }
        }
    }

    /// Makes sense of all that has been read.
    fn understand(&mut self) {
        let mut pieces = std::mem::take(&mut self.pieces);
        let mut from = 0;
        let earliest = pieces.iter().filter(|p| p.bytes > 0).map(|p| p.at).min().unwrap_or(0);
        for Piece { key, serial, bytes, at, lag, end } in pieces.drain(..) {
            let range = from..from + bytes;
            from += bytes;
            // What came before may have ended the connection, and its place may be another's by now.
            if self.conns.get(key).is_none_or(|c| c.serial != serial) {
                continue;
            }
            match end {
                None => {
                    let tokens = self.take_in(key, range, at);
                    let (lag, error) = match lag {
                        // The stamp is the last segment's. Others may have lain there as long as anything did.
                        Lag::Known(lag) if tokens > 1 => (lag, at.saturating_sub(earliest)),
                        Lag::Known(lag) => (lag, 0),
                        Lag::AtMost(lag) => (lag, lag),
                    };
                    self.meter.lag.record_nanos(lag, 1);
                    self.meter.stamp_error.record_nanos(error, 1);
                    self.gauges.stamp_error.record(error);
                }
                Some(End::Closed) => self.ended(key, at),
                Some(End::Broken(kind, why)) => self.broken(key, kind, &why),
            }
        }
        (self.pieces, self.filled) = (pieces, 0);
    }

    /// Understands a piece of the buffer; the tokens in it.
    fn take_in(&mut self, key: usize, range: Range<usize>, at: u64) -> u32 {
        let conn = &mut self.conns[key];
        let tokens = match conn.absorb(&self.buffer[range]) {
            Ok(tokens) => tokens,
            Err((kind, why)) => {
                self.broken(key, kind, &why);
                return 0;
            }
        };
        let (mut done, marked) = (conn.answer.response.is_done(), conn.answer.stream.marked);
        let chunks = conn.answer.stream.chunks;
        // Stamps are of two clocks; what happened in order stays so.
        let at = conn.flight.as_ref().map_or(at, |f| at.max(f.latest).max(f.sent));
        if let Some(flight) = conn.flight.as_mut().filter(|_| tokens > 0) {
            let time = Duration::from_nanos(at.saturating_sub(self.origin));
            self.ends.clear();
            self.ends.resize(tokens as usize, time);
            self.recorder.emit(&[flight.request], time, &self.ends);
            self.progress.tokens += u64::from(tokens);
            let first = chunks == tokens;
            if first {
                self.gauges.ttft.record(at.saturating_sub(flight.due));
                flight.late = at > flight.due.saturating_add(self.patience);
            }
            if self.options.keep_gaps {
                flight.gaps.extend((!first).then(|| at - flight.latest));
                flight.gaps.resize(chunks as usize - 1, 0);
            }
            flight.latest = at;
            if let Some((_, itl)) = self.options.fluid {
                fluid(&mut self.meter.fluid, &mut flight.expected, (at, tokens), nanos(itl));
            }
        }
        let conn = &mut self.conns[key];
        if conn.answer.is_told() && !done {
            done = marked && self.leaves_open;
            let linger = if marked { LINGER } else { 10 * LINGER };
            if let Some(flight) = &mut conn.flight {
                flight.deadline = flight.deadline.min(at.saturating_add(linger));
            }
        }
        if done {
            self.conclude(key, at);
        }
        tokens
    }

    /// The response of a connection is whole, or nobody waits for the rest of it.
    fn conclude(&mut self, key: usize, at: u64) {
        let conn = &mut self.conns[key];
        let verdict = conn.answer.verdict();
        let response = &conn.answer.response;
        let keep = response.is_done() && response.keep_alive && conn.written == conn.out.len();
        let (flight, mut answer) = (conn.flight.take(), std::mem::take(&mut conn.answer));
        conn.reused = true;
        let mut out = std::mem::take(&mut conn.out);
        out.clear();
        if self.buffers.len() < 1024 {
            self.buffers.push(out);
        }
        if keep {
            self.idle.push(key);
        } else {
            self.drop_conn(key);
        }
        if let Some(flight) = flight {
            self.decide(flight, &mut answer, verdict, at);
        }
        self.feed_starving();
    }

    /// A request is over, and that is what came of it.
    fn decide(
        &mut self,
        mut flight: Flight,
        answer: &mut Answer,
        verdict: Result<(), Trouble>,
        at: u64,
    ) {
        self.settle(&mut flight, answer);
        match verdict {
            Ok(()) => {
                if let Some(heard) = answer.stream.hearing.take() {
                    self.hear(&flight, answer, *heard);
                }
                self.complete(flight.request, at);
            }
            Err(trouble) => self.fail(flight.request, trouble, answer.response.retry_after, at),
        }
    }

    /// The server has closed the connection.
    fn ended(&mut self, key: usize, at: u64) {
        let conn = &mut self.conns[key];
        if conn.answer.response.ends_with_connection() {
            self.conclude(key, at);
        } else {
            let answered = conn.flight.as_ref().is_some_and(|f| f.answered);
            let when = if answered { "in the middle" } else { "before it answered" };
            self.broken(key, Kind::Cut, &format!("the server closed the connection {when}"));
        }
    }

    /// A connection is no longer of use. A request that an idle connection was closed under goes out again; one whose
    /// answer had come all the same is answered.
    pub(super) fn broken(&mut self, key: usize, kind: Kind, why: &str) {
        let mut conn = self.drop_conn(key);
        let Some(mut flight) = conn.flight.take() else { return };
        let closed = matches!(kind, Kind::Cut | Kind::Reset);
        let stale = conn.reused && !flight.answered && closed;
        if stale && let Ok(fresh) = self.open() {
            self.meter.resent += 1;
            let hearing = conn.answer.stream.hearing.take();
            let again = &mut self.conns[fresh];
            flight.answered = false;
            again.board(flight, conn.out);
            again.answer.stream.hearing = hearing;
            return;
        }
        let verdict = conn.answer.broken((kind, why.to_owned()));
        self.decide(flight, &mut conn.answer, verdict, clock::now());
        self.feed_starving();
    }

    fn drop_conn(&mut self, key: usize) -> Conn {
        let mut conn = self.conns.remove(key);
        // Closing removes it from the poll; not having been in it is no error.
        let _ = self.wait.registry().deregister(conn.io.socket());
        if conn.flight.is_none() {
            self.idle.retain(|&k| k != key);
            self.connecting.retain(|&k| k != key);
        }
        conn
    }

    fn feed_starving(&mut self) {
        let room = !self.idle.is_empty() || self.conns.len() < self.most_conns;
        if room && let Some(due) = self.starving.pop_front() {
            self.launch(due);
        }
    }

    /// Keeps what the wire showed of a request.
    fn settle(&mut self, flight: &mut Flight, answer: &Answer) {
        if self.options.keep_gaps {
            self.gaps[flight.request as usize] = std::mem::take(&mut flight.gaps);
        }
        let (wire, stream) = (&mut self.wires[flight.request as usize], &answer.stream);
        (wire.chunks, wire.coalesced, wire.several) =
            (stream.chunks, stream.coalesced, stream.several);
        wire.full = stream.finish == Finish::Length;
        wire.prompt_tokens = stream.usage.prompt_tokens;
        wire.completion_tokens = stream.usage.completion_tokens;
    }

    /// Keeps an answer for whoever needs it.
    fn hear(&mut self, flight: &Flight, answer: &Answer, heard: Hearing) {
        let usage = answer.stream.usage;
        if self.keep_texts && usage.completion_tokens.is_none() {
            self.texts.push((flight.request, heard.clone()));
        }
        self.talks.heard(self.trace, flight.request, heard, usage);
    }

    fn complete(&mut self, request: u32, at: u64) {
        self.progress.completed += 1;
        self.over(request, at, Outcome::Completed);
        let record = self.recorder.record(request);
        self.progress.missed += u64::from(!self.slo.meets(&record));
        if let Some(tpot) = record.tpot() {
            self.gauges.tpot.record(nanos(tpot));
        }
    }

    pub(super) fn fail(
        &mut self,
        request: u32,
        (kind, why): Trouble,
        retry_after: Option<Duration>,
        at: u64,
    ) {
        self.tally.note(kind, &why, retry_after);
        self.progress.failed += 1;
        self.progress.missed += 1;
        self.over(request, at, kind.outcome());
    }

    fn over(&mut self, request: u32, at: u64, outcome: Outcome) {
        let time = self.since(at);
        self.recorder.finish(request, time, outcome);
        self.talks.over(request);
        self.replay.completed(request, time);
        self.count_flights(-1, at);
        if let Some((say, _)) = &self.tell {
            let record = self.recorder.record(request);
            // Nobody listens any more once it was enough.
            let counts = usize::from(record.class) < self.trace.classes.len();
            let _ = counts.then(|| say.send(record));
        }
    }

    pub(super) fn count_flights(&mut self, change: isize, now: u64) {
        let spent = now.saturating_sub(self.in_flight_since);
        self.held_so_far += spent as u128 * self.in_flight as u128;
        self.in_flight_since = self.in_flight_since.max(now);
        self.in_flight = self.in_flight.saturating_add_signed(change);
        if change > 0 {
            self.meter.peak = self.meter.peak.max(self.in_flight);
            (self.meter.held_ns, self.meter.until_ns) =
                (self.held_so_far, now.saturating_sub(self.origin));
        }
    }

    /// Gives up what has taken too long.
    pub(super) fn give_up_late(&mut self, now: u64) {
        let late = |c: &Conn| c.flight.as_ref().is_some_and(|f| f.deadline <= now);
        let keys: Vec<usize> = self.conns.iter().filter(|(_, c)| late(c)).map(|(k, _)| k).collect();
        for key in keys {
            if self.conns[key].answer.stream.marked {
                self.leaves_open = true;
                self.conclude(key, now);
                continue;
            }
            let timeout = self.options.timeout;
            self.broken(key, Kind::Timeout, &format!("no end within {timeout:?}"));
        }
    }

    /// The user has had enough: what is under way stays unfinished.
    pub(super) fn cancel(&mut self, now: u64) {
        let trouble = || (Kind::Cancelled, "the run was interrupted".to_owned());
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            let mut conn = self.drop_conn(key);
            if let Some(mut flight) = conn.flight.take() {
                self.settle(&mut flight, &conn.answer);
                self.fail(flight.request, trouble(), None, now);
            }
        }
        while let Some(due) = self.starving.pop_front() {
            self.fail(due.request, trouble(), None, now);
        }
    }
}

/// A connection that ends before it is one was refused in another way.
fn connecting(kind: Kind) -> Kind {
    if kind == Kind::Cut { Kind::Unreachable } else { kind }
}

/// While reading, a socket's time-out or refusal is the end of a connection that existed.
fn reading(kind: Kind) -> Kind {
    if matches!(kind, Kind::Tls | Kind::Reset) { kind } else { Kind::Cut }
}

/// Counts `tokens` that came at `at` against when they were expected: a late one misses its own deadline and all
/// that passed meanwhile, and the next ones are counted from it (the fluidity index of Agrawal et al., Etalon, 2024).
fn fluid(sum: &mut (u64, u64), expected: &mut u64, (at, tokens): (u64, u32), itl: u64) {
    for _ in 0..tokens {
        if at <= *expected {
            sum.0 += 1;
            sum.1 += 1;
            *expected += itl;
        } else {
            sum.1 += 1 + (at - *expected) / itl.max(1);
            *expected = at + itl;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fluidity_counts_the_deadlines_that_passed() {
        let mut sum = (0, 0);
        let mut expected = 100;
        fluid(&mut sum, &mut expected, (90, 1), 20);
        assert_eq!((sum, expected), ((1, 1), 120), "early: the slack stays");
        fluid(&mut sum, &mut expected, (165, 1), 20);
        assert_eq!((sum, expected), ((1, 4), 185), "late by 45: its own and two more missed");
        fluid(&mut sum, &mut expected, (185, 2), 20);
        assert_eq!((sum, expected), ((3, 6), 225));
    }
}
