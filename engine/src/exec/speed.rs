//! The speed of a model on a device, beside the limits of its data sheet: a prompt alone, and steady decoding.

use serde::Serialize;

use super::cost::CostModel;
use crate::config::{Config, KvDtype};
use crate::memory::{KvLayout, kv_slots};
use crate::model::ModelShape;
use crate::model::attention::Attention;
use crate::model::operators::PLAIN_BYTES;
use crate::profile::DeviceProfile;
use crate::shape::Shape;

/// One kind of iteration on `tp` ranks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    /// Tensor-parallel ranks.
    pub tp: u32,
    /// Sequences: decodes, or one prompt.
    pub seqs: u32,
    /// Tokens of context of each, or of the prompt.
    pub context: u32,
    /// True where it is a prompt, computed in one iteration.
    pub prompt: bool,
    /// Predicted time, ms: the prompt's TTFT on an idle engine, or the decodes' TPOT.
    pub ms: f64,
    /// FLOPs of the model over those that the peak rate of its fastest number format does in that time.
    pub flops_use: f64,
    /// Bytes of weights and KV that must be read over those that peak bandwidth moves in that time.
    pub bandwidth_use: f64,
}

/// Prompts, tokens.
const PROMPTS: [u32; 3] = [1024, 4096, 16_384];
/// Decodes: sequences, context of each.
const DECODES: [(u32, u32); 6] =
    [(1, 1024), (32, 1024), (128, 1024), (1, 8192), (32, 8192), (128, 8192)];

/// Prompts and decodes of `model` on `tp` ranks of `device`; those whose KV does not fit are left out.
#[must_use]
pub fn speeds(model: &ModelShape, device: &DeviceProfile, tp: u32) -> Vec<Speed> {
    let kv = KvDtype::Bf16;
    let config = Config { tp, kv_dtype: kv, ..Config::default() };
    let Ok(memory) = kv_slots(model, device, &config) else { return Vec::new() };
    let layout = KvLayout::new(model, &config);
    let cost = CostModel::new(model, device, tp, 1, kv, 1);
    let prompts = PROMPTS.map(|n| (1, n, true));
    let decodes = DECODES.map(|(seqs, context)| (seqs, context, false));
    let mut found = Vec::new();
    for (seqs, context, prompt) in prompts.into_iter().chain(decodes) {
        if u64::from(seqs) * layout.slots(context) > memory.slots {
            continue;
        }
        let mut shape = Shape::default();
        for _ in 0..seqs {
            if prompt {
                shape.add(0, context, false, true);
            } else {
                shape.add(context - 1, 1, true, true);
            }
        }
        let seconds = cost.stage_ns(&shape) as f64 * 1e-9;
        let ranks = f64::from(tp);
        found.push(Speed {
            tp,
            seqs,
            context,
            prompt,
            ms: seconds * 1e3,
            flops_use: flops(model, &shape) / (seconds * ranks * peak_flops(model, device)),
            bandwidth_use: bytes(model, kv, tp, &shape)
                / (seconds * ranks * device.memory_bandwidth),
        });
    }
    found
}

/// The highest rate at which the device computes products of this model's weights, FLOP/s.
#[must_use]
pub fn peak_flops(model: &ModelShape, device: &DeviceProfile) -> f64 {
    let peaks = device.peaks();
    model.formats().iter().map(|format| peaks.rate(*format)).fold(0.0, f64::max)
}

/// Multiplications and additions of one iteration, all ranks.
#[must_use]
pub fn flops(model: &ModelShape, shape: &Shape) -> f64 {
    let head = f64::from(model.vocab) * f64::from(model.hidden);
    let embeddings = if model.tied_embeddings { head } else { 2.0 * head };
    let layers = model.parameters() as f64 - embeddings;
    let mut attention = 0.0;
    let mut idle = 0.0;
    for (count, layer) in model.layers.groups() {
        idle += f64::from(count) * layer.idle_elements(model.hidden) as f64;
        if let Some(kind) = &layer.attention {
            let seen = kind.seen().map_or(*shape, |seen| shape.seeing(seen));
            let pairs = seen.prefill_pairs as f64 + seen.decode_context as f64;
            attention += f64::from(count) * kind.pair_elements() as f64 * pairs;
        }
    }
    2.0 * (layers - idle) * f64::from(shape.tokens())
        + 2.0 * attention
        + 2.0 * head * f64::from(shape.sampled)
}

/// Bytes that one iteration must read: weights once, of experts those that a token goes through, and the keys and
/// values of decodes; all ranks.
#[must_use]
pub fn bytes(model: &ModelShape, kv: KvDtype, tp: u32, shape: &Shape) -> f64 {
    let embedding = f64::from(model.vocab) * f64::from(model.hidden) * PLAIN_BYTES as f64;
    let looked_up = if model.tied_embeddings { 0.0 } else { embedding };
    let (mut kept, mut idle) = (0.0, 0.0);
    for (count, layer) in model.layers.groups() {
        let seen = layer.attention.as_ref().and_then(Attention::seen);
        let seen = seen.map_or(*shape, |seen| shape.seeing(seen));
        let each = layer.kv_bytes(kv, tp) as f64 * f64::from(tp);
        kept += f64::from(count) * seen.decode_context as f64 * each;
        let unread = layer.idle_elements(model.hidden);
        idle += f64::from(count) * layer.formats.feed_forward.bytes(unread) as f64;
    }
    model.weight_bytes() as f64 - looked_up - idle + kept
}
