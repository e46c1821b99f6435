//! Linear layers with packed weights: `y = x W^T`, and what is done to `y` on the way out.
//!
//! Weights are packed once into panels of 32 output features, in the order kernels read them, so that a pass over a
//! layer is one stream through memory. A register tile is some rows by one panel; its sums run over all input features
//! before it is written, so a residual is added, or a gate applied, while the tile is still in registers.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
mod borrowed;
mod pack;
mod tile;
mod weights;

pub use weights::Linear;

use super::rows::{BLOCK, Rows};
#[cfg(target_arch = "x86_64")]
use super::simd::Isa;
use super::simd::LANES;
use super::team::{Scattered, Team};

/// Bytes of activations that a pass over the panels should leave in the second-level cache.
const CACHED: usize = 384 << 10;

/// The place of results; rows of as many elements as the layer has outputs.
#[derive(Debug)]
pub enum Output<'a> {
    /// They replace what is there.
    Store(&'a mut [f32]),
    /// They are added to what is there.
    Add(&'a mut [f32]),
}

impl Output<'_> {
    fn slice(&mut self) -> &mut [f32] {
        match self {
            Self::Store(y) | Self::Add(y) => y,
        }
    }
}

impl Linear {
    /// Computes all rows of `x`.
    ///
    /// # Panics
    /// When `x` has other features or another precision than the weights, or `y` is not one row for each of its rows.
    pub fn forward(&self, team: &Team, x: &Rows, mut y: Output<'_>) {
        assert_eq!((x.features, x.precision), (self.features, self.precision()), "rows for it");
        let add = matches!(y, Output::Add(_));
        assert_eq!(y.slice().len(), x.len() * self.outputs, "a row of results per row");
        if x.is_empty() {
            return;
        }
        let row_bytes = x.blocks * BLOCK * x.element_bytes();
        let chunk = (CACHED / row_bytes).max(LANES).min(x.len());
        let chunks = x.len().div_ceil(chunk);
        // Pieces small enough to even out what holds a thread up, large enough to be worth taking.
        let groups = self.panels.min(8 * team.size());
        let y = Scattered::new(y.slice());
        let isa = team.isa();
        team.split(chunks * groups, |_, piece| {
            let (rows, group) = (piece / groups * chunk, piece % groups);
            let rows = rows..(rows + chunk).min(x.len());
            let panels = group * self.panels / groups..(group + 1) * self.panels / groups;
            let part = tile::Part { linear: self, x, y, add, rows, panels };
            // Instructions that only some machines have come first and apart: a branch for tiles among AVX-512's own
            // loops made those a quarter slower.
            // SAFETY: shapes were checked above, and each piece has its own rows or panels.
            unsafe {
                #[cfg(target_arch = "x86_64")]
                if x.halved {
                    return Isa::run_bf16(part);
                }
                #[cfg(target_arch = "x86_64")]
                let part = if isa.has_tiles() { amx::run(part) } else { part };
                let part = if isa.is_portable() { borrowed::run(part) } else { part };
                isa.run(part);
            }
        });
    }
}
