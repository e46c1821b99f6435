//! Failures on a CUDA device, and what to do about them.

/// A failure on a CUDA device.
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
        "NCCL (libnccl.so.2), which connects GPUs, was not found: install it, or add its folder to KNEE_CUDA_DIR"
    )]
    NoNccl,
    /// No such device.
    #[error("there is no cuda:{index}: this machine has {count} CUDA devices")]
    NoDevice {
        /// The one asked for.
        index: usize,
        /// Their number.
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
        "the NVIDIA driver supports CUDA up to {major}.{minor}, but 13.0 is needed: update it to 580 or later"
    )]
    OldDriver {
        /// The version that it knows.
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
        /// The call.
        call: &'static str,
        /// The library's message.
        reason: String,
    },
    /// A kernel that could not be compiled.
    #[error("{file} does not compile: {log}")]
    Compile {
        /// Its source.
        file: &'static str,
        /// The compiler's message.
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
pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), CudaError> {
    if holds { Ok(()) } else { Err(CudaError::Sizes(what())) }
}
