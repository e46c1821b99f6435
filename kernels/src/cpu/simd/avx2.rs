//! AVX2 with FMA: a vector is two registers.

use std::arch::x86_64::*;

use super::lanes::{Kernel, Simd};

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run::<Avx2>()
}

type F = [__m256; 2];
type I = [__m256i; 2];

#[inline(always)]
unsafe fn bf16(bits: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
}

impl Simd for Avx2 {
    const ROWS: usize = 3;
    type F = F;
    type I = I;
    type W = I;
    /// Sign-extended to 16 bits: bytes 0 and 2, bytes 1 and 3.
    type Q = [__m256i; 2];

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [_mm256_set1_ps(x); 2]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
    }

    #[inline(always)]
    unsafe fn store(x: F, to: *mut f32) {
        _mm256_storeu_ps(to, x[0]);
        _mm256_storeu_ps(to.add(8), x[1]);
    }

    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }

    #[inline(always)]
    unsafe fn pow2(m: F) -> F {
        let one = _mm256_set1_epi32(0x3f80_0000);
        let exponent = |m| _mm256_slli_epi32::<23>(_mm256_castps_si256(m));
        let pow2 = |m| _mm256_castsi256_ps(_mm256_add_epi32(exponent(m), one));
        [pow2(m[0]), pow2(m[1])]
    }

    #[inline(always)]
    unsafe fn store_i8(x: F, to: *mut i8) {
        // Packing works within halves of 128 bits: 0-3 8-11 4-7 12-15 after the first.
        let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let bytes =
            _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        _mm_storeu_si128(to.cast(), bytes);
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> F {
        [bf16(_mm_loadu_si128(from.cast())), bf16(_mm_loadu_si128(from.add(8).cast()))]
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> (F, F) {
        let pairs: I = Self::load_w(from.cast());
        let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
        let first = |p| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(p));
        let second = |p| _mm256_castsi256_ps(_mm256_and_si256(p, high));
        ([first(pairs[0]), first(pairs[1])], [second(pairs[0]), second(pairs[1])])
    }

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> I {
        [_mm256_set1_epi32(x); 2]
    }

    #[inline(always)]
    unsafe fn load_w(from: *const u8) -> I {
        [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
    }

    #[inline(always)]
    unsafe fn quad(from: *const i8) -> I {
        let x = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
        [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x)]
    }

    /// Through 16-bit products: `vpmaddubsw` would saturate.
    #[inline(always)]
    unsafe fn dot4(acc: I, w: I, x: I) -> I {
        let low = _mm256_set1_epi16(0xff);
        let dot = |acc, w| {
            let even = _mm256_madd_epi16(_mm256_and_si256(w, low), x[0]);
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(w), x[1]);
            _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
        };
        [dot(acc[0], w[0]), dot(acc[1], w[1])]
    }

    #[inline(always)]
    unsafe fn to_f32(x: I) -> F {
        [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])]
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
}
