//! Kernels that touch keys and values, each with its sizes: what makes launching safe.

use half::bf16;

use super::backend::Shape;
use super::batch::DeviceBatch;
use super::device::{Arg, Device};
use super::error::{CudaError, ensure};
use super::memory::Buffer;
use super::ops::plane;
use super::pool::KvPool;
use super::source::DECODE;

/// The steps that some models take on heads before rotation.
#[derive(Debug, Clone, Copy)]
pub struct HeadExtras<'a> {
    /// One per column of queries, keys and values together.
    pub bias: Option<&'a Buffer<bf16>>,
    /// Weights of the RMS norms of single query heads and of single key heads.
    pub norms: Option<(&'a Buffer<bf16>, &'a Buffer<bf16>)>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Partial results of the split attention kernel; grows to the largest batch and stays.
#[derive(Debug)]
pub struct Scratch {
    partial: Buffer<f32>,
    stats: Buffer<f32>,
    grown: u64,
}

impl Scratch {
    /// None yet.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self { partial: device.zeros(0)?, stats: device.zeros(0)?, grown: 0 })
    }

    /// The number of times it was replaced by more.
    #[must_use]
    pub fn grown(&self) -> u64 {
        self.grown
    }
}

/// Tokens of a context that a block of the split kernel takes at least.
const LEAST_SPLIT: usize = 128;

impl Device {
    /// Takes the batch's rows of `qkv` (queries, keys, values) apart: queries rotated to `queries`, keys rotated and
    /// values to their slots of a layer. `turns` is `[positions, head_dim / 2, 2]`: cosine and sine.
    ///
    /// # Errors
    /// See [`Device::embed`].
    pub fn rope_kv_write(
        &self,
        batch: &DeviceBatch,
        qkv: &Buffer<bf16>,
        extras: HeadExtras<'_>,
        turns: &Buffer<f32>,
        queries: &mut Buffer<bf16>,
        (pool, layer): (&mut KvPool, usize),
    ) -> Result<(), CudaError> {
        let (heads, rows) = (pool.heads, batch.rows());
        self.holds("queries, keys and values", qkv, rows * heads.width())?;
        self.holds("the rotary table", turns, batch.limits.positions * heads.dim)?;
        self.holds("queries", queries, rows * heads.queries * heads.dim)?;
        extras.bias.map_or(Ok(()), |bias| self.holds("the bias", bias, heads.width()))?;
        if let Some((query, key)) = extras.norms {
            self.holds("the query norm", query, heads.dim)?;
            self.holds("the key norm", key, heads.dim)?;
        }
        self.holds("the batch", &batch.ids.data, rows)?;
        self.holds("the KV pool", &pool.data, 0)?;
        ensure(batch.limits.slots <= pool.slots && layer < pool.layers, || {
            format!("{} slots of layer {layer} are not in the pool", batch.limits.slots)
        })?;
        if rows == 0 {
            return Ok(());
        }
        let arguments = [
            qkv.into(),
            extras.bias.into(),
            extras.norms.map(|n| n.0).into(),
            extras.norms.map(|n| n.1).into(),
            extras.epsilon.into(),
            turns.into(),
            (&batch.positions.data).into(),
            (&batch.slots.data).into(),
            Arg::from(&*queries),
            pool.plane(layer, 0),
            pool.plane(layer, 1),
            (heads.queries as i32).into(),
            (heads.kv as i32).into(),
            (heads.dim as i32).into(),
        ];
        let all = heads.queries + 2 * heads.kv;
        // SAFETY: sizes were checked here, indices by the batch.
        unsafe { self.launch("rope_kv_write", plane(rows, all.div_ceil(4), 128), arguments) }
    }

    /// Attention of the batch's sequences over a layer, which sees `window` tokens back (0 = all), into `out`
    /// (`[rows, heads, head_dim]`).
    ///
    /// # Errors
    /// See [`Device::embed`].
    pub fn attend(
        &self,
        batch: &DeviceBatch,
        queries: &Buffer<bf16>,
        (pool, layer): (&KvPool, usize),
        window: u32,
        scratch: &mut Scratch,
        out: &mut Buffer<bf16>,
    ) -> Result<(), CudaError> {
        let heads = pool.heads;
        let width = heads.queries * heads.dim;
        self.holds("queries", queries, batch.rows() * width)?;
        self.holds("attention's output", out, batch.out_rows * width)?;
        self.holds("the batch", &batch.ids.data, batch.rows())?;
        self.holds("the KV pool", &pool.data, 0)?;
        ensure(batch.limits.slots <= pool.slots && layer < pool.layers, || {
            format!("{} slots of layer {layer} are not in the pool", batch.limits.slots)
        })?;
        let window = i32::try_from(window).unwrap_or(0);
        let scale = (1.0 / (heads.dim as f64).sqrt() * std::f64::consts::LOG2_E) as f32;
        let places = [queries.into(), pool.plane(layer, 0), pool.plane(layer, 1)];
        if batch.chunks.len > 0 {
            let [queries, keys, values] = places;
            let kernel = match heads.dim {
                32 => "prefill_attention_d32",
                64 => "prefill_attention_d64",
                _ => "prefill_attention_d128",
            };
            let arguments = [
                queries,
                keys,
                values,
                Arg::from(&*out),
                (&batch.chunks.data).into(),
                (&batch.tables.data).into(),
                (&batch.tiles.data).into(),
                (heads.kv as i32).into(),
                scale.into(),
                window.into(),
            ];
            let mut shape = plane(batch.tiles.len / 2, heads.queries, 128);
            shape.dynamic = (5 * 64 * heads.dim * size_of::<bf16>()) as u32;
            // SAFETY: sizes were checked here, indices by the batch.
            unsafe { self.launch(kernel, shape, arguments)? }
        }
        if batch.decodes.len > 0 {
            self.decode(batch, places, pool, (scale, window), scratch, out)?;
        }
        Ok(())
    }

