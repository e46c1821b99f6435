//! What one rank does in a forward pass on a device: embed, layers, norm, vocabulary head, and the choice of tokens.

use std::time::Duration;

use half::bf16;
use kernels::cuda::{
    Buffer, CudaError, Device, DeviceBatch, Draw, Element, HeadExtras, KvPool, Mark, Products,
    Scratch,
};

use super::weights::{CudaModel, Layer};
use crate::exec::cpu::Spent;

/// Memory for one batch; grows to the largest and stays.
#[derive(Debug)]
pub(super) struct Forward {
    /// The residual stream.
    x: Buffer<bf16>,
    /// What attention or the feed-forward layer adds to it.
    pub(super) added: Buffer<bf16>,
    normed: Buffer<bf16>,
    qkv: Buffer<bf16>,
    queries: Buffer<bf16>,
    attended: Buffer<bf16>,
    gate_up: Buffer<bf16>,
    inner: Buffer<bf16>,
    last_x: Buffer<bf16>,
    last_added: Buffer<bf16>,
    /// One for each row through the vocabulary head.
    pub(super) logits: Buffer<f32>,
    draws: Buffer<Draw>,
    tokens: Buffer<i32>,
    scratch: Scratch,
    /// How often any of these was replaced by a larger one.
    grown: u64,
    /// When each operator was done and what it counts as, where that is wanted.
    laps: Option<Vec<(Mark, Part)>>,
}

/// What an operator's time counts as.
type Part = fn(&mut Spent) -> &mut Duration;

const REST: Part = |spent| &mut spent.rest;
const ATTENTION: Part = |spent| &mut spent.attention;
const QKV: Part = |spent| &mut spent.linears[0];
const OUT: Part = |spent| &mut spent.linears[1];
const GATE_UP: Part = |spent| &mut spent.linears[2];
const DOWN: Part = |spent| &mut spent.linears[3];
const HEAD: Part = |spent| &mut spent.head;
const SAMPLING: Part = |spent| &mut spent.sampling;

/// `buffer` with room for `len` elements, made if it is not there; what was in it is gone then. Returns 1 if it was made.
fn grow<T: Element>(device: &Device, buffer: &mut Buffer<T>, len: usize) -> Result<u64, CudaError> {
    if buffer.len() >= len {
        return Ok(0);
    }
    // The old one first: both may not fit.
    *buffer = device.zeros(0)?;
    *buffer = device.zeros(len)?;
    Ok(1)
}

