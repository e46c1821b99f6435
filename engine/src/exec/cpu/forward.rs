//! One rank's operators on this machine's processor.

use std::convert::Infallible;
use std::time::Instant;

use kernels::cpu::{Attention, HeadNorms, Output, Precision, Rotation, Rows, Team};

use super::collective::Collective;
use super::inputs::Inputs;
use super::memory::KvMemory;
use super::weights::CpuModel;
use crate::exec::forward::{self, Back, Backend, Entry, Meeting, Norm, Spent};

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
    /// The input of products.
    rows: Rows,
    qkv: Vec<f32>,
    queries: Vec<f32>,
    /// This rank's result of attention or of the feed-forward layer's gate.
    inner: Vec<f32>,
    /// The part that one of several ranks adds to the residual stream.
    part: Vec<f32>,
    /// The results of all ranks.
    whole: Vec<f32>,
    last: Vec<f32>,
    /// Of the rows that went through the head, one after the other; there may be more of an earlier pass.
    pub(super) logits: Vec<f32>,
    /// The time of the last pass, by operator. Reading the clock ten times a layer costs a few microseconds a pass, so it
    /// is always on.
    pub(super) spent: Spent,
    lap: Instant,
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
            inner: Vec::new(),
            part: Vec::new(),
            whole: Vec::new(),
            last: Vec::new(),
            logits: Vec::new(),
            spent: Spent::default(),
            lap: Instant::now(),
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
        (self.lap, self.spent) = (Instant::now(), Spent::default());
        let mut pass = Pass { scratch: self, rank, inputs, received, memory };
        let Ok(()) = forward::run(&mut pass, layers);
    }
}

/// A batch on its way through a rank.
struct Pass<'a> {
    scratch: &'a mut Scratch,
    rank: Rank<'a>,
    inputs: &'a Inputs,
    received: &'a [f32],
    memory: &'a mut KvMemory,
}

impl Pass<'_> {
    fn rows(&self) -> usize {
        self.inputs.rows.len()
    }

    fn hidden(&self) -> usize {
        self.rank.model.config.hidden as usize
    }

    /// The width of this rank's inner features before `back`.
    fn width(&self, back: Back) -> usize {
        let heads = self.rank.model.heads();
        if back == Back::Out { heads.queries * heads.dim } else { self.rank.model.ffn() }
    }
}

