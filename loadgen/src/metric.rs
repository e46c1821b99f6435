//! The latencies that are measured and may be limited: a row each. A new one is a name here, its row, and its
//! definition in [`Record`]; targets, summaries, tables, exports and messages read the row.

use crate::record::Record;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A latency of a request, as [`Record`] defines it. Always a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
    /// Inter-token latency: each gap.
    Itl,
    /// From arrival to the last token.
    E2e,
}

/// The part of a request's life that a latency covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// From the arrival to the first token: queue and prompt.
    Start,
    /// From token to token.
    Pace,
    /// From the arrival to the last token.
    Whole,
}

/// The values of a latency that its statistics are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// One per request.
    Requests,
    /// One per gap between two tokens.
    Gaps,
}

/// Everything that tells one latency from another.
struct Row {
    metric: Metric,
    /// The word of the grammar, and of keys.
    name: &'static str,
    /// The name in tables and charts.
    label: &'static str,
    span: Span,
    counted: Counted,
    /// The latency of one request; of gaps, the longest.
    of: fn(&Record) -> Option<Duration>,
}

/// The table, in the order of reports.
const ROWS: [Row; 4] = [
    Row {
        metric: Metric::Ttft,
        name: "ttft",
        label: "TTFT",
        span: Span::Start,
        counted: Counted::Requests,
        of: Record::ttft,
    },
    Row {
        metric: Metric::Tpot,
        name: "tpot",
        label: "TPOT",
        span: Span::Pace,
        counted: Counted::Requests,
        of: Record::tpot,
    },
    Row {
        metric: Metric::Itl,
        name: "itl",
        label: "ITL",
        span: Span::Pace,
        counted: Counted::Gaps,
        of: Record::max_itl,
    },
    Row {
        metric: Metric::E2e,
        name: "e2e",
        label: "E2E",
        span: Span::Whole,
        counted: Counted::Requests,
        of: Record::e2e,
    },
];

impl Metric {
    /// All of them, in the order of reports.
    pub const ALL: [Self; ROWS.len()] = {
        let mut all = [Self::Ttft; ROWS.len()];
        let mut at = 0;
        while at < ROWS.len() {
            all[at] = ROWS[at].metric;
            at += 1;
        }
        all
    };

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The word of the grammar, and of keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The metric called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name().eq_ignore_ascii_case(name))
    }

    /// All names, for messages: `ttft, tpot, ...`.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The name in tables and charts.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.row().label
    }

    /// The part of a request's life that it covers.
    #[must_use]
    pub fn span(self) -> Span {
        self.row().span
    }

    /// True of a latency that begins with the arrival: it has the client's lateness in it.
    #[must_use]
    pub fn from_arrival(self) -> bool {
        self.span() != Span::Pace
    }

    /// The values that its statistics are taken over.
    #[must_use]
    pub fn counted(self) -> Counted {
        self.row().counted
    }

    /// True of a latency that each request has once.
    #[must_use]
    pub fn per_request(self) -> bool {
        self.counted() == Counted::Requests
    }

    /// The latency of one request; of gaps, the longest.
    #[must_use]
    pub fn of(self, record: &Record) -> Option<Duration> {
        (self.row().of)(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_finds_its_own_row() {
        for metric in Metric::ALL {
            assert_eq!(metric.row().metric, metric);
            assert_eq!(Metric::named(metric.name()), Some(metric));
            let stored = serde_json::to_string(&metric).unwrap();
            assert_eq!(stored, format!("\"{}\"", metric.name()), "one word everywhere");
        }
    }
}
