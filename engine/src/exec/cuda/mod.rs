//! The executor that computes on a CUDA device: a Llama-family model in bf16, over real keys and values.
//!
//! A batch is asked for when it is submitted, and ids alone come back, unless a request asks for something that only its
//! logits tell. By itself the executor waits for them at once, so that workers take turns; with
//! [`CudaExecutor::overlapped`] it lets the engine go on, and a thread waits. Sequences with one new token and chunks go
//! through one pass; decodes are recorded as graphs and done as a whole. Static batches' padding is computed like
//! anything else.
//!
//! [`Arithmetic::Fast`] takes the fastest kernels there are. [`Arithmetic::Invariant`] takes those whose results for a
//! row depend on its context alone, to the bit, so that every scheduler, allocator and chunk size gives the same tokens.
//!
//! A model may be split over pipeline stages (`pass`) and their tensor-parallel ranks (`stage`), all on one device, which
//! shows that the split is right, or on a device each. There are as many batches under way as stages.
//!
//! Shown on an emulated device; never run on a GPU yet.

mod columns;
mod executor;
mod flight;
mod forward;
mod graphs;
mod inputs;
mod layout;
mod loader;
mod measure;
mod memory_budget;
mod pass;
mod stage;
mod weights;

pub use executor::CudaExecutor;
pub use kernels::cuda::Device;
pub use layout::{Arithmetic, Layout};
pub use loader::CudaModelError;
pub use measure::{Uneven, measure};
pub use memory_budget::{Room, RoomError};
pub use weights::CudaModel;
