//! A configuration checked against a model, a device and the longest request: what can be built and run.
//!
//! It also says which requests can never be served ([`Deployment::refuses`]), for simulated and computed devices alike.

use std::sync::Arc;

use crate::config::{AllocatorKind, Config, KnobError, SchedulerKind};
use crate::engines::EngineProfile;
use crate::exec::Correction;
use crate::exec::cost::{CostModel, Ranks};
use crate::kv::{group, page_slots};
use crate::memory::{KvLayout, MemoryError, MemoryPlan, kv_slots};
use crate::model::ModelShape;
use crate::profile::DeviceProfile;
use crate::speculation::{Expected, Speculation, curve_of};

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The knobs, `max_model_len` resolved: within the model's context window and KV memory.
    pub config: Config,
    /// The model.
    pub model: Arc<ModelShape>,
    /// The device.
    pub device: Arc<DeviceProfile>,
    /// The use of a GPU's memory.
    pub memory: MemoryPlan,
    /// The layers that share a page list.
    pub layout: KvLayout,
    /// KV slots of one worker: as many as the device's memory holds, or [another number](Deployment::with_kv_slots).
    pub kv_slots: u32,
    /// The cost of iterations.
    pub cost: Arc<CostModel>,
    /// The drafted tokens that are right, where tokens are drafted and that is known.
    pub drafts: Option<Expected>,
    /// The findings of a calibration about them.
    pub correction: Option<Arc<Correction>>,
    /// True if `max_model_len` was asked for.
    typed: bool,
}

/// A limit that a request can exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The context window the model was trained for.
    Context,
    /// The `max_model_len` that was asked for.
    MaxModelLen,
    /// All KV memory of a worker.
    KvMemory,
}

