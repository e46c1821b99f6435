//! One rank's operators on a CUDA device.

use half::bf16;
use kernels::cuda::{
    Buffer, Collective, CudaError, Device, DeviceBatch, Draw, HeadExtras, KvPool, Mark, Scratch,
};

use super::columns::{Columns, grow};
use super::weights::{CudaModel, Matrix, Shard};
use crate::exec::forward::{Back, Entry, FeedForward, Gated, Layer, Meeting, Norm, Spent, entry};

/// The parties to a rank's work: its shard of a model, and a batch on the shard's device.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) model: &'a CudaModel,
    pub(super) shard: &'a Shard,
    pub(super) batch: &'a DeviceBatch,
    /// The rotary table.
    pub(super) turns: &'a Buffer<f32>,
}

impl<'a> Task<'a> {
    /// The way to the other ranks of this rank's stage.
    pub(super) fn group(&self) -> &'a Collective {
        &self.model.groups[self.shard.part.stage]
    }
}

/// Memory of one rank for one batch; grows to the largest and stays.
#[derive(Debug)]
pub(super) struct Forward {
    /// The residual stream.
    pub(super) x: Buffer<bf16>,
    /// The output of attention or of the feed-forward layer that is added to it, or this rank's part of that.
    pub(super) added: Columns<bf16>,
    normed: Buffer<bf16>,
    qkv: Buffer<bf16>,
    queries: Buffer<bf16>,
    gate_up: Buffer<bf16>,
    /// The result of attention or of the feed-forward layer for this rank's heads or inner features.
    pub(super) inner: Columns<bf16>,
    last_x: Buffer<bf16>,
    last_added: Buffer<bf16>,
    /// One row for each through the vocabulary head: this rank's tokens, and, on the first rank, all.
    pub(super) logits: Columns<f32>,
    draws: Buffer<Draw>,
    tokens: Buffer<i32>,
    scratch: Scratch,
    /// The number of times that any of these was replaced by a larger one.
    grown: u64,
    /// When each operator was done and what it counts as, where that is wanted.
    laps: Option<Vec<(Mark, Entry)>>,
}

/// The feed-forward layer of all tokens.
fn dense(layer: &Layer<Matrix, Buffer<bf16>>) -> &Gated<Matrix> {
    match &layer.feed_forward {
        FeedForward::Dense(dense) => dense,
        FeedForward::Experts { .. } => unreachable!("refused when the model is loaded"),
    }
}

