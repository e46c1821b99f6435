//! Each kernel with its sizes: what makes launching safe.

use half::bf16;

use super::batch::{DeviceBatch, Seq};
use super::device::{Arg, Buffer, Device, Product, Shape};
use super::pool::KvPool;
use super::{CudaError, ensure};

/// How one row's token is chosen; see `sample.cu`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Draw {
    /// What logits are multiplied by; 0 = the most likely token, the first of several.
    pub inverse_temperature: f32,
    /// Only so many of the most likely tokens; 0 = all.
    pub top_k: i32,
    /// Only the most likely tokens whose probabilities reach this sum; 1 = all.
    pub top_p: f32,
    /// A random number from 0 to 1.
    pub at: f32,
}

impl Draw {
    /// The most likely token.
    pub const GREEDY: Self = Self { inverse_temperature: 0.0, top_k: 0, top_p: 1.0, at: 0.0 };
}

/// How matrices are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// The fastest way there is: a few rows at a time by dot products, more by the vendor's library.
    Fast,
    /// Every row in the same order of sums, whatever else is in the batch: our own tiles.
    Invariant,
}

/// What some models do to heads before rotation.
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
}

impl Scratch {
    /// None yet.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self { partial: device.zeros(0)?, stats: device.zeros(0)? })
    }
}

/// Tokens of a context that a block of the split kernel takes at least.
const LEAST_SPLIT: usize = 128;

fn line(grid: usize, block: u32) -> Shape {
    Shape { grid: [grid as u32, 1, 1], block, dynamic: 0 }
}

fn plane(x: usize, y: usize, block: u32) -> Shape {
    Shape { grid: [x as u32, y as u32, 1], block, dynamic: 0 }
}

/// Refuses a buffer that is shorter than `len`.
fn holds<T: super::Element>(what: &str, buffer: &Buffer<T>, len: usize) -> Result<(), CudaError> {
    ensure(buffer.len() >= len, || format!("{what} has {} elements, not {len}", buffer.len()))
}

fn eights(what: &str, n: usize) -> Result<(), CudaError> {
    ensure(n > 0 && n.is_multiple_of(8), || format!("{what} = {n} must be a multiple of 8"))
}

impl Device {
    /// `out[r] = table[ids[r]]` for the batch's tokens; rows are `hidden` wide.
    ///
    /// # Errors
    /// When sizes disagree or the launch fails; so in all of these.
    pub fn embed(
        &self,
        batch: &DeviceBatch,
        table: &Buffer<bf16>,
        out: &mut Buffer<bf16>,
        hidden: usize,
    ) -> Result<(), CudaError> {
        holds("the embedding", table, batch.limits.vocab * hidden)?;
        self.gather(&batch.ids.data, batch.ids.len, table, out, hidden)
    }

    /// `out[i] = rows[last[i]]`: the rows whose logits are wanted.
    ///
    /// # Errors
    /// See [`Device::embed`].
    pub fn gather_last(
        &self,
        batch: &DeviceBatch,
        rows: &Buffer<bf16>,
        out: &mut Buffer<bf16>,
        hidden: usize,
    ) -> Result<(), CudaError> {
        holds("rows", rows, batch.rows() * hidden)?;
        self.gather(&batch.last.data, batch.last.len, rows, out, hidden)
    }

    /// The caller has checked what `ids` point to.
    fn gather(
        &self,
        ids: &Buffer<i32>,
        len: usize,
        table: &Buffer<bf16>,
        out: &mut Buffer<bf16>,
        cols: usize,
    ) -> Result<(), CudaError> {
        eights("row width", cols)?;
        holds("gathered rows", out, len * cols)?;
        if len == 0 {
            return Ok(());
        }
        let arguments = [table.into(), ids.into(), Arg::from(&*out), (cols as i32).into()];
        // SAFETY: sizes were checked here, indices by the batch.
        unsafe { self.launch("gather_rows", line(len, 128), arguments) }
    }

    /// `residual += x` (where there is an `x`), `y = rmsnorm(residual) * weight`, for `rows` rows.
    ///
    /// # Errors
    /// See [`Device::embed`].
    pub fn add_rmsnorm(
        &self,
        rows: usize,
        x: Option<&Buffer<bf16>>,
        residual: &mut Buffer<bf16>,
        weight: &Buffer<bf16>,
        y: &mut Buffer<bf16>,
        epsilon: f32,
    ) -> Result<(), CudaError> {
        let cols = weight.len();
        eights("row width", cols)?;
        x.map_or(Ok(()), |x| holds("x", x, rows * cols))?;
        holds("the residual stream", residual, rows * cols)?;
        holds("normalised rows", y, rows * cols)?;
        if rows == 0 {
            return Ok(());
        }
        let block = (cols / 8).next_multiple_of(32).min(256) as u32;
        let (residual, y) = (Arg::from(&*residual), Arg::from(&*y));
        let arguments =
            [x.into(), residual, weight.into(), y, (cols as i32).into(), epsilon.into()];
        // SAFETY: sizes were checked.
        unsafe { self.launch("add_rmsnorm", line(rows, block), arguments) }
    }

