//! Turns what a driver saw into [`Record`]s and histograms of gaps between tokens.
//!
//! A simulator emits tens of millions of tokens per second, so a stretch of identical decode iterations is one
//! call: gaps inside it are the same for all its requests and enter the histogram by count, and each request costs
//! a few machine instructions per stretch, not per token. The result equals token-by-token recording to the bit.

use crate::histogram::Histogram;
use crate::record::{Outcome, Record};
use crate::time::nanos;
use std::time::Duration;

/// Marks a request without a token yet, and the "gap" before a first token.
const NONE: u64 = u64::MAX;

/// Collects one run. Requests and classes are indices into the trace's; an index beyond the sizes given to
/// [`Recorder::new`] panics.
#[derive(Debug, Clone)]
pub struct Recorder {
    live: Vec<Live>,
    records: Vec<Record>,
    itl: Vec<Histogram>,
    emitting: Vec<Emitting>,
}

/// The fields that every stretch touches. They are kept apart from the rest so that a batch of them
/// stays in the first-level cache.
#[derive(Debug, Clone, Copy)]
struct Live {
    last_ns: u64,
    max_itl_ns: u64,
    output: u32,
    class: u16,
    arrived: bool,
}

/// Requests of one class in the stretch being recorded.
#[derive(Debug, Clone, Copy, Default)]
struct Emitting {
    /// All of them.
    all: u64,
    /// Those whose previous token came when the stretch began.
    in_step: u64,
}

/// A stretch of identical iterations, ns.
#[derive(Clone, Copy)]
struct Stretch {
    /// End of its first iteration.
    first_ns: u64,
    /// End of its last.
    last_ns: u64,
    /// Length of its first.
    lead: u64,
    /// Longest of the others.
    longest: u64,
    /// Iterations.
    tokens: u32,
}

/// A finished run: what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Requests that arrived, by index. Those never finished are [`Outcome::Unfinished`].
    pub records: Vec<Record>,
    /// Gaps between tokens, by class.
    pub itl: Vec<Histogram>,
}

impl Recording {
    /// Gaps between tokens of all classes together.
    #[must_use]
    pub fn itl_of_all(&self) -> Histogram {
        let mut classes = self.itl.iter();
        let mut all = classes.next().cloned().unwrap_or_default();
        classes.for_each(|class| all.merge(class));
        all
    }
}

impl Recorder {
    /// For a trace of so many requests and classes.
    #[must_use]
    pub fn new(requests: usize, classes: usize) -> Self {
        let live = Live { last_ns: NONE, max_itl_ns: 0, output: 0, class: 0, arrived: false };
        let record = Record::due(0, Duration::ZERO, 0);
        Self {
            live: vec![live; requests],
            records: vec![record; requests],
            itl: vec![Histogram::new(); classes.max(1)],
            emitting: vec![Emitting::default(); classes.max(1)],
        }
    }

    /// `request` was due at `at`, whenever it was really sent.
    pub fn arrive(&mut self, request: u32, class: u16, input: u32, at: Duration) {
        assert!(usize::from(class) < self.itl.len(), "class {class} of request {request}");
        let live = &mut self.live[request as usize];
        (live.class, live.arrived) = (class, true);
        let record = &mut self.records[request as usize];
        (record.request, record.class, record.input, record.scheduled) =
            (request, class, input, at);
    }

    /// `request` joined a running batch with so many prompt tokens found in the prefix cache. Only the first
    /// admission counts; coming back after a preemption is not a second one.
    pub fn admit(&mut self, request: u32, at: Duration, cached: u32) {
        let record = &mut self.records[request as usize];
        if record.admitted.is_none() {
            (record.admitted, record.cached) = (Some(at), cached);
        }
    }

    /// Each of `requests` produced one token at every instant of `ends` (ascending); the first of these iterations
    /// began at `start`. A request is listed once. A gap lasts from a request's previous token, whenever that was;
    /// before a first token there is none.
    pub fn emit(&mut self, requests: &[u32], start: Duration, ends: &[Duration]) {
        let Some((&first, rest)) = ends.split_first() else { return };
        let first_ns = nanos(first);
        let lead = first_ns.saturating_sub(nanos(start));
        let (mut last_ns, mut longest) = (first_ns, 0);
        for &end in rest {
            let end = nanos(end);
            debug_assert!(end >= last_ns, "ends must ascend");
            longest = longest.max(end - last_ns);
            last_ns = end;
        }
        let tokens = ends.len() as u32;
        self.join(requests, Stretch { first_ns, last_ns, lead, longest, tokens });
        self.count(first_ns, lead, rest);
    }

