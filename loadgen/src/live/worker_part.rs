//! One worker's part of a run as it is stored, and several of them put together.
//!
//! All workers count from the same instant and through the same trace, so their requests together are those of one run:
//! records are united and histograms added, and every figure of the whole is computed from these, not from the parts'
//! figures. Of the clients' own errors the worst counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

use super::{Audit, Failures, LiveOptions, LiveRun, Wire};
use crate::error::Error;
use crate::histogram::Histogram;
use crate::record::Record;
use crate::recorder::Recording;
use crate::time::seconds;
use crate::worker::Worker;

/// Version of the stored form.
const SCHEMA: &str = "knee.part/1";

/// One worker's part of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    schema: String,
    /// The worker.
    pub worker: Worker,
    /// The settings that all of them share, such as workload, rate and start: parts that differ here are of different
    /// runs.
    pub agreed: BTreeMap<String, String>,
    /// Streams that it was to hold, in a closed loop.
    streams: Option<u32>,
    classes: Vec<String>,
    requests: Vec<Stored>,
    #[serde(deserialize_with = "few")]
    itl: Vec<Histogram>,
    failures: BTreeMap<String, Failures>,
    audit: Audit,
    /// The members and forms that the server did not take.
    #[serde(default)]
    given_up: Vec<String>,
    interrupted: bool,
}

/// Classes of one run: the distribution of each takes 190 kB, however short it is written.
const MOST_CLASSES: usize = 1024;

/// A list of at most [`MOST_CLASSES`].
fn few<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Histogram>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Histogram>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of at most {MOST_CLASSES} distributions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut few = Vec::new();
            while let Some(next) = list.next_element()? {
                if few.len() == MOST_CLASSES {
                    return Err(A::Error::invalid_length(few.len() + 1, &self));
                }
                few.push(next);
            }
            Ok(few)
        }
    }
    from.deserialize_seq(Few)
}

/// A request, what was seen of it, and what it was to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Stored {
    record: Record,
    wire: Wire,
    /// The turn that it waited for, and for how long.
    after: Option<After>,
    /// Tokens asked for.
    asked: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct After {
    previous: u32,
    #[serde(rename = "think_s", with = "seconds")]
    think: Duration,
}

impl Part {
    /// The part of `worker`, which saw `run` of `sent`.
    #[must_use]
    pub fn new(
        run: &LiveRun,
        sent: &Trace,
        worker: Worker,
        options: &LiveOptions,
        agreed: BTreeMap<String, String>,
    ) -> Self {
        let stored = |(record, wire): (&Record, &Wire)| {
            let request = &sent.requests[record.request as usize];
            let after = match request.arrival {
                Arrival::At(_) => None,
                Arrival::After { previous, think } => Some(After { previous, think }),
            };
            Stored { record: *record, wire: *wire, after, asked: request.output }
        };
        Self {
            schema: SCHEMA.to_owned(),
            worker,
            agreed,
            streams: options.streams,
            classes: sent.classes.clone(),
            requests: run.recording.records.iter().zip(&run.wires).map(stored).collect(),
            itl: run.recording.itl.clone(),
            failures: run.failures.clone(),
            audit: run.audit.clone(),
            given_up: run.given_up.clone(),
            interrupted: run.interrupted,
        }
    }

    /// Reads a stored part.
    ///
    /// # Errors
    /// A file that is no part, or of another version.
    pub fn read(text: &str) -> Result<Self, Error> {
        let part: Self = serde_json::from_str(text).map_err(|e| Error::Merge(e.to_string()))?;
        if part.schema != SCHEMA {
            return Err(Error::Merge(format!(
                "its schema is {}, this version reads {SCHEMA}",
                part.schema
            )));
        }
        part.check().map_err(|e| Error::Merge(e.to_owned()))?;
        Ok(part)
    }

    /// Refuses what no worker writes, so that figures of the whole can count on it.
    fn check(&self) -> Result<(), &'static str> {
        if self.worker.index >= self.worker.of {
            return Err("its worker number is not below its number of workers");
        }
        if self.classes.is_empty() || self.itl.len() != self.classes.len() {
            return Err("its classes and its distributions differ in number");
        }
        if self.requests.iter().any(|r| usize::from(r.record.class) >= self.classes.len()) {
            return Err("a request has a class that the file does not name");
        }
        Ok(())
    }
}

