//! Random numbers made where they are wanted: a host takes a minute for what a GPU takes some milliseconds.

use half::bf16;

use super::device::{Arg, Device};
use super::error::{CudaError, ensure};
use super::memory::Buffer;
use super::ops::line;
use crate::random::Uniform;

/// Elements of a stream, in order: `rows` rows of `cols`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first element.
    pub first: u64,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// From one row's first element to the next row's.
    pub stride: u64,
}

impl Window {
    /// The first `len` elements.
    #[must_use]
    pub const fn first(len: usize) -> Self {
        Self { first: 0, rows: 1, cols: len, stride: 0 }
    }

    /// Elements in all.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// True if there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Elements that a block makes.
const EACH: usize = 4096;

impl Device {
    /// Makes elements of `out` from `at` on those of `window` of the stream `numbers`, rounded to bf16.
    ///
    /// # Errors
    /// When there are not so many, or the launch fails.
    pub fn fill(
        &self,
        out: &mut Buffer<bf16>,
        at: usize,
        numbers: Uniform,
        window: Window,
    ) -> Result<(), CudaError> {
        let count = window.len();
        self.holds("what is filled", out, at + count)?;
        ensure(count.div_ceil(EACH) < 1 << 31, || format!("{count} elements at once"))?;
        if count == 0 {
            return Ok(());
        }
        let arguments = [
            Arg::within(out, at),
            Arg::Long(count as u64),
            Arg::Long(window.cols as u64),
            Arg::Long(window.first),
            Arg::Long(window.stride),
            Arg::Long(numbers.key),
            numbers.mean.into(),
            numbers.half_width.into(),
        ];
        // SAFETY: sizes were checked.
        unsafe { self.launch("fill_uniform", line(count.div_ceil(EACH), 256), arguments) }
    }

    /// Memory for `len` elements of the stream `numbers`, from its first on.
    ///
    /// # Errors
    /// When there is not so much, or the launch fails.
    pub fn random(&self, len: usize, numbers: Uniform) -> Result<Buffer<bf16>, CudaError> {
        let mut buffer = self.zeros(len)?;
        self.fill(&mut buffer, 0, numbers, Window::first(len))?;
        Ok(buffer)
    }
}
