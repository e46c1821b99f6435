//! Gated delta nets: linear attention with a state per sequence, without its projections.
//!
//! The convolution and the recurrence are timed together. x = microseconds of their roofline; y = tokens of the longest
//! prompt chunk, which are computed one after the other. The state is float32, read and written once a sequence.

use crate::profile::table::{Place, Times, place};
use crate::profile::{Basis, DeviceProfile, Peaks};
use crate::shape::Shape;

/// A gated delta net on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta {
    /// Heads of queries and keys.
    pub key_heads: u32,
    /// Heads of values.
    pub value_heads: u32,
    /// Elements of a query's or key's head.
    pub key_dim: u32,
    /// Elements of a value's head.
    pub value_dim: u32,
}

impl Delta {
    /// Its name in a table.
    #[must_use]
    pub fn shape(&self) -> [u32; 2] {
        [self.key_heads, self.value_heads]
    }

    /// Elements of the state of one sequence.
    #[must_use]
    pub fn state(&self) -> f64 {
        f64::from(self.value_heads) * f64::from(self.key_dim) * f64::from(self.value_dim)
    }

    /// Seconds of the roofline of `tokens` tokens of `seqs` sequences.
    #[must_use]
    pub fn roofline(&self, peaks: &Peaks, tokens: f64, seqs: f64) -> f64 {
        let keys = f64::from(self.key_heads) * f64::from(self.key_dim);
        let values = f64::from(self.value_heads) * f64::from(self.value_dim);
        // The state decays and is read, corrected and asked once a token.
        let compute = tokens * 6.0 * self.state() / peaks.flops;
        let bytes = seqs * 8.0 * self.state() + tokens * 2.0 * (2.0 * keys + 2.0 * values);
        compute.max(bytes / peaks.bandwidth)
    }
}

/// Nets are alike that have like heads.
#[must_use]
pub fn delta_metric(shape: &[u32]) -> Place {
    let [key, value] = [0, 1].map(|i| f64::from(shape[i]));
    place([value, value / key], [1.0, 0.5])
}

/// The time of a gated delta net on one rank of a device.
#[derive(Debug, Clone)]
pub struct DeltaTimes {
    delta: Delta,
    peaks: Peaks,
    prefill: Times,
    decode: Times,
}

impl DeltaTimes {
    /// Seconds of the prompt chunks of a batch.
    #[must_use]
    pub fn prefill(&self, shape: &Shape) -> f64 {
        let longest = f64::from(shape.prefill_widest);
        self.of(&self.prefill, shape.prefill_tokens, shape.prefill_seqs, longest)
    }

    /// Seconds of the decodes of a batch.
    #[must_use]
    pub fn decode(&self, shape: &Shape) -> f64 {
        self.of(&self.decode, shape.decode_seqs, shape.decode_seqs, 1.0)
    }

    fn of(&self, times: &Times, tokens: u32, seqs: u32, longest: f64) -> f64 {
        if tokens == 0 {
            return 0.0;
        }
        let (tokens, seqs) = (f64::from(tokens), f64::from(seqs));
        times.at(self.delta.roofline(&self.peaks, tokens, seqs) * 1e6, longest)
    }

    /// The evidence for the times of prompts and of decodes.
    #[must_use]
    pub fn basis(&self) -> [&Basis; 2] {
        [self.prefill.basis(), self.decode.basis()]
    }
}

impl DeviceProfile {
    /// Seconds of a gated delta net, without its projections.
    #[must_use]
    pub fn delta_net(&self, delta: Delta) -> DeltaTimes {
        let times = |kind: &str| {
            self.block(kind, &["bf16".to_owned()], (&delta.shape(), delta_metric), 3.0)
        };
        let (prefill, decode) = (times("delta_prefill"), times("delta_decode"));
        DeltaTimes { delta, peaks: self.peaks_at(self.sustained), prefill, decode }
    }
}
