//! What an iteration costs: the time of every operator, from a model's shape and a device's profile.
//!
//! A profile's tables are brought to the model's shapes once; what depends on the number of tokens or of sampled
//! sequences alone becomes one piecewise-linear function, tabulated by integers, because a search asks for hundreds of
//! thousands of iterations a second. Attention is looked up in two small grids by totals of [`Shape`]: work and the
//! longest context, since a kernel takes at least as long as its longest chunk.
//!
//! Left out: the embedding lookup (below 0.1 % of an iteration) and detokenisation (another process).

use super::attention::Attention;
use crate::config::KvDtype;
use crate::format::Format;
use crate::model::ModelShape;
use crate::profile::{DeviceProfile, Heads, Line, Link, Sum, Times};
use crate::shape::Shape;

/// Rows of the tables; beyond them the functions are evaluated each time.
const TABLE: u32 = 16_384;

/// The time of one worker's iterations: `tp` ranks times `pp` stages of one device.
#[derive(Debug, Clone)]
pub struct CostModel {
    model: ModelShape,
    tp: u32,
    pp: u32,
    kv_dtype: KvDtype,
    /// Layers of the slowest stage that lacks the vocabulary head, and of the last, which has it.
    inner_layers: f64,
    last_layers: f64,
    /// A layer's matrix products, by tokens; the vocabulary head's, by sequences.
    gemms: [Times; 4],
    vocabulary: Times,
    /// Kernels that move bytes, by bytes, and the bytes per token that each of a layer's moves, or all together.
    mover: Times,
    moved: Vec<f64>,
    sampler: Times,
    sum: Sum,
    attention: Attention,
    /// ns of one layer by tokens, without attention: tabulated, and beyond.
    layer: Box<[f64]>,
    layer_line: Line,
    /// ns of head and sampler by sampled sequences: tabulated, and beyond.
    head: Box<[f64]>,
    head_line: Line,
    /// Between neighbouring ranks; to another worker.
    link: Link,
    network: Link,
    /// ns of host time: per iteration, per sequence.
    host: [f64; 2],
}

/// Where the time of one stage's iteration goes, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Breakdown {
    /// Matrix products of the layers.
    pub dense: f64,
    /// Norms, rotary embedding, activation.
    pub elementwise: f64,
    /// Attention of prompt chunks.
    pub prefill_attention: f64,
    /// Attention of decodes.
    pub decode_attention: f64,
    /// Sums over tensor-parallel ranks.
    pub all_reduce: f64,
    /// Vocabulary head and sampler.
    pub head: f64,
    /// Copies of keys and values inside the pool.
    pub kv_copy: f64,
    /// CPU time that the device does not hide.
    pub host: f64,
}

impl Breakdown {
    /// Each part by name.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, f64); 8] {
        [
            ("dense", self.dense),
            ("elementwise", self.elementwise),
            ("prefill attention", self.prefill_attention),
            ("decode attention", self.decode_attention),
            ("all-reduce", self.all_reduce),
            ("vocabulary head", self.head),
            ("KV copy", self.kv_copy),
            ("host", self.host),
        ]
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.parts().iter().map(|(_, seconds)| seconds).sum()
    }
}

/// The sampler works on float32 logits.
const LOGIT_BYTES: f64 = 4.0;

const NS: f64 = 1e9;

/// Whole nanoseconds; `as` saturates, so no shape can overflow.
fn whole(ns: f64) -> u64 {
    (ns + 0.5) as u64
}

impl CostModel {
    /// The cost of `model` on `tp` x `pp` GPUs of `device`; token counts up to `max_batch_tokens` are tabulated.
    #[must_use]
    pub fn new(
        model: &ModelShape,
        device: &DeviceProfile,
        tp: u32,
        pp: u32,
        kv_dtype: KvDtype,
        max_batch_tokens: u32,
    ) -> Self {
        let (tp, pp) = (tp.max(1), pp.max(1));
        let widths = Widths::new(model, tp);
        let bytes = f64::from(model.dtype_bytes);
        let moved = if device.elementwise_together {
            vec![widths.moved.iter().sum()]
        } else {
            widths.moved
        };
        let gemms = widths.gemms.map(|(n, k)| device.gemm_of(n, k, Format::Bf16, bytes));
        let mut cost = Self {
            model: model.clone(),
            tp,
            pp,
            kv_dtype,
            inner_layers: if pp == 1 { 0.0 } else { f64::from(model.stage_layers(pp, 0)) },
            last_layers: f64::from(model.stage_layers(pp, pp - 1)),
            gemms,
            vocabulary: device.gemm_of(
                widths.vocabulary,
                f64::from(model.hidden),
                Format::Bf16,
                bytes,
            ),
            mover: device.elementwise(),
            moved: moved.into_iter().map(|elements| elements * bytes).collect(),
            sampler: device.sampler(),
            sum: device.all_reduce(tp),
            attention: Attention::new(device, widths.heads, kv_dtype),
            layer: Box::default(),
            layer_line: Line::default(),
            head: Box::default(),
            head_line: Line::default(),
            link: device.link(tp.saturating_mul(pp)).clone(),
            network: device.network.clone(),
            host: [device.host.step_us * 1e3, device.host.seq_us * 1e3],
        };
        let rows = max_batch_tokens.min(TABLE);
        cost.layer_line = cost.layer_line();
        cost.layer = cost.layer_line.tabulate(rows);
        cost.head_line = cost.head_line();
        cost.head = cost.head_line.tabulate(rows.min(1024));
        cost
    }