    fn decode(
        &self,
        batch: &DeviceBatch,
        [queries, keys, values]: [Arg<'_>; 3],
        pool: &KvPool,
        (scale, window): (f32, i32),
        scratch: &mut Scratch,
        out: &mut Buffer<bf16>,
    ) -> Result<(), CudaError> {
        let (heads, seqs) = (pool.heads, batch.decodes.len);
        let shared = heads.queries / heads.kv;
        let group = [8, 4, 2].into_iter().find(|g| shared.is_multiple_of(*g)).unwrap_or(1);
        let kernel = decode_kernel(heads.dim, group);
        // Enough blocks for every multiprocessor to have a few.
        let blocks = seqs * heads.queries / group;
        let wanted = (4 * self.processors() as usize).div_ceil(blocks);
        let longest = batch.longest as usize;
        let splits = wanted.min(longest.div_ceil(LEAST_SPLIT)).clamp(1, 64);
        let split = longest.div_ceil(splits).next_multiple_of(16);
        let splits = longest.div_ceil(split);
        let partials = seqs * heads.queries * splits;
        self.holds("the scratch memory", &scratch.partial, 0)?;
        if scratch.partial.len() < partials * heads.dim || scratch.stats.len() < partials * 2 {
            scratch.partial = self.zeros((partials * heads.dim).next_power_of_two())?;
            scratch.stats = self.zeros((partials * 2).next_power_of_two())?;
            scratch.grown += 1;
        }
        let arguments = [
            queries,
            keys,
            values,
            (&batch.decodes.data).into(),
            (&batch.tables.data).into(),
            Arg::from(&scratch.partial),
            Arg::from(&scratch.stats),
            (heads.kv as i32).into(),
            scale.into(),
            window.into(),
            (split as i32).into(),
        ];
        let grid = [(heads.queries / group) as u32, splits as u32, seqs as u32];
        // Those on tensor cores keep two tiles each of keys and values.
        let dynamic = if group == 8 { (4 * 64 * heads.dim * size_of::<bf16>()) as u32 } else { 0 };
        // SAFETY: sizes were checked, here and by the caller, and indices by the batch.
        unsafe {
            self.launch(kernel, Shape { grid, block: 128, dynamic }, arguments)?;
            let combine = [
                Arg::from(&scratch.partial),
                Arg::from(&scratch.stats),
                (&batch.decodes.data).into(),
                Arg::from(&*out),
                (splits as i32).into(),
            ];
            self.launch("decode_combine", plane(heads.queries, seqs, heads.dim as u32), combine)
        }
    }

    /// Copies slots of `from`, or of `to` itself, to slots of `to`: pairs of which none is both read and written.
    ///
    /// # Errors
    /// See [`Device::embed`]; also when a slot is both read and written.
    pub fn copy_slots(
        &self,
        from: Option<&KvPool>,
        to: &mut KvPool,
        moves: &[(u32, u32)],
    ) -> Result<(), CudaError> {
        let source = from.unwrap_or(to);
        self.holds("the KV pool", &source.data, 0)?;
        self.holds("the KV pool", &to.data, 0)?;
        ensure(source.heads == to.heads && source.layers == to.layers, || {
            "keys and values are copied between pools of one model only".to_owned()
        })?;
        let exist = |&(a, b): &(u32, u32)| (a as usize) < source.slots && (b as usize) < to.slots;
        ensure(moves.iter().all(exist), || "copies of KV slots that do not exist".to_owned())?;
        if from.is_none() {
            let written: std::collections::HashSet<u32> = moves.iter().map(|m| m.1).collect();
            ensure(moves.iter().all(|m| !written.contains(&m.0)), || {
                "a KV slot is both read and written".to_owned()
            })?;
        }
        if moves.is_empty() {
            return Ok(());
        }
        let pairs: Vec<i32> = moves.iter().flat_map(|&(a, b)| [a as i32, b as i32]).collect();
        if to.moves.len() < pairs.len() {
            to.moves = self.zeros(pairs.len().next_power_of_two())?;
        }
        to.moves.write(0, &pairs)?;
        let source = from.unwrap_or(to);
        let arguments = [
            Arg::from(&source.data),
            Arg::from(&to.data),
            (&to.moves).into(),
            ((to.heads.kv * to.heads.dim) as i32).into(),
            (source.slots as i32).into(),
            (to.slots as i32).into(),
        ];
        // SAFETY: sizes and slots were checked; widths are multiples of 32.
        unsafe { self.launch("copy_slots", plane(moves.len(), to.layers * 2, 64), arguments) }
    }
}

fn decode_kernel(dim: usize, group: usize) -> &'static str {
    DECODE[4 * (dim / 32).ilog2() as usize + group.ilog2() as usize]
}