    /// The part of [`Recorder::emit`] that visits each request. Neighbours with the same class and the same
    /// first gap, that is nearly all of them, are counted in a register and share their longest gap.
    fn join(&mut self, requests: &[u32], stretch: Stretch) {
        let Stretch { first_ns, last_ns, lead, longest, tokens } = stretch;
        let live = &mut self.live[..];
        let (mut class, mut gap, mut peak, mut run) = (0u16, lead, longest.max(lead), 0u64);
        for &request in requests {
            let live = &mut live[request as usize];
            let own = if live.last_ns == NONE {
                NONE
            } else {
                debug_assert!(
                    first_ns >= live.last_ns,
                    "request {request}: a token before its last"
                );
                first_ns.saturating_sub(live.last_ns)
            };
            if own != gap || live.class != class {
                settle(&mut self.emitting, &mut self.itl, (class, gap, lead), run);
                (class, gap, run) = (live.class, own, 0);
                peak = if own == NONE { longest } else { longest.max(own) };
            }
            if own == NONE {
                self.records[request as usize].first_token = Some(Duration::from_nanos(first_ns));
            }
            run += 1;
            live.max_itl_ns = live.max_itl_ns.max(peak);
            live.last_ns = last_ns;
            live.output += tokens;
        }
        settle(&mut self.emitting, &mut self.itl, (class, gap, lead), run);
    }

    /// The part of [`Recorder::emit`] that visits each instant.
    fn count(&mut self, first_ns: u64, lead: u64, rest: &[Duration]) {
        for (emitting, itl) in self.emitting.iter_mut().zip(&mut self.itl) {
            let Emitting { all, in_step } = std::mem::take(emitting);
            if in_step > 0 {
                itl.record_nanos(lead, in_step);
            }
            if all > 0 {
                let mut before = first_ns;
                for &end in rest {
                    let end = nanos(end);
                    itl.record_nanos(end.saturating_sub(before), all);
                    before = end;
                }
            }
        }
    }

    /// `request` gave way to another.
    pub fn preempt(&mut self, request: u32) {
        let record = &mut self.records[request as usize];
        record.preemptions = record.preemptions.saturating_add(1);
    }

    /// `request` ended. Its last token, if it had any, is what E2E counts to; a completed request without a token
    /// (output 0) ends at its prompt, `at`.
    pub fn finish(&mut self, request: u32, at: Duration, outcome: Outcome) {
        let record = &mut self.records[request as usize];
        record.outcome = outcome;
        if outcome == Outcome::Completed && record.first_token.is_none() {
            (record.first_token, record.last_token) = (Some(at), Some(at));
        }
    }

    /// The record of `request` as far as it is known.
    #[must_use]
    pub fn record(&self, request: u32) -> Record {
        complete(self.records[request as usize], &self.live[request as usize])
    }

    /// Requests that arrived and have not finished, in order: what a run cut short leaves behind.
    pub fn unfinished(&self) -> impl Iterator<Item = u32> + '_ {
        let open = |r: &Record| r.outcome == Outcome::Unfinished;
        (0u32..)
            .zip(self.live.iter().zip(&self.records))
            .filter(move |(_, (live, record))| live.arrived && open(record))
            .map(|(request, _)| request)
    }

    /// Ends the run.
    #[must_use]
    pub fn into_recording(self) -> Recording {
        let mut records = self.records;
        for (record, live) in records.iter_mut().zip(&self.live) {
            *record = complete(*record, live);
        }
        let mut live = self.live.iter();
        records.retain(|_| live.next().is_some_and(|live| live.arrived));
        Recording { records, itl: self.itl }
    }
}

/// `record` with what is kept apart while it is live.
fn complete(record: Record, live: &Live) -> Record {
    let last = (live.last_ns != NONE).then(|| Duration::from_nanos(live.last_ns));
    let last_token = last.or(record.last_token);
    Record { last_token, output: live.output, max_itl_ns: live.max_itl_ns, ..record }
}

/// Counts `run` requests of one class that share the gap before a stretch's first token; `lead` is the length of
/// its first iteration.
fn settle(emitting: &mut [Emitting], itl: &mut [Histogram], of: (u16, u64, u64), run: u64) {
    let (class, gap, lead) = (usize::from(of.0), of.1, of.2);
    emitting[class].all += run;
    if gap == lead {
        emitting[class].in_step += run;
    } else if gap != NONE && run > 0 {
        itl[class].record_nanos(gap, run);
    }
}