    /// ns of one layer without attention, by tokens.
    fn layer_line(&self) -> Line {
        let mut knots: Vec<f64> = self.gemms.iter().flat_map(Times::knots).collect();
        knots.extend(self.moved.iter().flat_map(|b| self.mover.knots().map(move |x| x / b)));
        knots.extend(self.sum.knots().map(|x| x / self.activation_bytes()));
        Line::new(knots, |m| {
            (self.dense_at(m) + self.elementwise_at(m) + self.all_reduce_at(m)) * NS
        })
    }

    /// ns of the vocabulary head and the sampler, by sampled sequences.
    fn head_line(&self) -> Line {
        let vocab = f64::from(self.model.vocab);
        let mut knots: Vec<f64> = self.vocabulary.knots().collect();
        knots.extend(self.sampler.knots().map(|x| x / (vocab * LOGIT_BYTES)));
        knots.extend(self.sum.knots().map(|x| x / (vocab * self.element_bytes())));
        Line::new(knots, |m| self.head_at(m) * NS)
    }

    /// Time of the slowest pipeline stage for this work, ns; of the whole iteration where there is one stage.
    #[must_use]
    pub fn stage_ns(&self, shape: &Shape) -> u64 {
        let tokens = u64::from(shape.prefill_tokens) + u64::from(shape.decode_seqs);
        let mut layer = match self.layer.get(tokens as usize) {
            Some(ns) => *ns,
            None => self.layer_line.at(tokens as f64),
        };
        let (prefill, decode) = self.attention.parts(shape);
        layer += (prefill + decode) * NS;
        let head = match self.head.get(shape.sampled as usize) {
            Some(ns) => *ns,
            None => self.head_line.at(f64::from(shape.sampled)),
        };
        let mut ns = self.slowest(layer, head) + self.host_ns(shape);
        if shape.copied_tokens > 0 {
            ns += self.kv_copy(shape.copied_tokens) * NS;
        }
        whole(ns)
    }

    /// Where [`Self::stage_ns`] goes.
    #[must_use]
    pub fn breakdown(&self, shape: &Shape) -> Breakdown {
        let tokens = u64::from(shape.prefill_tokens) + u64::from(shape.decode_seqs);
        let mut layer = Breakdown {
            dense: self.dense(tokens),
            elementwise: self.elementwise(tokens),
            all_reduce: self.all_reduce(tokens),
            ..Breakdown::default()
        };
        (layer.prefill_attention, layer.decode_attention) = self.attention.parts(shape);
        let head = self.head(u64::from(shape.sampled));
        let last = self.last_layers * layer.total() + head;
        let head_stage = last >= self.inner_layers * layer.total();
        let layers = if head_stage { self.last_layers } else { self.inner_layers };
        Breakdown {
            dense: layers * layer.dense,
            elementwise: layers * layer.elementwise,
            prefill_attention: layers * layer.prefill_attention,
            decode_attention: layers * layer.decode_attention,
            all_reduce: layers * layer.all_reduce,
            head: if head_stage { head } else { 0.0 },
            kv_copy: self.kv_copy(shape.copied_tokens),
            host: self.host_ns(shape) / NS,
        }
    }

    /// Time to hand the activations of `tokens` tokens to the next pipeline stage, ns; 0 where there is none.
    ///
    /// The residual stream and the pending sum of the last layer travel, each rank sending its share.
    #[must_use]
    pub fn handoff_ns(&self, tokens: u32) -> u64 {
        if self.pp == 1 || tokens == 0 {
            return 0;
        }
        let bytes = 2.0 * f64::from(tokens) * f64::from(self.model.hidden) * self.element_bytes();
        whole(self.link.seconds(bytes / f64::from(self.tp)) * NS)
    }

    /// Time to move the keys and values of `tokens` tokens to another worker, ns: over the network, all ranks of all
    /// stages at once.
    #[must_use]
    pub fn kv_transfer_ns(&self, tokens: u32) -> u64 {
        if tokens == 0 {
            return 0;
        }
        let bytes = f64::from(tokens) * self.stage_kv_bytes();
        whole(self.network.seconds(bytes) * NS)
    }

    /// Seconds of one layer's four matrix products over `tokens` tokens.
    #[must_use]
    pub fn dense(&self, tokens: u64) -> f64 {
        if tokens == 0 { 0.0 } else { self.dense_at(tokens as f64) }
    }

    fn dense_at(&self, tokens: f64) -> f64 {
        self.gemms.iter().map(|gemm| gemm.at(tokens, 0.0)).sum()
    }

