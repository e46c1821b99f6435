//! The int8 register tiles of AMX: up to 32 rows by one panel of 32 outputs, block by block.
//!
//! A block of a panel is two B tiles, and its rows of activations are A tiles, just as they lie in memory: nothing is
//! packed again. Sums leave the tiles after each block, because each has its own scales; from there on AVX-512 does
//! what it does to its own sums, in the same order, so that results are the same to the bit. That work bounds the
//! kernel: five vector operations for 16 outputs of a row and a block, of twelve that AVX-512 needs without tiles.
//!
//! Instructions are in assembly, since their intrinsics are not stable; Intel's SDM, volume 2, says what they do. They
//! have run under the emulator only (`simd/amx/emulator.rs`): no figure of their speed exists.

use std::arch::asm;
use std::arch::x86_64::{_mm512_add_epi32, _mm512_load_si512, _mm512_set1_epi32};
use std::marker::PhantomData;

use super::pack::BLOCK_BYTES;
use super::tile::Part;
use super::weights::{PANEL, Packed};
use crate::cpu::rows::BLOCK;
use crate::cpu::simd::{Avx512, LANES, Simd};

/// Up to so many rows AVX-512 does the work, as many as its largest register tile has. Reasoned, not measured: they take
/// it some 144 cycles per block of 1088 bytes, while a core is given 4 bytes per cycle of main memory or less, so that
/// decoding small batches waits for memory either way; and with few rows, what a tile costs whatever its height is
/// (loading weights, and waiting for a product to be stored) is more than what it saves.
const FEW: usize = 12;

/// Rows of a tile.
const HIGH: usize = 16;
/// Rows of two of them: as many as can be multiplied with two tiles of weights, with eight tiles in all.
const TALL: usize = 2 * HIGH;

/// Bytes of a row of activations: also of four features of a panel, over four, and of a row of sums, over four. The one
/// stride that instructions below are given is this.
const STRIDE: usize = BLOCK;
const _: () = assert!(STRIDE * 4 == 4 * PANEL && STRIDE * 4 == PANEL * size_of::<i32>());

/// The operand of LDTILECFG.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, by tile.
    colsb: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    const NONE: Self =
        Self { palette: 1, start_row: 0, reserved: [0; 14], colsb: [0; 16], rows: [0; 16] };

    /// Tiles 0 and 1 are the sums of the first `HIGH` rows, 2 and 3 those of the others, 4 and 5 their activations,
    /// 6 and 7 the weights.
    fn of_rows(rows: usize) -> Self {
        let mut config = Self::NONE;
        let mut tile = |n: usize, rows: usize, bytes: usize| {
            if rows > 0 {
                (config.rows[n], config.colsb[n]) = (rows as u8, bytes as u16);
            }
        };
        for (half, rows) in [rows.min(HIGH), rows.saturating_sub(HIGH)].into_iter().enumerate() {
            tile(2 * half, rows, 4 * LANES);
            tile(2 * half + 1, rows, 4 * LANES);
            tile(4 + half, rows, BLOCK);
            tile(6 + half, BLOCK / 4, 4 * LANES);
        }
        config
    }
}

/// Dot products of a block.
#[repr(C, align(64))]
struct Dots([[i32; PANEL]; TALL]);