impl Forward {
    pub(super) fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self {
            x: device.zeros(0)?,
            added: device.zeros(0)?,
            normed: device.zeros(0)?,
            qkv: device.zeros(0)?,
            queries: device.zeros(0)?,
            attended: device.zeros(0)?,
            gate_up: device.zeros(0)?,
            inner: device.zeros(0)?,
            last_x: device.zeros(0)?,
            last_added: device.zeros(0)?,
            logits: device.zeros(0)?,
            draws: device.zeros(0)?,
            tokens: device.zeros(0)?,
            scratch: Scratch::new(device)?,
            grown: 0,
            laps: None,
        })
    }

    /// How often memory has been replaced by more of it.
    pub(super) fn grown(&self) -> u64 {
        self.grown + self.scratch.grown()
    }

    /// From here on, where the device's time goes is noted.
    pub(super) fn start_laps(&mut self, device: &Device) -> Result<(), CudaError> {
        self.laps = Some(vec![(device.mark()?, REST)]);
        Ok(())
    }

    /// Where it went, operator by operator.
    pub(super) fn end_laps(&mut self) -> Result<Spent, CudaError> {
        let (laps, mut spent) = (self.laps.take().unwrap_or_default(), Spent::default());
        for pair in laps.windows(2) {
            *pair[1].1(&mut spent) += pair[1].0.since(&pair[0].0)?;
        }
        Ok(spent)
    }

    fn lap(&mut self, device: &Device, part: Part) -> Result<(), CudaError> {
        if let Some(laps) = &mut self.laps {
            laps.push((device.mark()?, part));
        }
        Ok(())
    }

    fn make_room(&mut self, model: &CudaModel, batch: &DeviceBatch) -> Result<(), CudaError> {
        let (device, heads, config) = (&model.device, model.heads(), &model.config);
        let (hidden, ffn) = (config.hidden as usize, model.ffn());
        let (rows, last, width) = (batch.rows(), batch.last_rows(), heads.queries * heads.dim);
        for (buffer, len) in [
            (&mut self.x, rows * hidden),
            (&mut self.added, rows * hidden),
            (&mut self.normed, rows.max(last) * hidden),
            (&mut self.qkv, rows * heads.width()),
            (&mut self.queries, rows * width),
            (&mut self.attended, batch.attended_rows().max(rows) * width),
            (&mut self.gate_up, rows * 2 * ffn),
            (&mut self.inner, rows * ffn),
            (&mut self.last_x, last * hidden),
            (&mut self.last_added, last * hidden),
        ] {
            self.grown += grow(device, buffer, len)?;
        }
        self.grown += grow(device, &mut self.logits, last * model.vocab())?;
        Ok(())
    }

    /// Makes room for `batch` and reads its embeddings.
    pub(super) fn begin(
        &mut self,
        model: &CudaModel,
        batch: &DeviceBatch,
    ) -> Result<(), CudaError> {
        self.make_room(model, batch)?;
        model.device.embed(batch, &model.embedding, &mut self.x, model.config.hidden as usize)
    }

    /// The logits of the rows that are wanted.
    pub(super) fn head(
        &mut self,
        model: &CudaModel,
        products: Products,
        batch: &DeviceBatch,
    ) -> Result<(), CudaError> {
        let (device, hidden) = (&model.device, model.config.hidden as usize);
        let last = batch.last_rows();
        device.gather_last(batch, &self.x, &mut self.last_x, hidden)?;
        device.gather_last(batch, &self.added, &mut self.last_added, hidden)?;
        let (added, normed) = (Some(&self.last_added), &mut self.normed);
        let epsilon = model.config.rms_eps;
        device.add_rmsnorm(last, added, &mut self.last_x, &model.norm, normed, epsilon)?;
        let sizes = (last, hidden, model.vocab());
        device.linear(products, sizes, &self.normed, model.head(), &mut self.logits)?;
        self.lap(device, HEAD)
    }

    /// Attention of a layer: what it adds to the residual stream, or this rank's part of it.
    pub(super) fn attend(
        &mut self,
        model: &CudaModel,
        products: Products,
        (i, layer): (usize, &Layer),
        batch: &DeviceBatch,
        turns: &Buffer<f32>,
        pool: &mut KvPool,
    ) -> Result<(), CudaError> {
        let (device, heads, config) = (&model.device, model.heads(), &model.config);
        let (rows, hidden) = (batch.rows(), config.hidden as usize);
        let (added, norm) = ((i > 0).then_some(&self.added), &layer.attention_norm);
        device.add_rmsnorm(rows, added, &mut self.x, norm, &mut self.normed, config.rms_eps)?;
        self.lap(device, REST)?;
        let sizes = (rows, hidden, heads.width());
        device.linear(products, sizes, &self.normed, &layer.qkv, &mut self.qkv)?;
        self.lap(device, QKV)?;
        let extras = HeadExtras {
            bias: layer.qkv_bias.as_ref(),
            norms: layer.head_norms.as_ref().map(|(query, key)| (query, key)),
            epsilon: config.rms_eps,
        };
        let queries = &mut self.queries;
        device.rope_kv_write(batch, &self.qkv, extras, turns, queries, (&mut *pool, i))?;
        self.lap(device, REST)?;
        let window = config.sliding_window.unwrap_or(0);
        let (scratch, attended) = (&mut self.scratch, &mut self.attended);
        device.attend(batch, &self.queries, (pool, i), window, scratch, attended)?;
        self.lap(device, ATTENTION)?;
        let sizes = (rows, heads.queries * heads.dim, hidden);
        device.linear(products, sizes, &self.attended, &layer.out, &mut self.added)?;
        self.lap(device, OUT)
    }

    /// The feed-forward layer, likewise.
    pub(super) fn feed_forward(
        &mut self,
        model: &CudaModel,
        products: Products,
        layer: &Layer,
        rows: usize,
    ) -> Result<(), CudaError> {
        let (device, epsilon) = (&model.device, model.config.rms_eps);
        let (hidden, ffn) = (model.config.hidden as usize, model.ffn());
        let (added, norm) = (Some(&self.added), &layer.mlp_norm);
        device.add_rmsnorm(rows, added, &mut self.x, norm, &mut self.normed, epsilon)?;
        self.lap(device, REST)?;
        let sizes = (rows, hidden, 2 * ffn);
        device.linear(products, sizes, &self.normed, &layer.gate_up, &mut self.gate_up)?;
        self.lap(device, GATE_UP)?;
        device.silu_mul(rows, ffn, &self.gate_up, &mut self.inner)?;
        self.lap(device, REST)?;
        device.linear(products, (rows, ffn, hidden), &self.inner, &layer.down, &mut self.added)?;
        self.lap(device, DOWN)
    }

    /// The tokens of the first rows through the vocabulary head, one for each of `draws`.
    pub(super) fn sample(
        &mut self,
        model: &CudaModel,
        draws: &[Draw],
    ) -> Result<&Buffer<i32>, CudaError> {
        let device = &model.device;
        grow(device, &mut self.draws, draws.len().next_power_of_two())?;
        grow(device, &mut self.tokens, draws.len())?;
        self.draws.write(0, draws)?;
        let (vocab, all) = (model.vocab(), draws.len());
        device.sample((all, vocab), &self.logits, &self.draws, &mut self.tokens)?;
        self.lap(device, SAMPLING)?;
        Ok(&self.tokens)
    }
}
