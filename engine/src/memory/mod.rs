//! The tokens of KV that fit beside the weights, and the use of every other byte of device memory.
//!
//! The account is vLLM's: the share of memory that the engine may use, less weights, the peak of a pass over the
//! largest batch, and the runtime. Checked against the pools that vLLM 0.15.1 logged on H100 (see tests).

mod layout;

pub use layout::KvLayout;

use crate::config::Config;
use crate::format::Format;
use crate::model::feed_forward::FeedForward;
use crate::model::operators::PLAIN_BYTES;
use crate::model::{Layer, ModelShape};
use crate::profile::DeviceProfile;

/// Bytes per logit that the sampler holds at its peak: float32 logits, probabilities, and a sorted copy with indices.
const SAMPLER_BYTES: u64 = 16;

/// The use of the memory of one GPU, bytes; of the pipeline stage with the fewest slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Memory of the device.
    pub device: u64,
    /// Allowed to the engine: `kv_fraction`.
    pub limit: u64,
    /// Weights of one rank.
    pub weights: u64,
    /// Peak of activations over `max_batch_tokens` tokens.
    pub activations: u64,
    /// Peak of the sampler over `max_seqs` sequences.
    pub sampler: u64,
    /// Buffers of collective operations.
    pub communication: u64,
    /// CUDA modules, small buffers.
    pub runtime: u64,
    /// States of linear layers, of `max_seqs` sequences, where they are not in pages.
    pub states: u64,
    /// Left for keys and values.
    pub kv: u64,
    /// Keys and values of one token on this rank.
    pub bytes_per_token: u64,
    /// Tokens whose keys and values fit, on every stage; where layers are several groups ([`KvLayout`]), each counts its
    /// own.
    pub slots: u64,
    /// The stage that decides, from 0.
    pub stage: u32,
}

/// The reasons for which a model cannot be laid out on a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Attention heads cannot be spread evenly.
    #[error("{model} has {heads} attention heads and {kv_heads} KV heads, which --tp {tp} does not divide{}", hint(.suggestion))]
    Heads {
        /// The model.
        model: String,
        /// Its query heads.
        heads: u32,
        /// Its KV heads.
        kv_heads: u32,
        /// Ranks asked for.
        tp: u32,
        /// A number that would do.
        suggestion: Option<u32>,
    },
    /// Quantised in blocks that ranks would have to cut.
    #[error(
        "{model} has feed-forward weights in FP8 blocks of 128, which --tp {tp} would cut: {width} is no multiple of \
         128 x {tp}{}", hint(.suggestion)
    )]
    Blocks {
        /// The model.
        model: String,
        /// The inner width of the layer.
        width: u32,
        /// Ranks asked for.
        tp: u32,
        /// A number that would do.
        suggestion: Option<u32>,
    },
    /// Experts that cannot be shared out whole.
    #[error(
        "{model} has {experts} experts, which --ep {ep} must divide, as it must --tp {tp}{}", by(.dp)
    )]
    Experts {
        /// The model.
        model: String,
        /// Experts of a layer.
        experts: u32,
        /// Tensor-parallel ranks of a stage.
        tp: u32,
        /// Attention-data-parallel ranks.
        dp: u32,
        /// Ranks that share experts out.
        ep: u32,
    },
    /// Experts are to be shared out and there are none.
    #[error("{model} has no experts that --{knob} {ranks} could share out: leave it at 1")]
    NoExperts {
        /// The model.
        model: String,
        /// The knob that says so.
        knob: &'static str,
        /// Ranks asked for.
        ranks: u32,
    },
    /// More stages than layers.
    #[error("{model} has {layers} layers, too few for --pp {pp}")]
    Stages {
        /// The model.
        model: String,
        /// Its layers.
        layers: u32,
        /// Stages asked for.
        pp: u32,
    },
    /// The weights alone are too large.
    #[error(
        "{model} needs {} GB of weights; {gpus} x {device} gives {} GB at kv-fraction {fraction}: {} GB short{}",
        gb(*weights), gb(*limit), gb(weights - limit), hint(.suggestion)
    )]
    Weights {
        /// The model.
        model: String,
        /// The device.
        device: String,
        /// GPUs of a worker.
        gpus: u32,
        /// Weights over all of them, bytes.
        weights: u64,
        /// Allowed to the engine on all of them, bytes.
        limit: u64,
        /// The fraction asked for.
        fraction: String,
        /// A number of ranks that would do.
        suggestion: Option<u32>,
    },
    /// The weights fit, but nothing is left for keys and values.
    #[error(
        "{model} on {device} leaves no room for KV: weights {} GB and working memory {} GB a GPU against {} GB at \
         kv-fraction {fraction}; lower --max-batch-tokens or --max-seqs{}",
        gb(*weights), gb(*working), gb(*limit), or_hint(.suggestion)
    )]
    NoRoom {
        /// The model.
        model: String,
        /// The device.
        device: String,
        /// Weights of the fullest GPU, bytes.
        weights: u64,
        /// Activations, sampler, communication and runtime on it, bytes.
        working: u64,
        /// Allowed to the engine on it, bytes.
        limit: u64,
        /// The fraction asked for.
        fraction: String,
        /// A number of ranks that would do.
        suggestion: Option<u32>,
    },
}

