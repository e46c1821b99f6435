//! The forward pass: embed, layers, norm, vocabulary head.

use kernels::cpu::{
    Attention, HeadNorms, KvLayer, Linear, Output, Precision, Rotation, Rows, Team,
};

use super::batch::Inputs;
use super::collective::Collective;
use super::memory::KvMemory;
use super::spent::{Laps, Spent};
use super::weights::{CpuModel, Layer};

/// The parties to a pass: a model, or a rank's share of it, the rank's threads, and the way to the other ranks.
#[derive(Clone, Copy)]
pub(super) struct Rank<'a> {
    pub(super) model: &'a CpuModel,
    pub(super) team: &'a Team,
    pub(super) collective: &'a dyn Collective,
}

/// Memory for one batch; grows to the largest and stays.
#[derive(Debug)]
pub(super) struct Scratch {
    rotation: Rotation,
    attention: Attention,
    /// The residual stream.
    x: Vec<f32>,
    rows: Rows,
    qkv: Vec<f32>,
    queries: Vec<f32>,
    attended: Vec<f32>,
    inner: Vec<f32>,
    /// The part that one of several ranks adds to the residual stream.
    part: Vec<f32>,
    /// The results of all ranks.
    whole: Vec<f32>,
    last: Vec<f32>,
    /// Of the rows that went through the head, one after the other; there may be more of an earlier pass.
    pub(super) logits: Vec<f32>,
    laps: Laps,
    /// The time of the last pass, by operator.
    pub(super) spent: Spent,
}

/// The first `len` elements, made if they are not there.
fn first(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// All ranks' columns of rows of which this rank has computed `width`; how wide they are then.
fn gathered<'a>(
    Rank { model, collective, .. }: Rank<'_>,
    part: &'a [f32],
    width: usize,
    whole: &'a mut Vec<f32>,
) -> (&'a [f32], usize) {
    let ranks = model.part.ranks;
    if ranks == 1 {
        return (part, width);
    }
    let whole = first(whole, ranks * part.len());
    collective.gather(model.part.rank, part, part.len() / width, whole);
    (whole, ranks * width)
}

impl Scratch {
    pub(super) fn new(precision: Precision) -> Self {
        Self {
            rotation: Rotation::default(),
            attention: Attention::default(),
            x: Vec::new(),
            rows: Rows::new(precision),
            qkv: Vec::new(),
            queries: Vec::new(),
            attended: Vec::new(),
            inner: Vec::new(),
            part: Vec::new(),
            whole: Vec::new(),
            last: Vec::new(),
            logits: Vec::new(),
            laps: Laps::start(),
            spent: Spent::default(),
        }
    }

    /// The residual stream of the first `rows` rows.
    pub(super) fn residual(&self, rows: usize, model: &CpuModel) -> &[f32] {
        &self.x[..rows * model.config.hidden as usize]
    }

    /// Computes `inputs`: writes keys and values to `memory`, and logits here (the last stage's first rank). `received`
    /// is the residual stream as the stage before left it; the first stage reads tokens instead.
    pub(super) fn forward(
        &mut self,
        rank: Rank<'_>,
        inputs: &Inputs,
        received: &[f32],
        memory: &mut KvMemory,
    ) {
        self.forward_through(rank, inputs, received, memory, rank.model.layers());
    }

    /// The same through the first `layers` layers only, where times are wanted and not results.
    pub(super) fn forward_through(
        &mut self,
        rank: Rank<'_>,
        inputs: &Inputs,
        received: &[f32],
        memory: &mut KvMemory,
        layers: usize,
    ) {
        (self.laps, self.spent) = (Laps::start(), Spent::default());
        let model = rank.model;
        let hidden = model.config.hidden as usize;
        let x = first(&mut self.x, inputs.tokens.len() * hidden);
        match &model.embedding {
            Some(embedding) => {
                for (&token, x) in inputs.tokens.iter().zip(x.chunks_exact_mut(hidden)) {
                    embedding.look_up(token, x);
                }
            }
            None => x.copy_from_slice(received),
        }
        self.rotation.set(&inputs.positions, &model.frequencies, model.config.rope_scale());
        self.laps.lap(&mut self.spent.once);
        for (layer, kv) in model.layers[..layers].iter().zip(&mut memory.layers) {
            self.attend(rank, layer, inputs, kv);
            self.feed_forward(rank, layer, inputs);
        }
        if let Some(head) = &model.head {
            self.head(rank, head, inputs);
            self.laps.lap(&mut self.spent.head);
        }
    }

