//! The end of a request: well, badly, or not at all; and what is kept of it.

use std::time::Duration;

use super::super::answer::{Answer, Trouble};
use super::super::chunk::Finish;
use super::super::conn::{Conn, Flight};
use super::super::conversation::Hearing;
use super::super::failure::Kind;
use super::Drive;
use crate::net::clock;
use crate::record::Outcome;
use crate::time::nanos;

impl Drive<'_> {
    /// The response of a connection is whole, or the rest of it is not waited for.
    pub(super) fn conclude(&mut self, key: usize, at: u64) {
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
        match verdict.and_then(|()| self.to_its_end(&flight, answer)) {
            Ok(()) => {
                if let Some(heard) = answer.stream.hearing.take() {
                    self.hear(&flight, answer, *heard);
                }
                self.complete(flight.request, at);
            }
            Err(trouble) => self.fail(flight.request, trouble, answer.response.retry_after, at),
        }
    }

    /// Refuses a stream that lacks tokens that were asked for and the reason with which this server's streams end.
    /// Servers break a stream off in that way for the sake of another one.
    fn to_its_end(&self, flight: &Flight, answer: &Answer) -> Result<(), Trouble> {
        let (stream, asked) = (&answer.stream, self.trace.requests[flight.request as usize].output);
        let told = stream.finish != Finish::None || stream.usage.completion_tokens.is_some();
        if !self.reasons || told || stream.chunks >= asked {
            return Ok(());
        }
        let why = format!(
            "broken off after {} of {asked} tokens: no finish_reason, which this server gives (llama-cpp-python: start it with --interrupt_requests false)",
            stream.chunks
        );
        Err((Kind::Cut, why))
    }

    /// The server has closed the connection.
    pub(super) fn ended(&mut self, key: usize, at: u64) {
        let conn = &mut self.conns[key];
        if conn.answer.response.ends_with_connection() {
            if conn.answer.stream.marked {
                self.left_open = 0;
            }
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

    /// Keeps an answer for the turns that repeat it.
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
            // The receiver is gone once it had enough, so a failed send is ignored.
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
        let late = |c: &Conn| c.flight.as_ref().is_some_and(|f| f.given_up_at() <= now);
        let keys: Vec<usize> = self.conns.iter().filter(|(_, c)| late(c)).map(|(k, _)| k).collect();
        for key in keys {
            if self.conns[key].answer.stream.marked {
                self.left_open += 1;
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