impl Forward {
    pub(super) fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self {
            x: device.zeros(0)?,
            added: Columns::new(device)?,
            normed: device.zeros(0)?,
            qkv: device.zeros(0)?,
            queries: device.zeros(0)?,
            gate_up: device.zeros(0)?,
            inner: Columns::new(device)?,
            last_x: device.zeros(0)?,
            last_added: device.zeros(0)?,
            logits: Columns::new(device)?,
            draws: device.zeros(0)?,
            tokens: device.zeros(0)?,
            scratch: Scratch::new(device)?,
            grown: 0,
            laps: None,
        })
    }

    /// The number of times that memory has been replaced by more of it.
    pub(super) fn grown(&self) -> u64 {
        self.grown + self.scratch.grown()
    }

    /// From the next batch on, where the device's time goes is noted.
    pub(super) fn start_laps(&mut self) {
        self.laps = Some(Vec::new());
    }

    /// The time of the pass, operator by operator.
    pub(super) fn end_laps(&mut self) -> Result<Spent, CudaError> {
        let (laps, mut spent) = (self.laps.take().unwrap_or_default(), Spent::default());
        for pair in laps.windows(2) {
            *pair[1].1(&mut spent) += pair[1].0.since(&pair[0].0)?;
        }
        Ok(spent)
    }

    /// Counts the work asked for since the last lap as `entry`, where times are kept.
    pub(super) fn lap(&mut self, device: &Device, entry: Entry) -> Result<(), CudaError> {
        if let Some(laps) = &mut self.laps {
            laps.push((device.mark()?, entry));
        }
        Ok(())
    }

    fn make_room(&mut self, Task { model, shard, batch, .. }: Task<'_>) -> Result<(), CudaError> {
        let (device, heads, config) = (&shard.device, model.heads(), &model.config);
        let (hidden, ffn, ranks) = (config.hidden as usize, model.ffn(), model.ranks());
        let (rows, last, width) = (batch.rows(), batch.last_rows(), heads.queries * heads.dim);
        let attended = batch.attended_rows().max(rows) * width;
        for (buffer, len) in [
            (&mut self.x, rows * hidden),
            (&mut self.normed, rows.max(last) * hidden),
            (&mut self.qkv, rows * heads.width()),
            (&mut self.queries, rows * width),
            (&mut self.gate_up, rows * 2 * ffn),
            (&mut self.last_x, last * hidden),
            (&mut self.last_added, last * hidden),
        ] {
            self.grown += grow(device, buffer, len)?;
        }
        // Either this rank's part of every column, or its own columns whole.
        let gathers = model.meeting() == Meeting::Gather;
        let (joined, columns) = if gathers { (ranks, hidden / ranks) } else { (0, hidden) };
        self.grown += self.inner.make_room(device, attended.max(rows * ffn), joined)?;
        self.grown += self.added.make_room(device, rows * columns, joined)?;
        if shard.head.is_some() {
            let all = if ranks > 1 && shard.part.rank == 0 { ranks } else { 0 };
            self.grown += self.logits.make_room(device, last * model.tokens(), all)?;
        }
        Ok(())
    }

    /// Makes room for a batch, and reads its embeddings where this is the first stage: those that this rank has.
    pub(super) fn begin(&mut self, task: Task<'_>) -> Result<(), CudaError> {
        self.make_room(task)?;
        let Task { model, shard, batch, .. } = task;
        self.lap(&shard.device, entry::REST)?;
        let Some(table) = &shard.embedding else { return Ok(()) };
        let (first, hidden) = (shard.part.rank * model.tokens(), model.config.hidden as usize);
        shard.device.embed(batch, (table, first), &mut self.x, hidden)
    }

    /// Adds what was led back last to the residual stream, and normalises that.
    pub(super) fn norm(&mut self, task: Task<'_>, i: usize, norm: Norm) -> Result<(), CudaError> {
        let Task { model, shard, batch, .. } = task;
        let layer = &shard.layers[i];
        let weight = if norm == Norm::Attention { &layer.attention_norm } else { &layer.mlp_norm };
        // Nothing was added to embeddings.
        let embeddings = norm == Norm::Attention && i == 0 && shard.part.is_first();
        let added = (!embeddings).then(|| self.added.all());
        let (x, normed, epsilon) = (&mut self.x, &mut self.normed, model.config.rms_eps);
        shard.device.add_rmsnorm(batch.rows(), added, x, weight, normed, epsilon)
    }

    pub(super) fn qkv(&mut self, task: Task<'_>, i: usize) -> Result<(), CudaError> {
        let Task { model, shard, batch, .. } = task;
        let sizes = (batch.rows(), model.config.hidden as usize, model.heads().width());
        let (x, weight) = (&self.normed, &shard.layers[i].qkv.weight);
        shard.device.linear(model.products(), sizes, x, weight, &mut self.qkv)
    }

    pub(super) fn rotate(
        &mut self,
        task: Task<'_>,
        i: usize,
        pool: &mut KvPool,
    ) -> Result<(), CudaError> {
        let Task { model, shard, batch, turns } = task;
        let layer = &shard.layers[i];
        let extras = HeadExtras {
            bias: layer.qkv.bias.as_ref(),
            norms: layer.head_norms.as_ref().map(|(query, key)| (query, key)),
            epsilon: model.config.rms_eps,
        };
        let queries = &mut self.queries;
        shard.device.rope_kv_write(batch, &self.qkv, extras, turns, queries, (pool, i))
    }

    pub(super) fn attend(
        &mut self,
        task: Task<'_>,
        i: usize,
        pool: &mut KvPool,
    ) -> Result<(), CudaError> {
        let Task { model, shard, batch, .. } = task;
        let window = model.config.sliding_window.unwrap_or(0);
        let (scratch, attended) = (&mut self.scratch, &mut self.inner.part);
        shard.device.attend(batch, &self.queries, (pool, i), window, scratch, attended)
    }

    pub(super) fn gate_up(&mut self, task: Task<'_>, i: usize) -> Result<(), CudaError> {
        let Task { model, shard, batch, .. } = task;
        let sizes = (batch.rows(), model.config.hidden as usize, 2 * model.ffn());
        let (x, weight) = (&self.normed, &dense(&shard.layers[i]).gate_up.weight);
        shard.device.linear(model.products(), sizes, x, weight, &mut self.gate_up)
    }

    pub(super) fn gate(
        &mut self,
        Task { model, shard, batch, .. }: Task<'_>,
    ) -> Result<(), CudaError> {
        let inner = &mut self.inner.part;
        shard.device.silu_mul(batch.rows(), model.ffn(), &self.gate_up, inner)
    }

    /// The product of layer `i` that leads back to the residual stream: of this rank's features, or of all features for
    /// this rank's columns.
    pub(super) fn lead_back(
        &mut self,
        task: Task<'_>,
        i: usize,
        back: Back,
    ) -> Result<(), CudaError> {
        let Task { model, shard, batch, .. } = task;
        let (ranks, hidden) = (model.ranks(), model.config.hidden as usize);
        let (layer, own) = (&shard.layers[i], model.inner(back));
        let weight = if back == Back::Out { &layer.out } else { &dense(layer).down };
        let gathers = model.meeting() == Meeting::Gather;
        let (features, outputs) =
            if gathers { (own * ranks, hidden / ranks) } else { (own, hidden) };
        let (sizes, x) = ((batch.rows(), features, outputs), self.inner.all());
        let y = &mut self.added.part;
        shard.device.linear(model.products(), sizes, x, &weight.weight, y)
    }

    /// The logits of the rows that are wanted, of this rank's tokens; nothing where this is not the last stage.
    pub(super) fn head(&mut self, task: Task<'_>) -> Result<(), CudaError> {
        let Task { model, shard, batch, .. } = task;
        let (device, hidden) = (&shard.device, model.config.hidden as usize);
        let Some(head) = &shard.head else { return Ok(()) };
        // A head that is not there is the embedding.
        let Some(weight) = head.weight.as_ref().or(shard.embedding.as_ref()) else { return Ok(()) };
        let (last, added) = (batch.last_rows(), self.added.all());
        device.gather_last(batch, &self.x, &mut self.last_x, hidden)?;
        device.gather_last(batch, added, &mut self.last_added, hidden)?;
        let (added, normed) = (Some(&self.last_added), &mut self.normed);
        let epsilon = model.config.rms_eps;
        device.add_rmsnorm(last, added, &mut self.last_x, &head.norm, normed, epsilon)?;
        let (sizes, logits) = ((last, hidden, model.tokens()), &mut self.logits.part);
        device.linear(model.products(), sizes, &self.normed, weight, logits)
    }

    /// The tokens of the first rows through the vocabulary head, one for each of `draws`.
    pub(super) fn sample(
        &mut self,
        device: &Device,
        vocab: usize,
        draws: &[Draw],
    ) -> Result<&Buffer<i32>, CudaError> {
        grow(device, &mut self.draws, draws.len().next_power_of_two())?;
        grow(device, &mut self.tokens, draws.len())?;
        self.draws.write(0, draws)?;
        let (sizes, logits) = ((draws.len(), vocab), self.logits.all());
        device.sample(sizes, logits, &self.draws, &mut self.tokens)?;
        self.lap(device, entry::SAMPLING)?;
        Ok(&self.tokens)
    }
}
