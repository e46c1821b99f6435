//! Number formats: the bytes that an element of a weight or of the KV cache takes, scales included.

use crate::choice::choice;

choice! {
    /// The number format of an operator's weights.
    #[derive(Default)]
    Format {
        /// bfloat16 or float16, without scales.
        #[default]
        Bf16 = "bf16",
        /// 8-bit float with one scale per tensor or per channel; activations are quantised too.
        Fp8 = "fp8",
        /// 8-bit float with one float32 scale per block of 128 x 128; activations are quantised too.
        Fp8Block = "fp8_block",
        /// 4-bit float with one 8-bit scale per 16 elements; activations are quantised too.
        Nvfp4 = "nvfp4",
        /// 4-bit float with one 8-bit scale per 32 elements; activations stay bf16.
        Mxfp4 = "mxfp4",
        /// The same weights, with activations quantised to 8-bit float: an option of Blackwell's engines.
        Mxfp4Fp8 = "mxfp4_fp8",
        /// 8-bit integer with one scale per channel; activations stay bf16.
        Int8 = "int8",
        /// 4-bit integer with one bf16 scale per 128 elements; activations stay bf16.
        Int4 = "int4",
    }
}

impl Format {
    /// Bytes of `elements` weights with their scales.
    #[must_use]
    pub fn bytes(self, elements: u64) -> u64 {
        let (bits, scale_bits, per) = self.layout();
        (elements * bits + (elements * scale_bits).div_ceil(per)).div_ceil(8)
    }

    /// Bytes of one weight on average, scales included.
    #[must_use]
    pub fn element_bytes(self) -> f64 {
        let (bits, scale_bits, per) = self.layout();
        (bits as f64 + scale_bits as f64 / per as f64) / 8.0
    }

    /// Bits of an element, bits of a scale, elements that share a scale (scales per channel or tensor are left out:
    /// below 0.1 %).
    fn layout(self) -> (u64, u64, u64) {
        match self {
            Self::Bf16 => (16, 0, 1),
            Self::Fp8 | Self::Int8 => (8, 0, 1),
            Self::Fp8Block => (8, 32, 128 * 128),
            Self::Nvfp4 => (4, 8, 16),
            Self::Mxfp4 | Self::Mxfp4Fp8 => (4, 8, 32),
            Self::Int4 => (4, 16, 128),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let of = |format: Format| format.bytes(128 * 128);
        assert_eq!(
            Format::ALL.map(of),
            [32_768, 16_384, 16_388, 8_192 + 1_024, 8_192 + 512, 8_192 + 512, 16_384, 8_192 + 256]
        );
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            assert!((format.element_bytes() * 16_384.0 - of(format) as f64).abs() < 1e-6);
        }
    }
}
