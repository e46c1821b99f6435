//! The choices about a deployment: one plain struct, and one table of knobs that everything else reads.
//!
//! A [`Config`] is what was typed; [`crate::Deployment`] is a config checked against a model and a device.

mod knobs;
mod policies;
mod values;

use std::time::Duration;

use crate::choice::choice;
use crate::format::Format;
pub use knobs::{Domain, KNOBS, Knob, KnobError, Tries};
pub use policies::{Policy, SchedulerKind, Traits};

choice! {
    /// The home of a sequence's keys and values.
    AllocatorKind {
        /// One extent per sequence, reserved when it is admitted (Orca, FasterTransformer).
        Contiguous = "contiguous",
        /// Blocks of fixed size, taken as the sequence grows (PagedAttention).
        Paged = "paged",
    }
}
choice! {
    /// The slots that a contiguous allocator reserves for a sequence.
    Reserve {
        /// The longest sequence the deployment accepts.
        Max = "max",
        /// The prompt plus the output rounded up to a power of two (needs the output length, or its limit).
        Pow2 = "pow2",
        /// Exactly prompt plus output: a bound no real system reaches.
        Oracle = "oracle",
        /// The next power of two, moved to an extent twice as large whenever it is full.
        Doubling = "doubling",
    }
}
choice! {
    /// The order of admission.
    QueueOrder {
        /// First come, first served.
        Fcfs = "fcfs",
        /// Highest priority first, then first come.
        Priority = "priority",
        /// Fewest tokens to compute first.
        ShortestPrefill = "shortest-prefill",
        /// Longest cached prefix first, as found when the request joined the queue.
        LongestPrefix = "longest-prefix",
    }
}
choice! {
    /// The sequence that gives way when KV memory runs out.
    Victim {
        /// The sequence admitted last.
        Last = "last",
        /// The lowest priority, then the one admitted last.
        Priority = "priority",
        /// The one that loses the least computed work.
        LeastComputed = "least-computed",
    }
}
choice! {
    /// The part of a prompt's KV memory that is taken when it is admitted.
    PromptKv {
        /// All of it (Sarathi-Serve; vLLM V1 checks for as much before it starts).
        Whole = "whole",
        /// Only what the first chunk needs, the rest chunk by chunk.
        Chunk = "chunk",
    }
}
choice! {
    /// Number format of cached keys and values.
    KvDtype {
        /// Two bytes an element.
        Bf16 = "bf16",
        /// One byte an element: twice the slots, at some cost in accuracy.
        Fp8 = "fp8",
    }
}
choice! {
    /// The choice of a replica for a request.
    RouterKind {
        /// Each in turn.
        RoundRobin = "round-robin",
        /// The one with the fewest tokens still to compute.
        LeastLoaded = "least-loaded",
        /// The one that served the same prompt prefix before, unless it is overloaded.
        PrefixAffine = "prefix-affine",
    }
}
/// A deployment as asked for: nothing in it has been checked.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The choice of sequences for an iteration.
    pub scheduler: SchedulerKind,
    /// The home of KV.
    pub allocator: AllocatorKind,
    /// Contiguous KV reserved per sequence.
    pub reserve: Reserve,
    /// Share blocks with equal content between sequences (paged only).
    pub prefix_cache: bool,
    /// Sequences that may run at once, per worker.
    pub max_seqs: u32,
    /// Tokens per iteration.
    pub max_batch_tokens: u32,
    /// Most tokens one prompt may take of an iteration it shares; 0 = no limit.
    pub long_prefill_threshold: u32,
    /// Tokens per block (paged only).
    pub block_size: u32,
    /// Share of device memory the engine may use.
    pub kv_fraction: f64,
    /// Number format of the weights of the model's layers; none as the checkpoint has them.
    #[serde(default, with = "values::or_auto")]
    pub quantization: Option<Format>,
    /// Number format of cached keys and values.
    pub kv_dtype: KvDtype,
    /// Share of KV that an admission must leave free while something runs.
    pub watermark: f64,
    /// The part of a prompt's KV that is taken at admission.
    pub prompt_kv: PromptKv,
    /// Order of the waiting queue.
    pub queue: QueueOrder,
    /// Requests that may wait to be started, per replica; more are refused. 0 = no limit.
    #[serde(default)]
    pub max_queue: u32,
    /// The sequence that is preempted.
    pub victim: Victim,
    /// Longest prompt + output accepted, tokens; 0 = the smallest power of two that holds the workload's longest, but no
    /// more than the model's context window and KV memory hold.
    pub max_model_len: u32,
    /// Lets `max_model_len` exceed the context window the model was trained for.
    #[serde(default)]
    pub allow_long_context: bool,
    /// Static batches: compute every seat up to the longest one.
    pub padding: bool,
    /// Static batches: the time that an idle worker waits for a fuller batch.
    pub max_wait: Duration,
    /// Continuous batching: decode running sequences in the iterations that prefill (Orca's selective batching).
    pub mix: bool,
    /// Each iteration is planned while the one before it runs (vLLM from 0.14, SGLang): requests that come in the meantime,
    /// and room that is given back, count one iteration later.
    #[serde(default)]
    pub async_scheduling: bool,
    /// Tensor-parallel ranks per worker.
    pub tp: u32,
    /// Tensor-parallel ranks that share the experts of a layer out whole; the rest share the width of each.
    #[serde(default = "one")]
    pub ep: u32,
    /// Pipeline stages per worker.
    pub pp: u32,
    /// Copies of the whole engine behind the router.
    pub replicas: u32,
    /// The way requests are spread over replicas.
    pub router: RouterKind,
    /// Disaggregated: workers that prefill, per replica.
    pub prefill_workers: u32,
    /// Disaggregated: workers that decode, per replica.
    pub decode_workers: u32,
}

fn one() -> u32 {
    1
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler: SchedulerKind::Chunked,
            allocator: AllocatorKind::Paged,
            reserve: Reserve::Max,
            prefix_cache: true,
            max_seqs: 256,
            max_batch_tokens: 2048,
            long_prefill_threshold: 0,
            block_size: 16,
            kv_fraction: 0.9,
            quantization: None,
            kv_dtype: KvDtype::Bf16,
            watermark: 0.0,
            prompt_kv: PromptKv::Whole,
            queue: QueueOrder::Fcfs,
            max_queue: 0,
            victim: Victim::Last,
            max_model_len: 0,
            allow_long_context: false,
            padding: true,
            max_wait: Duration::ZERO,
            mix: false,
            async_scheduling: false,
            tp: 1,
            ep: 1,
            pp: 1,
            replicas: 1,
            router: RouterKind::LeastLoaded,
            prefill_workers: 1,
            decode_workers: 1,
        }
    }
}

impl Config {
    /// GPUs this takes: ranks x stages x workers x replicas.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.tp * self.pp * self.workers() * self.replicas
    }

    /// Workers per replica.
    #[must_use]
    pub fn workers(&self) -> u32 {
        let split = self.scheduler.traits().disaggregates;
        if split { self.prefill_workers + self.decode_workers } else { 1 }
    }
}
