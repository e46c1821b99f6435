//! Activations as linear layers take them: normalised where a norm comes before, quantised where weights are, rounded to
//! bf16 beside weights of bf16.
//!
//! Quantisation is per row and block of 32 features, like the weights': a few features of a transformer's activations
//! are far larger than the rest, and with one scale per row they would take the others' bits.

use super::Precision;
use super::simd::{Element, Isa, Kernel, LANES, Simd, sum_of_squares};
use super::team::{Scattered, Team};

/// Input features that share a scale.
pub(super) const BLOCK: usize = 32;

/// Below this many elements the caller does all of it: waking the team would take longer.
const ALONE: usize = 4096;

/// Rows of activations, ready for [`Linear::forward`](super::Linear::forward). Kept and filled again; never shrinks.
#[derive(Debug)]
pub struct Rows {
    pub(super) precision: Precision,
    pub(super) rows: usize,
    pub(super) features: usize,
    /// Blocks of features.
    pub(super) blocks: usize,
    /// Rows from one block to the next: odd, so that a row's blocks do not fight for the same lines of a cache.
    pub(super) stride: usize,
    /// By block, row, feature: the rows of a register tile are then a constant apart.
    pub(super) float: Vec<f32>,
    /// True if `halves` has the numbers that `float` would have: where pairs of bf16 are multiplied as such.
    pub(super) halved: bool,
    pub(super) halves: Vec<u16>,
    pub(super) bytes: Vec<i8>,
    /// By block, row.
    pub(super) scales: Vec<f32>,
    /// By block, row: what unsigned weights (128 too large) add to a dot product, negated.
    pub(super) offsets: Vec<i32>,
    /// A row for each piece of work.
    row: Vec<f32>,
}

/// The steps on a row before it is a linear layer's input.
#[derive(Clone, Copy)]
struct Norm<'a> {
    weight: &'a [f32],
    epsilon: f32,
}

