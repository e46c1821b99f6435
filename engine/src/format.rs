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
        /// The same with one scale per 32 elements.
        Int4G32 = "int4_g32",
    }
}

/// The arithmetic of products with weights in a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// In bf16; weights of fewer bits are unpacked first.
    Bf16,
    /// In 8-bit float.
    Fp8,
    /// In 4-bit float.
    Fp4,
    /// 4-bit weights by 8-bit activations, at the rate of the wider, on devices that compute in 4-bit float.
    Fp4ByFp8,
}

/// The properties of a format.
struct Row {
    /// Bits of an element.
    bits: u64,
    /// Bits of a scale, and elements that share it; scales per channel or tensor are left out: below 0.1 %.
    scale: (u64, u64),
    arithmetic: Arithmetic,
    /// Formats whose kernels are most like its own, the likest first.
    like: &'static [Format],
    /// The same on a device that cannot compute in the format: engines unpack the weights there and compute in bf16, as
    /// they do for formats of weights alone.
    unpacked: &'static [Format],
}

impl Format {
    const fn row(self) -> Row {
        use Format::{Bf16, Fp8, Fp8Block, Int4, Int4G32, Int8, Mxfp4, Mxfp4Fp8, Nvfp4};
        let (bits, scale, arithmetic, like, unpacked): (_, _, _, &[Self], &[Self]) = match self {
            Bf16 => (16, (0, 1), Arithmetic::Bf16, &[], &[]),
            Fp8 => (8, (0, 1), Arithmetic::Fp8, &[Fp8Block, Bf16], &[Int8, Int4, Mxfp4, Bf16]),
            Fp8Block => {
                (8, (32, 128 * 128), Arithmetic::Fp8, &[Fp8, Bf16], &[Int8, Int4, Mxfp4, Bf16])
            }
            Nvfp4 => (4, (8, 16), Arithmetic::Fp4, &[Fp8, Fp8Block, Bf16], &[Int4, Mxfp4, Bf16]),
            Mxfp4 => (4, (8, 32), Arithmetic::Bf16, &[], &[Int4, Bf16]),
            Mxfp4Fp8 => (
                4,
                (8, 32),
                Arithmetic::Fp4ByFp8,
                &[Nvfp4, Fp8, Fp8Block, Bf16],
                &[Mxfp4, Int4, Bf16],
            ),
            Int8 => (8, (0, 1), Arithmetic::Bf16, &[], &[Int4, Bf16]),
            Int4 => (4, (16, 128), Arithmetic::Bf16, &[], &[Mxfp4, Bf16]),
            Int4G32 => (4, (16, 32), Arithmetic::Bf16, &[], &[Int4, Mxfp4, Bf16]),
        };
        Row { bits, scale, arithmetic, like, unpacked }
    }

    /// Bytes of `elements` weights with their scales.
    #[must_use]
    pub fn bytes(self, elements: u64) -> u64 {
        let Row { bits, scale: (scale_bits, per), .. } = self.row();
        (elements * bits + (elements * scale_bits).div_ceil(per)).div_ceil(8)
    }

    /// Bytes of one weight on average, scales included.
    #[must_use]
    pub fn element_bytes(self) -> f64 {
        let Row { bits, scale: (scale_bits, per), .. } = self.row();
        (bits as f64 + scale_bits as f64 / per as f64) / 8.0
    }

    /// The tiles, in width of the residual stream and in inner width, that kernels want the weights of experts filled up
    /// to: those of vLLM's MXFP4 kernels (Marlin, TensorRT-LLM).
    pub(crate) fn expert_tiles(self) -> Option<[u32; 2]> {
        matches!(self, Self::Mxfp4 | Self::Mxfp4Fp8).then_some([256, 128])
    }

    /// The arithmetic of its products, on devices that have it.
    #[must_use]
    pub fn arithmetic(self) -> Arithmetic {
        self.row().arithmetic
    }

    /// Formats whose kernels are most like its own, itself first; `native` where the device computes in it.
    pub(crate) fn alike(self, native: bool) -> impl Iterator<Item = Self> + Clone {
        let others = if native { self.row().like } else { self.row().unpacked };
        std::iter::once(self).chain(others.iter().copied())
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
            [
                32_768,
                16_384,
                16_388,
                8_192 + 1_024,
                8_192 + 512,
                8_192 + 512,
                16_384,
                8_192 + 256,
                8_192 + 1_024
            ]
        );
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            assert!((format.element_bytes() * 16_384.0 - of(format) as f64).abs() < 1e-6);
        }
    }

    #[test]
    fn every_format_falls_back_to_bf16() {
        for format in Format::ALL {
            let own = format.arithmetic() != Arithmetic::Bf16;
            for native in [false, own] {
                let alike: Vec<Format> = format.alike(native).collect();
                assert_eq!((alike.first(), alike.last()), (Some(&format), Some(&Format::Bf16)));
                let mut once = alike.clone();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), alike.len(), "{format}: {alike:?}");
            }
        }
    }
}