fn gb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e9)
}

fn by(dp: &u32) -> String {
    if *dp > 1 { format!(" x --dp {dp}") } else { String::new() }
}

fn hint(tp: &Option<u32>) -> String {
    tp.map_or_else(String::new, |tp| format!("; try --tp {tp}"))
}

fn or_hint(tp: &Option<u32>) -> String {
    tp.map_or_else(String::new, |tp| format!(", or try --tp {tp}"))
}

/// KV slots of one worker (`tp` ranks x `pp` stages): tokens whose keys and values fit on every GPU of it.
pub fn kv_slots(
    model: &ModelShape,
    device: &DeviceProfile,
    config: &Config,
) -> Result<MemoryPlan, MemoryError> {
    let (tp, pp) = (config.tp.max(1), config.pp.max(1));
    if let Some((heads, kv_heads)) = undivided(model, tp) {
        return Err(MemoryError::Heads {
            model: model.name.clone(),
            heads,
            kv_heads,
            tp,
            suggestion: (tp + 1..=heads).find(|&ranks| divides(model, ranks)),
        });
    }
    let (dp, ep) = (config.dp.max(1), config.ep.max(1));
    if dp * ep > 1 {
        check_experts(model, tp, dp, ep)?;
    }
    if let Some(width) = broken_blocks(model, tp, tp * dp / ep) {
        let whole = |&tp: &u32| divides(model, tp) && broken_blocks(model, tp, tp * dp).is_none();
        let suggestion = (1..tp).rev().find(whole);
        return Err(MemoryError::Blocks { model: model.name.clone(), width, tp, suggestion });
    }
    let layers = model.layers.count();
    if pp > layers {
        return Err(MemoryError::Stages { model: model.name.clone(), layers, pp });
    }
    let layout = KvLayout::new(model, config);
    let stages: Vec<MemoryPlan> =
        (0..pp).map(|stage| plan(model, device, config, &layout, tp, stage)).collect();
    let tightest = stages.iter().min_by_key(|stage| stage.slots).copied();
    match tightest {
        Some(plan) if plan.slots > 0 => Ok(plan),
        _ => Err(shortage(model, device, config, &stages)),
    }
}

/// True where `tp` ranks can share the heads.
#[must_use]
pub fn divides(model: &ModelShape, tp: u32) -> bool {
    undivided(model, tp).is_none()
}

/// Query and KV heads that `tp` ranks cannot share: query heads must go evenly, KV heads evenly or each copied equally
/// often.
fn undivided(model: &ModelShape, tp: u32) -> Option<(u32, u32)> {
    let heads =
        model.layers.groups().filter_map(|(_, layer)| Some(layer.attention.as_ref()?.heads()));
    heads.into_iter().find(|(heads, kv)| {
        !(heads.is_multiple_of(tp) && (kv.is_multiple_of(tp) || tp.is_multiple_of(*kv)))
    })
}

