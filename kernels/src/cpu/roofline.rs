//! The limits of the machine, measured: its speed of reading memory and of multiplying. Speeds are told beside these.

use std::hint::black_box;
use std::time::Instant;

use super::buffer::Buffer;
#[cfg(target_arch = "x86_64")]
use super::linear::amx;
#[cfg(target_arch = "x86_64")]
use super::simd::Isa;
use super::simd::{Kernel, LANES, Simd};
use super::team::Team;

/// Limits of a team. Those of arithmetic are of this crate's own kernels: on the portable instruction set, where linear
/// layers are the `gemm` crate's, they are no bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roofline {
    /// Bytes per second read from memory that no cache holds.
    pub read: f64,
    /// Operations per second of 8-bit dot products (a multiplication and an addition are two), in vectors or in tiles.
    pub int8: f64,
    /// Operations per second of multiply-adds of bf16 into f32.
    pub bf16: f64,
    /// Operations per second of f32 multiply-adds.
    pub f32: f64,
}

/// Bytes read: more than caches hold.
const BYTES: usize = 256 << 20;

/// Times each limit is measured; the best counts.
const REPEATS: usize = 8;

/// Measures the limits of `team`; takes about a second.
#[must_use]
pub fn measure(team: &Team) -> Roofline {
    let mut memory = Buffer::<f32>::zeroed(BYTES / 4);
    memory.fill(1.0);
    let members = team.size();
    let pieces = 16 * members;
    let read = best(|| {
        team.split(pieces, |_, piece| {
            let (from, to) = (piece * memory.len() / pieces, (piece + 1) * memory.len() / pieces);
            // SAFETY: the kernel reads its slice only.
            black_box(unsafe { team.isa().run(Read(&memory[from..to])) });
        });
    });
    let times = 200_000;
    let dots = best(|| {
        // SAFETY: no pointers.
        team.split(members, |_, _| unsafe { team.isa().run(Dots(times)) });
    });
    let f32 = best(|| {
        team.split(members, |_, _| {
            // SAFETY: no pointers.
            black_box(unsafe { team.isa().run(MultiplyAdds(times)) });
        });
    });
    let operations = (members * times * CHAINS * LANES * 2) as f64;
    let int8 = (4.0 * operations / dots).max(tiles(team));
    let f32 = operations / f32;
    let bf16 = 2.0 * operations / pairs(team, times);
    Roofline { read: BYTES as f64 / read, int8, bf16: bf16.max(f32), f32 }
}

/// Seconds of `times` times [`CHAINS`] products of pairs of bf16; infinite where there is no instruction for them.
fn pairs(team: &Team, times: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if team.isa().multiplies_bf16() {
        // SAFETY: no pointers, and the instruction is there.
        return best(|| team.split(team.size(), |_, _| unsafe { Isa::run_bf16(Pairs(times)) }));
    }
    let _ = (team, times);
    f64::INFINITY
}

/// Operations per second of 8-bit products of AMX's tiles; 0 where there are none.
fn tiles(team: &Team) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if team.isa().has_tiles() {
        let times = 10_000;
        let seconds = best(|| {
            // SAFETY: tiles are there.
            team.split(team.size(), |_, _| unsafe { amx::multiply_zeros(times) });
        });
        return (team.size() * times * 4 * amx::OPERATIONS) as f64 / seconds;
    }
    let _ = team;
    0.0
}

fn best(mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..REPEATS).map(time).fold(f64::INFINITY, f64::min)
}

/// Sums under way at once, to hide latency.
const CHAINS: usize = 16;

struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        const VECTORS: usize = 8;
        let mut sums = [S::splat(0.0); VECTORS];
        for chunk in self.0.chunks_exact(VECTORS * LANES) {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = S::max(*sum, S::load(chunk.as_ptr().add(v * LANES)));
            }
        }
        sums.into_iter().map(|v| S::largest(v)).fold(0.0, f32::max)
    }
}

struct Dots(usize);

impl Kernel for Dots {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let weights = black_box([1u8; 4 * LANES]);
        let row = black_box([3i8; 4]);
        let (w, q) = (S::load_w(weights.as_ptr()), S::quad(row.as_ptr()));
        let mut sums = [S::splat_i(0); CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = S::dot4(*sum, w, q);
            }
        }
        for sum in sums {
            let mut lanes = [0.0f32; LANES];
            S::store(S::to_f32(sum), lanes.as_mut_ptr());
            black_box(lanes);
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct Pairs(usize);

#[cfg(target_arch = "x86_64")]
impl Kernel for Pairs {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let weights = black_box([1u8; 4 * LANES]);
        let row = black_box([3i8; 4]);
        let (w, x) = (S::load_w(weights.as_ptr()), S::quad(row.as_ptr()));
        let mut sums = [S::splat(0.0); CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = S::dot2(*sum, w, x);
            }
        }
        black_box(sums.map(|v| S::sum(v)));
    }
}

struct MultiplyAdds(usize);

impl Kernel for MultiplyAdds {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        let (x, y) = (S::splat(black_box(1.000_000_1)), S::splat(black_box(1e-9)));
        let mut sums = [S::splat(1.0); CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = S::fma(*sum, x, y);
            }
        }
        sums.into_iter().map(|v| S::sum(v)).sum()
    }
}
