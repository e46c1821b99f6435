//! Products where there are no kernels of ours: the `gemm` crate's, which has some for more processors (ARM's NEON,
//! WebAssembly's SIMD) and portable ones for the rest.
//!
//! It multiplies f32: a block of weights, 32 features by 32 outputs, is unpacked once for up to [`GROUP`] rows. Dot
//! products of an int8 block are whole numbers below 2^24, exact in f32 in whatever order they are added, and scaled as
//! everywhere: results are the same to the bit. Those of bf16 and f32 are rounded, so all rows take the crate's way,
//! however few they are: what a row gets does not depend on how many others there are.

use gemm::Parallelism;

use super::pack::BLOCK_BYTES;
use super::tile::Part;
use super::weights::{PANEL, Packed};
use crate::cpu::Precision;
use crate::cpu::rows::BLOCK;
use crate::cpu::simd::{Element, LANES, Portable, Simd as _};

/// Up to so many int8 rows the portable tiles are faster: unpacking weights would be most of the work.
const FEW: usize = 3;

/// Rows that share an unpacked block: enough to make little of the unpacking, and some 30 kB of stack.
const GROUP: usize = 64;

/// Weights of a block, a row for each feature; or results, a row for each row.
type Panel<const N: usize> = [[f32; PANEL]; N];

/// Computes and writes `part`, unless it is a few rows of integers; returns what is left of it.
///
/// # Safety
/// The pointers of `part` are valid.
pub(super) unsafe fn run(mut part: Part<'_>) -> Part<'_> {
    if part.linear.precision() == Precision::Int8 && part.rows.len() <= FEW {
        return part;
    }
    let mut sums = [[0.0; PANEL]; GROUP];
    for panel in part.panels.clone() {
        for row in part.rows.clone().step_by(GROUP) {
            let rows = GROUP.min(part.rows.end - row);
            sum(&part, panel, row, rows, &mut sums);
            for (r, sums) in sums[..rows].iter().enumerate() {
                let sums = [Portable::load(sums.as_ptr()), Portable::load(sums[LANES..].as_ptr())];
                part.finish::<Portable>(sums, panel, row + r);
            }
        }
    }
    part.rows.start = part.rows.end;
    part
}

/// The result of `Part::int8` for `rows` rows of a panel, added in its order; and that of `Part::float`, in another.
fn sum(part: &Part<'_>, panel: usize, row: usize, rows: usize, sums: &mut Panel<GROUP>) {
    let from = part.x;
    let mut w = [[0.0; PANEL]; BLOCK];
    let mut x = [[0.0; BLOCK]; GROUP];
    let mut dots = [[0.0; PANEL]; GROUP];
    sums.fill([0.0; PANEL]);
    for block in 0..from.blocks {
        let at = block * from.stride + row;
        let elements = at * BLOCK..(at + rows) * BLOCK;
        match &part.linear.packed {
            Packed::Int8(packed) => {
                let packed = &packed[(panel * from.blocks + block) * BLOCK_BYTES..][..BLOCK_BYTES];
                let of_w = unpack_int8(packed, &mut w);
                for (x, &from) in x.as_flattened_mut().iter_mut().zip(&from.bytes[elements]) {
                    *x = f32::from(from);
                }
                multiply(&w, &x, rows, &mut dots, false);
                let of_x = &from.scales[at..at + rows];
                for ((sums, dots), of_x) in sums.iter_mut().zip(&dots).zip(of_x) {
                    for ((sum, dot), of_w) in sums.iter_mut().zip(dots).zip(&of_w) {
                        *sum += dot * (of_x * of_w);
                    }
                }
                continue;
            }
            Packed::Bf16(packed) => unpack(packed, part.linear.features, panel, block, &mut w),
            Packed::F32(packed) => unpack(packed, part.linear.features, panel, block, &mut w),
        }
        x.as_flattened_mut()[..rows * BLOCK].copy_from_slice(&from.float[elements]);
        // One row alone the crate would take another way, with other rounding.
        multiply(&w, &x, rows.max(2), sums, true);
    }
}

/// Weights of a block, whole numbers; returns the scales of its outputs.
fn unpack_int8(from: &[u8], to: &mut Panel<BLOCK>) -> [f32; PANEL] {
    let (weights, scales) = from.split_at(BLOCK * PANEL);
    for (to, weights) in to.chunks_exact_mut(4).zip(weights.chunks_exact(4 * PANEL)) {
        for (output, weights) in weights.chunks_exact(4).enumerate() {
            for (i, &w) in weights.iter().enumerate() {
                to[i][output] = f32::from(w) - 128.0;
            }
        }
    }
    std::array::from_fn(|output| {
        u16::from_ne_bytes([scales[2 * output], scales[2 * output + 1]]).to_f32()
    })
}

/// Weights of a block; zero for features beyond the last.
fn unpack<E: Element>(
    packed: &[E],
    features: usize,
    panel: usize,
    block: usize,
    to: &mut Panel<BLOCK>,
) {
    let pairs = features.div_ceil(2);
    let first = block * BLOCK / 2;
    let here = (pairs - first).min(BLOCK / 2);
    let from = &packed[(panel * pairs + first) * 2 * PANEL..][..here * 2 * PANEL];
    for (to, from) in to.chunks_exact_mut(2).zip(from.chunks_exact(2 * PANEL)) {
        for half in 0..2 {
            let (from, at) = (&from[half * PANEL..][..PANEL], half * LANES);
            // SAFETY: a half is 16 pairs.
            let (a, b) = unsafe { E::load_pairs::<Portable>(from.as_ptr()) };
            to[0][at..at + LANES].copy_from_slice(&a);
            to[1][at..at + LANES].copy_from_slice(&b);
        }
    }
    to[2 * here..].fill([0.0; PANEL]);
}

/// `to = x w`, or `to += x w`, for the first `rows` rows.
fn multiply(
    w: &Panel<BLOCK>,
    x: &[[f32; BLOCK]; GROUP],
    rows: usize,
    to: &mut Panel<GROUP>,
    add: bool,
) {
    assert!(rows <= GROUP);
    let (one, width, depth) = (1, PANEL as isize, BLOCK as isize);
    let (to, w, x) = (to.as_mut_ptr().cast(), w.as_ptr().cast(), x.as_ptr().cast());
    let (alpha, beta, conjugate) = (1.0f32, 1.0, false);
    // SAFETY: `w` is BLOCK columns of PANEL elements, `x` GROUP columns of BLOCK, `to` GROUP columns of PANEL.
    unsafe {
        #[rustfmt::skip]
        gemm::gemm(
            PANEL, rows, BLOCK,
            to, width, one, add,
            w, width, one,
            x, depth, one,
            alpha, beta, conjugate, conjugate, conjugate,
            Parallelism::None,
        );
    }
}
