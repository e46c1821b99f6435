//! The source of load: which request is due when. Pure, so live and virtual clocks share it.
//!
//! Open-loop arrival times are the trace's divided by the rate scale, rounded to the nanosecond once, at the start:
//! the same trace at the same scale is the same load everywhere. A closed-loop turn is due its think time after the
//! turn it waits for has ended, however that ended; think times are people's (or tools') and do not scale. With an
//! enforced cap on open sessions, a session that finds no seat waits in line, and its first request counts as
//! scheduled when the seat frees: the cap is the client's own restraint, not a delay of the server's making.

use crate::error::Error;
use crate::time::nanos;
use crate::worker::Worker;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;
use workloads::{Arrival, Trace};

/// The options of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayOptions {
    /// Ignore the trace's cap on concurrent sessions, as a search for capacity must: a cap throttles the load to
    /// what the server manages, and every rate would seem sustainable.
    pub lift_session_cap: bool,
}

/// A request to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// When it was to be sent; latencies count from here even if it is sent later.
    pub at: Duration,
    /// Index into the trace's requests.
    pub request: u32,
}

/// A trace being replayed.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Open-loop requests in order of (time, index); `next_open` is the first not yet taken.
    open: Vec<Due>,
    next_open: usize,
    /// Requests that became due through an ending.
    released: BinaryHeap<Reverse<Due>>,
    /// Closed-loop turns by what they wait for: (previous, request, think), sorted.
    turns: Vec<(u32, u32, Duration)>,
    seats: Option<Seats>,
    unsent: usize,
    /// For each request, true if it is sent here; none if all are.
    own: Option<Vec<bool>>,
}

/// The cap on concurrent sessions.
#[derive(Debug, Clone)]
struct Seats {
    free: u32,
    /// Dense session number by request, for requests that belong to one.
    session: Vec<Option<u32>>,
    sessions: Vec<Session>,
    /// Sessions that wait for a seat, in order of arrival.
    line: VecDeque<u32>,
}

#[derive(Debug, Clone, Default)]
struct Session {
    seated: bool,
    /// Requests that have not ended.
    remaining: u32,
    /// Requests due since before it had a seat.
    held: Vec<u32>,
}

impl Replay {
    /// Replays `trace` with its arrival times divided by `rate_scale`; infinity offers everything at once.
    ///
    /// # Errors
    /// A scale that is not above zero; a turn that waits for itself or a later request.
    pub fn new(trace: &Trace, rate_scale: f64, options: ReplayOptions) -> Result<Self, Error> {
        if rate_scale.is_nan() || rate_scale <= 0.0 {
            return Err(Error::RateScale(rate_scale));
        }
        let (mut open, mut turns) = (Vec::with_capacity(trace.requests.len()), Vec::new());
        for (request, r) in (0u32..).zip(&trace.requests) {
            match r.arrival {
                Arrival::At(at) => {
                    let ns = (nanos(at) as f64 / rate_scale).round() as u64;
                    open.push(Due { at: Duration::from_nanos(ns), request });
                }
                Arrival::After { previous, .. } if previous >= request => {
                    return Err(Error::Order { request, previous });
                }
                Arrival::After { previous, think } => turns.push((previous, request, think)),
            }
        }
        open.sort_unstable();
        turns.sort_unstable();
        let cap = trace.max_concurrent_sessions.filter(|_| !options.lift_session_cap);
        Ok(Self {
            open,
            next_open: 0,
            released: BinaryHeap::new(),
            turns,
            // A cap of 0 would never send anything; one seat is the least that means something.
            seats: cap.map(|cap| Seats::new(trace, cap.max(1))),
            unsent: trace.requests.len(),
            own: None,
        })
    }

    /// Only what `worker` sends of it, at the same times.
    #[must_use]
    pub fn share(mut self, trace: &Trace, worker: Worker) -> Self {
        let own = worker.owns(trace);
        self.open.retain(|due| own[due.request as usize]);
        self.turns.retain(|turn| own[turn.1 as usize]);
        self.unsent = own.iter().filter(|own| **own).count();
        self.own = Some(own);
        self
    }