    /// `y[r, c] = silu(gate_up[r, c]) * gate_up[r, cols + c]`.
    ///
    /// # Errors
    /// See [`Device::embed`].
    pub fn silu_mul(
        &self,
        rows: usize,
        cols: usize,
        gate_up: &Buffer<bf16>,
        y: &mut Buffer<bf16>,
    ) -> Result<(), CudaError> {
        eights("inner width", cols)?;
        holds("gates", gate_up, rows * 2 * cols)?;
        holds("their product", y, rows * cols)?;
        let mut done = 0;
        // The second dimension of a grid ends at 65,535.
        while done < rows {
            let some = (rows - done).min(1 << 15);
            let arguments =
                [shifted(gate_up, done * 2 * cols), shifted(y, done * cols), (cols as i32).into()];
            let shape = plane((cols / 8).div_ceil(256), some, 256);
            // SAFETY: sizes were checked.
            unsafe { self.launch("silu_mul", shape, arguments)? }
            done += some;
        }
        Ok(())
    }

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
        holds("queries, keys and values", qkv, rows * heads.width())?;
        holds("the rotary table", turns, batch.limits.positions * heads.dim)?;
        holds("queries", queries, rows * heads.queries * heads.dim)?;
        extras.bias.map_or(Ok(()), |bias| holds("the bias", bias, heads.width()))?;
        if let Some((query, key)) = extras.norms {
            holds("the query norm", query, heads.dim)?;
            holds("the key norm", key, heads.dim)?;
        }
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
            Arg::Pointer(pool.plane(layer, 0)),
            Arg::Pointer(pool.plane(layer, 1)),
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
        holds("queries", queries, batch.rows() * width)?;
        holds("attention's output", out, batch.out_rows * width)?;
        ensure(batch.limits.slots <= pool.slots && layer < pool.layers, || {
            format!("{} slots of layer {layer} are not in the pool", batch.limits.slots)
        })?;
        let window = i32::try_from(window).unwrap_or(0);
        let scale = (1.0 / (heads.dim as f64).sqrt() * std::f64::consts::LOG2_E) as f32;
        let places = [
            queries.into(),
            Arg::Pointer(pool.plane(layer, 0)),
            Arg::Pointer(pool.plane(layer, 1)),
        ];
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
        [queries, keys, values]: [Arg; 3],
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
        if scratch.partial.len() < partials * heads.dim || scratch.stats.len() < partials * 2 {
            scratch.partial = self.zeros((partials * heads.dim).next_power_of_two())?;
            scratch.stats = self.zeros((partials * 2).next_power_of_two())?;
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
        // SAFETY: sizes were checked, here and by the caller, and indices by the batch.
        unsafe {
            self.launch(kernel, Shape { grid, block: 128, dynamic: 0 }, arguments)?;
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

    /// `y = x * weight^T`: `x` is `[rows, features]`, `weight` `[outputs, features]`, `y` `[rows, outputs]`.
    ///
    /// # Errors
    /// See [`Device::embed`].
    pub fn linear<T: Out>(
        &self,
        products: Products,
        (rows, features, outputs): (usize, usize, usize),
        x: &Buffer<bf16>,
        weight: &Buffer<bf16>,
        y: &mut Buffer<T>,
    ) -> Result<(), CudaError> {
        eights("input features", features)?;
        holds("x", x, rows * features)?;
        holds("the weight", weight, outputs * features)?;
        holds("y", y, rows * outputs)?;
        if rows == 0 {
            return Ok(());
        }
        let sizes = (rows, features, outputs);
        if products == Products::Invariant {
            return self.gemm(sizes, x, weight, y);
        }
        if rows > MOST_DOTS {
            let (x_at, w_at) = (x.address, weight.address);
            let product = Product {
                x: x_at,
                weight: w_at,
                y: y.address,
                y_is_f32: T::F32,
                rows,
                features,
                outputs,
            };
            // SAFETY: sizes were checked.
            let done = unsafe { self.multiply(product)? };
            return if done { Ok(()) } else { self.gemm(sizes, x, weight, y) };
        }
        let mut done = 0;
        while done < rows {
            let some = 1 << (rows - done).ilog2();
            let (kernel, grid) = (T::gemv(some), outputs.div_ceil(8));
            let arguments = [
                shifted(x, done * features),
                weight.into(),
                shifted(y, done * outputs),
                (features as i32).into(),
                (outputs as i32).into(),
            ];
            // SAFETY: sizes were checked.
            unsafe { self.launch(kernel, line(grid, 128), arguments)? }
            done += some;
        }
        Ok(())
    }

    fn gemm<T: Out>(
        &self,
        (rows, features, outputs): (usize, usize, usize),
        x: &Buffer<bf16>,
        weight: &Buffer<bf16>,
        y: &mut Buffer<T>,
    ) -> Result<(), CudaError> {
        let arguments = [
            x.into(),
            weight.into(),
            Arg::from(&*y),
            (rows as i32).into(),
            (features as i32).into(),
            (outputs as i32).into(),
        ];
        let shape = plane(outputs.div_ceil(64), rows.div_ceil(64), 128);
        // SAFETY: the caller checked sizes.
        unsafe { self.launch(T::GEMM, shape, arguments) }
    }

    /// The token of each of the first `rows` rows of `logits` (`[rows, vocab]`), chosen as the row's draw says.
    ///
    /// # Errors
    /// See [`Device::embed`].
    pub fn sample(
        &self,
        (rows, vocab): (usize, usize),
        logits: &Buffer<f32>,
        draws: &Buffer<Draw>,
        tokens: &mut Buffer<i32>,
    ) -> Result<(), CudaError> {
        holds("draws", draws, rows)?;
        holds("logits", logits, rows * vocab)?;
        holds("tokens", tokens, rows)?;
        ensure(vocab > 0, || "a vocabulary without tokens".to_owned())?;
        if rows == 0 {
            return Ok(());
        }
        let arguments = [logits.into(), draws.into(), Arg::from(&*tokens), (vocab as i32).into()];
        // SAFETY: sizes were checked.
        unsafe { self.launch("sample", line(rows, 512), arguments) }
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
        ensure(source.heads == to.heads && source.layers == to.layers, || {
            "keys and values of one model are copied to its own".to_owned()
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
        let pairs = self.upload(&pairs)?;
        let arguments = [
            Arg::from(&source.data),
            Arg::from(&to.data),
            (&pairs).into(),
            ((to.heads.kv * to.heads.dim) as i32).into(),
            (source.slots as i32).into(),
            (to.slots as i32).into(),
        ];
        // SAFETY: sizes and slots were checked; widths are multiples of 32. `pairs` is freed when the kernel is done.
        unsafe { self.launch("copy_slots", plane(moves.len(), to.layers * 2, 64), arguments) }
    }
}

/// Rows up to which dot products are used.
const MOST_DOTS: usize = 8;

/// The address of element `at`.
fn shifted<T: super::Element>(buffer: &Buffer<T>, at: usize) -> Arg {
    Arg::Pointer(buffer.address + (at * size_of::<T>()) as u64)
}

fn decode_kernel(dim: usize, group: usize) -> &'static str {
    const NAMES: [[&str; 4]; 3] = [
        [
            "decode_attention_d32_g1",
            "decode_attention_d32_g2",
            "decode_attention_d32_g4",
            "decode_attention_d32_g8",
        ],
        [
            "decode_attention_d64_g1",
            "decode_attention_d64_g2",
            "decode_attention_d64_g4",
            "decode_attention_d64_g8",
        ],
        [
            "decode_attention_d128_g1",
            "decode_attention_d128_g2",
            "decode_attention_d128_g4",
            "decode_attention_d128_g8",
        ],
    ];
    NAMES[(dim / 32).ilog2() as usize][group.ilog2() as usize]
}

/// What a matrix product can be written as.
pub trait Out: super::Element {
    #[doc(hidden)]
    const F32: bool;
    #[doc(hidden)]
    const GEMM: &'static str;
    #[doc(hidden)]
    fn gemv(rows: usize) -> &'static str;
}

impl Out for f32 {
    const F32: bool = true;
    const GEMM: &'static str = "gemm_f32";

    fn gemv(rows: usize) -> &'static str {
        ["gemv_f32_m1", "gemv_f32_m2", "gemv_f32_m4", "gemv_f32_m8"][rows.ilog2() as usize]
    }
}

impl Out for bf16 {
    const F32: bool = false;
    const GEMM: &'static str = "gemm_bf16";

    fn gemv(rows: usize) -> &'static str {
        ["gemv_bf16_m1", "gemv_bf16_m2", "gemv_bf16_m4", "gemv_bf16_m8"][rows.ilog2() as usize]
    }
}

const _: () = assert!(size_of::<Seq>() == 24 && size_of::<Draw>() == 16);
