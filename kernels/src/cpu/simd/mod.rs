//! Sixteen lanes, whatever the machine has: the operations kernels are written in, and their instruction sets.
//!
//! A vector is 16 f32 or 16 i32 on every instruction set (one AVX-512 register, two of AVX2, an array), so one kernel
//! body serves all of them and sums run in the same order. The integer path gives the same bits everywhere; the float
//! paths do on AVX-512 and AVX2, while the portable one rounds products before it adds.
//!
//! AVX-512 multiplies pairs of bf16 in one instruction on some processors. Only linear layers ask
//! [`Isa::multiplies_bf16`] and run there as compiled for that; all other kernels are compiled once for both.
//!
//! AMX is AVX-512 in all of this: only the int8 linear layers ask [`Isa::has_tiles`] and multiply in tiles. Likewise only
//! linear layers ask [`Isa::is_portable`], and leave their products to a crate with kernels for more processors, in its
//! order of sums.
//!
//! Kernels are `unsafe` as a whole: their bodies index raw memory in lanes, and their callers check the lengths once.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use math::{exp, silu, sum_of_squares};
pub(super) use portable::Portable;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// 1.5 * 2^23: adding it rounds to an integer, which is left in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// The operations of one instruction set.
///
/// # Safety
/// Every function may be called only where the processor has the instruction set, which is what [`Isa::run`] sees to;
/// pointers must be valid for the lanes read or written, at any alignment.
pub(super) trait Simd: Copy + 'static {
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
    /// Whether there is [`Self::dot2`].
    const DOT2: bool = false;
    /// Adds to each lane the products of its pair of bf16 and that of `x`, the second one first, each rounded as by
    /// [`Self::fma`]: the bits of two of these, unless something is too small to be a normal number.
    #[inline(always)]
    unsafe fn dot2(acc: Self::F, _w: Self::W, _x: Self::Q) -> Self::F {
        debug_assert!(false, "asked for where there is none");
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
pub(super) trait Element: super::buffer::Plain {
    /// Where the `which`-th (0 or 1) of pair `lane` is among the 32.
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
pub(super) trait Kernel {
    type Out;
    /// # Safety
    /// The processor has the instruction set `S`, and what the kernel points to is valid.
    unsafe fn run<S: Simd>(self) -> Self::Out;
}

/// An instruction set that this machine has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// AVX-512, and tiles for int8 linear layers.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512, and products of bf16 for such linear layers.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Isa {
    /// The fastest one here.
    #[must_use]
    pub fn best() -> Self {
        Self::all()[0]
    }

    /// All that this machine has, fastest first; the last one is the portable fallback.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if amx::is_here() {
                all.push(Self(Set::Amx));
            }
            if avx512::multiplies_bf16() {
                all.push(Self(Set::Avx512Bf16));
            }
            if avx512::is_here() {
                all.push(Self(Set::Avx512));
            }
            if avx2::is_here() {
                all.push(Self(Set::Avx2));
            }
        }
        all.push(Self(Set::Portable));
        all
    }

    /// AMX for tests: the processor's own, or its instructions executed one by one by a handler of the signal that they
    /// raise where the processor does not know them. None where there is no AVX-512 beside it, or no Linux on x86-64.
    #[cfg(feature = "emulator")]
    #[must_use]
    pub fn amx_emulated() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return (amx::is_here() || amx::is_emulated()).then_some(Self(Set::Amx));
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Whether it is AVX-512 with AMX's tiles of 8-bit integers.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn has_tiles(self) -> bool {
        self.0 == Set::Amx
    }

    /// Whether it has products of bf16; then [`Self::run_bf16`] may be called.
    pub(super) fn multiplies_bf16(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => avx512::multiplies_bf16(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => true,
            _ => false,
        }
    }

    /// Whether it is the fallback for machines that none of the others is for.
    pub(super) fn is_portable(self) -> bool {
        self.0 == Set::Portable
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => "amx-int8",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            Set::Portable => "portable",
        }
    }

    /// Runs `kernel` as compiled for this instruction set.
    ///
    /// # Safety
    /// What the kernel points to is valid.
    #[inline]
    pub(super) unsafe fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx | Set::Avx512Bf16 | Set::Avx512 => avx512::run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => avx2::run(kernel),
            Set::Portable => kernel.run::<portable::Portable>(),
        }
    }

    /// Runs `kernel` as compiled for AVX-512 with products of bf16.
    ///
    /// # Safety
    /// What the kernel points to is valid, and [`Self::multiplies_bf16`].
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Out {
        avx512::run_bf16(kernel)
    }
}
