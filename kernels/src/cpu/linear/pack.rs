//! Packing: from rows of f32, as checkpoints have them, to panels.

use super::weights::{Linear, PANEL, Packed};
use crate::cpu::Precision;
use crate::cpu::buffer::{Buffer, Plain};
use crate::cpu::rows::BLOCK;
use crate::cpu::simd::{Element, LANES};
use crate::cpu::team::{Scattered, Team};

/// Bytes of a block of a panel: weights, then scales.
pub(super) const BLOCK_BYTES: usize = BLOCK * PANEL + PANEL * 2;

impl Linear {
    /// Packs projections of the same `features` inputs, one after the other in the output: each is `[out, features]`,
    /// row after row.
    ///
    /// # Panics
    /// When a projection is not whole rows.
    #[must_use]
    pub fn pack(team: &Team, precision: Precision, features: usize, parts: &[&[f32]]) -> Self {
        let whole = |p: &&[f32]| p.len().is_multiple_of(features);
        assert!(features > 0 && parts.iter().all(whole), "whole rows of {features}");
        let rows: Vec<&[f32]> = parts.iter().flat_map(|p| p.chunks_exact(features)).collect();
        let outputs = rows.len();
        let panels = outputs.div_ceil(PANEL);
        let column = |at: usize| rows.get(at).copied();
        let packed = Packed::new(team, precision, features, panels, &column);
        Self::of(packed, features, outputs, panels, false)
    }

    /// Packs a gate and what it gates, both `[out, features]`: the layer computes `silu(gate x) * (up x)`.
    ///
    /// # Panics
    /// When the two differ in size or are not whole rows.
    #[must_use]
    pub fn pack_gated(
        team: &Team,
        precision: Precision,
        features: usize,
        gate: &[f32],
        up: &[f32],
    ) -> Self {
        assert_eq!(gate.len(), up.len(), "a gate for each output");
        assert!(features > 0 && gate.len().is_multiple_of(features), "whole rows of {features}");
        let outputs = gate.len() / features;
        let panels = outputs.div_ceil(LANES);
        // Half of each panel is the gate of the other half.
        let column = |at: usize| {
            let (panel, within) = (at / PANEL, at % PANEL);
            let row = panel * LANES + within % LANES;
            let from = if within < LANES { gate } else { up };
            (row < outputs).then(|| &from[row * features..(row + 1) * features])
        };
        let packed = Packed::new(team, precision, features, panels, &column);
        Self::of(packed, features, outputs, panels, true)
    }

    /// Adds `bias`, one element per output, to every row of results.
    ///
    /// # Panics
    /// When there is not one for each, or the layer is gated.
    #[must_use]
    pub fn biased(mut self, bias: &[f32]) -> Self {
        assert!(!self.gated && bias.len() == self.outputs, "a bias for each output");
        self.bias = bias.to_vec();
        self.bias.resize(self.panels * PANEL, 0.0);
        self
    }

    fn of(packed: Packed, features: usize, outputs: usize, panels: usize, gated: bool) -> Self {
        Self { packed, features, outputs, panels, bias: Vec::new(), gated }
    }
}

impl Packed {
    fn new<'a>(
        team: &Team,
        precision: Precision,
        features: usize,
        panels: usize,
        column: &(impl Fn(usize) -> Option<&'a [f32]> + Sync),
    ) -> Self {
        let blocks = features.div_ceil(BLOCK);
        match precision {
            Precision::Int8 => {
                Self::Int8(filled(team, panels, blocks * BLOCK_BYTES, |panel, to| {
                    for (block, to) in to.chunks_exact_mut(BLOCK_BYTES).enumerate() {
                        for within in 0..PANEL {
                            let row = column(panel * PANEL + within).unwrap_or(&[]);
                            let from = (block * BLOCK).min(row.len());
                            let until = (from + BLOCK).min(row.len());
                            quantise(&row[from..until], within, to);
                        }
                    }
                }))
            }
            Precision::Bf16 => Self::Bf16(floats(team, panels, features, column)),
            Precision::F32 => Self::F32(floats(team, panels, features, column)),
        }
    }
}

fn floats<'a, E: Element>(
    team: &Team,
    panels: usize,
    features: usize,
    column: &(impl Fn(usize) -> Option<&'a [f32]> + Sync),
) -> Buffer<E> {
    filled(team, panels, features.div_ceil(2) * 2 * PANEL, |panel, to: &mut [E]| {
        for within in 0..PANEL {
            let row = column(panel * PANEL + within).unwrap_or(&[]);
            for (at, &w) in row.iter().enumerate() {
                let pairs = at / 2 * 2 * PANEL + within / LANES * PANEL;
                to[pairs + E::at(within % LANES, at % 2)] = E::from_f32(w);
            }
        }
    })
}

/// `panels` of `len` elements each, filled by the team.
fn filled<T: Plain>(
    team: &Team,
    panels: usize,
    len: usize,
    fill: impl Fn(usize, &mut [T]) + Sync,
) -> Buffer<T> {
    let mut buffer = Buffer::zeroed(panels * len);
    let scattered = Scattered::new(&mut buffer[..]);
    team.split(panels, |_, panel| {
        // SAFETY: each panel is one piece.
        fill(panel, unsafe { scattered.part(panel * len, len) });
    });
    buffer
}

/// Writes up to a block of weights as column `within` of a block, with their scale. Missing weights
/// are zero.
fn quantise(weights: &[f32], within: usize, to: &mut [u8]) {
    let most = weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    let scale = scale_above(most / 127.0);
    // Zero for weights so small that their scale has no inverse.
    let unit = if scale > 0 { 1.0 / scale.to_f32() } else { 0.0 };
    for at in 0..BLOCK {
        let w = weights.get(at).map_or(0.0, |w| (w * unit).round_ties_even().clamp(-127.0, 127.0));
        to[at / 4 * 4 * PANEL + within * 4 + at % 4] = (w as i32 + 128) as u8;
    }
    let place = BLOCK * PANEL + 2 * within;
    to[place..place + 2].copy_from_slice(&scale.to_ne_bytes());
}

/// The smallest bf16 not below `x`, which is not negative; 0 for what is not a normal number.
fn scale_above(x: f32) -> u16 {
    if x < f32::MIN_POSITIVE { 0 } else { ((x.to_bits() + 0xffff) >> 16) as u16 }
}
