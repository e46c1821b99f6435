//! Numbers to compute with, and what the tests call close.

/// A seeded stream of numbers, roughly normal, with a few large ones as activations have them.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In -1..1.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        let one = |n: &mut Self| {
            let x = n.uniform() + n.uniform() + n.uniform();
            if n.word().is_multiple_of(97) { 8.0 * x } else { x }
        };
        (0..len).map(|_| one(self)).collect()
    }
}

/// The bf16 nearest to `x`, as f32.
pub(crate) fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

/// The root of the sum of squared differences, in units of that of what is right.
pub(crate) fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let right: f64 = want.iter().map(|w| w * w).sum();
    let off: f64 = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
    off.sqrt() / right.sqrt().max(1e-6)
}
