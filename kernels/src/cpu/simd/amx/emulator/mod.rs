//! AMX on processors that lack it, for tests: the instructions trap, and the signal's handler does what they would.
//!
//! So what is tested is the machine code that a processor with AMX runs. It shows that results are right, not how fast
//! they come. An instruction that the processor would refuse ends the process and says why.

mod decode;
mod tiles;

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::{Once, OnceLock};

use libc::{SIGILL, sigaction, siginfo_t, ucontext_t};

use decode::{Address, Instruction, decode};
use tiles::Tiles;

thread_local! {
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::new()) };
}

/// The handler of illegal instructions that was there before.
static PREVIOUS: OnceLock<sigaction> = OnceLock::new();

/// Handles this process's illegal instructions from now on.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: zero is a value of these, and the handler has the signature that SA_SIGINFO asks for.
        unsafe {
            let mut previous: sigaction = std::mem::zeroed();
            assert_eq!(sigaction(SIGILL, std::ptr::null(), &raw mut previous), 0, "a handler");
            PREVIOUS.get_or_init(|| previous);
            let mut ours: sigaction = std::mem::zeroed();
            ours.sa_sigaction = handle as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO;
            assert_eq!(sigaction(SIGILL, &raw const ours, std::ptr::null_mut()), 0, "a handler");
        }
    });
}

/// Executes the instruction and lets the thread go on after it. Allocates nothing and takes no locks: a signal may come
/// anywhere.
unsafe extern "C" fn handle(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    let registers = &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs;
    let at = registers[libc::REG_RIP as usize];
    let Some((instruction, length)) = decode(|i| *(at as *const u8).add(i)) else {
        // Not ours: it is executed again and goes to the handler before us.
        if let Some(previous) = PREVIOUS.get() {
            sigaction(SIGILL, previous, std::ptr::null_mut());
        }
        return;
    };
    #[cfg(test)]
    tests::EXECUTED.set(tests::EXECUTED.get() + 1);
    let next = at + length as i64;
    let result = TILES.with_borrow_mut(|tiles| execute(tiles, instruction, registers, next));
    if let Err(refused) = result {
        for text in ["AMX emulator: ", refused, "\n"] {
            libc::write(2, text.as_ptr().cast(), text.len());
        }
        libc::abort();
    }
    registers[libc::REG_RIP as usize] = next;
}

unsafe fn execute(
    tiles: &mut Tiles,
    instruction: Instruction,
    registers: &[i64],
    next: i64,
) -> tiles::Result {
    let register = |number: Option<u8>| number.map_or(0, |n| registers[GENERAL[n as usize]]);
    let start = |a: Address| {
        let base = if a.relative { next } else { register(a.base) };
        base.wrapping_add(a.displacement)
    };
    let stride = |a: Address| register(a.index) << a.shift;
    match instruction {
        Instruction::LoadConfig(a) => {
            tiles.configure(&*((start(a) + stride(a)) as *const [u8; 64]))
        }
        Instruction::Release => {
            tiles.release();
            Ok(())
        }
        Instruction::Zero { tile } => tiles.zero(tile),
        Instruction::Load { tile, from } => {
            tiles.load(tile, start(from) as *const u8, stride(from) as isize)
        }
        Instruction::Store { tile, to } => {
            tiles.store(tile, start(to) as *mut u8, stride(to) as isize)
        }
        Instruction::DotSignedUnsigned { c, a, b } => tiles.dot_signed_unsigned(c, a, b),
    }
}

/// The places where the kernel keeps the general registers, by the number that instructions call them.
const GENERAL: [usize; 16] = {
    use libc::*;
    let order = [
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9,
        REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    ];
    let mut general = [0; 16];
    let mut n = 0;
    while n < 16 {
        general[n] = order[n] as usize;
        n += 1;
    }
    general
};

#[cfg(test)]
mod tests {
    use std::arch::asm;
    use std::cell::Cell;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::*;
    use crate::cpu::{Isa, Linear, Output, Precision, Rows, Team};

    thread_local! {
        /// Instructions that this thread had executed for it.
        pub(super) static EXECUTED: Cell<u64> = const { Cell::new(0) };
    }

    /// Results would be the same without AMX: that it is what computes them is seen here.
    #[test]
    fn int8_layers_are_in_tiles_unless_rows_are_few() {
        let Some(amx) = Isa::amx_emulated().filter(|amx| !Isa::all().contains(amx)) else {
            return println!("skipped: no AVX-512 here, or AMX itself");
        };
        let avx512 = Isa::all()[0];
        let executed = |isa: Isa, precision: Precision, rows: usize| {
            let (team, before) = (Team::with_isa(1, isa), EXECUTED.get());
            let layer = Linear::pack(&team, precision, 40, &[&[0.5; 33 * 40]]);
            let mut x = Rows::new(precision);
            x.take(&team, &vec![1.0; rows * 40], 40);
            layer.forward(&team, &x, Output::Store(&mut vec![0.0; rows * 33]));
            EXECUTED.get() - before
        };
        // Two panels, each a part with a configuration and its end, of two blocks.
        assert_eq!(executed(amx, Precision::Int8, 16), 2 * (2 * 9 + 2));
        assert_eq!(executed(amx, Precision::Int8, 17), 2 * (2 * 16 + 2));
        assert_eq!(executed(amx, Precision::Int8, 44), 2 * (2 * 16 + 2), "few are left");
        assert_eq!(executed(amx, Precision::Int8, 45), 2 * (2 * (16 + 9) + 2));
        assert_eq!(executed(amx, Precision::Int8, 12), 0);
        assert_eq!(executed(amx, Precision::Bf16, 16), 0);
        assert_eq!(executed(avx512, Precision::Int8, 16), 0);
        let before = EXECUTED.get();
        // SAFETY: they are emulated.
        unsafe { crate::cpu::linear::amx::multiply_zeros(3) };
        assert_eq!(EXECUTED.get() - before, 1 + 6 + 3 * 4 + 1, "what limits are measured by");
    }

    const CASE: &str = "KNEE_AMX_CASE";

    /// The end of this very test in a process of its own that does `case`, and its output.
    fn end_of(case: &str) -> (ExitStatus, String) {
        let name = "cpu::simd::amx::emulator::tests::refused_instructions_end_the_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let out = command.args(["--exact", name, "--nocapture"]).env(CASE, case).output().unwrap();
        (out.status, String::from_utf8_lossy(&out.stderr).into_owned())
    }

    #[test]
    fn refused_instructions_end_the_process() {
        if let Ok(case) = std::env::var(CASE) {
            install();
            // SAFETY: no memory is used.
            unsafe {
                match &*case {
                    "unconfigured" => asm!("tilezero tmm3"),
                    "another instruction" => asm!("ud2"),
                    _ => asm!("tilerelease"),
                }
            }
            return;
        }
        let (status, said) = end_of("unconfigured");
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{said}");
        assert!(said.contains("AMX emulator: #UD: a tile that is not configured"), "{said}");
        let (status, said) = end_of("another instruction");
        assert_eq!(status.signal(), Some(SIGILL), "{said}");
        let (status, said) = end_of("nothing wrong");
        assert!(status.success(), "{said}");
    }
}
