//! The forward pass: embed, layers, norm, vocabulary head.

use kernels::cpu::{Attention, HeadNorms, KvLayer, Output, Precision, Rotation, Rows, Team};

use super::batch::Inputs;
use super::memory::KvMemory;
use super::weights::{CpuModel, Layer};

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
    last: Vec<f32>,
    logits: Vec<f32>,
    copy: Vec<f32>,
}

/// The first `len` elements, made if they are not there.
fn first(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
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
            last: Vec::new(),
            logits: Vec::new(),
            copy: Vec::new(),
        }
    }

    /// Logits of the `i`-th row that went through the head.
    pub(super) fn logits(&mut self, i: usize, vocab: usize) -> &mut [f32] {
        &mut self.logits[i * vocab..(i + 1) * vocab]
    }

    /// Keeps a copy of them, for when several branches want them.
    pub(super) fn copy_of_logits(&mut self, i: usize, vocab: usize) {
        self.copy.clear();
        self.copy.extend_from_slice(&self.logits[i * vocab..(i + 1) * vocab]);
    }

    /// That copy.
    pub(super) fn copied(&mut self) -> &mut [f32] {
        &mut self.copy
    }

    /// Computes `inputs`: writes keys and values to `memory`, and logits here.
    pub(super) fn forward(
        &mut self,
        team: &Team,
        model: &CpuModel,
        inputs: &Inputs,
        memory: &mut KvMemory,
    ) {
        let config = &model.config;
        let hidden = config.hidden as usize;
        let x = first(&mut self.x, inputs.tokens.len() * hidden);
        for (&token, x) in inputs.tokens.iter().zip(x.chunks_exact_mut(hidden)) {
            model.embedding.look_up(token, x);
        }
        self.rotation.set(&inputs.positions, &model.frequencies, config.rope_scale());
        for (layer, kv) in model.layers.iter().zip(&mut memory.layers) {
            self.attend(team, model, layer, inputs, kv);
            self.feed_forward(team, model, layer, inputs);
        }
        self.head(team, model, inputs);
    }

    fn attend(
        &mut self,
        team: &Team,
        model: &CpuModel,
        layer: &Layer,
        inputs: &Inputs,
        kv: &mut KvLayer,
    ) {
        let (config, heads, rows) = (&model.config, model.heads(), inputs.tokens.len());
        let x = &mut self.x[..rows * config.hidden as usize];
        self.rows.take_normalised(team, x, &layer.attention_norm, config.rms_eps);
        let qkv = first(&mut self.qkv, rows * heads.width());
        layer.qkv.forward(team, &self.rows, Output::Store(qkv));
        let norms = layer.head_norms.as_ref();
        let norms =
            norms.map(|(query, key)| HeadNorms { query, key, epsilon: config.rms_eps });
        self.rotation.apply(team, qkv, norms, &inputs.slots, kv, &mut self.queries);
        let width = heads.queries * heads.dim;
        let attended = first(&mut self.attended, rows * width);
        let (spans, runs) = (&inputs.spans, &inputs.runs);
        let window = config.sliding_window;
        self.attention.forward(team, kv, &self.queries, spans, runs, window, attended);
        self.rows.take(team, attended, width);
        layer.out.forward(team, &self.rows, Output::Add(x));
    }

    fn feed_forward(&mut self, team: &Team, model: &CpuModel, layer: &Layer, inputs: &Inputs) {
        let (config, rows) = (&model.config, inputs.tokens.len());
        let x = &mut self.x[..rows * config.hidden as usize];
        self.rows.take_normalised(team, x, &layer.mlp_norm, config.rms_eps);
        let inner = first(&mut self.inner, rows * config.ffn as usize);
        layer.gate_up.forward(team, &self.rows, Output::Store(inner));
        self.rows.take(team, inner, config.ffn as usize);
        layer.down.forward(team, &self.rows, Output::Add(x));
    }

    fn head(&mut self, team: &Team, model: &CpuModel, inputs: &Inputs) {
        let hidden = model.config.hidden as usize;
        let last = first(&mut self.last, inputs.heads.len() * hidden);
        for (&row, last) in inputs.heads.iter().zip(last.chunks_exact_mut(hidden)) {
            last.copy_from_slice(&self.x[row as usize * hidden..][..hidden]);
        }
        self.rows.take_normalised(team, last, &model.norm, model.config.rms_eps);
        let logits = first(&mut self.logits, inputs.heads.len() * model.vocab());
        model.head.forward(team, &self.rows, Output::Store(logits));
    }
}
