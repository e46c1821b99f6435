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
mod lanes;
mod math;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use lanes::{Element, Kernel, LANES, Simd};
pub(super) use math::{exp, silu, sum_of_squares};
pub(super) use portable::Portable;

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

    /// True of AVX-512 with AMX's tiles of 8-bit integers.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn has_tiles(self) -> bool {
        self.0 == Set::Amx
    }

    /// True if it has products of bf16; then [`Self::run_bf16`] may be called.
    pub(super) fn multiplies_bf16(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => avx512::multiplies_bf16(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => true,
            _ => false,
        }
    }

    /// True of the fallback for machines that none of the others is for.
    pub(super) fn is_portable(self) -> bool {
        self.0 == Set::Portable
    }

    /// Its name for people.
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
    /// The kernel's pointers are valid.
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
    /// The kernel's pointers are valid, and [`Self::multiplies_bf16`].
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Out {
        avx512::run_bf16(kernel)
    }
}
