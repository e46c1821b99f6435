//! Linear attention: every sequence has a state that tokens change. No published table has these operators alone, so
//! they are priced by the bytes that they move, at the rate that other kernels of this kind reach.

use crate::profile::{DeviceProfile, Times};
use crate::shape::Shape;

/// Tokens of a prompt that pass through the state together (chunked scan).
const CHUNK: f64 = 64.0;

/// A state per sequence on one rank.
#[derive(Debug, Clone)]
pub(in crate::exec) struct Recurrence {
    mover: Times,
    /// Bytes to read and to write a state.
    state: f64,
}

impl Recurrence {
    pub(super) fn new(device: &DeviceProfile, state_bytes: u64) -> Self {
        Self { mover: device.elementwise(), state: 2.0 * state_bytes as f64 }
    }

    /// Seconds of prompt chunks and of decodes.
    pub(super) fn parts(&self, shape: &Shape) -> (f64, f64) {
        let seconds = |states: f64| if states > 0.0 { self.mover.at(states * self.state, 0.0) } else { 0.0 };
        let chunks = f64::from(shape.prefill_seqs) + f64::from(shape.prefill_tokens) / CHUNK;
        (seconds(chunks), seconds(f64::from(shape.decode_seqs)))
    }
}
