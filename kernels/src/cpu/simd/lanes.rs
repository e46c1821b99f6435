//! The operations that kernels are written in, sixteen lanes at a time, and the numbers that they load.

/// Lanes of a vector.
pub(in crate::cpu) const LANES: usize = 16;

/// 1.5 * 2^23: adding it rounds to an integer, which is left in the low bits.
pub(super) const MAGIC: f32 = 12_582_912.0;

/// The operations of one instruction set.
///
/// # Safety
/// Every function may be called only where the processor has the instruction set, which is what [`Isa::run`](super::Isa::run) sees to;
/// pointers must be valid for the lanes read or written, at any alignment.
pub(in crate::cpu) trait Simd: Copy + 'static {
    /// Rows of a register tile that is two vectors wide.
    const ROWS: usize;
    /// 16 f32.
    type F: Copy;
    /// 16 i32.
    type I: Copy;
    /// 64 u8: four for each lane.
    type W: Copy;
    /// Four i8, the same in each lane.
    type Q: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(x: Self::F, to: *mut f32);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// 2 to the power of the integer in the low bits of `m = n + MAGIC`.
    unsafe fn pow2(m: Self::F) -> Self::F;
    /// Writes integers (within -127..=127) as i8.
    unsafe fn store_i8(x: Self::F, to: *mut i8);

    /// 16 bf16.
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    /// 16 pairs of bf16: the first of each, the second of each.
    unsafe fn load_bf16_pairs(from: *const u16) -> (Self::F, Self::F);

    unsafe fn splat_i(x: i32) -> Self::I;
    unsafe fn load_w(from: *const u8) -> Self::W;
    unsafe fn quad(from: *const i8) -> Self::Q;
    /// Adds to each lane the products of its four unsigned and the four signed bytes, exactly.
    unsafe fn dot4(acc: Self::I, w: Self::W, x: Self::Q) -> Self::I;
    /// True if there is [`Self::dot2`].
    const DOT2: bool = false;
    /// Adds to each lane the products of its pair of bf16 and that of `x`, the second one first, each rounded as by
    /// [`Self::fma`]: the bits of two of these, unless something is too small to be a normal number.
    #[inline(always)]
    unsafe fn dot2(acc: Self::F, _w: Self::W, _x: Self::Q) -> Self::F {
        debug_assert!(false, "this instruction set has no dot2");
        acc
    }
    /// Exact up to 2^24.
    unsafe fn to_f32(x: Self::I) -> Self::F;

    /// Asks for a cache line that will be read soon; any address will do.
    unsafe fn prefetch(at: *const u8);

    /// Integers, ties to even; for |x| < 2^22.
    #[inline(always)]
    unsafe fn round(x: Self::F) -> Self::F {
        Self::sub(Self::add(x, Self::splat(MAGIC)), Self::splat(MAGIC))
    }

    /// The sum of the lanes, by halves.
    #[inline(always)]
    unsafe fn sum(x: Self::F) -> f32 {
        fold::<Self>(x, |a, b| a + b)
    }

    /// The largest lane.
    #[inline(always)]
    unsafe fn largest(x: Self::F) -> f32 {
        fold::<Self>(x, f32::max)
    }
}

#[inline(always)]
unsafe fn fold<S: Simd>(x: S::F, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    S::store(x, lanes.as_mut_ptr());
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Numbers kept as f32 or bf16, 32 at a time: as 16 pairs where one load gives both halves.
pub(in crate::cpu) trait Element: crate::cpu::buffer::Plain {
    /// The place of the `which`-th (0 or 1) of pair `lane` among the 32.
    fn at(lane: usize, which: usize) -> usize;
    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;
    /// The first and the second of each pair.
    unsafe fn load_pairs<S: Simd>(from: *const Self) -> (S::F, S::F);
}

impl Element for f32 {
    #[inline(always)]
    fn at(lane: usize, which: usize) -> usize {
        which * LANES + lane
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn load_pairs<S: Simd>(from: *const Self) -> (S::F, S::F) {
        (S::load(from), S::load(from.add(LANES)))
    }
}

/// The bits of a bf16.
impl Element for u16 {
    #[inline(always)]
    fn at(lane: usize, which: usize) -> usize {
        2 * lane + which
    }

    /// Rounds to nearest, ties to even; what is not a number stays so.
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        if x.is_nan() {
            return (bits >> 16) as Self | 0x40;
        }
        (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as Self
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    #[inline(always)]
    unsafe fn load_pairs<S: Simd>(from: *const Self) -> (S::F, S::F) {
        S::load_bf16_pairs(from)
    }
}

/// A piece of work that is compiled for each instruction set.
pub(in crate::cpu) trait Kernel {
    type Out;
    /// # Safety
    /// The processor has the instruction set `S`, and what the kernel points to is valid.
    unsafe fn run<S: Simd>(self) -> Self::Out;
}
