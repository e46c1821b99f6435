//! What tensor-parallel ranks do together: the one seam between them.

use half::bf16;
use kernels::cuda::{Buffer, CudaError, Device};

/// Sums over ranks.
pub(super) trait Collective: Send {
    /// Replaces the first `len` elements of every rank's part by the sum of all: the same bits on each.
    fn sum(&self, parts: &mut [&mut Buffer<bf16>], len: usize) -> Result<(), CudaError>;
}

/// A rank that is alone.
#[derive(Debug)]
pub(super) struct Alone;

impl Collective for Alone {
    fn sum(&self, _: &mut [&mut Buffer<bf16>], _: usize) -> Result<(), CudaError> {
        Ok(())
    }
}

/// Ranks that share a device and its stream: nothing has to wait for anything.
#[derive(Debug)]
pub(super) struct OneDevice(pub(super) Device);

impl Collective for OneDevice {
    fn sum(&self, parts: &mut [&mut Buffer<bf16>], len: usize) -> Result<(), CudaError> {
        self.0.all_reduce(parts, len)
    }
}
