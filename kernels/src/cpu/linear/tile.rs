//! The register tiles: R rows by one panel of 32 outputs, over all input features.

use std::ops::Range;

use super::pack::BLOCK_BYTES;
use super::weights::{Linear, PANEL, Packed};
use crate::cpu::rows::BLOCK;
use crate::cpu::rows::Rows;
use crate::cpu::simd::{Element, Kernel, LANES, Simd, silu};
use crate::cpu::team::Scattered;

/// Some rows by some panels of one layer.
pub(super) struct Part<'a> {
    pub(super) linear: &'a Linear,
    pub(super) x: &'a Rows,
    pub(super) y: Scattered<f32>,
    pub(super) add: bool,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
}

/// Bytes of weights between what is fetched and what is used.
const AHEAD: usize = 4096;

/// Sums of a tile of `R` rows.
type Sums<S, const R: usize> = [[<S as Simd>::F; 2]; R];

impl Kernel for Part<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for panel in self.panels.clone() {
            let mut row = self.rows.start;
            while row < self.rows.end {
                // Tiles as equal as can be: one of a single row would read the panel for little.
                let left = self.rows.end - row;
                row += match left.div_ceil(left.div_ceil(S::ROWS)) {
                    12.. => self.tile::<S, 12>(panel, row),
                    11 => self.tile::<S, 11>(panel, row),
                    10 => self.tile::<S, 10>(panel, row),
                    9 => self.tile::<S, 9>(panel, row),
                    8 => self.tile::<S, 8>(panel, row),
                    7 => self.tile::<S, 7>(panel, row),
                    6 => self.tile::<S, 6>(panel, row),
                    5 => self.tile::<S, 5>(panel, row),
                    4 => self.tile::<S, 4>(panel, row),
                    3 => self.tile::<S, 3>(panel, row),
                    2 => self.tile::<S, 2>(panel, row),
                    _ => self.tile::<S, 1>(panel, row),
                };
            }
        }
    }
}

