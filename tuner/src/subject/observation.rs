//! The observation of one run of one configuration at one rate: plain data, in one form for
//! simulated and measured runs.
//!
//! Reports draw these; the search decides by them. Nothing here knows the engine's types.

use crate::subject::unfit::Unfit;
use loadgen::{Histogram, Record, Summary, Sustain};
use serde::{Deserialize, Serialize};

/// A run's outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Latencies, throughput, goodput.
    pub summary: Summary,
    /// True where the offered load could have gone on for ever.
    pub sustain: Sustain,
    /// The engine's own account, where one can look inside.
    #[serde(flatten)]
    pub inside: Option<Inside>,
    /// The account of a client that drives a server in real time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Outside>,
    /// Requests that could never be served; they have failed.
    pub unfit: Unfit,
}

impl Observation {
    /// The engine's work, where that is known.
    #[must_use]
    pub fn work(&self) -> Work {
        self.inside.map(|i| i.work).unwrap_or_default()
    }

    /// The use of KV memory, if it is known.
    #[must_use]
    pub fn kv(&self) -> KvShares {
        self.inside.map(|i| i.kv).unwrap_or_default()
    }

    /// Says that its iterations took so much of the time that a profile says.
    #[cfg(test)]
    pub(crate) fn set_pace(&mut self, pace: f64) {
        self.inside.get_or_insert_default().work.pace = Some(pace);
    }

    /// See [`Work::pace`].
    #[must_use]
    pub fn pace(&self) -> Option<f64> {
        self.inside.and_then(|i| i.work.pace)
    }
}

/// An engine's own account of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Inside {
    /// The engine's work in the run.
    pub work: Work,
    /// The use of KV memory, as means over time.
    pub kv: KvShares,
}

/// A client's account of a server that it drove in real time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outside {
    /// Seconds that the rate was offered.
    pub offered_s: f64,
    /// Seconds until the last answer, with shorter runs that held before this one.
    pub took_s: f64,
    /// True where requests last so little of that time that the rate, if it held, would hold for ever; or it was
    /// offered as long as any rate is.
    pub steady: bool,
    /// True where it was ended early: more requests had missed their targets than the whole run may.
    pub hopeless: bool,
    /// Requests offered.
    pub requests: u64,
    /// Requests that completed and missed a target.
    pub late: u64,
    /// Requests that were refused: the server took no more for the time being.
    pub refused: u64,
    /// Requests that failed in any other way.
    pub failed: u64,
    /// Their number and causes, in words; empty where there were none.
    pub lost: String,
    /// Why the pace of tokens is not known, if it is not.
    pub doubt: Option<String>,
    /// Requests per second that the server finished, by its tokens, in the second half.
    pub finished_rps: Option<f64>,
}

/// Totals of the engine's work in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Iterations, over all workers.
    pub iterations: u64,
    /// Tokens that went through the model, padding and recomputation included.
    pub tokens_executed: u64,
    /// Of these, tokens computed only to fill a static batch.
    pub tokens_padded: u64,
    /// Of these, tokens computed again after a preemption.
    pub tokens_recomputed: u64,
    /// Of these, tokens that were drafted.
    #[serde(default)]
    pub tokens_drafted: u64,
    /// Drafted tokens that the model said too.
    #[serde(default)]
    pub tokens_accepted: u64,
    /// Prompt tokens found in the prefix cache.
    pub tokens_cached: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub tokens_looked_up: u64,
    /// Sequences that gave way.
    pub preemptions: u64,
    /// Sequences per iteration, weighted by the iteration's time.
    pub mean_batch: f64,
    /// Share of worker time in which something ran.
    pub busy: f64,
    /// Share of time in which the head of the queue was refused for want of a seat (max_seqs).
    pub refused_seats: f64,
    /// Share of time in which the head of the queue was refused for want of KV memory.
    pub refused_kv: f64,
    /// Share of busy time in iterations that filled the token budget.
    pub full_budget: f64,
    /// KV slots (tokens) of all workers together.
    pub kv_slots: u64,
    /// Longest prompt and response that a request may have together, tokens; 0 if not known.
    #[serde(default)]
    pub max_model_len: u32,
    /// Of a measured run: seconds in iterations over what a profile of the machine says such iterations take. None of a
    /// simulated run, without such a profile, and where iterations overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<f64>,
}

/// KV memory by class, as shares of capacity averaged over time; they sum to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct KvShares {
    /// Slots that hold a token.
    pub used: f64,
    /// Slots taken that the same sequence will fill later.
    pub reserved: f64,
    /// Slots taken that will never be filled.
    pub internal: f64,
    /// Slots lost to rounding of extents, and free ones too scattered for the request that waits.
    pub external: f64,
    /// Free.
    pub idle: f64,
    /// Free to take, but holding a prefix that may be hit.
    pub cached: f64,
}

impl KvShares {
    /// (reserved + internal + external) / (capacity − idle − cached), in percent (PagedAttention §3.1).
    #[must_use]
    pub fn waste_percent(&self) -> f64 {
        let lost = self.reserved + self.internal + self.external;
        if lost + self.used > 0.0 { 100.0 * lost / (lost + self.used) } else { 0.0 }
    }
}

/// An [`Observation`] with everything kept that a report draws.
#[derive(Debug, Clone)]
pub struct Detailed {
    /// The totals.
    pub observation: Observation,
    /// Every request.
    pub records: Vec<Record>,
    /// Gaps between tokens.
    pub itl: Histogram,
    /// KV classes over time.
    pub kv_series: Vec<KvSample>,
    /// Iterations of a window, or the first ones, in order of start.
    pub iterations: Vec<IterationSpan>,
}

/// KV classes at an instant, in slots.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KvSample {
    /// Seconds since the run's origin.
    pub at_s: f64,
    /// Slots by class.
    pub slots: KvShares,
    /// Sequences running.
    pub running: u32,
    /// Requests waiting.
    pub waiting: u32,
}

/// One iteration (or a stretch of equal ones) of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct IterationSpan {
    /// Worker, counted over all replicas.
    pub worker: u32,
    /// Seconds since the run's origin.
    pub start_s: f64,
    /// Length, seconds.
    pub length_s: f64,
    /// Iterations in it.
    pub count: u32,
    /// Sequences with prefill chunks, and their tokens.
    pub prefill_seqs: u32,
    /// New prompt tokens.
    pub prefill_tokens: u32,
    /// Sequences decoding.
    pub decode_seqs: u32,
}
