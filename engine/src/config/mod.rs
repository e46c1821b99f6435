//! The choices about a deployment: one plain struct, and one table of knobs that everything else reads.
//!
//! A [`Config`] is what was typed; [`crate::Deployment`] is a config checked against a model and a device.

mod choices;
mod knobs;
mod policies;
mod values;

use std::time::Duration;

use crate::format::Format;
pub use crate::speculation::{Acceptance, Speculation};
pub use choices::{AllocatorKind, KvDtype, PromptKv, QueueOrder, Reserve, RouterKind, Victim};
pub use knobs::{Domain, KNOBS, Knob, KnobError, Tries};
pub use policies::{Policy, SchedulerKind, Traits};

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
    /// The source of drafted tokens.
    #[serde(default = "off")]
    pub speculation: Speculation,
    /// Tokens drafted after each decode.
    #[serde(default = "usual_draft")]
    pub draft_tokens: u32,
    /// The share of them that is right, in simulation.
    #[serde(default)]
    pub acceptance: Acceptance,
    /// Tensor-parallel ranks per worker.
    pub tp: u32,
    /// Attention-data-parallel ranks per replica: each has a queue, sequences and KV of its own, and all share the
    /// experts.
    #[serde(default = "one")]
    pub dp: u32,
    /// Ranks that share the experts of a layer out whole, of `tp` x `dp`; the rest share the width of each.
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

fn off() -> Speculation {
    Speculation::Off
}

fn usual_draft() -> u32 {
    3
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
            speculation: Speculation::Off,
            draft_tokens: usual_draft(),
            acceptance: Acceptance::default(),
            tp: 1,
            dp: 1,
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
    /// Sets scheduler, allocator, reservation and prefix cache to the parts of `policy`.
    pub fn set_policy(&mut self, policy: Policy) {
        (self.scheduler, self.allocator, self.prefix_cache) = policy.parts();
        self.reserve = Reserve::Max;
    }

    /// The policy whose scheduler and allocator these are, or the first of the same scheduler.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let of_scheduler = || Policy::ALL.into_iter().filter(|p| p.scheduler() == self.scheduler);
        let exact = of_scheduler().find(|p| p.parts().1 == self.allocator);
        exact.or_else(|| of_scheduler().next()).expect("every scheduler has a policy")
    }

    /// True where tokens are drafted.
    #[must_use]
    pub fn speculates(&self) -> bool {
        self.speculation != Speculation::Off
    }

    /// True where each iteration is planned while the one before it runs: it is asked for, and a worker can do it.
    #[must_use]
    pub fn plans_ahead(&self) -> bool {
        self.async_scheduling && self.can_plan_ahead()
    }

    /// True where a worker can plan an iteration while another runs.
    #[must_use]
    pub fn can_plan_ahead(&self) -> bool {
        self.pp == 1 && self.scheduler.traits().one_in_flight.is_none()
    }

    /// GPUs this takes: ranks x stages x workers x engines.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.tp * self.pp * self.workers() * self.engines()
    }

    /// Engines, each with a queue of its own: replicas x attention-data-parallel ranks.
    #[must_use]
    pub fn engines(&self) -> u32 {
        self.replicas * self.dp
    }

    /// Workers per engine.
    #[must_use]
    pub fn workers(&self) -> u32 {
        let split = self.scheduler.traits().disaggregates;
        if split { self.prefill_workers + self.decode_workers } else { 1 }
    }

    /// The most tokens of one sequence that an iteration computes.
    #[must_use]
    pub fn longest_chunk(&self) -> u32 {
        if self.scheduler.traits().chunks_prompts { self.max_batch_tokens } else { u32::MAX }
    }
}
