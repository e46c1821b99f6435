//! A configuration checked against a model, a device and the longest request: what can be built and run.

use std::sync::Arc;

use crate::config::{AllocatorKind, Config, SchedulerKind};
use crate::exec::Correction;
use crate::exec::cost::CostModel;
use crate::memory::{MemoryError, MemoryPlan, kv_slots};
use crate::model::ModelShape;
use crate::profile::DeviceProfile;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The knobs, `max_model_len` resolved.
    pub config: Config,
    /// The model.
    pub model: Arc<ModelShape>,
    /// The device.
    pub device: Arc<DeviceProfile>,
    /// Where a GPU's memory goes.
    pub memory: MemoryPlan,
    /// KV slots of one worker.
    pub kv_slots: u32,
    /// What iterations cost.
    pub cost: Arc<CostModel>,
    /// What calibration found about them.
    pub correction: Option<Arc<Correction>>,
}

/// Why a configuration cannot be deployed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DeployError {
    /// Every running sequence needs a token of the budget.
    #[error(
        "max-batch-tokens {budget} is below max-seqs {seqs}: every decoding sequence takes a token of the budget"
    )]
    Budget {
        /// Tokens per iteration.
        budget: u32,
        /// Sequences.
        seqs: u32,
    },
    /// Blocks are what prefixes share.
    #[error("prefix-cache needs the paged allocator: contiguous extents cannot be shared")]
    PrefixCache,
    /// Nothing to defer.
    #[error("prompt-kv chunk needs the paged allocator and the chunked or disagg scheduler")]
    PromptKv,
    /// A worker that waits for a pull cannot fill stages.
    #[error("the disagg scheduler runs with pp 1: give its workers more tp or more of them")]
    DisaggPipeline,
    /// Seats of a static batch cannot be split.
    #[error(
        "the static scheduler runs with pp 1: a static batch cannot be split into micro-batches"
    )]
    StaticPipeline,
    /// Where the next plan is made beforehand, it must be known to be the next.
    #[error("async-scheduling runs with the continuous and chunked schedulers and pp 1")]
    Async,
    /// The model or its KV does not fit.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Slots of a worker that are kept account of, and that every run sets up anew: a thousand sequences of 16,000 tokens.
/// Models of a few hundred bytes a token would have billions.
const MOST_SLOTS: u64 = 1 << 24;

impl Deployment {
    /// Checks `config` for requests of at most `longest` tokens, prompt and output.
    ///
    /// # Errors
    /// When the knobs contradict each other or the model does not fit.
    pub fn new(
        mut config: Config,
        model: Arc<ModelShape>,
        device: Arc<DeviceProfile>,
        longest: u32,
    ) -> Result<Self, DeployError> {
        check(&config)?;
        if config.max_model_len == 0 {
            config.max_model_len = longest.max(1).next_power_of_two();
        }
        let memory = kv_slots(&model, &device, &config)?;
        let cost = CostModel::new(
            &model,
            &device,
            config.tp,
            config.pp,
            config.kv_dtype,
            config.max_batch_tokens,
        );
        let kv_slots = memory.slots.min(MOST_SLOTS) as u32;
        let cost = Arc::new(cost);
        Ok(Self { config, model, device, memory, kv_slots, cost, correction: None })
    }

    /// GPUs it takes.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.config.gpus()
    }
}

/// Refuses knobs that contradict each other, whatever the model and the device.
///
/// # Errors
/// Which do.
pub fn check(c: &Config) -> Result<(), DeployError> {
    if c.max_batch_tokens < c.max_seqs {
        return Err(DeployError::Budget { budget: c.max_batch_tokens, seqs: c.max_seqs });
    }
    let paged = c.allocator == AllocatorKind::Paged;
    if c.prefix_cache && !paged {
        return Err(DeployError::PrefixCache);
    }
    let pieces = matches!(c.scheduler, SchedulerKind::Chunked | SchedulerKind::Disagg);
    if c.prompt_kv == crate::config::PromptKv::Chunk && !(paged && pieces) {
        return Err(DeployError::PromptKv);
    }
    let ahead = matches!(c.scheduler, SchedulerKind::Continuous | SchedulerKind::Chunked);
    if c.async_scheduling && !(ahead && c.pp == 1) {
        return Err(DeployError::Async);
    }
    match c.scheduler {
        SchedulerKind::Disagg if c.pp > 1 => Err(DeployError::DisaggPipeline),
        SchedulerKind::Static if c.pp > 1 => Err(DeployError::StaticPipeline),
        _ => Ok(()),
    }
}
