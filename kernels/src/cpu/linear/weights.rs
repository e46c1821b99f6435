//! The weights of a linear layer, packed in panels of output features.

use crate::cpu::Precision;
use crate::cpu::buffer::Buffer;
use crate::cpu::simd::LANES;

/// Output features of a panel.
pub(super) const PANEL: usize = 2 * LANES;

/// The weights of one or more projections of the same input.
#[derive(Debug)]
pub struct Linear {
    pub(super) packed: Packed,
    pub(super) features: usize,
    /// Output features written.
    pub(super) outputs: usize,
    pub(super) panels: usize,
    /// One per output feature of a panel, padded.
    pub(super) bias: Vec<f32>,
    pub(super) gated: bool,
}

/// Packed weights, by their number format.
#[derive(Debug)]
pub(super) enum Packed {
    /// By panel and block of features: `[BLOCK / 4][32][4]` unsigned bytes (128 = zero), then 32 scales in bf16.
    Int8(Buffer<u8>),
    /// By panel and pair of features: 2 x 16 pairs.
    Bf16(Buffer<u16>),
    /// By panel and pair of features: 2 x (16 firsts, 16 seconds).
    F32(Buffer<f32>),
}

impl Linear {
    /// Input features.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// Elements of a row of results.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The number format of the weights.
    #[must_use]
    pub fn precision(&self) -> Precision {
        match self.packed {
            Packed::Int8(_) => Precision::Int8,
            Packed::Bf16(_) => Precision::Bf16,
            Packed::F32(_) => Precision::F32,
        }
    }

    /// Bytes read by one pass.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.packed {
            Packed::Int8(w) => w.len(),
            Packed::Bf16(w) => w.len() * 2,
            Packed::F32(w) => w.len() * 4,
        }
    }
}