impl Rows {
    /// No rows yet, for weights of this precision.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            rows: 0,
            features: 0,
            blocks: 0,
            stride: 0,
            float: Vec::new(),
            halved: false,
            halves: Vec::new(),
            bytes: Vec::new(),
            scales: Vec::new(),
            offsets: Vec::new(),
            row: Vec::new(),
        }
    }

    /// Rows held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn element_bytes(&self) -> usize {
        match self.precision {
            Precision::Int8 => 1,
            Precision::Bf16 if self.halved => 2,
            Precision::Bf16 | Precision::F32 => 4,
        }
    }

    /// Takes `x` (rows x `features`) as it is.
    ///
    /// # Panics
    /// When `x` is not whole rows.
    pub fn take(&mut self, team: &Team, x: &[f32], features: usize) {
        self.fill(team, x, features, None);
    }

    /// Takes `x` (rows x features) RMS-normalised: `x * weight / sqrt(mean(x^2) + epsilon)`.
    ///
    /// # Panics
    /// When `x` is not whole rows of as many features as `weight` has.
    pub fn take_normalised(&mut self, team: &Team, x: &[f32], weight: &[f32], epsilon: f32) {
        self.fill(team, x, weight.len(), Some(Norm { weight, epsilon }));
    }

    /// Takes `which` of the rows of `other`, in that order.
    ///
    /// # Panics
    /// When the two are of different precisions, or there is no such row.
    pub fn pick(&mut self, team: &Team, other: &Self, which: &[u32]) {
        assert_eq!(self.precision, other.precision, "rows of one precision");
        assert!(which.iter().all(|&row| (row as usize) < other.rows), "rows that exist");
        let (rows, blocks) = (which.len(), other.blocks);
        (self.rows, self.features, self.blocks) = (rows, other.features, blocks);
        (self.stride, self.halved) = (rows | 1, other.halved);
        let picked = Picked { team, which, blocks, stride: self.stride, from: other.stride };
        match self.precision {
            Precision::Int8 => {
                picked.copy(BLOCK, &other.bytes, &mut self.bytes);
                picked.copy(1, &other.scales, &mut self.scales);
                picked.copy(1, &other.offsets, &mut self.offsets);
            }
            Precision::Bf16 if self.halved => picked.copy(BLOCK, &other.halves, &mut self.halves),
            Precision::Bf16 | Precision::F32 => picked.copy(BLOCK, &other.float, &mut self.float),
        }
    }

    fn fill(&mut self, team: &Team, x: &[f32], features: usize, norm: Option<Norm<'_>>) {
        assert!(features > 0 && x.len().is_multiple_of(features), "whole rows of {features}");
        let (rows, blocks) = (x.len() / features, features.div_ceil(BLOCK));
        let (stride, width) = (rows | 1, blocks * BLOCK);
        (self.rows, self.features, self.blocks, self.stride) = (rows, features, blocks, stride);
        let elements = stride * width;
        let pieces = if elements <= ALONE { 1 } else { rows.min(4 * team.size()) };
        self.halved = self.precision == Precision::Bf16 && team.isa().multiplies_bf16();
        grow(&mut self.row, pieces * width);
        if self.precision == Precision::Int8 {
            grow(&mut self.bytes, elements);
            grow(&mut self.scales, stride * blocks);
            grow(&mut self.offsets, stride * blocks);
        } else if self.halved {
            grow(&mut self.halves, elements);
        } else {
            grow(&mut self.float, elements);
        }
        let row = Scattered::new(&mut self.row);
        let to = Blocks {
            isa: team.isa(),
            stride,
            float: Scattered::new(&mut self.float),
            halves: Scattered::new(&mut self.halves),
            bytes: Scattered::new(&mut self.bytes),
            scales: Scattered::new(&mut self.scales),
            offsets: Scattered::new(&mut self.offsets),
        };
        team.split(pieces, |_, piece| {
            // SAFETY: each piece has its own row to work in, and its own rows to write.
            unsafe {
                let whole = row.part(piece * width, width);
                for at in piece * rows / pieces..(piece + 1) * rows / pieces {
                    normalise(to.isa, &x[at * features..(at + 1) * features], norm, whole);
                    match self.precision {
                        Precision::Int8 => to.quantise(at, whole),
                        Precision::Bf16 if self.halved => to.halve(at, whole),
                        Precision::Bf16 => to.copy(at, whole, |x| u16::from_f32(x).to_f32()),
                        Precision::F32 => to.copy(at, whole, |x| x),
                    }
                }
            }
        });
    }
}

/// Rows to be copied: which, and the rows from one block to the next here and there.
struct Picked<'a> {
    team: &'a Team,
    which: &'a [u32],
    blocks: usize,
    stride: usize,
    from: usize,
}

impl Picked<'_> {
    /// Copies them, `width` elements of each in each block.
    fn copy<T: Copy + Default + Send + Sync>(&self, width: usize, from: &[T], to: &mut Vec<T>) {
        let (blocks, size) = (self.blocks, self.stride * width);
        grow(to, blocks * size);
        let to = Scattered::new(to);
        let pieces = if blocks * size <= ALONE { 1 } else { blocks.min(4 * self.team.size()) };
        self.team.split(pieces, |_, piece| {
            for block in piece * blocks / pieces..(piece + 1) * blocks / pieces {
                // SAFETY: each piece has its own blocks.
                let to = unsafe { to.part(block * size, size) };
                for (to, &row) in to.chunks_exact_mut(width).zip(self.which) {
                    to.copy_from_slice(
                        &from[(block * self.from + row as usize) * width..][..width],
                    );
                }
            }
        });
    }
}

/// The place where rows are written, block by block.
struct Blocks {
    isa: Isa,
    stride: usize,
    float: Scattered<f32>,
    halves: Scattered<u16>,
    bytes: Scattered<i8>,
    scales: Scattered<f32>,
    offsets: Scattered<i32>,
}

