//! The bytes of the AMX instructions that kernels here use (Intel's SDM, volume 2: instruction format and each one's
//! page). All have a VEX prefix of three bytes.

/// An instruction and its operands; tiles and registers by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instruction {
    /// LDTILECFG
    LoadConfig(Address),
    /// TILERELEASE
    Release,
    /// TILEZERO
    Zero { tile: u8 },
    /// TILELOADD
    Load { tile: u8, from: Address },
    /// TILESTORED
    Store { tile: u8, to: Address },
    /// TDPBSUD
    DotSignedUnsigned { c: u8, a: u8, b: u8 },
}

/// A memory operand: `base + (index << shift) + displacement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Address {
    /// The base is the next instruction.
    pub(super) relative: bool,
    pub(super) base: Option<u8>,
    pub(super) index: Option<u8>,
    pub(super) shift: u8,
    pub(super) displacement: i64,
}

/// Mandatory prefixes as VEX has them.
const NONE: u8 = 0;
const F3: u8 = 2;
const F2: u8 = 3;

/// The instruction that begins with `byte(0)` and its length, if it is one of these. Asks for no byte beyond it.
pub(super) fn decode(byte: impl Fn(usize) -> u8) -> Option<(Instruction, usize)> {
    if byte(0) != 0xc4 {
        return None;
    }
    let (extensions, last) = (!byte(1), byte(2));
    let [r, x, b] = [7, 6, 5].map(|bit| extensions >> bit & 1);
    let (map, w, v, l, prefix) =
        (byte(1) & 0x1f, last >> 7, !last >> 3 & 0xf, last >> 2 & 1, last & 3);
    // The second map of opcodes (0F38), W0, 128 bits.
    if (map, w, l) != (2, 0, 0) {
        return None;
    }
    let (opcode, modrm) = (byte(3), byte(4));
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let in_registers = mode == 3;
    let address = || address(&byte, [x, b], mode, rm);
    // There are eight tiles; operands that are not used say zero.
    let plain = r == 0 && v == 0;
    match (opcode, prefix) {
        (0x49, NONE) if plain && !in_registers && reg == 0 => {
            address().map(|(a, len)| (Instruction::LoadConfig(a), len))
        }
        (0x49, NONE) if plain && modrm == 0xc0 && b == 0 => Some((Instruction::Release, 5)),
        (0x49, F2) if plain && in_registers && (rm, b) == (0, 0) => {
            Some((Instruction::Zero { tile: reg }, 5))
        }
        // Memory without an index byte is refused by the processor too.
        (0x4b, F2) if plain && !in_registers && rm == 4 => {
            address().map(|(from, len)| (Instruction::Load { tile: reg, from }, len))
        }
        (0x4b, F3) if plain && !in_registers && rm == 4 => {
            address().map(|(to, len)| (Instruction::Store { tile: reg, to }, len))
        }
        (0x5e, F3) if in_registers && r == 0 && b == 0 && v < 8 => {
            Some((Instruction::DotSignedUnsigned { c: reg, a: rm, b: v }, 5))
        }
        _ => None,
    }
}