/// Refuses experts that `ep` of `tp` x `dp` ranks cannot share out whole.
fn check_experts(model: &ModelShape, tp: u32, dp: u32, ep: u32) -> Result<(), MemoryError> {
    let of = |layer: &Layer| match &layer.feed_forward {
        Some(FeedForward::Experts(experts)) => Some(experts.experts),
        _ => None,
    };
    let model_name = || model.name.clone();
    let mut experts = model.layers.groups().filter_map(|(_, layer)| of(layer)).peekable();
    if experts.peek().is_none() {
        let (knob, ranks) = if dp > 1 { ("dp", dp) } else { ("ep", ep) };
        return Err(MemoryError::NoExperts { model: model_name(), knob, ranks });
    }
    match experts.find(|experts| !(experts.is_multiple_of(ep) && (tp * dp).is_multiple_of(ep))) {
        Some(experts) => Err(MemoryError::Experts { model: model_name(), experts, tp, dp, ep }),
        None => Ok(()),
    }
}

/// The inner width of a feed-forward layer that `tp` ranks cannot share in whole FP8 blocks of 128, or `each` ranks that
/// of an expert.
fn broken_blocks(model: &ModelShape, tp: u32, each: u32) -> Option<u32> {
    let widths = |layer: &Layer| match &layer.feed_forward {
        Some(FeedForward::Dense(dense)) => vec![(dense.width, tp, layer.formats.feed_forward)],
        Some(FeedForward::Experts(experts)) => vec![
            (experts.width, each, layer.formats.feed_forward),
            (experts.shared, tp, layer.formats.shared),
        ],
        None => Vec::new(),
    };
    let broken = |(width, ranks, format): &(u32, u32, Format)| {
        *format == Format::Fp8Block && !width.is_multiple_of(128 * (*ranks).max(1))
    };
    let mut widths = model.layers.groups().flat_map(|(_, layer)| widths(layer));
    widths.find(broken).map(|(width, _, _)| width)
}

fn plan(
    model: &ModelShape,
    device: &DeviceProfile,
    config: &Config,
    layout: &KvLayout,
    tp: u32,
    stage: u32,
) -> MemoryPlan {
    let pp = config.pp.max(1);
    let limit = (device.memory_bytes as f64 * config.kv_fraction) as u64;
    let dp = config.dp.max(1);
    let experts = |ranks| model.expert_bytes(ranks, pp, stage);
    let weights = model.rank_weight_bytes(tp, pp, stage) - experts(tp)
        + experts(tp * dp)
        + model.expert_filling((tp * dp, config.ep.max(1)), pp, stage);
    // Live at once in a feed-forward layer: the residual stream, its normalised copy, the layer's input and output,
    // and the products before and after the activation.
    let inner =
        model.layers.groups().filter_map(|(_, l)| Some(l.feed_forward.as_ref()?.inner_width(tp)));
    // Ranks of attention gather the tokens of all before the experts, and their outputs.
    let gathered = if dp > 1 { 2 * u64::from(dp) * u64::from(model.hidden) } else { 0 };
    let widths = 4 * u64::from(model.hidden) + gathered + 3 * inner.max().unwrap_or(0);
    let activations = u64::from(config.max_batch_tokens) * widths * PLAIN_BYTES;
    let last = stage + 1 == pp;
    let sampler =
        if last { u64::from(config.max_seqs) * u64::from(model.vocab) * SAMPLER_BYTES } else { 0 };
    let ranks = tp.saturating_mul(dp).saturating_mul(pp).min(device.gpus_per_node);
    let communication = if ranks > 1 { device.all_reduce_law(ranks).buffer_bytes } else { 0 };
    let runtime = device.runtime_bytes;
    let states = u64::from(config.max_seqs) * layout.seat_bytes(model, pp, stage);
    let taken = weights + activations + sampler + communication + runtime + states;
    let kv = limit.saturating_sub(taken);
    let bytes_per_token = model.stage_kv_bytes(config.kv_dtype, tp, pp, stage);
    let slots = layout.slots_in(kv, model, pp, stage);
    MemoryPlan {
        device: device.memory_bytes,
        limit,
        weights,
        activations,
        sampler,
        communication,
        runtime,
        states,
        kv,
        bytes_per_token,
        slots,
        stage,
    }
}

