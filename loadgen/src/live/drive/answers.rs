//! The reading half of the loop: what arrives on a connection, and when.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::super::failure::Kind;
use super::piece::{End, Lag, Piece};
use super::{Drive, GLANCE};
use crate::net::{clock, wait::Ready};
use crate::time::nanos;

/// Free bytes of the buffer that are enough for a read.
const ROOM: usize = 64 << 10;
/// The time for which an answer may stay open after the mark of its end (ten times as long after its last token), ns.
const LINGER: u64 = 100_000_000;
/// A server that left so many answers in a row open does so always: the end of the next ones is not
/// waited for.
const LEFT_OPEN: u32 = 3;

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
            // An earlier piece may have ended the connection, and its place may be another's by
            // now.
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
        let told = conn.answer.is_told() && !done;
        if let Some(flight) = &mut conn.flight {
            let linger = at.saturating_add(if marked { LINGER } else { 10 * LINGER });
            flight.open_until = told.then(|| flight.open_until.unwrap_or(linger).min(linger));
        }
        if marked && done {
            self.left_open = 0;
        }
        done |= marked && self.left_open >= LEFT_OPEN;
        if done {
            self.conclude(key, at);
        }
        tokens
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