/// The memory operand of an instruction whose ModRM byte is the fifth, and the instruction's length.
fn address(
    byte: &impl Fn(usize) -> u8,
    [x, b]: [u8; 2],
    mode: u8,
    rm: u8,
) -> Option<(Address, usize)> {
    let mut at = Address::default();
    let mut len = 5;
    let mut wide = mode == 2;
    if rm == 4 {
        let sib = byte(5);
        len += 1;
        let (index, base) = (sib >> 3 & 7 | x << 3, sib & 7 | b << 3);
        at.shift = sib >> 6;
        at.index = (index != 4).then_some(index);
        if mode == 0 && sib & 7 == 5 {
            wide = true;
        } else {
            at.base = Some(base);
        }
    } else if mode == 0 && rm == 5 {
        (at.relative, wide) = (true, true);
    } else {
        at.base = Some(rm | b << 3);
    }
    if wide {
        let bytes = [0, 1, 2, 3].map(|i| byte(len + i));
        at.displacement = i64::from(i32::from_le_bytes(bytes));
        len += 4;
    } else if mode == 1 {
        at.displacement = i64::from(byte(len) as i8);
        len += 1;
    }
    Some((at, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The bytes that the assembler makes of them.
    std::arch::global_asm!(
        ".globl knee_amx_samples",
        "knee_amx_samples:",
        "ldtilecfg [rdi]",
        "ldtilecfg [rbp]",
        "ldtilecfg [r13 + 16]",
        "ldtilecfg [rip + 4660]",
        "ldtilecfg [r12 - 300]",
        "ldtilecfg [rax + r9*8 - 4]",
        "tilerelease",
        "tilezero tmm5",
        "tileloadd tmm4, [rax + rcx*1]",
        "tileloadd tmm7, [r12 + r15*4 + 64]",
        "tileloadd tmm1, [r13 + r8*2 - 129]",
        "tileloadd tmm2, [rsi]",
        "tileloadd tmm3, [r10*8 + 77]",
        "tilestored [r11 + rdx*1 + 2112], tmm3",
        "tilestored [rbp + rbx*8], tmm0",
        "tilestored [rsp + r12*1], tmm6",
        "tdpbsud tmm1, tmm4, tmm7",
        "tdpbsud tmm7, tmm0, tmm2",
        // Others: none of ours.
        "tdpbssd tmm1, tmm4, tmm7",
        "sttilecfg [rdi]",
        "vpshufb xmm0, xmm1, xmm2",
        "ud2",
    );

    unsafe extern "C" {
        static knee_amx_samples: u8;
    }

    fn memory(base: u8, displacement: i64) -> Address {
        Address { base: Some(base), displacement, ..Address::default() }
    }

    fn indexed(base: u8, index: u8, shift: u8, displacement: i64) -> Address {
        Address { index: Some(index), shift, ..memory(base, displacement) }
    }

    #[test]
    fn reads_what_the_assembler_writes() {
        use Instruction::*;
        let next = Address { relative: true, displacement: 4660, ..Address::default() };
        let no_base = Address { base: None, ..indexed(0, 10, 3, 77) };
        let wanted = [
            LoadConfig(memory(7, 0)),
            LoadConfig(memory(5, 0)),
            LoadConfig(memory(13, 16)),
            LoadConfig(next),
            LoadConfig(memory(12, -300)),
            LoadConfig(indexed(0, 9, 3, -4)),
            Release,
            Zero { tile: 5 },
            Load { tile: 4, from: indexed(0, 1, 0, 0) },
            Load { tile: 7, from: indexed(12, 15, 2, 64) },
            Load { tile: 1, from: indexed(13, 8, 1, -129) },
            Load { tile: 2, from: memory(6, 0) },
            Load { tile: 3, from: no_base },
            Store { tile: 3, to: indexed(11, 2, 0, 2112) },
            Store { tile: 0, to: indexed(5, 3, 3, 0) },
            Store { tile: 6, to: indexed(4, 12, 0, 0) },
            DotSignedUnsigned { c: 1, a: 4, b: 7 },
            DotSignedUnsigned { c: 7, a: 0, b: 2 },
        ];
        let start = &raw const knee_amx_samples;
        let mut done = 0;
        // SAFETY: the samples above are in memory that may be read.
        let byte = |i: usize| unsafe { *start.add(i) };
        for want in wanted {
            let (got, len) = decode(|i| byte(done + i)).unwrap_or_else(|| panic!("{want:?}"));
            assert_eq!(got, want);
            done += len;
        }
        // All but the last are five bytes long.
        for other in 0..4 {
            assert_eq!(decode(|i| byte(done + 5 * other + i)), None, "instruction {other}");
        }
    }
}