    fn attend(&mut self, rank: Rank<'_>, layer: &Layer, inputs: &Inputs, kv: &mut KvLayer) {
        let Rank { model, team, .. } = rank;
        let (config, heads, rows) = (&model.config, model.heads(), inputs.tokens.len());
        let x = &self.x[..rows * config.hidden as usize];
        self.rows.take_normalised(team, x, &layer.attention_norm, config.rms_eps);
        let qkv = first(&mut self.qkv, rows * heads.width());
        self.laps.lap(&mut self.spent.rest);
        layer.qkv.forward(team, &self.rows, Output::Store(qkv));
        self.laps.lap(&mut self.spent.linears[0]);
        let norms = layer.head_norms.as_ref();
        let norms = norms.map(|(query, key)| HeadNorms { query, key, epsilon: config.rms_eps });
        self.rotation.apply(team, qkv, norms, &inputs.slots, kv, &mut self.queries);
        self.laps.lap(&mut self.spent.rest);
        let width = heads.queries * heads.dim;
        let attended = first(&mut self.attended, rows * width);
        let (spans, runs) = (&inputs.spans, &inputs.runs);
        let window = config.sliding_window;
        self.attention.forward(team, kv, &self.queries, spans, runs, window, attended);
        self.laps.lap(&mut self.spent.attention);
        let (attended, width) = gathered(rank, attended, width, &mut self.whole);
        self.rows.take(team, attended, width);
        self.laps.lap(&mut self.spent.rest);
        self.add(rank, &layer.out);
        self.laps.lap(&mut self.spent.linears[1]);
    }

    fn feed_forward(&mut self, rank: Rank<'_>, layer: &Layer, inputs: &Inputs) {
        let Rank { model, team, .. } = rank;
        let (config, rows) = (&model.config, inputs.tokens.len());
        let x = &self.x[..rows * config.hidden as usize];
        self.rows.take_normalised(team, x, &layer.mlp_norm, config.rms_eps);
        let inner = first(&mut self.inner, rows * model.ffn());
        self.laps.lap(&mut self.spent.rest);
        layer.gate_up.forward(team, &self.rows, Output::Store(inner));
        self.laps.lap(&mut self.spent.linears[2]);
        let (inner, width) = gathered(rank, inner, model.ffn(), &mut self.whole);
        self.rows.take(team, inner, width);
        self.laps.lap(&mut self.spent.rest);
        self.add(rank, &layer.down);
        self.laps.lap(&mut self.spent.linears[3]);
    }

    /// Adds the output of `layer` for the rows to the residual stream, over all ranks.
    fn add(&mut self, rank: Rank<'_>, layer: &Linear) {
        let rows = self.rows.len();
        let x = &mut self.x[..rows * rank.model.config.hidden as usize];
        if rank.model.part.ranks == 1 {
            return layer.forward(rank.team, &self.rows, Output::Add(x));
        }
        let part = first(&mut self.part, rows * layer.outputs());
        layer.forward(rank.team, &self.rows, Output::Store(part));
        let (part, _) = gathered(rank, part, layer.outputs(), &mut self.whole);
        x.iter_mut().zip(part).for_each(|(x, part)| *x += *part);
    }

    fn head(&mut self, Rank { model, team, .. }: Rank<'_>, head: &Linear, inputs: &Inputs) {
        let hidden = model.config.hidden as usize;
        let last = first(&mut self.last, inputs.heads.len() * hidden);
        for (&row, last) in inputs.heads.iter().zip(last.chunks_exact_mut(hidden)) {
            last.copy_from_slice(&self.x[row as usize * hidden..][..hidden]);
        }
        self.rows.take_normalised(team, last, &model.norm, model.config.rms_eps);
        let logits = first(&mut self.logits, inputs.heads.len() * model.vocab());
        head.forward(team, &self.rows, Output::Store(logits));
    }
}