/// Computes and writes the first rows of `part`, unless they are few, and returns what is left of it.
///
/// # Safety
/// Tiles are there, and what `part` points to is valid.
pub(super) unsafe fn run(mut part: Part<'_>) -> Part<'_> {
    let Packed::Int8(weights) = &part.linear.packed else { return part };
    if part.rows.len() > FEW {
        let tiles = Tiles::configured(&Config::of_rows(part.rows.len().min(TALL)));
        let mut next = part.rows.start;
        for panel in part.panels.clone() {
            next = tiles.run(&part, weights.as_ptr(), panel);
        }
        part.rows.start = next;
    }
    part
}

/// This thread's tiles, configured for a part. They are released when it is done: a thread that has none in use has
/// none to be saved when it is switched.
struct Tiles {
    of_this_thread: PhantomData<*const ()>,
}

impl Tiles {
    /// # Safety
    /// Tiles are there, and can be as `config` says.
    unsafe fn configured(config: &Config) -> Self {
        asm!("ldtilecfg [{}]", in(reg) config, options(nostack, readonly, preserves_flags));
        Self { of_this_thread: PhantomData }
    }

    /// Rows of a panel from the part's first on; returns the first that is left.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn run(&self, part: &Part<'_>, weights: *const u8, panel: usize) -> usize {
        let (mut row, end, all) = (part.rows.start, part.rows.end, part.rows.len());
        while end - row > FEW {
            // The configuration stays: the last tile begins early enough to be full, and only rows that are new are
            // written. Part of its work is done twice, where it would have been done on nothing.
            let rows = all.min(if end - row > HIGH { TALL } else { HIGH });
            let first = row.min(end - rows);
            let sums = self.sums(part, weights, panel, first, rows);
            for r in row - first..rows {
                part.finish::<Avx512>(sums[r], panel, first + r);
            }
            row = first + rows;
        }
        row
    }

    /// The result of `Part::int8`.
    #[inline(always)]
    unsafe fn sums(
        &self,
        part: &Part<'_>,
        weights: *const u8,
        panel: usize,
        row: usize,
        rows: usize,
    ) -> [[<Avx512 as Simd>::F; 2]; TALL] {
        let ahead = part.ahead(row, row + rows);
        let (blocks, stride) = (part.x.blocks, part.x.stride);
        let mut w = weights.add(panel * blocks * BLOCK_BYTES);
        let mut sums = [[Avx512::splat(0.0); 2]; TALL];
        let mut dots = Dots([[0; PANEL]; TALL]);
        for block in 0..blocks {
            let at = block * stride + row;
            if ahead > 0 {
                for line in (0..BLOCK * PANEL).step_by(64) {
                    Avx512::prefetch(w.wrapping_add(ahead + line));
                }
            }
            self.multiply(rows, part.x.bytes.as_ptr().add(at * BLOCK), w, &mut dots);
            let of_w = w.add(BLOCK * PANEL).cast::<u16>();
            let of_w = [Avx512::load_bf16(of_w), Avx512::load_bf16(of_w.add(LANES))];
            for r in 0..rows {
                let offset = _mm512_set1_epi32(*part.x.offsets.as_ptr().add(at + r));
                let of_x = Avx512::splat(*part.x.scales.as_ptr().add(at + r));
                for v in 0..2 {
                    let dots = _mm512_load_si512(dots.0[r].as_ptr().add(v * LANES).cast());
                    let dots = _mm512_add_epi32(dots, offset);
                    let scaled = Part::scaled::<Avx512>(dots, of_x, of_w[v]);
                    sums[r][v] = Avx512::add(sums[r][v], scaled);
                }
            }
            w = w.add(BLOCK_BYTES);
        }
        sums
    }

    /// Replaces `rows` rows (as configured, or the first `HIGH`) of `dots` by the products of as many rows of
    /// activations and a block of a panel.
    #[inline(always)]
    unsafe fn multiply(&self, rows: usize, x: *const i8, w: *const u8, dots: &mut Dots) {
        if rows > HIGH {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tileloadd tmm6, [{w} + {stride}*4]",
                "tileloadd tmm4, [{x} + {stride}*1]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {stride}*4 + {right}]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x} + {stride}*1 + {lower_x}]",
                "tdpbsud tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                "tilestored [{dots} + {stride}*4], tmm0",
                "tilestored [{dots} + {stride}*4 + {right}], tmm1",
                "tilestored [{dots} + {stride}*4 + {lower}], tmm2",
                "tilestored [{dots} + {stride}*4 + {lower} + {right}], tmm3",
                x = in(reg) x,
                w = in(reg) w,
                dots = in(reg) dots,
                stride = in(reg) STRIDE,
                right = const 4 * LANES,
                lower_x = const HIGH * BLOCK,
                lower = const HIGH * PANEL * size_of::<i32>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm6, [{w} + {stride}*4]",
                "tileloadd tmm4, [{x} + {stride}*1]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {stride}*4 + {right}]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tilestored [{dots} + {stride}*4], tmm0",
                "tilestored [{dots} + {stride}*4 + {right}], tmm1",
                x = in(reg) x,
                w = in(reg) w,
                dots = in(reg) dots,
                stride = in(reg) STRIDE,
                right = const 4 * LANES,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Operations of one of [`multiply_zeros`]: a multiplication and an addition are two.
pub(in crate::cpu) const OPERATIONS: usize = 2 * 16 * 16 * 64;

/// Multiplies tiles as large as they can be, `times` times four, for their speed alone.
///
/// # Safety
/// Tiles are there.
pub(in crate::cpu) unsafe fn multiply_zeros(times: usize) {
    let mut config = Config::NONE;
    for tile in 0..6 {
        (config.rows[tile], config.colsb[tile]) = (16, 64);
    }
    let _tiles = Tiles::configured(&config);
    asm!(
        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4", "tilezero tmm5",
        "2:",
        "tdpbsud tmm0, tmm4, tmm5",
        "tdpbsud tmm1, tmm4, tmm5",
        "tdpbsud tmm2, tmm4, tmm5",
        "tdpbsud tmm3, tmm4, tmm5",
        "dec {times}",
        "jnz 2b",
        times = inout(reg) times.max(1) => _,
        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
        options(nostack),
    );
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: they are there, or these could not have been configured.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}