impl Blocks {
    /// # Safety
    /// No other thread writes this row.
    unsafe fn copy(&self, row: usize, x: &[f32], kept: impl Fn(f32) -> f32) {
        for (block, x) in x.chunks_exact(BLOCK).enumerate() {
            let to = self.float.part((block * self.stride + row) * BLOCK, BLOCK);
            for (to, &x) in to.iter_mut().zip(x) {
                *to = kept(x);
            }
        }
    }

    /// # Safety
    /// No other thread writes this row.
    unsafe fn halve(&self, row: usize, x: &[f32]) {
        for (block, x) in x.chunks_exact(BLOCK).enumerate() {
            let to = self.halves.part((block * self.stride + row) * BLOCK, BLOCK);
            for (to, &x) in to.iter_mut().zip(x) {
                *to = u16::from_f32(x);
            }
        }
    }

    /// # Safety
    /// No other thread writes this row.
    unsafe fn quantise(&self, row: usize, x: &[f32]) {
        self.isa.run(Quantise { x, row, to: self });
    }
}

/// Makes it at least so long.
pub(super) fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// Writes `from`, normalised or not, to the beginning of `to`, and zeroes after it.
fn normalise(isa: Isa, from: &[f32], norm: Option<Norm<'_>>, to: &mut [f32]) {
    let (to, rest) = to.split_at_mut(from.len());
    match norm {
        None => to.copy_from_slice(from),
        Some(Norm { weight, epsilon }) => {
            // SAFETY: the kernel's slices have the same length.
            unsafe { isa.run(RmsNorm { x: from, weight, epsilon, to }) }
        }
    }
    rest.fill(0.0);
}

/// RMS norm of one row; all slices have its length.
pub(super) struct RmsNorm<'a> {
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) epsilon: f32,
    pub(super) to: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.x.len();
        let (x, weight, to) = (self.x.as_ptr(), self.weight.as_ptr(), self.to.as_mut_ptr());
        let mean = sum_of_squares::<S>(x, n) / n as f32;
        let scale = 1.0 / (mean + self.epsilon).sqrt();
        let mut at = 0;
        while at + LANES <= n {
            let scaled = S::mul(S::load(x.add(at)), S::splat(scale));
            S::store(S::mul(scaled, S::load(weight.add(at))), to.add(at));
            at += LANES;
        }
        while at < n {
            *to.add(at) = *x.add(at) * scale * *weight.add(at);
            at += 1;
        }
    }
}

/// Quantises a row of whole blocks.
struct Quantise<'a> {
    x: &'a [f32],
    row: usize,
    to: &'a Blocks,
}

impl Kernel for Quantise<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const VECTORS: usize = BLOCK / LANES;
        for (block, x) in self.x.chunks_exact(BLOCK).enumerate() {
            let mut v = [S::splat(0.0); VECTORS];
            let mut most = S::splat(0.0);
            for i in 0..VECTORS {
                v[i] = S::load(x.as_ptr().add(i * LANES));
                most = S::max(most, S::max(v[i], S::sub(S::splat(0.0), v[i])));
            }
            let most = S::largest(most);
            let scale = most / 127.0;
            // A block so small that its scale has no inverse is zero.
            let inverse = if scale >= f32::MIN_POSITIVE { 127.0 / most } else { 0.0 };
            let at = block * self.to.stride + self.row;
            let bytes = self.to.bytes.part(at * BLOCK, BLOCK);
            let mut sum = S::splat(0.0);
            for i in 0..VECTORS {
                let whole = S::round(S::mul(v[i], S::splat(inverse)));
                sum = S::add(sum, whole);
                S::store_i8(whole, bytes.as_mut_ptr().add(i * LANES));
            }
            let sum = S::sum(sum) as i32;
            self.to.scales.part(at, 1)[0] = scale;
            self.to.offsets.part(at, 1)[0] = -128 * sum;
        }
    }
}