impl Backend for Pass<'_> {
    type Error = Infallible;

    fn meeting(&self) -> Meeting {
        if self.rank.model.part.ranks == 1 { Meeting::Alone } else { Meeting::Gather }
    }

    fn begin(&mut self) -> Result<(), Infallible> {
        let (hidden, model, rows) = (self.hidden(), self.rank.model, &self.inputs.rows);
        let x = first(&mut self.scratch.x, rows.len() * hidden);
        match &model.embedding {
            Some(embedding) => {
                for (&token, x) in rows.tokens.iter().zip(x.chunks_exact_mut(hidden)) {
                    embedding.look_up(token, x);
                }
            }
            None => x.copy_from_slice(self.received),
        }
        let (frequencies, scale) = (&model.frequencies, model.config.rope_scale());
        self.scratch.rotation.set(&rows.positions, frequencies, scale);
        Ok(())
    }

    fn norm(&mut self, layer: usize, norm: Norm) -> Result<(), Infallible> {
        let (rows, Rank { model, team, .. }) = (self.rows(), self.rank);
        let layer = &model.layers[layer];
        let weight = if norm == Norm::Attention { &layer.attention_norm } else { &layer.mlp_norm };
        let x = &self.scratch.x[..rows * self.hidden()];
        self.scratch.rows.take_normalised(team, x, weight, model.config.rms_eps);
        Ok(())
    }

    fn qkv(&mut self, layer: usize) -> Result<(), Infallible> {
        let (rows, Rank { model, team, .. }) = (self.rows(), self.rank);
        let qkv = first(&mut self.scratch.qkv, rows * model.heads().width());
        model.layers[layer].qkv.forward(team, &self.scratch.rows, Output::Store(qkv));
        Ok(())
    }

    fn rotate(&mut self, layer: usize) -> Result<(), Infallible> {
        let (rows, Rank { model, team, .. }) = (self.rows(), self.rank);
        let (Scratch { rotation, qkv, queries, .. }, kv) =
            (&mut *self.scratch, &mut self.memory.layers[layer]);
        let norms = model.layers[layer].head_norms.as_ref();
        let epsilon = model.config.rms_eps;
        let norms = norms.map(|(query, key)| HeadNorms { query, key, epsilon });
        let qkv = &mut qkv[..rows * model.heads().width()];
        rotation.apply(team, qkv, norms, &self.inputs.rows.slots, kv, queries);
        Ok(())
    }

    fn attend(&mut self, layer: usize) -> Result<(), Infallible> {
        let (rows, width, Rank { model, team, .. }) =
            (self.rows(), self.width(Back::Out), self.rank);
        let Scratch { attention, queries, inner, .. } = &mut *self.scratch;
        let (Inputs { spans, runs, .. }, kv) = (self.inputs, &self.memory.layers[layer]);
        let (window, inner) = (model.config.sliding_window, first(inner, rows * width));
        attention.forward(team, kv, queries, spans, runs, window, inner);
        Ok(())
    }

    fn gate_up(&mut self, layer: usize) -> Result<(), Infallible> {
        let (rows, width, Rank { model, team, .. }) =
            (self.rows(), self.width(Back::Down), self.rank);
        let Scratch { rows: x, inner, .. } = &mut *self.scratch;
        let inner = first(inner, rows * width);
        model.layers[layer].gate_up.forward(team, x, Output::Store(inner));
        Ok(())
    }

    fn gather_inner(&mut self, back: Back) -> Result<(), Infallible> {
        let (rows, width, Rank { model, collective, .. }) =
            (self.rows(), self.width(back), self.rank);
        let Scratch { inner, whole, .. } = &mut *self.scratch;
        let whole = first(whole, model.part.ranks * rows * width);
        collective.gather(model.part.rank, &inner[..rows * width], rows, whole);
        Ok(())
    }

    fn prepare(&mut self, back: Back) -> Result<(), Infallible> {
        let (rows, ranks) = (self.rows(), self.rank.model.part.ranks);
        let width = ranks * self.width(back);
        let Scratch { rows: x, inner, whole, .. } = &mut *self.scratch;
        let from = if ranks == 1 { inner } else { whole };
        x.take(self.rank.team, &from[..rows * width], width);
        Ok(())
    }

    fn lead_back(&mut self, layer: usize, back: Back) -> Result<(), Infallible> {
        let (rows, hidden, Rank { model, team, .. }) = (self.rows(), self.hidden(), self.rank);
        let layer = &model.layers[layer];
        let weight = if back == Back::Out { &layer.out } else { &layer.down };
        let Scratch { rows: inner, x, part, .. } = &mut *self.scratch;
        let result = match model.part.ranks {
            1 => Output::Add(&mut x[..rows * hidden]),
            _ => Output::Store(first(part, rows * weight.outputs())),
        };
        weight.forward(team, inner, result);
        Ok(())
    }

    fn gather_columns(&mut self) -> Result<(), Infallible> {
        let (rows, hidden, Rank { model, collective, .. }) =
            (self.rows(), self.hidden(), self.rank);
        let Scratch { x, part, whole, .. } = &mut *self.scratch;
        let whole = first(whole, rows * hidden);
        let columns = hidden / model.part.ranks;
        collective.gather(model.part.rank, &part[..rows * columns], rows, whole);
        x.iter_mut().zip(whole).for_each(|(x, whole)| *x += *whole);
        Ok(())
    }

    fn sum(&mut self) -> Result<(), Infallible> {
        unreachable!("these ranks gather")
    }

    fn head(&mut self) -> Result<(), Infallible> {
        let (hidden, Rank { model, team, .. }) = (self.hidden(), self.rank);
        let Some(head) = &model.head else { return Ok(()) };
        let Scratch { x, rows, last, logits, .. } = &mut *self.scratch;
        let wanted = &self.inputs.rows.last;
        let last = first(last, wanted.len() * hidden);
        for (&row, last) in wanted.iter().zip(last.chunks_exact_mut(hidden)) {
            last.copy_from_slice(&x[row as usize * hidden..][..hidden]);
        }
        rows.take_normalised(team, last, &model.norm, model.config.rms_eps);
        let logits = first(logits, wanted.len() * model.vocab());
        head.forward(team, rows, Output::Store(logits));
        Ok(())
    }

    fn lap(&mut self, entry: Entry) -> Result<(), Infallible> {
        let now = Instant::now();
        *entry(&mut self.scratch.spent) += now - self.scratch.lap;
        self.scratch.lap = now;
        Ok(())
    }
}
