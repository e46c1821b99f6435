//! The result of a run against a server, and its figures.

use std::collections::BTreeMap;
use std::time::Duration;

use super::audit::Audit;
use super::failure::{Failures, is_refusal};
use super::meter::Wire;
use crate::metric::{Metric, Span};
use crate::record::{Outcome, Record};
use crate::recorder::Recording;
use crate::slo::BoundSlo;
use crate::summary::Summary;

/// Requests that came to nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    /// Refused: the server took no more for the time being (429, 503, a reset).
    pub refused: u64,
    /// Failed in any other way.
    pub failed: u64,
    /// Their number, kinds and causes, on one line.
    pub words: String,
    /// The longest that any was told to wait.
    pub retry_after: Option<Duration>,
}

/// The result of a run against a server.
#[derive(Debug, Clone)]
pub struct LiveRun {
    /// Latencies from the scheduled times.
    pub recording: Recording,
    /// The same from the sends: what a client that forgives its own delays would report.
    pub from_send: Recording,
    /// The wire's side of each record, in their order.
    pub wires: Vec<Wire>,
    /// Gaps between the tokens of each record, ns, where they were kept; else empty.
    pub gaps: Vec<Vec<u64>>,
    /// Failures by name.
    pub failures: BTreeMap<String, Failures>,
    /// The client's account of itself.
    pub audit: Audit,
    /// The members and forms that the server did not take ([`Live::given_up`](crate::Live::given_up)).
    pub given_up: Vec<String>,
    /// True if the user ended it.
    pub interrupted: bool,
    /// The run's origin, in ns of the system's monotonic clock: [`Truth`](crate::Truth)s are on the same.
    pub origin_ns: u64,
}

impl LiveRun {
    /// Its figures from the scheduled times, under `slo`; without pace where that cannot be told.
    #[must_use]
    pub fn summary(&self, slo: &BoundSlo) -> Summary {
        self.sum_up(&self.recording, slo)
    }

    /// The same from the sends.
    #[must_use]
    pub fn summary_from_send(&self, slo: &BoundSlo) -> Summary {
        self.sum_up(&self.from_send, slo)
    }

    fn sum_up(&self, recording: &Recording, slo: &BoundSlo) -> Summary {
        let summary = Summary::new(recording, slo);
        if self.audit.paceless { summary.without_pace() } else { summary }
    }

    /// The latencies that it shows: none between tokens where these have no pace.
    pub fn metrics(&self) -> impl Iterator<Item = Metric> + use<> {
        let paceless = self.audit.paceless;
        Metric::ALL.into_iter().filter(move |metric| !(paceless && metric.span() == Span::Pace))
    }

    /// True if nothing completed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.recording.records.iter().any(Record::completed)
    }

    /// Requests that neither completed nor were cut off by the end of the run; none if there are no
    /// such requests.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        let all = self.recording.records.len();
        let lost = || self.failures.iter().filter(|(kind, _)| *kind != "cancelled");
        let count = |refused: bool| {
            let such = lost().filter(|(kind, _)| is_refusal(kind) == refused);
            such.map(|(_, f)| f.count).sum::<u64>()
        };
        let words: Vec<String> = lost().map(|(kind, f)| f.words(kind, all)).collect();
        let wait = lost().filter_map(|(_, f)| f.retry_after_s).reduce(f64::max);
        (!words.is_empty()).then(|| Lost {
            refused: count(true),
            failed: count(false),
            words: words.join(", "),
            retry_after: wait.and_then(|s| Duration::try_from_secs_f64(s).ok()),
        })
    }

    /// The same without what was still under way when the user ended the run: such a request says nothing about the
    /// server. Long responses are under-represented in what is left.
    #[must_use]
    pub fn without_unfinished(mut self) -> Self {
        let ended: Vec<bool> =
            self.recording.records.iter().map(|r| r.outcome != Outcome::Unfinished).collect();
        for records in [&mut self.recording.records, &mut self.from_send.records] {
            let mut ended = ended.iter();
            records.retain(|_| ended.next().is_some_and(|e| *e));
        }
        let mut keep = ended.iter();
        self.wires.retain(|_| keep.next().is_some_and(|e| *e));
        let mut keep = ended.iter();
        self.gaps.retain(|_| keep.next().is_some_and(|e| *e));
        self
    }
}
