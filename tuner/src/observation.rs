//! What one run of one configuration at one rate showed: plain data, the same whether simulated or measured.
//!
//! Reports draw these; the search decides by them. Nothing here knows the engine's types.

use crate::unfit::Unfit;
use loadgen::{Histogram, Record, Summary, Sustain};
use serde::{Deserialize, Serialize};

/// A run's outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Latencies, throughput, goodput.
    pub summary: Summary,
    /// Whether the offered load could have gone on for ever.
    pub sustain: Sustain,
    /// What the engine did for it.
    pub work: Work,
    /// Where KV memory went, as means over time.
    pub kv: KvShares,
    /// Requests that could never be served; they have failed.
    pub unfit: Unfit,
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
    /// Longest prompt and response that a request may have together, tokens; 0 where nobody knows.
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