/// The reasons for which a configuration cannot be deployed.
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
    /// A knob is set and does nothing.
    #[error(transparent)]
    Knob(#[from] KnobError),
    /// Ranks of attention meet within one stage of one worker.
    #[error(
        "dp ranks meet at every layer of experts: leave pp at 1, and take another scheduler than disagg"
    )]
    RanksOfStages,
    /// Stages are filled by several iterations in flight.
    #[error("the {scheduler} scheduler runs with pp 1: {why}")]
    Pipeline {
        /// The scheduler.
        scheduler: SchedulerKind,
        /// The reason, or the remedy.
        why: &'static str,
    },
    /// The model or its KV does not fit.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Longer than the model was trained for.
    #[error(
        "max-model-len {asked} is beyond the {context} tokens of {model}'s context window: lower it, or add \
         --allow-long-context"
    )]
    Context {
        /// The length asked for, tokens.
        asked: u32,
        /// The model.
        model: String,
        /// Its context window, tokens.
        context: u32,
    },
    /// No angle or row for positions beyond the last one.
    #[error(
        "{model} has learned its {context} positions one by one: leave --allow-long-context out"
    )]
    LearnedPositions {
        /// The model.
        model: String,
        /// Its context window, tokens.
        context: u32,
    },
    /// Nothing drafts.
    #[error("{model} has no draft head (MTP): take --speculation prompt-lookup or off")]
    NoDraftHead {
        /// The model.
        model: String,
    },
    /// A state cannot be taken back.
    #[error(
        "{model} keeps a state per sequence, from which tokens drafted in vain cannot be taken back here: leave \
         --speculation off"
    )]
    DraftedStates {
        /// The model.
        model: String,
    },
    /// The number of drafted tokens that are right is not known.
    #[error(
        "no measured acceptance of {speculation} drafts for {model}: give --acceptance, the mean tokens a decode brings \
         with 1/2/3 drafted ones (such as 1.6/2.0/2.2; vLLM logs it as mean acceptance length)"
    )]
    Acceptance {
        /// The model.
        model: String,
        /// The source of drafts.
        speculation: Speculation,
    },
    /// An engine would not start.
    #[error(
        "max-model-len {asked} does not fit KV memory, which holds a sequence of {most} tokens: lower it"
    )]
    Window {
        /// The length asked for, tokens.
        asked: u32,
        /// The longest sequence that KV memory holds, tokens.
        most: u32,
    },
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
        config: Config,
        model: Arc<ModelShape>,
        device: Arc<DeviceProfile>,
        longest: u32,
    ) -> Result<Self, DeployError> {
        Self::with_kv_slots(config, model, device, longest, |own| own)
    }

    /// The same with another number of KV slots in each worker: `slots` of the number that the device's memory holds.
    ///
    /// # Errors
    /// See [`Deployment::new`]; the `max_model_len` asked for must fit the slots given.
    pub fn with_kv_slots(
        config: Config,
        model: Arc<ModelShape>,
        device: Arc<DeviceProfile>,
        longest: u32,
        slots: impl FnOnce(u32) -> u32,
    ) -> Result<Self, DeployError> {
        Self::under(&EngineProfile::any(), config, model, device, longest, slots)
    }

    /// The same under a given engine, whose time outside the device counts.
    ///
    /// # Errors
    /// See [`Deployment::with_kv_slots`].
    pub fn under(
        engine: &EngineProfile,
        mut config: Config,
        model: Arc<ModelShape>,
        device: Arc<DeviceProfile>,
        longest: u32,
        slots: impl FnOnce(u32) -> u32,
    ) -> Result<Self, DeployError> {
        check(&config)?;
        let model = match config.quantization {
            Some(format) => Arc::new(model.as_ref().clone().quantised(format)),
            None => model,
        };
        let context = window(&config, &model)?;
        let asked = config.max_model_len;
        if asked > context {
            let model = model.name.clone();
            return Err(DeployError::Context { asked, model, context });
        }
        let enough = longest.max(1).checked_next_power_of_two().unwrap_or(u32::MAX);
        let wanted = if asked == 0 { enough.min(context) } else { asked };
        let (held, drafter) = match config.speculation {
            Speculation::Mtp => drafting(&model)?,
            _ => (Arc::clone(&model), None),
        };
        if config.speculates() && held.stage_state_bytes(1, 1, 0) > 0 {
            return Err(DeployError::DraftedStates { model: model.name.clone() });
        }
        let memory = kv_slots(&held, &device, &config)?;
        let Config { tp, dp, ep, pp, .. } = config;
        let ranks = Ranks { tp, dp, ep, pp };
        let cost = CostModel::on(&model, &device, ranks, config.kv_dtype, config.max_batch_tokens)
            .hosted(engine.host_time(&device, &config))
            .drafted_by(drafter.map(|head| {
                let ranks = Ranks { pp: 1, ..ranks };
                CostModel::on(&head, &device, ranks, config.kv_dtype, config.max_batch_tokens)
            }));
        let kv_slots = slots(memory.slots.min(MOST_SLOTS) as u32);
        let layout = KvLayout::new(&held, &config);
        let most = longest_held(&config, &layout, kv_slots);
        let typed = asked > 0;
        if typed && wanted > most {
            return Err(DeployError::Window { asked: wanted, most });
        }
        let cost = Arc::new(cost);
        config.max_model_len = wanted.min(most);
        let drafts = expected(&config, &model);
        Ok(Self {
            config,
            model,
            device,
            memory,
            layout,
            kv_slots,
            cost,
            drafts,
            correction: None,
            typed,
        })
    }

    /// The limit that makes a request unservable, and its tokens; none if it can be served.
    ///
    /// The client is one that asks for all of its response (`max_tokens`), as load generators do. Engines answer such a
    /// request with an error (HTTP 400) where prompt and response together exceed `max_model_len`. They do not start
    /// with more of that than the model's context window (unless told to) or KV memory holds.
    #[must_use]
    pub fn refuses(&self, input: u32, output: u32) -> Option<(Bound, u32)> {
        let tokens = input.max(1).saturating_add(output);
        let context = self.model.max_context;
        match self.config.max_model_len {
            most if tokens <= most => None,
            _ if tokens > context && !self.config.allow_long_context => {
                Some((Bound::Context, context))
            }
            most if self.typed => Some((Bound::MaxModelLen, most)),
            most => Some((Bound::KvMemory, most)),
        }
    }

    /// Refuses what cannot be simulated, although it can be served.
    ///
    /// # Errors
    /// When tokens are drafted and nothing says how many of them are right.
    pub fn check_simulated(&self) -> Result<(), DeployError> {
        if !self.config.speculates() || self.drafts.is_some() {
            return Ok(());
        }
        let (model, speculation) = (self.model.name.clone(), self.config.speculation);
        Err(DeployError::Acceptance { model, speculation })
    }

    /// GPUs it takes.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.config.gpus()
    }
}

/// A model as it is held in memory with its draft head, and the head.
fn drafting(model: &Arc<ModelShape>) -> Result<(Arc<ModelShape>, Option<ModelShape>), DeployError> {
    let none = || DeployError::NoDraftHead { model: model.name.clone() };
    let held = model.with_draft_head().ok_or_else(none)?;
    Ok((Arc::new(held), model.drafter()))
}

/// The drafted tokens that are right: as asked for, or as measured for the model.
fn expected(config: &Config, model: &ModelShape) -> Option<Expected> {
    let asked = Some(config.acceptance.clone()).filter(|a| config.speculates() && !a.is_auto());
    let measured = || Some(curve_of(&model.name, config.speculation)?.acceptance());
    asked.or_else(measured).map(|acceptance| Expected::new(&acceptance, 0))
}

