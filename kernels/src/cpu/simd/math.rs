//! Functions made of the lanes' operations.

use super::lanes::{LANES, MAGIC, Simd};

/// e to the power of `x` for `x <= 88`, within 2 units in the last place; 0 (or almost) below -87.
///
/// `x = n ln 2 + r`, a polynomial for e^r on |r| <= ln 2 / 2, and n put into the exponent (Cody and Waite's reduction,
/// Cephes's coefficients).
#[inline(always)]
pub(in crate::cpu) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    let x = S::max(x, S::splat(-87.0));
    let m = S::add(S::mul(x, S::splat(std::f32::consts::LOG2_E)), S::splat(MAGIC));
    let n = S::sub(m, S::splat(MAGIC));
    let r = S::fma(n, S::splat(-0.693_359_4), x);
    let r = S::fma(n, S::splat(2.121_944_4e-4), r);
    let mut p = S::splat(1.987_569_2e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
        p = S::fma(p, r, S::splat(c));
    }
    let p = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
    S::mul(p, S::pow2(m))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(in crate::cpu) unsafe fn silu<S: Simd>(x: S::F) -> S::F {
    // Below -87 the sigmoid is zero for every purpose; the bound keeps the exponent in range.
    let minus = S::sub(S::splat(0.0), S::max(x, S::splat(-87.0)));
    S::div(x, S::add(S::splat(1.0), exp::<S>(minus)))
}

/// Over `len` elements at `x`.
#[inline(always)]
pub(in crate::cpu) unsafe fn sum_of_squares<S: Simd>(x: *const f32, len: usize) -> f32 {
    let mut sum = S::splat(0.0);
    let whole = len / LANES * LANES;
    let mut at = 0;
    while at < whole {
        let v = S::load(x.add(at));
        sum = S::fma(v, v, sum);
        at += LANES;
    }
    let mut rest = 0.0;
    while at < len {
        rest += *x.add(at) * *x.add(at);
        at += 1;
    }
    S::sum(sum) + rest
}