/// The error with the missing bytes, and the fewest ranks that would do.
fn shortage(
    model: &ModelShape,
    device: &DeviceProfile,
    config: &Config,
    stages: &[MemoryPlan],
) -> MemoryError {
    let (tp, pp) = (config.tp.max(1), config.pp.max(1));
    let fits = |tp: u32| {
        let layout = KvLayout::new(model, &Config { tp, ..config.clone() });
        divides(model, tp)
            && broken_blocks(model, tp, tp * config.dp.max(1) / config.ep.max(1)).is_none()
            && (0..pp).all(|stage| plan(model, device, config, &layout, tp, stage).slots > 0)
    };
    // A head is not split: beyond as many ranks as heads there is nothing to find.
    let heads = model.layers.groups().filter_map(|(_, l)| Some(l.attention.as_ref()?.heads().0));
    let most = device.gpus_per_node.min(heads.max().unwrap_or(1));
    let suggestion = (tp + 1..=most).find(|&ranks| fits(ranks));
    let (name, fraction) = (model.name.clone(), config.kv_fraction.to_string());
    let gpus = tp.saturating_mul(pp);
    let limit = stages.iter().map(|stage| stage.limit).sum::<u64>() * u64::from(tp);
    // Ranks of attention hold all but experts each for itself.
    let own = || stages.iter().map(|stage| stage.weights).sum::<u64>() * u64::from(tp);
    let weights = if config.dp > 1 { own() } else { model.weight_bytes() };
    if weights >= limit {
        let device = device.name.clone();
        return MemoryError::Weights {
            model: name,
            device,
            gpus,
            weights,
            limit,
            fraction,
            suggestion,
        };
    }
    let fullest = stages.iter().max_by_key(|s| s.weights + s.activations + s.sampler + s.states);
    let (weights, working, limit) = fullest.map_or((0, 0, 0), |s| {
        let working = s.activations + s.sampler + s.communication + s.runtime + s.states;
        (s.weights, working, s.limit)
    });
    MemoryError::NoRoom {
        model: name,
        device: device.name.clone(),
        weights,
        working,
        limit,
        fraction,
        suggestion,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KvDtype;
    use crate::model::DenseShape;

    fn slots(model: &ModelShape, device: &str, config: &Config) -> Result<MemoryPlan, String> {
        let device = DeviceProfile::load(device).unwrap();
        kv_slots(model, &device, config).map_err(|e| e.to_string())
    }

    fn llama_8b() -> ModelShape {
        ModelShape::load("llama-3.1-8b").unwrap()
    }

    /// Llama-2 and Code Llama shapes that real pools are known for.
    fn llama(hidden: u32, layers: u32, heads: u32, kv_heads: u32, ffn: u32) -> ModelShape {
        let vocab = 32_000;
        let like = llama_8b().dense().unwrap();
        DenseShape { name: "llama".into(), hidden, layers, heads, kv_heads, ffn, vocab, ..like }
            .into()
    }

    #[test]
    fn pools_are_those_that_vllm_logged() {
        // gpu_kv_blocks of vLLM 0.15.1 on H100 SXM, blocks of 16, 128 sequences, 2,048 tokens (blis-training-h100).
        let cases = [
            ("Llama-2-7b tp 1", llama(4096, 32, 32, 32, 11_008), 1, 7_462),
            ("CodeLlama-34b tp 2", llama(8192, 48, 64, 8, 22_016), 2, 26_602),
            ("Llama-2-70b tp 4", llama(8192, 80, 64, 8, 28_672), 4, 31_356),
        ];
        for (name, model, tp, blocks) in cases {
            let config = Config { tp, max_seqs: 128, ..Config::default() };
            let plan = slots(&model, "h100", &config).unwrap();
            let error = plan.slots as f64 / 16.0 / f64::from(blocks) - 1.0;
            assert!(
                error.abs() < 0.01,
                "{name}: {} blocks against {blocks}: {error:+.3}",
                plan.slots / 16
            );
        }
    }

    #[test]
    fn a_small_device_holds_about_what_it_really_does() {
        // vLLM 0.19 on an RTX 4090: 2,588 blocks of 16 with 256 sequences; CUDA graphs count against it there.
        let device = DeviceProfile::load("rtx4090").unwrap();
        let plan = kv_slots(&llama_8b(), &device, &Config::default()).unwrap();
        let error = plan.slots as f64 / 41_408.0 - 1.0;
        assert!((0.0..0.08).contains(&error), "{error:+.3}");
    }

    #[test]
    fn every_byte_is_accounted_for() {
        for (tp, pp) in [(1, 1), (2, 1), (2, 2), (1, 3), (8, 2)] {
            let plan = slots(&llama_8b(), "h200", &Config { tp, pp, ..Config::default() }).unwrap();
            let sum = plan.weights
                + plan.activations
                + plan.sampler
                + plan.communication
                + plan.runtime
                + plan.states
                + plan.kv;
            assert_eq!(sum, plan.limit);
            assert_eq!(plan.slots, plan.kv / plan.bytes_per_token);
        }
        let plan = slots(&llama_8b(), "h100", &Config::default()).unwrap();
        assert!((440_000..470_000).contains(&plan.slots), "{}", plan.slots);
    }

    #[test]
    fn fp8_holds_twice_the_tokens_and_a_larger_budget_fewer() {
        let of = |change: &dyn Fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            slots(&llama_8b(), "h100", &config).unwrap().slots
        };
        let base = of(&|_| ());
        let fp8 = of(&|c| c.kv_dtype = KvDtype::Fp8);
        assert!((2 * base..=2 * base + 1).contains(&fp8));
        assert!(of(&|c| c.max_batch_tokens = 16_384) < base);
        assert!(of(&|c| c.max_seqs = 1024) < base);
        assert!(of(&|c| c.tp = 2) > 2 * base, "weights are shared out as well");
        assert!(of(&|c| c.pp = 2) > 2 * base);
    }

    #[test]
    fn a_model_that_does_not_fit_names_the_missing_bytes_and_a_remedy() {
        let model = ModelShape::load("llama-3.1-70b").unwrap();
        let say = |tp, pp, fraction, tokens| {
            let config = Config {
                tp,
                pp,
                kv_fraction: fraction,
                max_batch_tokens: tokens,
                ..Config::default()
            };
            slots(&model, "h100", &config).unwrap_err()
        };
        assert_eq!(
            say(1, 1, 0.9, 2048),
            "llama-3.1-70b needs 141.1 GB of weights; 1 x h100-sxm gives 76.4 GB at kv-fraction 0.9: 64.7 GB short; \
             try --tp 2"
        );
        assert_eq!(
            say(2, 1, 0.84, 2048),
            "llama-3.1-70b on h100-sxm leaves no room for KV: weights 70.6 GB and working memory 1.3 GB a GPU against \
             71.4 GB at kv-fraction 0.84; lower --max-batch-tokens or --max-seqs, or try --tp 4"
        );
        assert_eq!(
            say(3, 1, 0.9, 2048),
            "llama-3.1-70b has 64 attention heads and 8 KV heads, which --tp 3 does not divide; try --tp 4"
        );
        assert_eq!(say(1, 81, 0.9, 2048), "llama-3.1-70b has 80 layers, too few for --pp 81");
    }

    #[test]
    fn experts_and_blocks_are_shared_out_whole() {
        let say = |model: &str, edits: &[(&str, &str)]| {
            let mut config = Config::default();
            edits.iter().for_each(|(knob, value)| config.set(knob, value).unwrap());
            slots(&ModelShape::load(model).unwrap(), "h200", &config).map(|plan| plan.weights)
        };
        let blocks = "Qwen/Qwen3-235B-A22B-FP8";
        assert_eq!(
            say(blocks, &[("tp", "8")]).unwrap_err(),
            "Qwen/Qwen3-235B-A22B-FP8 has feed-forward weights in FP8 blocks of 128, which --tp 8 would cut: 1536 is no \
             multiple of 128 x 8; try --tp 4"
        );
        // Whole experts are not cut.
        let whole = say(blocks, &[("tp", "8"), ("ep", "8")]).unwrap();
        assert!((29e9..30e9).contains(&(whole as f64)), "{whole}");
        assert_eq!(
            say(blocks, &[("tp", "4"), ("ep", "3")]).unwrap_err(),
            "Qwen/Qwen3-235B-A22B-FP8 has 128 experts, which --ep 3 must divide, as it must --tp 4"
        );
        assert_eq!(
            say("llama-3.1-8b", &[("tp", "2"), ("ep", "2")]).unwrap_err(),
            "llama-3.1-8b has no experts that --ep 2 could share out: leave it at 1"
        );
        assert_eq!(
            say("llama-3.1-8b", &[("dp", "2")]).unwrap_err(),
            "llama-3.1-8b has no experts that --dp 2 could share out: leave it at 1"
        );
        assert_eq!(
            say(blocks, &[("tp", "4"), ("dp", "2"), ("ep", "16")]).unwrap_err(),
            "Qwen/Qwen3-235B-A22B-FP8 has 128 experts, which --ep 16 must divide, as it must --tp 4 x --dp 2"
        );
    }

    #[test]
    fn ranks_of_attention_hold_a_share_of_the_experts_and_all_else() {
        let model = ModelShape::load("deepseek-ai/DeepSeek-V3").unwrap();
        let of = |edits: &[(&str, &str)]| {
            let mut config = Config::default();
            edits.iter().for_each(|(knob, value)| config.set(knob, value).unwrap());
            slots(&model, "h200", &config).unwrap()
        };
        let split = of(&[("tp", "8"), ("ep", "8")]);
        let ranks = of(&[("dp", "8"), ("ep", "8")]);
        let (experts, shared) = (model.expert_bytes(1, 1, 0), model.expert_bytes(8, 1, 0));
        assert!(8 * shared >= experts && 8 * shared < experts + 8 * 1000);
        assert_eq!(ranks.weights, model.weight_bytes() - experts + shared);
        let few = slots(&model, "h200", &Config { dp: 2, ..Config::default() }).unwrap_err();
        let needed = gb(model.weight_bytes() - experts + model.expert_bytes(2, 1, 0));
        assert!(few.contains(&format!("needs {needed} GB of weights; 1 x h200-sxm")), "{few}");
        // All ranks of tp hold every token's latent, a rank of attention those of its own sequences.
        assert_eq!(ranks.bytes_per_token, split.bytes_per_token);
        assert!(8 * ranks.slots > 5 * split.slots, "{} {}", ranks.slots, split.slots);
    }

    #[test]
    fn states_take_memory_for_every_seat_where_there_are_no_pages() {
        let model = ModelShape::load("Qwen/Qwen3.5-35B-A3B").unwrap();
        let of = |max_seqs| {
            let mut config = Config { max_seqs, ..Config::default() };
            config.set_policy(crate::config::Policy::Continuous);
            slots(&model, "h200", &config).unwrap()
        };
        let (few, many) = (of(16), of(256));
        assert_eq!(few.states, 16 * model.stage_state_bytes(1, 1, 0));
        assert_eq!(many.states, 16 * few.states);
        assert!(many.slots < few.slots);
        assert_eq!(few.bytes_per_token, 20_480, "ten layers of forty keep tokens");
        let paged = slots(&model, "h200", &Config::default()).unwrap();
        assert_eq!(paged.states, 0, "pages hold them");
    }
}
