//! Intel AMX: whether this processor multiplies tiles of 8-bit integers, and the system lets this process do so.
//!
//! The instructions are used by the int8 linear layers alone (`linear/amx.rs`); everything else runs as compiled for
//! AVX-512, which every processor with AMX has.

#[cfg(all(feature = "emulator", target_os = "linux"))]
mod emulator;

use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

use super::avx512;

/// True if the instructions may be used; the system is asked once.
pub(super) fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| is_enabled() && is_granted())
}

/// True if they will work once they are executed by our own code where the processor does not know them.
#[cfg(feature = "emulator")]
pub(super) fn is_emulated() -> bool {
    #[cfg(target_os = "linux")]
    // Only some of the instructions trap where the processor has tiles that the system keeps from us.
    if avx512::is_here() && !is_enabled() {
        emulator::install();
        return true;
    }
    false
}

/// True if the processor has them (Intel's SDM, volume 2, CPUID) and the system keeps their state.
fn is_enabled() -> bool {
    const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    // With AVX-512 there is a seventh leaf, and XCR0 may be read.
    // SAFETY: as said.
    avx512::is_here()
        && __cpuid_count(7, 0).edx & TILE_AND_INT8 == TILE_AND_INT8
        && unsafe { has_state() }
}

#[target_feature(enable = "xsave")]
unsafe fn has_state() -> bool {
    const XTILECFG_AND_XTILEDATA: u64 = 1 << 17 | 1 << 18;
    _xgetbv(0) & XTILECFG_AND_XTILEDATA == XTILECFG_AND_XTILEDATA
}

/// Linux makes room for a thread's tiles only in processes that ask (its `Documentation/arch/x86/xstate.rst`).
#[cfg(target_os = "linux")]
fn is_granted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XTILEDATA: usize = 18;
    let answer: usize;
    // SAFETY: the call reads and writes no memory of ours; registers are as the kernel's calling convention has them.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn is_granted() -> bool {
    false
}
