//! What an iteration costs: the time of every operator, from a model's shape and a device's profile.
//!
//! One method per operator, each in seconds, each from integers of [`Shape`]: a law here can be replaced by a measured
//! table without touching its neighbours. What depends on the number of tokens or of sampled sequences alone is
//! tabulated once, because a search asks for hundreds of thousands of iterations a second; the tables hold exactly what
//! the laws give.
//!
//! Left out: the embedding lookup (below 0.1 % of an iteration) and detokenisation (another process).

use crate::config::KvDtype;
use crate::model::{ModelShape, kv_element_bytes};
use crate::profile::{DeviceProfile, Heads, Link};
use crate::shape::Shape;

/// Rows of the tables; beyond them the laws are evaluated each time.
const TABLE: u32 = 16_384;

/// Norm before attention, rotary embedding, norm before the feed-forward layer, its activation.
const ELEMENTWISE_KERNELS: f64 = 4.0;

/// The time of one worker's iterations: `tp` ranks times `pp` stages of one device.
#[derive(Debug, Clone)]
pub struct CostModel {
    model: ModelShape,
    device: DeviceProfile,
    tp: u32,
    pp: u32,
    kv_dtype: KvDtype,
    /// Layers of the slowest stage that lacks the vocabulary head, and of the last, which has it.
    inner_layers: f64,
    last_layers: f64,
    /// ns of one layer by tokens, without attention.
    layer: Box<[f64]>,
    /// ns of head and sampler by sampled sequences.
    head: Box<[f64]>,
    /// ns of one layer's decode attention: start, per token of context, per sequence.
    decode: [f64; 3],
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
        let mut cost = Self {
            model: model.clone(),
            device: device.clone(),
            tp,
            pp,
            kv_dtype,
            inner_layers: if pp == 1 { 0.0 } else { f64::from(model.stage_layers(pp, 0)) },
            last_layers: f64::from(model.stage_layers(pp, pp - 1)),
            layer: Box::default(),
            head: Box::default(),
            decode: [0.0; 3],
            host: [device.host.step_us * 1e3, device.host.seq_us * 1e3],
        };
        let heads = cost.heads();
        cost.decode = [
            device.decode_attention.start_us * 1e3,
            device.kv_read(heads, cost.kv_bytes()) * NS,
            device.decode_seq(heads) * NS,
        ];
        let rows = max_batch_tokens.min(TABLE);
        cost.layer = (0..=rows).map(|tokens| cost.layer_ns(u64::from(tokens))).collect();
        cost.head =
            (0..=rows.min(1024)).map(|sampled| cost.head(u64::from(sampled)) * NS).collect();
        cost
    }

    /// Time of the slowest pipeline stage for this work, ns; of the whole iteration where there is one stage.
    #[must_use]
    pub fn stage_ns(&self, shape: &Shape) -> u64 {
        let tokens = u64::from(shape.prefill_tokens) + u64::from(shape.decode_seqs);
        let mut layer = match self.layer.get(tokens as usize) {
            Some(ns) => *ns,
            None => self.layer_ns(tokens),
        };
        if shape.decode_seqs > 0 {
            let [start, token, seq] = self.decode;
            layer +=
                start + token * shape.decode_context as f64 + seq * f64::from(shape.decode_seqs);
        }
        if shape.prefill_seqs > 0 {
            // One kernel serves both kinds of chunk: the start is paid once.
            let start = self.attention_start(shape.decode_seqs > 0);
            layer += start * NS + self.prefill_attention(shape) * NS;
        }
        let head = match self.head.get(shape.sampled as usize) {
            Some(ns) => *ns,
            None => self.head(u64::from(shape.sampled)) * NS,
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
        if shape.decode_seqs > 0 {
            layer.decode_attention =
                self.device.decode_attention.start_us * 1e-6 + self.decode_attention(shape);
        }
        if shape.prefill_seqs > 0 {
            layer.prefill_attention =
                self.attention_start(shape.decode_seqs > 0) + self.prefill_attention(shape);
        }
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
        whole(self.link().seconds(bytes / f64::from(self.tp)) * NS)
    }

    /// Time to move the keys and values of `tokens` tokens to another worker, ns: over the network, all ranks of all
    /// stages at once.
    #[must_use]
    pub fn kv_transfer_ns(&self, tokens: u32) -> u64 {
        if tokens == 0 {
            return 0;
        }
        let bytes = f64::from(tokens) * self.stage_kv_bytes();
        whole(self.device.network.seconds(bytes) * NS)
    }

    /// Seconds of one layer's four matrix products over `tokens` tokens.
    #[must_use]
    pub fn dense(&self, tokens: u64) -> f64 {
        if tokens == 0 {
            return 0.0;
        }
        let model = &self.model;
        let (m, ranks, h) = (tokens as f64, f64::from(self.tp), f64::from(model.hidden));
        let heads = self.heads();
        let attention = f64::from(heads.query) * f64::from(heads.dim);
        let qkv = attention + 2.0 * f64::from(heads.kv) * f64::from(heads.dim);
        let ffn = f64::from(model.ffn) / ranks;
        let up = if model.gated { 2.0 * ffn } else { ffn };
        let gemm = |n: f64, k: f64| self.device.gemm(m, n, k, self.element_bytes());
        gemm(qkv, h) + gemm(h, attention) + gemm(up, h) + gemm(h, ffn)
    }

    /// Seconds of one layer's norms, rotary embedding and activation over `tokens` tokens: a norm reads and writes the
    /// residual stream and its input; the rotation reads and writes queries and keys; a gated activation reads two
    /// halves and writes one.
    #[must_use]
    pub fn elementwise(&self, tokens: u64) -> f64 {
        if tokens == 0 {
            return 0.0;
        }
        let heads = self.heads();
        let norms = 2.0 * 4.0 * f64::from(self.model.hidden);
        let rotary = 2.0 * f64::from(heads.query + heads.kv) * f64::from(heads.dim);
        let passes = if self.model.gated { 3.0 } else { 2.0 };
        let activation = passes * f64::from(self.model.ffn) / f64::from(self.tp);
        let bytes = tokens as f64 * (norms + rotary + activation) * self.element_bytes();
        self.device.elementwise(bytes, ELEMENTWISE_KERNELS)
    }

    /// Seconds of one layer's two sums over tensor-parallel ranks.
    #[must_use]
    pub fn all_reduce(&self, tokens: u64) -> f64 {
        if tokens == 0 {
            return 0.0;
        }
        let bytes = tokens as f64 * f64::from(self.model.hidden) * self.element_bytes();
        2.0 * self.device.all_reduce(bytes, self.tp)
    }

    /// Seconds of one layer's attention of prompt chunks, without its start.
    #[must_use]
    pub fn prefill_attention(&self, shape: &Shape) -> f64 {
        let (tokens, context) = (f64::from(shape.prefill_tokens), shape.prefill_context as f64);
        let pairs = shape.prefill_pairs as f64;
        self.device.prefill_attention(self.heads(), tokens, context, pairs, self.kv_bytes())
    }

    /// Seconds of one layer's attention of decodes, without its start.
    #[must_use]
    pub fn decode_attention(&self, shape: &Shape) -> f64 {
        let (seqs, context) = (f64::from(shape.decode_seqs), shape.decode_context as f64);
        self.device.decode_attention(self.heads(), seqs, context, self.kv_bytes())
    }

    /// Seconds to bring `sampled` hidden states to tokens: the vocabulary head, gathering its shares (half a sum), and
    /// the sampler, which works on all of the vocabulary in one place.
    #[must_use]
    pub fn head(&self, sampled: u64) -> f64 {
        if sampled == 0 {
            return 0.0;
        }
        let (m, vocab) = (sampled as f64, f64::from(self.model.vocab));
        let (h, bytes) = (f64::from(self.model.hidden), self.element_bytes());
        let product = self.device.gemm(m, vocab / f64::from(self.tp), h, bytes);
        let gather = 0.5 * self.device.all_reduce(m * vocab * bytes, self.tp);
        let sampler = &self.device.sampler;
        let choice =
            sampler.start_us * 1e-6 + self.device.elementwise(m * vocab * sampler.logit_bytes, 0.0);
        product + gather + choice
    }

    /// Seconds to copy the keys and values of `tokens` tokens inside the pool: read and written, all layers of a stage.
    #[must_use]
    pub fn kv_copy(&self, tokens: u64) -> f64 {
        if tokens == 0 {
            return 0.0;
        }
        self.device.elementwise(2.0 * tokens as f64 * self.stage_kv_bytes(), 1.0)
    }

    /// CPU time that shows, ns. The overlap of scheduling with the pass is in the profile's figures.
    fn host_ns(&self, shape: &Shape) -> f64 {
        let seqs = f64::from(shape.prefill_seqs) + f64::from(shape.decode_seqs);
        self.host[0] + self.host[1] * seqs
    }

    fn layer_ns(&self, tokens: u64) -> f64 {
        (self.dense(tokens) + self.elementwise(tokens) + self.all_reduce(tokens)) * NS
    }

    /// The slower of the last stage and the largest other one.
    fn slowest(&self, layer: f64, head: f64) -> f64 {
        (self.last_layers * layer + head).max(self.inner_layers * layer)
    }

    /// What a prompt chunk adds to attention's fixed time.
    fn attention_start(&self, decodes: bool) -> f64 {
        let (prefill, decode) =
            (self.device.prefill_attention.start_us, self.device.decode_attention.start_us);
        let paid = if decodes { decode } else { 0.0 };
        (prefill - paid).max(0.0) * 1e-6
    }

    /// Heads on one rank.
    fn heads(&self) -> Heads {
        let model = &self.model;
        Heads {
            query: model.heads.div_ceil(self.tp),
            kv: model.rank_kv_heads(self.tp),
            dim: model.head_dim,
        }
    }

    fn element_bytes(&self) -> f64 {
        f64::from(self.model.dtype_bytes)
    }

    fn kv_bytes(&self) -> f64 {
        kv_element_bytes(self.kv_dtype) as f64
    }

    /// Bytes of KV per token on one rank of the largest stage.
    fn stage_kv_bytes(&self) -> f64 {
        f64::from(self.model.stage_layers(self.pp, 0))
            * self.model.layer_kv_bytes(self.kv_dtype, self.tp) as f64
    }

    fn link(&self) -> &Link {
        self.device.link(self.tp.saturating_mul(self.pp))
    }
}