/// The whole run, and the trace that its records count through.
///
/// # Errors
/// Parts of different runs, or one that is there twice.
pub fn merge(parts: &[Part]) -> Result<(LiveRun, Trace), Error> {
    let [first, others @ ..] = parts else {
        return Err(Error::Merge("nothing to put together".to_owned()));
    };
    for other in others {
        let keys: BTreeSet<&String> = first.agreed.keys().chain(other.agreed.keys()).collect();
        if let Some(key) = keys.into_iter().find(|k| first.agreed.get(*k) != other.agreed.get(*k)) {
            let (worker, value) = (other.worker, |p: &Part| p.agreed.get(key).cloned());
            let (one, two) = (value(first).unwrap_or_default(), value(other).unwrap_or_default());
            return Err(Error::Merge(format!(
                "worker {worker} is of another run: its {key} is {two:?}, that of {} is {one:?}",
                first.worker
            )));
        }
    }
    let mut workers: Vec<Worker> = parts.iter().map(|p| p.worker).collect();
    workers.sort_unstable();
    if let Some(twice) = workers.windows(2).find(|w| w[0] == w[1]) {
        return Err(Error::Merge(format!("worker {} is given twice", twice[0])));
    }
    let mut all: Vec<Stored> = parts.iter().flat_map(|p| p.requests.iter().copied()).collect();
    all.sort_by_key(|s| (s.record.scheduled, s.record.request));
    let sent = renumbered(&mut all, &first.classes);
    let mut itl = first.itl.clone();
    for other in others {
        itl.iter_mut().zip(&other.itl).for_each(|(sum, part)| sum.merge(part));
    }
    let recording = Recording { records: all.iter().map(|s| s.record).collect(), itl };
    let mut from_send = recording.clone();
    for (record, stored) in from_send.records.iter_mut().zip(&all) {
        record.scheduled = stored.wire.sent.unwrap_or(record.scheduled);
    }
    let wires: Vec<Wire> = all.iter().map(|s| s.wire).collect();
    let audits: Vec<(Worker, &Audit)> = parts.iter().map(|p| (p.worker, &p.audit)).collect();
    let mut audit = Audit::of_all(&audits, &recording.records, &wires);
    let missing = first.worker.of as usize - workers.len().min(first.worker.of as usize);
    audit.missing_workers(missing, first.worker.of);
    let streams =
        parts.iter().try_fold(0, |all: u32, part| Some(all.saturating_add(part.streams?)));
    let options = LiveOptions { streams, ..LiveOptions::default() };
    audit.judge_steadiness(&recording.records, &sent, &options);
    let mut failures: BTreeMap<String, Failures> = BTreeMap::new();
    for (kind, failed) in parts.iter().flat_map(|p| &p.failures) {
        let sum = failures.entry(kind.clone()).or_default();
        sum.count = sum.count.saturating_add(failed.count);
        if sum.cause.is_empty() {
            sum.cause.clone_from(&failed.cause);
        }
    }
    let interrupted = parts.iter().any(|p| p.interrupted);
    let mut given_up: Vec<String> = Vec::new();
    for what in parts.iter().flat_map(|p| &p.given_up) {
        if !given_up.contains(what) {
            given_up.push(what.clone());
        }
    }
    let (gaps, origin_ns) = (Vec::new(), 0);
    let run = LiveRun {
        recording,
        from_send,
        wires,
        gaps,
        failures,
        audit,
        given_up,
        interrupted,
        origin_ns,
    };
    Ok((run, sent))
}

/// The requests sent, in order of time, as a trace; records are made to count through it. A turn
/// whose predecessor was not counted is one that waited for no other.
fn renumbered(all: &mut [Stored], classes: &[String]) -> Trace {
    let places: BTreeMap<u32, u32> =
        (0u32..).zip(all.iter()).map(|(new, s)| (s.record.request, new)).collect();
    let mut requests = Vec::with_capacity(all.len());
    for (new, stored) in (0u32..).zip(all.iter_mut()) {
        let previous = stored.after.and_then(|a| Some((*places.get(&a.previous)?, a.think)));
        let arrival = match previous.filter(|(previous, _)| *previous < new) {
            Some((previous, think)) => Arrival::After { previous, think },
            None => Arrival::At(stored.record.scheduled),
        };
        stored.record.request = new;
        requests.push(TraceRequest {
            arrival,
            input: stored.record.input,
            output: stored.asked,
            blocks: BlockSpan::default(),
            class: stored.record.class,
            session: None,
        });
    }
    Trace { requests, classes: classes.to_vec(), ..Trace::default() }
}