/// The longest sequence that `model` may be asked for, tokens.
fn window(config: &Config, model: &ModelShape) -> Result<u32, DeployError> {
    let context = model.max_context;
    match (config.allow_long_context, model.position_rows) {
        (false, _) => Ok(context),
        (true, 0) => Ok(u32::MAX),
        (true, _) => Err(DeployError::LearnedPositions { model: model.name.clone(), context }),
    }
}

/// The longest sequence that an empty worker with `slots` of KV holds, tokens: whole pages, or an extent of a power of
/// two.
fn longest_held(config: &Config, layout: &KvLayout, slots: u32) -> u32 {
    match config.allocator {
        AllocatorKind::Paged => {
            let pages = slots / page_slots(&layout.groups);
            group::longest(&layout.groups, pages, config.longest_chunk())
        }
        AllocatorKind::Contiguous => slots.checked_ilog2().map_or(0, |log| 1 << log),
    }
}

/// Refuses knobs that contradict each other or do nothing on any model and device.
///
/// # Errors
/// The first of them.
pub fn check(c: &Config) -> Result<(), DeployError> {
    if c.max_batch_tokens < c.max_seqs {
        return Err(DeployError::Budget { budget: c.max_batch_tokens, seqs: c.max_seqs });
    }
    c.check_applies()?;
    let one_in_flight = c.scheduler.traits().one_in_flight;
    if c.dp > 1 && (c.pp > 1 || c.scheduler.traits().disaggregates) {
        return Err(DeployError::RanksOfStages);
    }
    match one_in_flight {
        Some(why) if c.pp > 1 => Err(DeployError::Pipeline { scheduler: c.scheduler, why }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deploy(
        edits: &[(&str, &str)],
        model: &str,
        device: &str,
        longest: u32,
    ) -> Result<Deployment, String> {
        of(edits, model, device, longest, |own| own)
    }

    fn of(
        edits: &[(&str, &str)],
        model: &str,
        device: &str,
        longest: u32,
        slots: impl FnOnce(u32) -> u32,
    ) -> Result<Deployment, String> {
        let mut config = Config::default();
        edits.iter().for_each(|(knob, value)| config.set(knob, value).unwrap());
        let model = Arc::new(ModelShape::load(model).unwrap());
        let device = Arc::new(DeviceProfile::load(device).unwrap());
        Deployment::with_kv_slots(config, model, device, longest, slots).map_err(|e| e.to_string())
    }

    #[test]
    fn the_window_is_within_the_model_and_the_memory() {
        let window = |edits: &[_], model: &str, device: &str, longest| {
            deploy(edits, model, device, longest).unwrap().config.max_model_len
        };
        assert_eq!(window(&[], "llama-3.1-8b", "h100-sxm", 5000), 8192);
        assert_eq!(window(&[], "llama-2-13b", "h100-sxm", 5000), 4096);
        let long = [("allow-long-context", "on")];
        assert_eq!(window(&long, "llama-2-13b", "h100-sxm", 5000), 8192);
        let small = deploy(&[], "llama-3.1-8b", "rtx4090", 100_000).unwrap();
        let (window_, slots) = (small.config.max_model_len, small.kv_slots);
        assert!(window_ <= slots && window_ > slots - 16 && window_.is_multiple_of(16));
        let pages = [("policy", "continuous")];
        assert_eq!(window(&pages, "llama-3.1-8b", "rtx4090", 100_000), 1 << slots.ilog2());
    }

    #[test]
    fn a_window_that_no_engine_starts_with_is_refused() {
        let refused = |edits: &[_], model: &str, device: &str| {
            deploy(edits, model, device, 1000).unwrap_err()
        };
        assert_eq!(
            refused(&[("max-model-len", "5000")], "llama-2-13b", "h100-sxm"),
            "max-model-len 5000 is beyond the 4096 tokens of llama-2-13b's context window: lower it, or add \
             --allow-long-context"
        );
        let long = [("max-model-len", "100000")];
        let told = refused(&long, "llama-3.1-8b", "rtx4090");
        assert!(told.starts_with("max-model-len 100000 does not fit KV memory"), "{told}");
        assert!(of(&long, "llama-3.1-8b", "rtx4090", 1000, |own| 3 * own).is_ok());
        let told = of(&[("max-model-len", "4096")], "llama-3.1-8b", "rtx4090", 1000, |_| 1600)
            .unwrap_err();
        assert_eq!(
            told,
            "max-model-len 4096 does not fit KV memory, which holds a sequence of 1600 tokens: lower it"
        );
        assert_eq!(
            refused(&[("allow-long-context", "on")], "opt-13b", "h100-sxm"),
            "opt-13b has learned its 2048 positions one by one: leave --allow-long-context out"
        );
    }
}
