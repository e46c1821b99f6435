//! The batching policies: their names, and everything that the rest of the project asks about one.
//!
//! The code of a scheduler is its file in `sched`. Here is its row: knobs, checks, the search space, explanations,
//! exporters and tests read that row, and none of them knows a scheduler by name.

use super::choices::AllocatorKind;
use crate::choice::choice;

choice! {
    /// The choice of sequences for the next iteration.
    SchedulerKind {
        /// A batch is formed, runs until its last member ends, then the next is formed.
        Static = "static",
        /// Whole prompts are admitted between decode iterations (Orca; vLLM V0).
        Continuous = "continuous",
        /// Decodes and pieces of prompts share a token budget (Sarathi-Serve; vLLM V1).
        Chunked = "chunked",
        /// Some workers prefill, others decode, and KV moves between them (DistServe, Splitwise).
        Disagg = "disagg",
    }
}

/// The properties of a scheduler that anything outside of it depends on.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// Prompts are computed in pieces that fit the token budget; else whole.
    pub chunks_prompts: bool,
    /// Every iteration takes decodes and prompts together.
    pub mixes: bool,
    /// Batches are closed: none joins one that runs, and members that end keep their seats and memory until all have.
    pub closes_batches: bool,
    /// Some workers prefill, the others decode.
    pub disaggregates: bool,
    /// The reason why a worker has one iteration in flight, and the remedy. None where it may have several: pipeline
    /// stages are filled by them, and async scheduling plans one ahead.
    pub one_in_flight: Option<&'static str>,
    /// The knobs that it reads and some other scheduler does not.
    pub knobs: &'static [&'static str],
}

/// A scheduler with nothing special.
const PLAIN: Traits = Traits {
    chunks_prompts: false,
    mixes: false,
    closes_batches: false,
    disaggregates: false,
    one_in_flight: None,
    knobs: &[],
};

impl SchedulerKind {
    /// Its properties.
    #[must_use]
    pub const fn traits(self) -> Traits {
        match self {
            Self::Static => Traits {
                closes_batches: true,
                one_in_flight: Some("a static batch cannot be split into micro-batches"),
                knobs: &["padding", "max-wait"],
                ..PLAIN
            },
            Self::Continuous => Traits { knobs: &["mix"], ..PLAIN },
            Self::Chunked => Traits {
                chunks_prompts: true,
                mixes: true,
                knobs: &["long-prefill-threshold", "prompt-kv"],
                ..PLAIN
            },
            Self::Disagg => Traits {
                chunks_prompts: true,
                disaggregates: true,
                one_in_flight: Some("give its workers more tp or more of them"),
                knobs: &["prompt-kv", "prefill-workers", "decode-workers"],
                ..PLAIN
            },
        }
    }

    /// The schedulers that read the knob called `name`; none where all do.
    pub(super) fn readers(name: &str) -> Option<Vec<Self>> {
        let reads = |kind: &Self| kind.traits().knobs.contains(&name);
        let readers: Vec<Self> = Self::ALL.into_iter().filter(reads).collect();
        (!readers.is_empty()).then_some(readers)
    }
}

choice! {
    /// Names people know for a scheduler and an allocator together.
    Policy {
        /// Static batches on contiguous KV reserved at its maximum.
        Static = "static",
        /// Continuous batching on contiguous KV reserved at its maximum (Orca).
        Continuous = "continuous",
        /// Continuous batching on paged KV (vLLM V0).
        Paged = "paged",
        /// Chunked prefill on paged KV with prefix cache (vLLM V1, SGLang).
        Chunked = "chunked",
        /// Prefill and decode on different workers, paged KV with prefix cache.
        Disagg = "disagg",
    }
}

impl Policy {
    /// Its scheduler, its allocator, and true if it shares prefixes.
    pub(super) const fn parts(self) -> (SchedulerKind, AllocatorKind, bool) {
        match self {
            Self::Static => (SchedulerKind::Static, AllocatorKind::Contiguous, false),
            Self::Continuous => (SchedulerKind::Continuous, AllocatorKind::Contiguous, false),
            Self::Paged => (SchedulerKind::Continuous, AllocatorKind::Paged, false),
            Self::Chunked => (SchedulerKind::Chunked, AllocatorKind::Paged, true),
            Self::Disagg => (SchedulerKind::Disagg, AllocatorKind::Paged, true),
        }
    }

    /// The policies that a single worker runs: those that stand beside each other on the same GPUs.
    pub fn of_one_worker() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|policy| !policy.scheduler().traits().disaggregates)
    }

    /// Its scheduler.
    #[must_use]
    pub const fn scheduler(self) -> SchedulerKind {
        self.parts().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Knob};

    #[test]
    fn rows_name_knobs_and_policies() {
        for kind in SchedulerKind::ALL {
            let knobs = kind.traits().knobs;
            assert!(knobs.iter().all(|name| Knob::named(name).is_some()), "{kind}: {knobs:?}");
            assert!(Policy::ALL.iter().any(|policy| policy.scheduler() == kind), "{kind}");
        }
    }

    #[test]
    fn a_policy_name_is_its_scheduler_and_allocator() {
        for policy in Policy::ALL {
            let mut config = Config::default();
            config.set("policy", policy.name()).unwrap();
            assert_eq!(config.policy(), policy);
        }
    }
}
