//! One rank's operators on this machine's processor.

use std::convert::Infallible;
use std::time::Instant;

use kernels::cpu::{Attention, HeadNorms, Output, Precision, Rotation, Routing, Rows, Team};

use super::collective::Collective;
use super::inputs::Inputs;
use super::memory::KvMemory;
use super::weights::CpuModel;
use crate::exec::forward::{self, Back, Backend, Entry, FeedForward, Gated, Meeting, Norm, Spent};

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
    /// The input of a router.
    routed: Rows,
    shares: Vec<f32>,
    /// The experts of each row.
    routing: Routing,
    /// The input of one expert.
    some: Rows,
    qkv: Vec<f32>,
    queries: Vec<f32>,
    /// This rank's result of attention or of the feed-forward layer's gate.
    inner: Vec<f32>,
    /// Results of experts, a row for each of their rows.
    said: Vec<f32>,
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
            routed: Rows::new(Precision::F32),
            shares: Vec::new(),
            routing: Routing::default(),
            some: Rows::new(precision),
            qkv: Vec::new(),
            queries: Vec::new(),
            inner: Vec::new(),
            said: Vec::new(),
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

    /// Rows of inner features before `back`, and how many of these this rank has.
    fn inner(&self, back: Back) -> (usize, usize) {
        let Rank { model, .. } = self.rank;
        let heads = model.heads();
        match back {
            Back::Out => (self.rows(), heads.queries * heads.dim),
            Back::Down if model.config.mixture.is_some() => {
                (self.scratch.routing.pairs(), model.ffn())
            }
            Back::Down => (self.rows(), model.ffn()),
        }
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
        let ((rows, width), Rank { model, team, .. }) = (self.inner(Back::Out), self.rank);
        let Scratch { attention, queries, inner, .. } = &mut *self.scratch;
        let (Inputs { spans, runs, .. }, kv) = (self.inputs, &self.memory.layers[layer]);
        let (window, inner) = (model.config.sliding_window, first(inner, rows * width));
        attention.forward(team, kv, queries, spans, runs, window, inner);
        Ok(())
    }

    fn route(&mut self, layer: usize) -> Result<(), Infallible> {
        let (rows, Rank { model, team, .. }) = (self.rows(), self.rank);
        let layer = &model.layers[layer];
        let (FeedForward::Experts { router, .. }, Some(mixture)) =
            (&layer.feed_forward, model.config.mixture)
        else {
            return Ok(());
        };
        let (experts, hidden) = (mixture.experts as usize, self.hidden());
        let Scratch { x, routed, shares, routing, .. } = &mut *self.scratch;
        routed.take_normalised(team, &x[..rows * hidden], &layer.mlp_norm, model.config.rms_eps);
        let shares = first(shares, rows * experts);
        router.forward(team, routed, Output::Store(shares));
        routing.choose(shares, experts, mixture.top_k as usize, mixture.normalised);
        Ok(())
    }

    fn gate_up(&mut self, layer: usize) -> Result<(), Infallible> {
        let ((rows, width), Rank { model, team, .. }) = (self.inner(Back::Down), self.rank);
        let Scratch { rows: x, routing, some, inner, .. } = &mut *self.scratch;
        let inner = first(inner, rows * width);
        match &model.layers[layer].feed_forward {
            FeedForward::Dense(Gated { gate_up, .. }) => {
                gate_up.forward(team, x, Output::Store(inner));
            }
            FeedForward::Experts { experts, .. } => {
                for (expert, first, rows) in routing.experts() {
                    some.pick(team, x, rows);
                    let inner = &mut inner[first * width..][..rows.len() * width];
                    experts[expert].gate_up.forward(team, some, Output::Store(inner));
                }
            }
        }
        Ok(())
    }

    fn gather_inner(&mut self, back: Back) -> Result<(), Infallible> {
        let ((rows, width), Rank { model, collective, .. }) = (self.inner(back), self.rank);
        let Scratch { inner, whole, .. } = &mut *self.scratch;
        let whole = first(whole, model.part.ranks * rows * width);
        collective.gather(model.part.rank, &inner[..rows * width], rows, whole);
        Ok(())
    }

    fn prepare(&mut self, back: Back) -> Result<(), Infallible> {
        let ((rows, width), ranks) = (self.inner(back), self.rank.model.part.ranks);
        let width = ranks * width;
        if back == Back::Down && self.rank.model.config.mixture.is_some() {
            // Each expert takes its own.
            return Ok(());
        }
        let Scratch { rows: x, inner, whole, .. } = &mut *self.scratch;
        let from = if ranks == 1 { inner } else { whole };
        x.take(self.rank.team, &from[..rows * width], width);
        Ok(())
    }

    fn lead_back(&mut self, layer: usize, back: Back) -> Result<(), Infallible> {
        let (rows, hidden, Rank { model, team, .. }) = (self.rows(), self.hidden(), self.rank);
        let layer = &model.layers[layer];
        let (ranks, (_, width)) = (model.part.ranks, self.inner(back));
        let (width, columns) = (ranks * width, hidden / ranks);
        let Scratch { rows: taken, routing, some, inner, whole, x, part, said, .. } =
            &mut *self.scratch;
        let result = match ranks {
            1 => Output::Add(&mut x[..rows * hidden]),
            _ => Output::Store(first(part, rows * columns)),
        };
        match (back, &layer.feed_forward) {
            (Back::Out, _) => layer.out.forward(team, taken, result),
            (Back::Down, FeedForward::Dense(Gated { down, .. })) => {
                down.forward(team, taken, result);
            }
            (Back::Down, FeedForward::Experts { experts, .. }) => {
                let inner = if ranks == 1 { inner } else { whole };
                let said = first(said, routing.pairs() * columns);
                for (expert, first, rows) in routing.experts() {
                    some.take(team, &inner[first * width..][..rows.len() * width], width);
                    let said = &mut said[first * columns..][..rows.len() * columns];
                    experts[expert].down.forward(team, some, Output::Store(said));
                }
                routing.combine(team, said, columns, result);
            }
        }
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
