//! The CUDA kernels, and what runs them: buffers on a device, launches of named kernels, and waiting for them.
//!
//! The kernels are text (`kernels/cu`), compiled beforehand ([`cubin`]) or at run time by NVRTC for the GPU that is there,
//! or, for tests, by a C++ compiler into an emulator that runs every CUDA thread as a fiber. Nothing of CUDA is needed to
//! build this crate or to run it without a GPU: the driver and NVRTC are looked for when a [`Device`] is opened.
//!
//! Launches go through [`Device`]'s methods, which know each kernel's sizes; what indices point to is checked where
//! they are handed over ([`DeviceBatch::set`]). So nothing here is unsafe to call. bf16 in and out, f32 in between.
//!
//! The emulator shows that kernels are right as they are written. None of this has run on a GPU yet.

mod attention;
mod batch;
mod collective;
pub mod cubin;
mod device;
mod driver;
#[cfg(feature = "emulator")]
pub mod emulator;
mod fill;
mod graph;
mod lt;
mod memory;
mod nccl;
pub mod nvrtc;
mod ops;
mod pool;
pub mod roofline;
pub mod source;

pub use attention::{HeadExtras, Scratch};
pub use batch::{Batch, DeviceBatch, Limits, Seq};
pub use collective::{Collective, MOST_RANKS};
pub use device::Device;
pub use fill::Window;
pub use graph::Graph;
pub use memory::{Buffer, Element, Fetched, Mark};
pub use ops::{Draw, Out, Products};
pub use pool::KvPool;

/// Why something could not be done on a CUDA device.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// The driver is not there.
    #[error(
        "no NVIDIA driver on this machine (libcuda.so.1 was not found): --device cpu needs none"
    )]
    NoDriver,
    /// The compiler of kernels is not there.
    #[error(
        "NVRTC was not found (libnvrtc.so.13), and kernels compiled beforehand are not there: install CUDA 13, or set KNEE_CUDA_DIR to what scripts/fetch-nvrtc prints"
    )]
    NoCompiler,
    /// The library through which GPUs meet is not there.
    #[error(
        "NCCL was not found (libnccl.so.2), through which GPUs meet: install it, or add its folder to KNEE_CUDA_DIR"
    )]
    NoNccl,
    /// No such device.
    #[error("there is no cuda:{index}: this machine has {count} CUDA devices")]
    NoDevice {
        /// Which was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A device without the instructions that the kernels need.
    #[error("{name} has compute capability {major}.{minor}, but the kernels need 8.0 or more")]
    OldDevice {
        /// The device.
        name: String,
        /// Its compute capability.
        major: i32,
        /// The digit after the point.
        minor: i32,
    },
    /// A driver that does not know CUDA 13.
    #[error(
        "the NVIDIA driver knows CUDA up to {major}.{minor}, but 13.0 is needed: update it to 580 or later"
    )]
    OldDriver {
        /// What it knows.
        major: i32,
        /// The digit after the point.
        minor: i32,
    },
    /// No room.
    #[error(
        "out of device memory: {} more were asked for, {} are free: {} short",
        size(*wanted), size(*free), size(wanted.saturating_sub(*free))
    )]
    OutOfMemory {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes there are.
        free: usize,
    },
    /// A call that failed.
    #[error("{call} failed: {reason}")]
    Call {
        /// Which.
        call: &'static str,
        /// What the library says.
        reason: String,
    },
    /// A kernel that could not be compiled.
    #[error("{file} does not compile: {log}")]
    Compile {
        /// Its source.
        file: &'static str,
        /// What the compiler says.
        log: String,
    },
    /// Sizes or indices that do not go together.
    #[error("{0}")]
    Sizes(String),
}

/// Bytes in people's units.
fn size(bytes: usize) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.1} GB", bytes as f64 / 1e9)
    }
}

/// An error unless `holds`.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), CudaError> {
    if holds { Ok(()) } else { Err(CudaError::Sizes(what())) }
}