    /// Seconds of one layer's norms, rotary embedding and activation over `tokens` tokens.
    #[must_use]
    pub fn elementwise(&self, tokens: u64) -> f64 {
        if tokens == 0 { 0.0 } else { self.elementwise_at(tokens as f64) }
    }

    fn elementwise_at(&self, tokens: f64) -> f64 {
        self.moved.iter().map(|bytes| self.mover.at(tokens * bytes, 0.0)).sum()
    }

    /// Seconds of one layer's two sums over tensor-parallel ranks.
    #[must_use]
    pub fn all_reduce(&self, tokens: u64) -> f64 {
        if tokens == 0 { 0.0 } else { self.all_reduce_at(tokens as f64) }
    }

    fn all_reduce_at(&self, tokens: f64) -> f64 {
        2.0 * self.sum.seconds(tokens * self.activation_bytes())
    }

    /// Seconds of one layer's attention of prompt chunks, beyond that of the decodes in the batch.
    #[must_use]
    pub fn prefill_attention(&self, shape: &Shape) -> f64 {
        self.attention.parts(shape).0
    }

    /// Seconds of one layer's attention of decodes alone.
    #[must_use]
    pub fn decode_attention(&self, shape: &Shape) -> f64 {
        self.attention.parts(shape).1
    }

    /// Seconds to bring `sampled` hidden states to tokens: the vocabulary head, gathering its shares (half a sum), and
    /// the sampler, which works on all of the vocabulary in one place.
    #[must_use]
    pub fn head(&self, sampled: u64) -> f64 {
        if sampled == 0 { 0.0 } else { self.head_at(sampled as f64) }
    }

    fn head_at(&self, sampled: f64) -> f64 {
        let logits = sampled * f64::from(self.model.vocab);
        self.vocabulary.at(sampled, 0.0)
            + 0.5 * self.sum.seconds(logits * self.element_bytes())
            + self.sampler.at(logits * LOGIT_BYTES, 0.0)
    }

    /// Seconds to copy the keys and values of `tokens` tokens inside the pool: read and written, all layers of a stage.
    #[must_use]
    pub fn kv_copy(&self, tokens: u64) -> f64 {
        if tokens == 0 {
            return 0.0;
        }
        self.mover.at(2.0 * tokens as f64 * self.stage_kv_bytes(), 0.0)
    }

    /// CPU time that shows, ns. The overlap of scheduling with the pass is in the profile's figures.
    fn host_ns(&self, shape: &Shape) -> f64 {
        let seqs = f64::from(shape.prefill_seqs) + f64::from(shape.decode_seqs);
        self.host[0] + self.host[1] * seqs
    }

    /// The slower of the last stage and the largest other one.
    fn slowest(&self, layer: f64, head: f64) -> f64 {
        (self.last_layers * layer + head).max(self.inner_layers * layer)
    }

    fn element_bytes(&self) -> f64 {
        f64::from(self.model.dtype_bytes)
    }

    /// Bytes of one token in the residual stream.
    fn activation_bytes(&self) -> f64 {
        f64::from(self.model.hidden) * self.element_bytes()
    }

    /// Bytes of KV per token on one rank of the largest stage.
    fn stage_kv_bytes(&self) -> f64 {
        f64::from(self.model.stage_layers(self.pp, 0))
            * self.model.layer_kv_bytes(self.kv_dtype, self.tp) as f64
    }
}

/// The widths of a layer's operators on one of `tp` ranks.
#[derive(Debug, Clone)]
pub struct Widths {
    /// Matrix products by (n, k): queries, keys and values; attention's output; up and gate; down.
    pub gemms: [(f64, f64); 4],
    /// Columns of the vocabulary head.
    pub vocabulary: f64,
    /// Elements per token that each other kernel moves: two norms (which read and write the residual stream and their
    /// input), the rotation of queries and keys, the activation (two halves in, one out, where gated), and the norms of
    /// queries and keys where the model has them.
    pub moved: Vec<f64>,
    /// Attention heads.
    pub heads: Heads,
}

impl Widths {
    /// Those of `model` on one of `tp` ranks.
    #[must_use]
    pub fn new(model: &ModelShape, tp: u32) -> Self {
        let (ranks, h, dim) = (f64::from(tp), f64::from(model.hidden), f64::from(model.head_dim));
        let heads = Heads {
            query: model.heads.div_ceil(tp),
            kv: model.rank_kv_heads(tp),
            dim: model.head_dim,
            window: 0,
        };
        let (query, kv) = (f64::from(heads.query) * dim, f64::from(heads.kv) * dim);
        let ffn = f64::from(model.ffn) / ranks;
        let up = if model.gated { 2.0 * ffn } else { ffn };
        let mut moved = vec![4.0 * h, 4.0 * h, 2.0 * (query + kv), up + ffn];
        if model.qk_norm {
            moved.push(2.0 * (query + kv));
        }
        Self {
            gemms: [(query + 2.0 * kv, h), (h, query), (up, h), (h, ffn)],
            vocabulary: f64::from(model.vocab) / ranks,
            moved,
            heads,
        }
    }
}
