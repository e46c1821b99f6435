//! The limits of a device: its speed of copying memory, and that of multiplying large matrices.

use std::time::Duration;

use super::batch::DeviceBatch;
use super::device::Device;
use super::error::CudaError;
use super::ops::Products;
use crate::random::Uniform;

/// Limits of a device, measured.
#[derive(Debug, Clone, Copy)]
pub struct Roofline {
    /// Bytes read and written per second by a copy.
    pub copy: f64,
    /// Multiplications and additions per second in bf16.
    pub flops: f64,
}

/// Samples; the one in the middle counts.
const SAMPLES: usize = 9;
/// The least time of a sample.
const LEAST: Duration = Duration::from_millis(1);
/// Launches of a sample, at most.
const MOST: usize = 64;

/// Measures `device` with copies of a gigabyte and products of 8192 x 8192 matrices of random numbers (a GPU multiplies
/// constants faster); with small ones where it is emulated.
///
/// # Errors
/// When memory is short or the driver fails.
pub fn measure(device: &Device) -> Result<Roofline, CudaError> {
    let real = device.memory()?.is_some();
    let (bytes, n) = if real { (1 << 30, 8192) } else { (1 << 20, 64) };
    let from = device.random(bytes / 2, Uniform::unit(1))?;
    let mut to = device.random(bytes / 2, Uniform::unit(2))?;
    let copied = median(device, |_| device.copy(&from, &mut to))?;
    drop((from, to));
    let random = |key| device.random(n * n, Uniform::unit(key));
    let (x, weight, mut y) = (random(1)?, random(2)?, random(3)?);
    let multiplied =
        median(device, |_| device.linear(Products::Fast, (n, n, n), &x, &weight, &mut y))?;
    Ok(Roofline {
        copy: 2.0 * bytes as f64 / copied.as_secs_f64(),
        flops: 2.0 * (n as f64).powi(3) / multiplied.as_secs_f64(),
    })
}

/// The time of one launch by `work` on the device: the median of several samples, each of so many launches, one right
/// behind the other in a graph, that they take a millisecond. `work` is told a launch's number, so that it can use
/// other memory than the launch before did: what fits the cache is faster than it ever is in a model. On an emulated
/// device it is one sample of one launch.
///
/// # Errors
/// When `work` or the driver fails.
pub fn median(
    device: &Device,
    mut work: impl FnMut(usize) -> Result<(), CudaError>,
) -> Result<Duration, CudaError> {
    let real = device.memory()?.is_some();
    // The first finds the memory it needs, and an algorithm.
    work(0)?;
    let start = device.mark()?;
    work(1)?;
    let once = device.mark()?.since(&start)?.max(Duration::from_nanos(1));
    let enough = LEAST.div_duration_f64(once).ceil() as usize;
    let (launches, samples) = if real { (enough.clamp(1, MOST), SAMPLES) } else { (1, 1) };
    (0..launches).try_for_each(&mut work)?;
    let none = DeviceBatch::new(device)?;
    let graph = device.record(&none, || (0..launches).try_for_each(&mut work))?;
    device.replay(&graph, &none)?;
    let mut times = Vec::with_capacity(samples);
    for _ in 0..samples {
        let start = device.mark()?;
        device.replay(&graph, &none)?;
        times.push(device.mark()?.since(&start)?);
    }
    times.sort_unstable();
    // A clock that did not tick would make rates infinite.
    Ok((times[samples / 2] / launches as u32).max(Duration::from_nanos(1)))
}
