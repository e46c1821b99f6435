//! Plain Rust: a vector is an array. For machines without the others, and to hold the others to.

use super::lanes::{LANES, Simd};

/// See the module.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Portable;

type F = [f32; LANES];

#[inline(always)]
fn each(f: impl FnMut(usize) -> f32) -> F {
    std::array::from_fn(f)
}

impl Simd for Portable {
    const ROWS: usize = 2;
    type F = F;
    type I = [i32; LANES];
    type W = [u8; 4 * LANES];
    type Q = [i8; 4];

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        from.cast::<F>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn store(x: F, to: *mut f32) {
        to.cast::<F>().write_unaligned(x);
    }

    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        each(|i| a[i] / b[i])
    }

    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        each(|i| a[i].max(b[i]))
    }

    /// Not fused: without an instruction for it, that is a slow library call.
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        each(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn pow2(m: F) -> F {
        each(|i| f32::from_bits((m[i].to_bits() << 23).wrapping_add(0x3f80_0000)))
    }

    #[inline(always)]
    unsafe fn store_i8(x: F, to: *mut i8) {
        let bytes: [i8; LANES] = std::array::from_fn(|i| x[i] as i8);
        to.cast::<[i8; LANES]>().write_unaligned(bytes);
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> F {
        let bits = from.cast::<[u16; LANES]>().read_unaligned();
        each(|i| f32::from_bits(u32::from(bits[i]) << 16))
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> (F, F) {
        let bits = from.cast::<[u16; 2 * LANES]>().read_unaligned();
        let half = |which: usize| each(|i| f32::from_bits(u32::from(bits[2 * i + which]) << 16));
        (half(0), half(1))
    }

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> [i32; LANES] {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load_w(from: *const u8) -> [u8; 4 * LANES] {
        from.cast::<[u8; 4 * LANES]>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn quad(from: *const i8) -> [i8; 4] {
        from.cast::<[i8; 4]>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn dot4(acc: [i32; LANES], w: [u8; 4 * LANES], x: [i8; 4]) -> [i32; LANES] {
        let product = |lane: usize, i: usize| i32::from(w[4 * lane + i]) * i32::from(x[i]);
        std::array::from_fn(|l| {
            acc[l] + product(l, 0) + product(l, 1) + product(l, 2) + product(l, 3)
        })
    }

    #[inline(always)]
    unsafe fn to_f32(x: [i32; LANES]) -> F {
        each(|i| x[i] as f32)
    }

    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
}
