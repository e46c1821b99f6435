//! The record of one request, and the only definitions of TTFT, TPOT, ITL and E2E.
//!
//! All of them count from the *scheduled* arrival, not from when a busy client got round to sending: a load
//! generator that waits for its server would otherwise hide the very delay it is there to measure.

use crate::time::seconds;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One request's outcome. Times are since the run's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Intended arrival.
    #[serde(rename = "scheduled_s", with = "seconds")]
    pub scheduled: Duration,
    /// First admission to a running batch, where it is known (a remote server does not tell).
    #[serde(rename = "admitted_s", with = "seconds::option")]
    pub admitted: Option<Duration>,
    /// First token; of a completed request with output 0, the end of its prompt.
    #[serde(rename = "first_token_s", with = "seconds::option")]
    pub first_token: Option<Duration>,
    /// Latest token; of a completed request with output 0, the end of its prompt.
    #[serde(rename = "last_token_s", with = "seconds::option")]
    pub last_token: Option<Duration>,
    /// Longest gap between two of its tokens, ns; 0 before the second token. See [`Record::max_itl`].
    pub max_itl_ns: u64,
    /// Index into the trace's requests.
    pub request: u32,
    /// Prompt tokens.
    pub input: u32,
    /// Tokens received, the first included.
    pub output: u32,
    /// Prompt tokens found in the prefix cache at first admission.
    pub cached: u32,
    /// Times it gave way to another.
    pub preemptions: u16,
    /// Index into the trace's classes.
    pub class: u16,
    /// The request's end.
    pub outcome: Outcome,
}

/// The ways in which a request can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All its tokens arrived.
    Completed,
    /// The server refused it.
    Rejected,
    /// It broke on the way: an error, a lost connection, a time-out.
    Failed,
    /// The run ended first.
    Unfinished,
}

impl Outcome {
    /// The word used in every output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Unfinished => "unfinished",
        }
    }
}

impl Record {
    /// Request `request` of so many prompt tokens, due at `scheduled`: nothing of it has been seen yet.
    #[must_use]
    pub const fn due(request: u32, scheduled: Duration, input: u32) -> Self {
        Self {
            scheduled,
            admitted: None,
            first_token: None,
            last_token: None,
            max_itl_ns: 0,
            request,
            input,
            output: 0,
            cached: 0,
            preemptions: 0,
            class: 0,
            outcome: Outcome::Unfinished,
        }
    }

    /// The same, completed with `output` tokens.
    #[must_use]
    pub const fn answered(self, first: Duration, last: Duration, output: u32) -> Self {
        let (first_token, last_token) = (Some(first), Some(last));
        Self { first_token, last_token, output, outcome: Outcome::Completed, ..self }
    }

    /// True where all its tokens arrived.
    #[must_use]
    pub fn completed(&self) -> bool {
        self.outcome == Outcome::Completed
    }

    /// Time to first token: from the scheduled arrival to the first token (output 0: to the end of the prompt).
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        self.first_token.map(|at| at.saturating_sub(self.scheduled))
    }

    /// End-to-end latency of a completed request: from the scheduled arrival to the last token (output 0: E2E = TTFT).
    #[must_use]
    pub fn e2e(&self) -> Option<Duration> {
        self.last_token.filter(|_| self.completed()).map(|at| at.saturating_sub(self.scheduled))
    }

    /// Time per output token of a completed request, (E2E − TTFT)/(output − 1), rounded down to the nanosecond.
    /// Undefined for outputs of 0 or 1.
    #[must_use]
    pub fn tpot(&self) -> Option<Duration> {
        match self.output {
            0 | 1 => None,
            output => Some(self.e2e()?.saturating_sub(self.ttft()?) / (output - 1)),
        }
    }

    /// Longest inter-token latency; none before the second token.
    #[must_use]
    pub fn max_itl(&self) -> Option<Duration> {
        (self.output > 1).then(|| Duration::from_nanos(self.max_itl_ns))
    }

    /// From the scheduled arrival to the first admission.
    #[must_use]
    pub fn queued(&self) -> Option<Duration> {
        self.admitted.map(|at| at.saturating_sub(self.scheduled))
    }

    /// Column names of [`Record::csv_row`].
    pub const CSV_HEADER: [&'static str; 14] = [
        "request",
        "class",
        "outcome",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
        "preemptions",
        "scheduled_s",
        "admitted_s",
        "ttft_ms",
        "tpot_ms",
        "max_itl_ms",
        "e2e_ms",
        "last_token_s",
    ];

    /// One row under [`Record::CSV_HEADER`]; a cell is empty where the value does not exist. `class` is an index
    /// into the trace's classes.
    #[must_use]
    pub fn csv_row(&self) -> [String; 14] {
        let seconds =
            |t: Option<Duration>| t.map_or(String::new(), |t| t.as_secs_f64().to_string());
        let millis = |t: Option<Duration>| {
            t.map_or(String::new(), |t| (t.as_nanos() as f64 / 1e6).to_string())
        };
        [
            self.request.to_string(),
            self.class.to_string(),
            self.outcome.name().to_owned(),
            self.input.to_string(),
            self.output.to_string(),
            self.cached.to_string(),
            self.preemptions.to_string(),
            seconds(Some(self.scheduled)),
            seconds(self.admitted),
            millis(self.ttft()),
            millis(self.tpot()),
            millis(self.max_itl()),
            millis(self.e2e()),
            seconds(self.last_token),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn record(output: u32, first: Option<u64>, last: Option<u64>, outcome: Outcome) -> Record {
        Record {
            admitted: Some(ms(110)),
            first_token: first.map(ms),
            last_token: last.map(ms),
            max_itl_ns: 30_000_000,
            output,
            cached: 4,
            preemptions: 1,
            class: 2,
            outcome,
            ..Record::due(7, ms(100), 12)
        }
    }

    #[test]
    fn definitions() {
        let r = record(5, Some(150), Some(250), Outcome::Completed);
        assert_eq!((r.ttft(), r.e2e()), (Some(ms(50)), Some(ms(150))));
        assert_eq!((r.tpot(), r.max_itl(), r.queued()), (Some(ms(25)), Some(ms(30)), Some(ms(10))));
    }

    #[test]
    fn one_token_or_none_has_no_tpot_and_no_itl() {
        let one = record(1, Some(150), Some(150), Outcome::Completed);
        let none = record(0, Some(150), Some(150), Outcome::Completed);
        for r in [one, none] {
            assert_eq!((r.ttft(), r.e2e()), (Some(ms(50)), Some(ms(50))));
            assert_eq!((r.tpot(), r.max_itl()), (None, None));
        }
    }

    #[test]
    fn only_a_completed_request_has_an_end() {
        let r = record(3, Some(150), Some(250), Outcome::Unfinished);
        assert_eq!((r.ttft(), r.e2e(), r.tpot()), (Some(ms(50)), None, None));
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Record>() <= 96, "{}", size_of::<Record>());
    }

    #[test]
    fn csv_and_json() {
        let r = record(5, Some(150), Some(250), Outcome::Completed);
        assert_eq!(r.csv_row().join(","), "7,2,completed,12,5,4,1,0.1,0.11,50,25,30,150,0.25");
        let lost = record(0, None, None, Outcome::Rejected);
        assert_eq!(lost.csv_row().join(","), "7,2,rejected,12,0,4,1,0.1,0.11,,,,,");
        for r in [r, lost] {
            let json = serde_json::to_string(&r).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), r);
        }
    }
}
