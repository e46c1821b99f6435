//! A run that really happened: what was asked when, and when the answers came.
//!
//! Its rows become [`Record`]s, so that TTFT, TPOT and E2E of both worlds have one definition; and a [`Trace`] that
//! sends the same requests at the same instants, with the prompts that met again meeting again.

use std::collections::BTreeMap;
use std::time::Duration;

use loadgen::{Outcome, Record};
use serde::{Deserialize, Serialize};
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

/// Requests that ran and that waited at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Occupancy {
    /// Seconds since the first arrival.
    pub at_s: f64,
    /// Sequences running.
    pub running: u32,
    /// Requests waiting.
    pub waiting: u32,
}

/// Tokens per identity of a prompt's content: the smallest block size in use, so that any other is a multiple.
pub(crate) const IDENTITY_TOKENS: u32 = 16;

/// Identities from here on are of prompts without a name.
const UNNAMED: u64 = 1 << 38;

/// One request as it was recorded. Times count from the run's first arrival.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// When the server (or, where only the client was watched, the client) saw it arrive.
    pub arrival: Duration,
    /// When it was first put into a batch, where that was recorded.
    pub admitted: Option<Duration>,
    /// First token; none of a request that failed before it.
    pub first_token: Option<Duration>,
    /// Last token.
    pub last_token: Option<Duration>,
    /// Prompt tokens.
    pub input: u32,
    /// Tokens generated.
    pub output: u32,
    /// The identity of the prompt: equal identities share their beginning, token by token.
    pub prompt: Option<u64>,
    /// True where it ended with an error.
    pub failed: bool,
}

/// A recorded run.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// The run's name in the file; the file's stem if it holds one run.
    pub name: String,
    /// Requests/s asked for, where the file says so.
    pub rate: Option<f64>,
    /// In order of arrival.
    pub rows: Vec<Row>,
    /// The causes of failed requests, and the number of each.
    pub failures: BTreeMap<String, u64>,
    /// Leading tokens that all prompts of a group share, by identity: see [`Recorded::sharing`].
    shared: Option<Shared>,
    /// Prompts that begin as an earlier one does: see [`Recorded::alike`].
    alike: Vec<Alike>,
}

/// A prompt that begins as one before it does, such as the next turn of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alike {
    /// Its row, in order of arrival.
    pub row: usize,
    /// The row before it.
    pub earlier: usize,
    /// Tokens that are the same from the first on.
    pub tokens: u32,
}

/// Prompts in groups that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shared {
    tokens: u32,
    per_group: u64,
}

impl Recorded {
    /// A run of these rows, put in order of arrival and counted from the first.
    #[must_use]
    pub fn new(name: impl Into<String>, rate: Option<f64>, mut rows: Vec<Row>) -> Self {
        rows.sort_by_key(|r| r.arrival);
        let origin = rows.first().map_or(Duration::ZERO, |r| r.arrival);
        let shift = |t: Duration| t.saturating_sub(origin);
        for r in &mut rows {
            r.arrival = shift(r.arrival);
            r.admitted = r.admitted.map(shift);
            r.first_token = r.first_token.map(shift);
            r.last_token = r.last_token.map(shift);
        }
        let failures = BTreeMap::new();
        Self { name: name.into(), rate, rows, failures, shared: None, alike: Vec::new() }
    }

    /// The same with what its failed requests failed of.
    #[must_use]
    pub fn failing(mut self, failures: BTreeMap<String, u64>) -> Self {
        self.failures = failures;
        self
    }

    /// The same prompts in groups of `per_group` identities whose first `tokens` tokens are equal: a pool of questions
    /// under a few system prompts.
    #[must_use]
    pub fn sharing(mut self, tokens: u32, per_group: u64) -> Self {
        self.shared = Some(Shared { tokens, per_group: per_group.max(1) });
        self
    }

    /// The same with these prompts beginning as earlier ones do.
    #[must_use]
    pub fn alike(mut self, mut alike: Vec<Alike>) -> Self {
        alike.sort_by_key(|a| a.row);
        self.alike = alike;
        self
    }

    /// Tokens of the longest request, prompt and output.
    #[must_use]
    pub fn longest(&self) -> u32 {
        self.rows.iter().map(|r| r.input.saturating_add(r.output)).max().unwrap_or(0)
    }

