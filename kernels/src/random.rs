//! Numbers made up from their place: element `i` of a stream is the same for every caller and in
//! any order, on a processor or, with [`crate::cuda::Device::fill`], on a GPU. SplitMix64 (Steele,
//! Lea and Flood 2014), whose state is a counter.

/// Numbers spread evenly about a mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Uniform {
    /// The stream's key: any number.
    pub key: u64,
    /// In the middle.
    pub mean: f32,
    /// The greatest distance from it.
    pub half_width: f32,
}

impl Uniform {
    /// From -1 to 1.
    #[must_use]
    pub const fn unit(key: u64) -> Self {
        Self { key, mean: 0.0, half_width: 1.0 }
    }

    /// Element `index`, to the bit what the kernel makes it: one rounding, of `mean + half_width * u`.
    #[must_use]
    pub fn at(&self, index: u64) -> f32 {
        let state = self.key.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 24 bits are what an f32 holds.
        let above = ((mixed ^ (mixed >> 31)) >> 40) as i32 - (1 << 23);
        self.half_width.mul_add(above as f32 / (1 << 23) as f32, self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_evenly() {
        let numbers = Uniform { key: 7, mean: 2.0, half_width: 3.0 };
        let (n, mut bins) = (100_000, [0u32; 10]);
        let (mut sum, mut lagged) = (0.0, 0.0);
        for i in 0..n {
            let x = numbers.at(i);
            assert!((-1.0..5.0).contains(&x), "{x}");
            bins[((x + 1.0) / 0.6) as usize % 10] += 1;
            sum += f64::from(x);
            lagged += f64::from(x - 2.0) * f64::from(numbers.at(i + 1) - 2.0);
        }
        assert!(bins.iter().all(|&bin| (9_600..10_400).contains(&bin)), "{bins:?}");
        assert!((sum / n as f64 - 2.0).abs() < 0.02 && (lagged / n as f64).abs() < 0.05);
    }

    #[test]
    fn streams_differ() {
        let [a, b] = [1, 2].map(Uniform::unit);
        assert!((0..100).filter(|&i| a.at(i) == b.at(i)).count() < 2);
    }
}
