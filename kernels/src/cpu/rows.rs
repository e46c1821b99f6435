//! Activations as linear layers take them: normalised where a norm comes before, quantised where weights are.
//!
//! Quantisation is per row and block of 64 features, like the weights': a few features of a transformer's activations
//! are far larger than the rest, and with one scale per row they would take the others' bits.

use super::Precision;
use super::simd::{Isa, Kernel, LANES, Simd, sum_of_squares};
use super::team::{Scattered, Team};

/// Input features that share a scale.
pub(super) const BLOCK: usize = 64;

/// Below this many elements the caller does all of it: waking the team would take longer.
const ALONE: usize = 4096;

/// Rows of activations, ready for [`Linear::forward`](super::Linear::forward). Kept and filled again; never shrinks.
#[derive(Debug)]
pub struct Rows {
    pub(super) precision: Precision,
    pub(super) rows: usize,
    pub(super) features: usize,
    /// Features rounded up to whole blocks: elements from one row to the next, in `float` or `bytes`.
    pub(super) stride: usize,
    pub(super) float: Vec<f32>,
    pub(super) bytes: Vec<i8>,
    /// Per row and block.
    pub(super) scales: Vec<f32>,
    /// Per row and block: what unsigned weights (128 too large) add to a dot product, negated.
    pub(super) offsets: Vec<i32>,
}

/// What happens to a row before it is a linear layer's input.
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
            stride: 0,
            float: Vec::new(),
            bytes: Vec::new(),
            scales: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// Rows held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
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

    fn fill(&mut self, team: &Team, x: &[f32], features: usize, norm: Option<Norm<'_>>) {
        assert!(features > 0 && x.len().is_multiple_of(features), "whole rows of {features}");
        let blocks = features.div_ceil(BLOCK);
        (self.rows, self.features) = (x.len() / features, features);
        self.stride = blocks * BLOCK;
        let elements = self.rows * self.stride;
        let int8 = self.precision == Precision::Int8;
        // Int8 needs one row of floats per piece of work.
        let pieces = if elements <= ALONE { 1 } else { self.rows.min(4 * team.size()) };
        grow(&mut self.float, if int8 { pieces * self.stride } else { elements });
        if int8 {
            grow(&mut self.bytes, elements);
            grow(&mut self.scales, self.rows * blocks);
            grow(&mut self.offsets, self.rows * blocks);
        }
        let (rows, isa, stride) = (self.rows, team.isa(), self.stride);
        let float = Scattered::new(&mut self.float);
        let bytes = Scattered::new(&mut self.bytes);
        let scales = Scattered::new(&mut self.scales);
        let offsets = Scattered::new(&mut self.offsets);
        team.split(pieces, |_, piece| {
            for row in piece * rows / pieces..(piece + 1) * rows / pieces {
                let from = &x[row * features..(row + 1) * features];
                let at = if int8 { piece } else { row };
                // SAFETY: each row, and each piece's row of floats, belongs to one piece.
                unsafe {
                    let float = float.part(at * stride, stride);
                    normalise(isa, from, norm, float);
                    if int8 {
                        let bytes = bytes.part(row * stride, stride);
                        let scales = scales.part(row * blocks, blocks);
                        let offsets = offsets.part(row * blocks, blocks);
                        isa.run(Quantise { x: float, bytes, scales, offsets });
                    }
                }
            }
        });
    }
}

fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
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
    bytes: &'a mut [i8],
    scales: &'a mut [f32],
    offsets: &'a mut [i32],
}

impl Kernel for Quantise<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const VECTORS: usize = BLOCK / LANES;
        for block in 0..self.scales.len() {
            let x = self.x.as_ptr().add(block * BLOCK);
            let mut v = [S::splat(0.0); VECTORS];
            let mut most = S::splat(0.0);
            for i in 0..VECTORS {
                v[i] = S::load(x.add(i * LANES));
                most = S::max(most, S::max(v[i], S::sub(S::splat(0.0), v[i])));
            }
            let most = S::largest(most);
            let scale = most / 127.0;
            // A block so small that its scale has no inverse is zero.
            let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            let bytes = &mut self.bytes[block * BLOCK..(block + 1) * BLOCK];
            for i in 0..VECTORS {
                S::store_i8(S::mul(v[i], S::splat(inverse)), bytes.as_mut_ptr().add(i * LANES));
            }
            let sum: i32 = bytes.iter().map(|&b| i32::from(b)).sum();
            self.scales[block] = scale;
            self.offsets[block] = -128 * sum;
        }
    }
}
