//! The CUDA kernels, and what runs them: buffers on a device, launches of named kernels, and waiting for them.
//!
//! The kernels are text (`kernels/cu`), compiled beforehand ([`cubin`]) or at run time by NVRTC for the GPU that is there,
//! or, for tests, by a C++ compiler into an emulator that runs every CUDA thread as a fiber. Nothing of CUDA is needed to
//! build this crate or to run it without a GPU: the driver and NVRTC are looked for when a [`Device`] is opened.
//!
//! Launches go through [`Device`]'s methods, which know each kernel's sizes; what indices point to is checked where
//! they are handed over ([`DeviceBatch::set`]). So nothing here is unsafe to call. bf16 in and out, f32 in between.
//!
//! The seam is `backend`: the driver and the emulator offer it alike, and everything above is written against it.
//!
//! The emulator shows that kernels are right as they are written. None of this has run on a GPU yet.

mod attention;
mod backend;
mod batch;
mod collective;
pub mod cubin;
mod device;
mod driver;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
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
pub use error::CudaError;
pub use fill::Window;
pub use graph::Graph;
pub use memory::{Buffer, Element, Fetched, Mark};
pub use ops::{Draw, Out, Products};
pub use pool::KvPool;
