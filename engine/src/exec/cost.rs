//! The cost of an iteration: the time of every operator, from a model's shape and a device's profile.
//!
//! A model is kinds of layers, and a kind is operators: all is a sum over them. A profile's tables are brought to the
//! model's shapes once. The parts that depend on the number of tokens or of sampled sequences alone become one
//! piecewise-linear function, tabulated by integers, because a search asks for hundreds of thousands of iterations a
//! second. Attention is looked up in two small grids by totals of [`Shape`]: work and the longest context, since a
//! kernel takes at least as long as its longest chunk.
//!
//! Left out: the embedding lookup (below 0.1 % of an iteration) and detokenisation (another process).

use super::attention::{Attention, heads};
use super::experts::ExpertTimes;
use super::graph;
use super::launch::{Launches, Launching};
pub use super::ranks::Ranks;
use super::shared::Shared;
use crate::config::KvDtype;
use crate::engines::HostTime;
use crate::format::Format;
use crate::model::attention as attention_kinds;
use crate::model::attention::Full;
use crate::model::feed_forward::{Dense, FeedForward};
use crate::model::operators::{Matrix, Operators, PLAIN_BYTES};
use crate::model::{DenseShape, Layer, ModelShape};
use crate::profile::{DeviceProfile, Heads, Line, Link, Sum, Times};
use crate::shape::Shape;

/// Rows of the tables; beyond them the functions are evaluated each time.
const TABLE: u32 = 16_384;

/// The time of one worker's iterations: `tp` ranks times `pp` stages of one device.
#[derive(Debug, Clone)]
pub struct CostModel {
    tp: u32,
    pp: u32,
    hidden: f64,
    vocab: f64,
    /// Bytes of KV per token on one rank of the largest stage.
    kv_bytes: f64,
    /// The kinds of layers, and each kind of attention once.
    kinds: Vec<Kind>,
    attention: Vec<Attention>,
    /// The slowest stage that lacks the vocabulary head, where there are several, and the last, which has it.
    inner: Option<Stage>,
    last: Stage,
    /// The vocabulary head, by sequences.
    vocabulary: Times,
    /// Kernels that move bytes, by bytes; seconds that a further one takes to start.
    mover: Times,
    further: f64,
    sampler: Times,
    sum: Sum,
    /// The experts of all layers, where ranks of attention share them; then no kind of layer has any.
    shared: Option<Shared>,
    /// ns of head and sampler by sampled sequences: tabulated, and beyond.
    head: Box<[f64]>,
    head_line: Line,
    /// Between neighbouring ranks; to another worker.
    link: Link,
    network: Link,
    /// CPU time around the device's.
    host: HostTime,
    /// Kernels of an iteration, and the time in which the CPU launches them.
    launches: Launches,
    launching: Launching,
    /// The draft head, where tokens are drafted by one.
    drafter: Option<Box<Self>>,
}

/// The cost of a kind of layer besides attention, by tokens.
#[derive(Debug, Clone)]
struct Kind {
    gemms: Vec<Times>,
    experts: Option<ExpertTimes>,
    /// Bytes per token that each other kernel moves, or all together.
    moved: Vec<f64>,
    /// Sums over ranks.
    sums: f64,
    /// Bytes per token of further sums.
    summed: Vec<f64>,
    /// Norms right after a sum.
    norms: f64,
    /// Its attention, in the list of all.
    attention: Option<usize>,
    launches: Launches,
}

/// The layers of a pipeline stage.
#[derive(Debug, Clone, Default)]
struct Stage {
    /// Layers of each kind; layers with each kind of attention.
    kinds: Vec<f64>,
    attention: Vec<f64>,
    /// ns of its layers by tokens, without attention: tabulated, and beyond.
    layers: Box<[f64]>,
    line: Line,
}

/// The time of one stage's iteration by part, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Breakdown {
    /// Matrix products of the layers, those of experts included.
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
    /// The draft head of speculative decoding.
    pub drafting: f64,
    /// CPU time that the device does not hide.
    pub host: f64,
}

