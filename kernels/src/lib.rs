//! Arithmetic, and nothing else: the kernels that executors are made of.
//!
//! A leaf: it knows tensors, rows and slots, not sequences or schedulers. It is the only crate of the workspace with
//! `unsafe` code; everything it offers to others is safe to call.
//!
//! Internal to knee: this interface changes without notice. The crate `knee` is the stable one.

pub mod cpu;
pub mod cuda;
pub mod random;