    /// The measured requests, as the load generator would have recorded them.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let one = |(row, request): (&Row, u32)| Record {
            admitted: row.admitted,
            first_token: row.first_token,
            last_token: row.last_token,
            output: row.output,
            outcome: if row.failed || row.last_token.is_none() {
                Outcome::Failed
            } else {
                Outcome::Completed
            },
            ..Record::due(request, row.arrival, row.input)
        };
        self.rows.iter().zip(0..).map(one).collect()
    }

    /// The load that was offered. With a `cap` on requests in flight every request is a session of its own, so that
    /// the client holds back what exceeds it.
    #[must_use]
    pub fn trace(&self, cap: Option<u32>) -> Trace {
        let mut block_ids = Vec::new();
        let known = !self.alike.is_empty() || self.rows.iter().any(|r| r.prompt.is_some());
        let mut requests: Vec<TraceRequest> = Vec::with_capacity(self.rows.len());
        for (row, index) in self.rows.iter().zip(0u32..) {
            let start = block_ids.len() as u32;
            if known {
                let alike = self.alike.binary_search_by_key(&(index as usize), |a| a.row);
                let alike = alike.ok().map(|at| self.alike[at]);
                if let Some((a, earlier)) = alike.and_then(|a| Some((a, requests.get(a.earlier)?)))
                {
                    let same = (a.tokens / IDENTITY_TOKENS).min(earlier.blocks.len) as usize;
                    let from = earlier.blocks.start as usize;
                    block_ids.extend_from_within(from..from + same);
                }
                // A prompt without a name is like no other.
                let prompt = row.prompt.unwrap_or(UNNAMED + u64::from(index));
                let done = block_ids.len() as u32 - start;
                let blocks = done..row.input.div_ceil(IDENTITY_TOKENS);
                block_ids.extend(blocks.map(|i| self.id(prompt, i)));
            }
            requests.push(TraceRequest {
                arrival: Arrival::At(row.arrival),
                input: row.input,
                output: row.output,
                blocks: BlockSpan { start, len: block_ids.len() as u32 - start },
                class: 0,
                session: cap.map(|_| index),
            });
        }
        Trace {
            name: self.name.clone(),
            requests,
            block_ids,
            block_tokens: if known { IDENTITY_TOKENS } else { 0 },
            max_concurrent_sessions: cap,
            classes: vec!["recorded".to_owned()],
            provenance: vec![format!("recorded run {}", self.name)],
        }
    }

    /// The identity of tokens `[16 i, 16 i + 16)` of a prompt and everything before them.
    fn id(&self, prompt: u64, i: u32) -> u64 {
        let whose = match self.shared {
            Some(s) if (i + 1) * IDENTITY_TOKENS <= s.tokens => (prompt / s.per_group) << 1 | 1,
            _ => prompt << 1,
        };
        whose << 24 | u64::from(i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(at: u64, prompt: Option<u64>) -> Row {
        let t = Duration::from_millis;
        Row {
            arrival: t(at),
            admitted: None,
            first_token: Some(t(at + 30)),
            last_token: Some(t(at + 130)),
            input: 40,
            output: 11,
            prompt,
            failed: false,
        }
    }

    #[test]
    fn times_count_from_the_first_arrival_and_rows_are_in_order() {
        let run = Recorded::new("x", None, vec![row(700, None), row(500, None)]);
        let records = run.records();
        assert_eq!(records[0].scheduled, Duration::ZERO);
        assert_eq!(records[1].scheduled, Duration::from_millis(200));
        assert!(records.iter().all(|r| r.ttft() == Some(Duration::from_millis(30))));
        assert!(records.iter().all(|r| r.tpot() == Some(Duration::from_millis(10))));
    }

    #[test]
    fn prompts_of_one_identity_share_and_groups_share_their_beginning() {
        let rows = [0, 1, 0, 12].map(|p| row(p, Some(p))).to_vec();
        let trace = Recorded::new("x", None, rows.clone()).trace(None);
        let ids = |t: &Trace, i: usize| t.blocks_of(&t.requests[i]).to_vec();
        assert_eq!(ids(&trace, 0), ids(&trace, 1));
        assert!(ids(&trace, 0).iter().all(|id| !ids(&trace, 2).contains(id)));
        let grouped = Recorded::new("x", None, rows).sharing(32, 10).trace(Some(2));
        assert_eq!(ids(&grouped, 0)[..2], ids(&grouped, 2)[..2]);
        assert_ne!(ids(&grouped, 0)[2], ids(&grouped, 2)[2]);
        assert_ne!(ids(&grouped, 0)[0], ids(&grouped, 3)[0], "another group");
        assert_eq!(grouped.max_concurrent_sessions, Some(2));
    }

    #[test]
    fn a_prompt_begins_as_the_one_it_continues() {
        let rows = [0, 1, 2].map(|at| row(at, None)).to_vec();
        let none = Recorded::new("x", None, rows.clone()).trace(None);
        assert!(none.block_ids.is_empty(), "nothing is known of any prompt");
        let turns = vec![Alike { row: 2, earlier: 0, tokens: 35 }];
        let trace = Recorded::new("x", None, rows).alike(turns).trace(None);
        let ids = |i: usize| trace.blocks_of(&trace.requests[i]).to_vec();
        assert_eq!([ids(0).len(), ids(1).len(), ids(2).len()], [3, 3, 3]);
        assert_eq!(ids(0)[..2], ids(2)[..2]);
        let mut all = trace.block_ids.clone();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 7, "only those two are the same");
    }
}