impl Breakdown {
    /// Each part by name.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, f64); 9] {
        [
            ("dense", self.dense),
            ("elementwise", self.elementwise),
            ("prefill attention", self.prefill_attention),
            ("decode attention", self.decode_attention),
            ("all-reduce", self.all_reduce),
            ("vocabulary head", self.head),
            ("KV copy", self.kv_copy),
            ("drafting", self.drafting),
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

/// Sequences with a part in an iteration.
fn sequences(shape: &Shape) -> f64 {
    f64::from(shape.prefill_seqs) + f64::from(shape.decode_seqs)
}

/// Tokens that go through the layers.
fn tokens(shape: &Shape) -> u64 {
    [shape.prefill_tokens, shape.decode_seqs, shape.drafted].into_iter().map(u64::from).sum()
}

/// Bytes of an activation.
const ACTIVATION_BYTES: f64 = PLAIN_BYTES as f64;

/// Tokens at which stages are compared.
const USUAL_TOKENS: f64 = 256.0;

impl Kind {
    /// A kind of layer of a model of width `hidden` on one of `tp` ranks; its attention is added to `attention`.
    fn new(
        device: &DeviceProfile,
        layer: &Layer,
        (hidden, ranks): (u32, Ranks),
        kv: KvDtype,
        attention: &mut Vec<Attention>,
    ) -> Self {
        let (tp, all) = (ranks.tp, ranks.tp * ranks.dp);
        let parts = layer.parts(hidden, tp);
        let own = layer.attention.as_ref().map(|kind| {
            let formats = (layer.formats.projections, kv);
            Attention::new(device, kind, (hidden, tp), formats)
        });
        let gemm = |m: &Matrix| {
            let (n, k) = m.on_rank(tp);
            device.gemm(n, k, layer.formats.of(m.class))
        };
        // Where ranks of attention share experts, their exchange brings every rank of a sum all of the output.
        let exchanged = ranks.shares_sequences() && parts.iter().any(|part| part.pool.is_some());
        let sums = (parts.len() - usize::from(exchanged)) as f64;
        let summed = parts.iter().filter_map(|part| part.summed).collect();
        let pool = parts.iter().find_map(|part| part.pool);
        let within = own.as_ref().is_some_and(Attention::holds_projections);
        let parts = &parts[usize::from(within)..];
        // A norm reads and writes the residual stream and its input.
        let norms = vec![4.0 * f64::from(hidden); layer.norm_count() as usize];
        let moved = norms.into_iter().chain(parts.iter().flat_map(|part| part.moved.clone()));
        let moved: Vec<f64> = moved.map(|elements| elements * ACTIVATION_BYTES).collect();
        Self {
            gemms: parts.iter().flat_map(|part| &part.matrices).map(gemm).collect(),
            experts: pool
                .map(|p| ExpertTimes::new(device, &p, (all, ranks.ep), layer.formats.feed_forward)),
            moved: if device.elementwise_together { vec![moved.iter().sum()] } else { moved },
            sums,
            summed,
            norms: sums.min(f64::from(layer.norm_count())),
            attention: own.map(|own| {
                attention.push(own);
                attention.len() - 1
            }),
            launches: Launches::new(layer, hidden, tp),
        }
    }

    fn dense(&self, tokens: f64) -> f64 {
        let gemms: f64 = self.gemms.iter().map(|gemm| gemm.at(tokens, 0.0)).sum();
        gemms + self.experts.as_ref().map_or(0.0, |experts| experts.at(graph::filled(tokens)))
    }
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
        Self::on(model, device, Ranks { tp, dp: 1, ep: 1, pp }, kv_dtype, max_batch_tokens)
    }

    /// The same for any way to share the model out.
    #[must_use]
    pub fn on(
        model: &ModelShape,
        device: &DeviceProfile,
        ranks: Ranks,
        kv_dtype: KvDtype,
        max_batch_tokens: u32,
    ) -> Self {
        let (tp, pp) = (ranks.tp.max(1), ranks.pp.max(1));
        let dp = ranks.dp.max(1);
        let ranks = Ranks { tp, dp, ep: ranks.ep.clamp(1, tp * dp), pp };
        let (hidden, vocab) = (f64::from(model.hidden), f64::from(model.vocab));
        let mut attention = Vec::new();
        let mut known: Vec<(&attention_kinds::Attention, Format, usize)> = Vec::new();
        let mut kinds = Vec::new();
        for (_, layer) in model.layers.groups() {
            let mut kind =
                Kind::new(device, layer, (model.hidden, ranks), kv_dtype, &mut attention);
            // The same attention under another feed-forward layer costs the same.
            if let Some(own) = &layer.attention {
                let format = layer.formats.projections;
                let same = known.iter().find(|(kind, f, _)| *kind == own && *f == format);
                if let Some((_, _, same)) = same {
                    attention.pop();
                    kind.attention = Some(*same);
                } else {
                    known.push((own, format, attention.len() - 1));
                }
            }
            kinds.push(kind);
        }
        let rows = max_batch_tokens.min(TABLE);
        let shared = (dp > 1).then(|| {
            let experts = kinds.iter_mut().map(|kind| kind.experts.take());
            let counts = model.layers.groups().map(|(count, _)| count);
            let layers = counts.zip(experts).filter_map(|(n, experts)| Some((n, experts?)));
            Shared::new(device, ranks, model.hidden, layers.collect(), rows)
        });
        let kv = |stage| model.stage_kv_bytes(kv_dtype, tp, pp, stage);
        let mut cost = Self {
            tp,
            pp,
            hidden,
            vocab,
            kv_bytes: (0..pp).map(kv).max().unwrap_or(0) as f64,
            kinds,
            attention,
            inner: None,
            last: Stage::default(),
            vocabulary: device.gemm(vocab / f64::from(tp), hidden, model.head),
            mover: device.elementwise(),
            further: if device.elementwise_together {
                0.0
            } else {
                device.elementwise.start_us * 1e-6
            },
            sampler: device.sampler(),
            sum: device.all_reduce(tp),
            shared,
            head: Box::default(),
            head_line: Line::default(),
            link: device.link(tp.saturating_mul(pp)).clone(),
            network: device.network.clone(),
            host: HostTime::default(),
            launches: Launches::default(),
            launching: Launching::default(),
            drafter: None,
        };
        let layers = |cost: &Self, stage| cost.stage(model, stage);
        let mut slowest: Option<Stage> = None;
        for stage in (0..pp - 1).map(|stage| layers(&cost, stage)) {
            let time = |s: &Stage| cost.layers_at(s, USUAL_TOKENS);
            if slowest.as_ref().is_none_or(|other| time(&stage) > time(other)) {
                slowest = Some(stage);
            }
        }
        cost.inner = slowest.map(|stage| cost.tabulated(stage, rows));
        cost.last = cost.tabulated(layers(&cost, pp - 1), rows);
        let kernels = |stage: &Stage| {
            let counted = stage.kinds.iter().zip(&cost.kinds);
            counted.fold(Launches::default(), |sum, (n, kind)| sum.and(*n, kind.launches))
        };
        cost.launches = cost.inner.iter().map(kernels).fold(kernels(&cost.last), Launches::max);
        cost.head_line = cost.head_line();
        cost.head = cost.head_line.tabulate(rows.min(1024));
        cost
    }

    /// The same with an engine around the device, whose CPU takes `host` for an iteration.
    #[must_use]
    pub fn hosted(mut self, host: HostTime) -> Self {
        self.host = host;
        self.launching = self.launches.time(host.launch);
        self
    }

    /// The same where tokens are drafted by `drafter`: it goes over what every iteration computes, and again for each
    /// further token it drafts.
    #[must_use]
    pub fn drafted_by(mut self, drafter: Option<Self>) -> Self {
        self.drafter = drafter.map(Box::new);
        self
    }

    /// The operators of `model` that no table of `device` has, and those that they are priced by; a sentence
    /// each.
    #[must_use]
    pub fn untabled(model: &ModelShape, device: &DeviceProfile) -> Vec<String> {
        Self::new(model, device, 1, 1, KvDtype::Bf16, 1).borrowed()
    }

    /// The operators that no table of the device has, and those that they are priced by; a sentence each.
    #[must_use]
    pub fn borrowed(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for kind in &self.kinds {
            let experts = kind.experts.iter().map(|e| ("the mixture of experts", e.basis()));
            let gemms = kind.gemms.iter().map(|gemm| ("a matrix product", gemm.basis()));
            let own = experts.chain(gemms).filter(|(_, basis)| basis.is_borrowed());
            found.extend(own.map(|(what, basis)| format!("{what} is {basis}")));
        }
        found.extend(self.attention.iter().flat_map(Attention::borrowed));
        found.extend(self.shared.iter().flat_map(Shared::borrowed));
        found.sort();
        found.dedup();
        found
    }

    /// The layers of stage `stage`, before they are tabulated.
    fn stage(&self, model: &ModelShape, stage: u32) -> Stage {
        let mut found = Stage {
            kinds: vec![0.0; self.kinds.len()],
            attention: vec![0.0; self.attention.len()],
            ..Stage::default()
        };
        for (count, layer) in model.layers.stage_groups(self.pp, stage) {
            let kind = model.layers.groups().position(|(_, other)| other == layer).unwrap_or(0);
            found.kinds[kind] += f64::from(count);
            if let Some(attention) = self.kinds[kind].attention {
                found.attention[attention] += f64::from(count);
            }
        }
        found
    }

    fn tabulated(&self, mut stage: Stage, rows: u32) -> Stage {
        let mut knots: Vec<f64> = Vec::new();
        for kind in &self.kinds {
            knots.extend(kind.gemms.iter().flat_map(Times::knots));
            let filled = graph::sizes().filter(|_| kind.experts.is_some());
            knots.extend(kind.experts.iter().flat_map(ExpertTimes::knots).chain(filled));
            knots.extend(kind.moved.iter().flat_map(|b| self.mover.knots().map(move |x| x / b)));
            knots.extend(kind.summed.iter().flat_map(|b| self.sum.knots().map(move |x| x / b)));
        }
        let sums = self.sum.knots_with_norm();
        knots.extend(sums.into_iter().map(|x| x / self.activation_bytes()));
        stage.line = Line::new(knots, |m| self.layers_at(&stage, m) * NS);
        stage.layers = stage.line.tabulate(rows);
        stage
    }

    /// Seconds of a stage's layers without attention.
    fn layers_at(&self, stage: &Stage, tokens: f64) -> f64 {
        let kind = |(count, kind): (&f64, &Kind)| {
            let time = kind.dense(tokens)
                + self.elementwise_at(kind, tokens)
                + self.all_reduce_at(kind, tokens);
            count * time
        };
        stage.kinds.iter().zip(&self.kinds).map(kind).sum()
    }

    /// ns of the vocabulary head and the sampler, by sampled sequences.
    fn head_line(&self) -> Line {
        let vocab = self.vocab;
        let mut knots: Vec<f64> = self.vocabulary.knots().collect();
        knots.extend(self.sampler.knots().map(|x| x / (vocab * LOGIT_BYTES)));
        knots.extend(self.sum.knots().map(|x| x / (vocab * ACTIVATION_BYTES)));
        Line::new(knots, |m| self.head_at(m) * NS)
    }

    /// Time of the slowest pipeline stage for this work, ns; of the whole iteration where there is one stage.
    #[must_use]
    pub fn stage_ns(&self, shape: &Shape) -> u64 {
        let ns = self.device_ns(shape).max(self.launching.of(shape));
        whole(self.host.around(ns, sequences(shape)))
    }

    /// The same of a rank of attention, beside whose own work the experts of all ranks take `shared` ns.
    #[must_use]
    pub fn rank_ns(&self, shape: &Shape, shared: u64) -> u64 {
        let ns = (self.device_ns(shape) + shared as f64).max(self.launching.of(shape));
        whole(self.host.around(ns, sequences(shape)))
    }

    /// Time of the device, ns.
    fn device_ns(&self, shape: &Shape) -> f64 {
        let head = match self.head.get(shape.sampled as usize) {
            Some(ns) => *ns,
            None => self.head_line.at(f64::from(shape.sampled)),
        };
        let tokens = tokens(shape);
        let layers = |stage: &Stage, attention: f64| {
            let layers = match stage.layers.get(tokens as usize) {
                Some(ns) => *ns,
                None => stage.line.at(tokens as f64),
            };
            layers + attention * NS
        };
        let (mut last, mut inner) = (0.0, 0.0);
        for (i, attention) in self.attention.iter().enumerate() {
            let (prefill, decode) = attention.parts(shape);
            last += self.last.attention[i] * (prefill + decode);
            inner += self.inner.as_ref().map_or(0.0, |s| s.attention[i] * (prefill + decode));
        }
        let inner = self.inner.as_ref().map_or(0.0, |stage| layers(stage, inner));
        let mut ns = (layers(&self.last, last) + head).max(inner);
        if shape.copied_tokens > 0 {
            ns += self.kv_copy(shape.copied_tokens) * NS;
        }
        ns + self.drafting_ns(shape)
    }

    /// Time of the draft head, ns; 0 where there is none.
    fn drafting_ns(&self, shape: &Shape) -> f64 {
        let Some(drafter) = &self.drafter else { return 0.0 };
        let first = Shape { sampled: shape.decode_seqs, copied_tokens: 0, ..*shape };
        let further = shape.draft_longest.saturating_sub(1);
        let again = if further > 0 { drafter.device_ns(&shape.decodes_alone()) } else { 0.0 };
        drafter.device_ns(&first) + f64::from(further) * again
    }

    /// Time that the experts of all layers take with `tokens` tokens of all ranks of attention, ns, with the gathering
    /// and scattering of those; 0 where no ranks share experts.
    #[must_use]
    pub fn shared_ns(&self, tokens: u64) -> u64 {
        self.shared.as_ref().map_or(0, |shared| whole(shared.ns(tokens)))
    }

    /// The parts of [`Self::stage_ns`].
    #[must_use]
    pub fn breakdown(&self, shape: &Shape) -> Breakdown {
        let head = self.head(u64::from(shape.sampled));
        let parts: Vec<(f64, f64)> = self.attention.iter().map(|a| a.parts(shape)).collect();
        let of = |stage: &Stage| self.stage_breakdown(stage, shape, &parts);
        let last = Breakdown { head, ..of(&self.last) };
        let slower = self.inner.as_ref().map(of).filter(|inner| inner.total() > last.total());
        let copied = self.kv_copy(shape.copied_tokens);
        let drafting = self.drafting_ns(shape) / NS;
        let device = Breakdown { kv_copy: copied, drafting, ..slower.unwrap_or(last) };
        let busy = device.total() * NS;
        let launched = busy.max(self.launching.of(shape));
        let host = (self.host.around(launched, sequences(shape)) - busy) / NS;
        Breakdown { host, ..device }
    }

    /// The layers of a stage, given the parts of each kind of attention.
    fn stage_breakdown(&self, stage: &Stage, shape: &Shape, parts: &[(f64, f64)]) -> Breakdown {
        let tokens = tokens(shape) as f64;
        let mut found = Breakdown::default();
        for (count, kind) in stage.kinds.iter().zip(&self.kinds).filter(|_| tokens > 0.0) {
            found.dense += count * kind.dense(tokens);
            found.elementwise += count * self.elementwise_at(kind, tokens);
            found.all_reduce += count * self.all_reduce_at(kind, tokens);
        }
        for (count, (prefill, decode)) in stage.attention.iter().zip(parts) {
            found.prefill_attention += count * prefill;
            found.decode_attention += count * decode;
        }
        found
    }

    /// Time to hand the activations of `tokens` tokens to the next pipeline stage, ns; 0 where there is none.
    ///
    /// The residual stream and the pending sum of the last layer travel, each rank sending its share.
    #[must_use]
    pub fn handoff_ns(&self, tokens: u32) -> u64 {
        if self.pp == 1 || tokens == 0 {
            return 0;
        }
        let bytes = 2.0 * f64::from(tokens) * self.activation_bytes();
        whole(self.link.seconds(bytes / f64::from(self.tp)) * NS)
    }

    /// Time to move the keys and values of `tokens` tokens to another worker, ns: over the network, all ranks of all
    /// stages at once.
    #[must_use]
    pub fn kv_transfer_ns(&self, tokens: u32) -> u64 {
        if tokens == 0 {
            return 0;
        }
        let bytes = f64::from(tokens) * self.kv_bytes;
        whole(self.network.seconds(bytes) * NS)
    }

    /// Seconds of an average layer's matrix products over `tokens` tokens.
    #[must_use]
    pub fn dense(&self, tokens: u64) -> f64 {
        self.average(tokens, Kind::dense)
    }

    /// Seconds of an average layer's norms, rotary embedding and activation over `tokens` tokens.
    #[must_use]
    pub fn elementwise(&self, tokens: u64) -> f64 {
        self.average(tokens, |kind, tokens| self.elementwise_at(kind, tokens))
    }

    /// The mean over the layers of the last stage.
    fn average(&self, tokens: u64, time: impl Fn(&Kind, f64) -> f64) -> f64 {
        if tokens == 0 {
            return 0.0;
        }
        let (mut seconds, mut layers) = (0.0, 0.0);
        for (count, kind) in self.last.kinds.iter().zip(&self.kinds) {
            seconds += count * time(kind, tokens as f64);
            layers += count;
        }
        seconds / layers
    }

    /// Seconds of a layer's norms, rotary embedding and activation.
    fn elementwise_at(&self, kind: &Kind, tokens: f64) -> f64 {
        let all: f64 = kind.moved.iter().map(|bytes| self.mover.at(tokens * bytes, 0.0)).sum();
        let fused = self.sum.fuses(tokens * self.activation_bytes());
        if fused { all - kind.norms * self.further } else { all }
    }

    /// Seconds of a layer's sums over tensor-parallel ranks.
    fn all_reduce_at(&self, kind: &Kind, tokens: f64) -> f64 {
        let further: f64 = kind.summed.iter().map(|bytes| self.sum.seconds(tokens * bytes)).sum();
        let bytes = tokens * self.activation_bytes();
        let plain = kind.sums - kind.norms;
        kind.norms * self.sum.seconds_with_norm(bytes) + plain * self.sum.seconds(bytes) + further
    }

    /// Seconds to bring `sampled` hidden states to tokens: the vocabulary head, gathering its shares (half a sum), and
    /// the sampler, which works on all of the vocabulary in one place.
    #[must_use]
    pub fn head(&self, sampled: u64) -> f64 {
        if sampled == 0 { 0.0 } else { self.head_at(sampled as f64) }
    }

    fn head_at(&self, sampled: f64) -> f64 {
        let logits = sampled * self.vocab;
        self.vocabulary.at(sampled, 0.0)
            + 0.5 * self.sum.seconds(logits * ACTIVATION_BYTES)
            + self.sampler.at(logits * LOGIT_BYTES, 0.0)
    }

    /// Seconds to copy the keys and values of `tokens` tokens inside the pool: read and written, all layers of a stage.
    #[must_use]
    pub fn kv_copy(&self, tokens: u64) -> f64 {
        if tokens == 0 {
            return 0.0;
        }
        self.mover.at(2.0 * tokens as f64 * self.kv_bytes, 0.0)
    }

    /// Bytes of one token in the residual stream.
    fn activation_bytes(&self) -> f64 {
        self.hidden * ACTIVATION_BYTES
    }
}

/// The widths of a dense layer's operators on one of `tp` ranks, as published tables and timings of one layer have them.
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
    pub fn new(model: &DenseShape, tp: u32) -> Self {
        let full = Full {
            qk_norm: model.qk_norm,
            ..Full::plain(model.heads, model.kv_heads, model.head_dim)
        };
        let dense = Dense { width: model.ffn, gated: model.gated, bias: false };
        let attention = attention_kinds::Attention::Full(full.clone()).operators(model.hidden, tp);
        let ffn = FeedForward::Dense(dense).operators(model.hidden, tp);
        let norm = 4.0 * f64::from(model.hidden);
        let (turned, normed) = (attention.moved[0], attention.moved.get(1));
        let mut moved = vec![norm, norm, turned, ffn.moved[0]];
        moved.extend(normed);
        let gemm = |of: &Operators, i: usize| of.matrices[i].on_rank(tp);
        Self {
            gemms: [gemm(&attention, 0), gemm(&attention, 1), gemm(&ffn, 0), gemm(&ffn, 1)],
            vocabulary: f64::from(model.vocab) / f64::from(tp),
            moved,
            heads: heads(&full, tp),
        }
    }
}
