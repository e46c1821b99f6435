//! Kernels that see rows only, each with its sizes: what makes launching safe.

use half::bf16;

use super::backend::{Product, Shape};
use super::batch::{DeviceBatch, Grown, Seq};
use super::device::{Arg, Device};
use super::error::{CudaError, ensure};
use super::memory::{Buffer, Element};

/// The choice of one row's token; see `sample.cu`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Draw {
    /// The factor of logits; 0 = the most likely token, the first of several.
    pub inverse_temperature: f32,
    /// Only so many of the most likely tokens; 0 = all.
    pub top_k: i32,
    /// Only the most likely tokens whose probabilities reach this sum; 1 = all.
    pub top_p: f32,
    /// A random number from 0 to 1.
    pub at: f32,
}

// SAFETY: four-byte numbers.
unsafe impl Element for Draw {}

impl Draw {
    /// The most likely token.
    pub const GREEDY: Self = Self { inverse_temperature: 0.0, top_k: 0, top_p: 1.0, at: 0.0 };
}

/// The way matrices are multiplied.
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

pub(super) fn eights(what: &str, n: usize) -> Result<(), CudaError> {
    ensure(n > 0 && n.is_multiple_of(8), || format!("{what} = {n} must be a multiple of 8"))
}

impl Device {
    /// `out[r] = table[ids[r] - first]` for the batch's tokens, zeros for those that are not in `table`: the rows of the
    /// vocabulary from `first` on that one of several ranks has, or all of them. Rows are `hidden` wide.
    ///
    /// # Errors
    /// When sizes disagree or the launch fails; so in all of these.
    pub fn embed(
        &self,
        batch: &DeviceBatch,
        (table, first): (&Buffer<bf16>, usize),
        out: &mut Buffer<bf16>,
        hidden: usize,
    ) -> Result<(), CudaError> {
        let rows = table.len() / hidden.max(1);
        self.holds("the embedding", table, 0)?;
        ensure(rows > 0 && first + rows <= batch.limits.vocab, || {
            format!("{rows} rows from {first} on of a vocabulary of {}", batch.limits.vocab)
        })?;
        self.gather(&batch.ids, (table, first, rows), out, hidden)
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
        self.gather(&batch.last, (rows, 0, batch.rows()), out, hidden)
    }

    /// The caller has checked that the table has so many rows.
    fn gather(
        &self,
        ids: &Grown<i32>,
        (table, first, rows): (&Buffer<bf16>, usize, usize),
        out: &mut Buffer<bf16>,
        cols: usize,
    ) -> Result<(), CudaError> {
        eights("row width", cols)?;
        self.holds("the batch", &ids.data, ids.len)?;
        self.holds("gathered rows", out, ids.len * cols)?;
        if ids.len == 0 {
            return Ok(());
        }
        let [cols, first, rows] = [cols, first, rows].map(|n| Arg::Int(n as i32));
        let arguments = [table.into(), (&ids.data).into(), Arg::from(&*out), cols, first, rows];
        // SAFETY: sizes were checked; the kernel takes no row that the table has not.
        unsafe { self.launch("gather_rows", line(ids.len, 128), arguments) }
    }

    /// Puts what `ranks` ranks have of the same rows, `[ranks, rows, columns]`, side by side: `[rows, ranks * columns]`.
    ///
    /// # Errors
    /// See [`Device::embed`].
    pub fn join_columns<T: Element>(
        &self,
        (ranks, rows, columns): (usize, usize, usize),
        parts: &Buffer<T>,
        out: &mut Buffer<T>,
    ) -> Result<(), CudaError> {
        let words = columns * size_of::<T>() / 4;
        ensure(words * 4 == columns * size_of::<T>() && columns > 0, || {
            format!("{columns} columns of {} bytes are not whole words", size_of::<T>())
        })?;
        self.holds("what ranks have", parts, ranks * rows * columns)?;
        self.holds("joined rows", out, ranks * rows * columns)?;
        if rows == 0 {
            return Ok(());
        }
        let arguments =
            [parts.into(), Arg::from(&*out), (ranks as i32).into(), (words as i32).into()];
        let shape = plane(rows, (ranks * words).div_ceil(256), 256);
        // SAFETY: sizes were checked.
        unsafe { self.launch("join_columns", shape, arguments) }
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

/// An element that a matrix product can be written in.
pub trait Out: Element {
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