impl Part<'_> {
    /// Computes and writes `R` rows of a panel; returns R.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(&self, panel: usize, row: usize) -> usize {
        if R > S::ROWS {
            return R; // Never asked for; not worth its code.
        }
        let ahead = self.ahead(row, row + R);
        let sums = match &self.linear.packed {
            Packed::Int8(w) => self.int8::<S, R>(w.as_ptr(), panel, row, ahead),
            Packed::Bf16(w) if S::DOT2 => self.halves::<S, R>(w.as_ptr(), panel, row, ahead),
            Packed::Bf16(w) => self.float::<S, _, R>(w.as_ptr(), panel, row, ahead),
            Packed::F32(w) => self.float::<S, _, R>(w.as_ptr(), panel, row, ahead),
        };
        for r in 0..R {
            self.finish::<S>(sums[r], panel, row + r);
        }
        R
    }

    /// The bytes ahead at which weights are fetched: the processor's own prefetching does not reach far enough to keep
    /// memory busy while it computes. A panel's last tile fetches the next panel; where it is the only one, a little
    /// ahead.
    #[inline(always)]
    pub(super) fn ahead(&self, row: usize, end: usize) -> usize {
        if end < self.rows.end {
            0
        } else if row == self.rows.start {
            AHEAD
        } else {
            self.linear.bytes() / self.linear.panels
        }
    }

    /// Whole blocks in integers; their sums, scaled, in f32.
    #[inline(always)]
    unsafe fn int8<S: Simd, const R: usize>(
        &self,
        weights: *const u8,
        panel: usize,
        row: usize,
        ahead: usize,
    ) -> Sums<S, R> {
        let (blocks, stride) = (self.x.blocks, self.x.stride);
        let mut w = weights.add(panel * blocks * BLOCK_BYTES);
        let mut x = self.x.bytes.as_ptr().add(row * BLOCK);
        let mut scales = self.x.scales.as_ptr().add(row);
        let mut offsets = self.x.offsets.as_ptr().add(row);
        let mut sums = [[S::splat(0.0); 2]; R];
        for _ in 0..blocks {
            let mut dots = [[S::splat_i(0); 2]; R];
            for r in 0..R {
                dots[r] = [S::splat_i(*offsets.add(r)); 2];
            }
            for four in 0..BLOCK / 4 {
                if ahead > 0 {
                    let soon = w.wrapping_add(ahead + four * 4 * PANEL);
                    S::prefetch(soon);
                    S::prefetch(soon.wrapping_add(4 * LANES));
                }
                let w0 = S::load_w(w.add(four * 4 * PANEL));
                let w1 = S::load_w(w.add(four * 4 * PANEL + 4 * LANES));
                for r in 0..R {
                    let q = S::quad(x.add(r * BLOCK + 4 * four));
                    dots[r] = [S::dot4(dots[r][0], w0, q), S::dot4(dots[r][1], w1, q)];
                }
            }
            let of_w = w.add(BLOCK * PANEL).cast::<u16>();
            let of_w = [S::load_bf16(of_w), S::load_bf16(of_w.add(LANES))];
            for r in 0..R {
                let of_x = S::splat(*scales.add(r));
                for v in 0..2 {
                    let scaled = Self::scaled::<S>(dots[r][v], of_x, of_w[v]);
                    sums[r][v] = S::add(sums[r][v], scaled);
                }
            }
            w = w.add(BLOCK_BYTES);
            (x, scales, offsets) = (x.add(stride * BLOCK), scales.add(stride), offsets.add(stride));
        }
        sums
    }

    /// The dot products of a block, to be added to a sum. Each is rounded before it is added, so that every instruction
    /// set gives the same bits.
    #[inline(always)]
    pub(super) unsafe fn scaled<S: Simd>(dots: S::I, of_x: S::F, of_w: S::F) -> S::F {
        S::mul(S::to_f32(dots), S::mul(of_x, of_w))
    }

    #[inline(always)]
    unsafe fn float<S: Simd, E: Element, const R: usize>(
        &self,
        weights: *const E,
        panel: usize,
        row: usize,
        ahead: usize,
    ) -> Sums<S, R> {
        let pairs = self.linear.features.div_ceil(2);
        let mut w = weights.add(panel * pairs * 2 * PANEL);
        let mut x = self.x.float.as_ptr().add(row * BLOCK);
        let mut sums = [[S::splat(0.0); 2]; R];
        let mut done = 0;
        while done < pairs {
            for pair in 0..(pairs - done).min(BLOCK / 2) {
                if ahead > 0 {
                    let soon = w.cast::<u8>().wrapping_add(ahead);
                    S::prefetch(soon);
                    S::prefetch(soon.wrapping_add(4 * LANES));
                }
                let (a0, b0) = E::load_pairs::<S>(w);
                let (a1, b1) = E::load_pairs::<S>(w.add(PANEL));
                for r in 0..R {
                    let x = x.add(r * BLOCK + 2 * pair);
                    let (first, second) = (S::splat(*x), S::splat(*x.add(1)));
                    // In the order of `Simd::dot2`.
                    sums[r][0] = S::fma(second, b0, sums[r][0]);
                    sums[r][1] = S::fma(second, b1, sums[r][1]);
                    sums[r][0] = S::fma(first, a0, sums[r][0]);
                    sums[r][1] = S::fma(first, a1, sums[r][1]);
                }
                w = w.add(2 * PANEL);
            }
            done += BLOCK / 2;
            x = x.add(self.x.stride * BLOCK);
        }
        sums
    }

    /// The result of `float` on weights of bf16, to the bit but for what is too small to be normal, from rows that are
    /// bf16 too.
    #[inline(always)]
    unsafe fn halves<S: Simd, const R: usize>(
        &self,
        weights: *const u16,
        panel: usize,
        row: usize,
        ahead: usize,
    ) -> Sums<S, R> {
        let pairs = self.linear.features.div_ceil(2);
        let mut w = weights.add(panel * pairs * 2 * PANEL).cast::<u8>();
        let mut x = self.x.halves.as_ptr().add(row * BLOCK);
        let mut sums = [[S::splat(0.0); 2]; R];
        let mut done = 0;
        while done < pairs {
            for pair in 0..(pairs - done).min(BLOCK / 2) {
                if ahead > 0 {
                    let soon = w.wrapping_add(ahead);
                    S::prefetch(soon);
                    S::prefetch(soon.wrapping_add(4 * LANES));
                }
                let (w0, w1) = (S::load_w(w), S::load_w(w.add(4 * LANES)));
                for r in 0..R {
                    let x = S::quad(x.add(r * BLOCK + 2 * pair).cast());
                    sums[r] = [S::dot2(sums[r][0], w0, x), S::dot2(sums[r][1], w1, x)];
                }
                w = w.add(2 * 4 * LANES);
            }
            done += BLOCK / 2;
            x = x.add(self.x.stride * BLOCK);
        }
        sums
    }

    /// Writes one row of a panel.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(&self, sums: [S::F; 2], panel: usize, row: usize) {
        let outputs = self.linear.outputs;
        let width = if self.linear.gated { LANES } else { PANEL };
        let at = panel * width;
        let len = width.min(outputs - at);
        let to = self.y.part(row * outputs + at, len);
        let mut result = sums;
        if self.linear.gated {
            result[0] = S::mul(silu::<S>(sums[0]), sums[1]);
        } else if !self.linear.bias.is_empty() {
            let bias = self.linear.bias[panel * PANEL..(panel + 1) * PANEL].as_ptr();
            result = [S::add(sums[0], S::load(bias)), S::add(sums[1], S::load(bias.add(LANES)))];
        }
        let mut whole = [0.0f32; PANEL];
        let target = if len == width { to.as_mut_ptr() } else { whole.as_mut_ptr() };
        for v in 0..width / LANES {
            let target = target.add(v * LANES);
            if self.add && len == width {
                result[v] = S::add(S::load(target), result[v]);
            }
            S::store(result[v], target);
        }
        if len < width {
            for (to, from) in to.iter_mut().zip(whole) {
                *to = if self.add { *to + from } else { from };
            }
        }
    }
}
