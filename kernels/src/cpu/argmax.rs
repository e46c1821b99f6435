//! The likeliest token.

use super::simd::{Isa, Kernel, LANES, Simd};

/// The index of the largest of `logits`, the first of several; 0 when there are none or none is a number.
#[must_use]
pub fn argmax(isa: Isa, logits: &[f32]) -> usize {
    // SAFETY: the kernel reads its slice only.
    let most = unsafe { isa.run(Largest(logits)) };
    logits.iter().position(|&x| x == most).unwrap_or(0)
}

struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        let chunks = self.0.chunks_exact(LANES);
        let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut most = S::splat(f32::NEG_INFINITY);
        for chunk in chunks {
            // A value that is not a number gives way to the second operand.
            most = S::max(S::load(chunk.as_ptr()), most);
        }
        S::largest(most).max(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_found() {
        for isa in Isa::all() {
            for len in [1, 15, 16, 17, 100] {
                for at in 0..len {
                    let mut logits = vec![-1.0f32; len];
                    logits[at] = 2.0;
                    logits[len - 1] = 2.0;
                    assert_eq!(argmax(isa, &logits), at);
                    logits[0] = f32::NAN;
                    assert_eq!(argmax(isa, &logits), if at == 0 { len - 1 } else { at } % len);
                }
            }
            assert_eq!(argmax(isa, &[]), 0);
            assert_eq!(argmax(isa, &[f32::NEG_INFINITY; 20]), 0);
        }
    }
}
