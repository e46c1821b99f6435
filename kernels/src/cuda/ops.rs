//! Kernels that see rows only, each with its sizes: what makes launching safe.

use half::bf16;

use super::batch::{DeviceBatch, Seq};
use super::device::{Arg, Device, Product, Shape};
use super::memory::Buffer;
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

/// Most ranks that one device's sum takes.
pub const MOST_RANKS: usize = 8;

/// How matrices are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// The fastest way there is: a few rows at a time by dot products, more by the vendor's library.
    Fast,
    /// Every row in the same order of sums, whatever else is in the batch: our own tiles.
    Invariant,
}

pub(super) fn line(grid: usize, block: u32) -> Shape {
    Shape { grid: [grid as u32, 1, 1], block, dynamic: 0 }
}

pub(super) fn plane(x: usize, y: usize, block: u32) -> Shape {
    Shape { grid: [x as u32, y as u32, 1], block, dynamic: 0 }
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
        self.holds("the embedding", table, batch.limits.vocab * hidden)?;
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
        self.holds("rows", rows, batch.rows() * hidden)?;
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
        self.holds("the batch", ids, len)?;
        self.holds("gathered rows", out, len * cols)?;
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
        x.map_or(Ok(()), |x| self.holds("x", x, rows * cols))?;
        self.holds("the residual stream", residual, rows * cols)?;
        self.holds("normalised rows", y, rows * cols)?;
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
        self.holds("gates", gate_up, rows * 2 * cols)?;
        self.holds("their product", y, rows * cols)?;
        let mut done = 0;
        // The second dimension of a grid ends at 65,535.
        while done < rows {
            let some = (rows - done).min(1 << 15);
            let arguments = [
                Arg::within(gate_up, done * 2 * cols),
                Arg::within(y, done * cols),
                (cols as i32).into(),
            ];
            let shape = plane((cols / 8).div_ceil(256), some, 256);
            // SAFETY: sizes were checked.
            unsafe { self.launch("silu_mul", shape, arguments)? }
            done += some;
        }
        Ok(())
    }

    /// Replaces the first `len` elements of each of `parts`, those of tensor-parallel ranks, by the sum of all.
    ///
    /// # Errors
    /// See [`Device::embed`]; also when there are more than [`MOST_RANKS`] of them.
    pub fn all_reduce(&self, parts: &mut [&mut Buffer<bf16>], len: usize) -> Result<(), CudaError> {
        let ranks = parts.len();
        ensure((1..=MOST_RANKS).contains(&ranks), || {
            format!("{ranks} ranks: the sum over ranks takes 1 to {MOST_RANKS}")
        })?;
        eights("elements to sum", len.max(8))?;
        parts.iter().try_for_each(|part| self.holds("a rank's part", part, len))?;
        if len == 0 {
            return Ok(());
        }
        let part = |rank: usize| Arg::from(parts.get(rank).map(|part| &**part));
        let [p0, p1, p2, p3] = [0, 1, 2, 3].map(part);
        let [p4, p5, p6, p7] = [4, 5, 6, 7].map(part);
        let (ranks, count) = ((ranks as i32).into(), ((len / 8) as i32).into());
        let arguments = [p0, p1, p2, p3, p4, p5, p6, p7, ranks, count];
        // SAFETY: sizes were checked, and nobody else has these buffers.
        unsafe { self.launch("all_reduce", line((len / 8).div_ceil(256), 256), arguments) }
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
        self.holds("x", x, rows * features)?;
        self.holds("the weight", weight, outputs * features)?;
        self.holds("y", y, rows * outputs)?;
        if rows == 0 {
            return Ok(());
        }
        let sizes = (rows, features, outputs);
        if products == Products::Invariant {
            return self.gemm(sizes, x, weight, y);
        }
        if rows > MOST_DOTS {
            let product = Product {
                x: x.address(0),
                weight: weight.address(0),
                y: y.address(0),
                y_is_f32: T::F32,
                rows,
                features,
                outputs,
            };
            // SAFETY: sizes were checked.
            let done = unsafe { self.multiply(product, [&x.memory, &weight.memory, &y.memory])? };
            return if done { Ok(()) } else { self.gemm(sizes, x, weight, y) };
        }
        let mut done = 0;
        while done < rows {
            let some = 1 << (rows - done).ilog2();
            let (kernel, grid) = (T::gemv(some), outputs.div_ceil(8));
            let arguments = [
                Arg::within(x, done * features),
                weight.into(),
                Arg::within(y, done * outputs),
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
        self.holds("draws", draws, rows)?;
        self.holds("logits", logits, rows * vocab)?;
        self.holds("tokens", tokens, rows)?;
        ensure(vocab > 0, || "a vocabulary without tokens".to_owned())?;
        if rows == 0 {
            return Ok(());
        }
        let arguments = [logits.into(), draws.into(), Arg::from(&*tokens), (vocab as i32).into()];
        // SAFETY: sizes were checked.
        unsafe { self.launch("sample", line(rows, 512), arguments) }
    }
}

/// Rows up to which dot products are used.
const MOST_DOTS: usize = 8;

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