    /// True where `request` is sent here.
    #[must_use]
    pub fn owns(&self, request: u32) -> bool {
        self.own.as_ref().is_none_or(|own| own[request as usize])
    }

    /// When the next request known so far is due: the time to call [`Replay::next`] at. More may become known by
    /// [`Replay::completed`]. None while everything left waits for an ending (or all is sent).
    #[must_use]
    pub fn peek(&self) -> Option<Duration> {
        self.upcoming().map(|due| due.at)
    }

    /// The request that [`Replay::peek`] tells the time of.
    #[must_use]
    pub fn upcoming(&self) -> Option<Due> {
        let open = self.open.get(self.next_open).copied();
        let released = self.released.peek().map(|&Reverse(due)| due);
        [open, released].into_iter().flatten().min()
    }

    /// A request due at or before `now`, earliest first; call until none. A session without a seat is put in line
    /// here, so that there may be none at the time peeked.
    pub fn next(&mut self, now: Duration) -> Option<Due> {
        loop {
            let open = self.open.get(self.next_open).copied();
            let released = self.released.peek().map(|&Reverse(due)| due);
            let due = [open, released].into_iter().flatten().min().filter(|due| due.at <= now)?;
            if released == Some(due) {
                self.released.pop();
            } else {
                self.next_open += 1;
            }
            if self.seats.as_mut().is_none_or(|seats| seats.admit(due.request)) {
                self.unsent -= 1;
                return Some(due);
            }
        }
    }

    /// `request` ended at `now`, however it ended: turns that wait for it follow after their think time, and a
    /// session that is over gives its seat to the next in line.
    pub fn completed(&mut self, request: u32, now: Duration) {
        let first = self.turns.partition_point(|&(previous, ..)| previous < request);
        for &(_, turn, think) in self.turns[first..].iter().take_while(|t| t.0 == request) {
            self.released.push(Reverse(Due { at: now.saturating_add(think), request: turn }));
        }
        let unheld = self.seats.as_mut().map_or(Vec::new(), |seats| seats.ended(request));
        self.released.extend(unheld.into_iter().map(|request| Reverse(Due { at: now, request })));
    }

    /// True where every request has been sent.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.unsent == 0
    }
}

impl Seats {
    fn new(trace: &Trace, free: u32) -> Self {
        let mut numbers = BTreeMap::new();
        let (mut session, mut sessions) = (Vec::with_capacity(trace.requests.len()), Vec::new());
        for request in &trace.requests {
            session.push(request.session.map(|id| {
                let number = *numbers.entry(id).or_insert_with(|| {
                    sessions.push(Session::default());
                    sessions.len() as u32 - 1
                });
                sessions[number as usize].remaining += 1;
                number
            }));
        }
        Self { free, session, sessions, line: VecDeque::new() }
    }

    /// True where `request` may go; otherwise it is held until its session has a seat. Requests without a session
    /// need none.
    fn admit(&mut self, request: u32) -> bool {
        let Some(number) = self.session[request as usize] else { return true };
        let session = &mut self.sessions[number as usize];
        if !session.seated && self.free > 0 {
            (session.seated, self.free) = (true, self.free - 1);
        }
        if !session.seated {
            if session.held.is_empty() {
                self.line.push_back(number);
            }
            session.held.push(request);
        }
        session.seated
    }

    /// Counts an ending; the requests that a freed seat lets go.
    fn ended(&mut self, request: u32) -> Vec<u32> {
        let Some(number) = self.session[request as usize] else { return Vec::new() };
        let session = &mut self.sessions[number as usize];
        session.remaining -= 1;
        if session.remaining > 0 {
            return Vec::new();
        }
        let Some(next) = self.line.pop_front() else {
            self.free += 1;
            return Vec::new();
        };
        let next = &mut self.sessions[next as usize];
        next.seated = true;
        std::mem::take(&mut next.held)
    }
}
