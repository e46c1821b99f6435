//! What a device can do at most: how fast it copies memory, and how fast it multiplies large matrices.

use std::time::Duration;

use half::bf16;

use super::CudaError;
use super::device::Device;
use super::memory::Buffer;
use super::ops::Products;

/// Limits of a device, measured.
#[derive(Debug, Clone, Copy)]
pub struct Roofline {
    /// Bytes read and written per second by a copy.
    pub copy: f64,
    /// Multiplications and additions per second in bf16.
    pub flops: f64,
}

/// Times measured; the fastest counts.
const TIMES: usize = 5;

/// Measures `device` with copies of a gigabyte and products of 8192 x 8192 matrices; with small ones where it is emulated.
///
/// # Errors
/// When memory is short or the driver fails.
pub fn measure(device: &Device) -> Result<Roofline, CudaError> {
    let real = device.memory()?.is_some();
    let (bytes, n) = if real { (1 << 30, 8192) } else { (1 << 20, 64) };
    let from = device.zeros::<bf16>(bytes / size_of::<bf16>())?;
    let mut to = device.zeros::<bf16>(from.len())?;
    let copied = fastest(device, || device.copy(&from, &mut to))?;
    drop((from, to));
    let ones = vec![bf16::ONE; n * n];
    let (x, weight): (Buffer<bf16>, _) = (device.upload(&ones)?, device.upload(&ones)?);
    let mut y = device.zeros::<bf16>(n * n)?;
    let multiplied =
        fastest(device, || device.linear(Products::Fast, (n, n, n), &x, &weight, &mut y))?;
    Ok(Roofline {
        copy: 2.0 * bytes as f64 / copied.as_secs_f64(),
        flops: 2.0 * (n as f64).powi(3) / multiplied.as_secs_f64(),
    })
}

/// The shortest of a few times that `work` takes on the device, after one that is not counted.
///
/// # Errors
/// When `work` or the driver fails.
pub fn fastest(
    device: &Device,
    mut work: impl FnMut() -> Result<(), CudaError>,
) -> Result<Duration, CudaError> {
    work()?;
    let mut best = Duration::MAX;
    for _ in 0..TIMES {
        let start = device.mark()?;
        work()?;
        best = best.min(device.mark()?.since(&start)?);
    }
    // A clock that did not tick would make rates infinite.
    Ok(best.max(Duration::from_nanos(1)))
}
