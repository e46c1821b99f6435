//! The CPU kernels: one body per operation, compiled for every instruction set, run by a team of threads.
//!
//! One law holds for all of them: a row's result depends on that row (and its context) alone, to the bit. Sums run in a
//! fixed order over the input features or over absolute positions, whatever else is in the batch, however rows are
//! tiled or split over threads, and wherever in memory the keys and values lie.
//!
//! [`Isa`] is the instruction set, [`Team`] the threads; [`Linear`] are packed weights, [`Rows`] what they are
//! multiplied with; [`KvLayer`] holds keys and values by slot and [`Attention`] reads them.

mod argmax;
mod attention;
mod buffer;
mod embedding;
mod experts;
mod kv;
mod linear;
pub mod roofline;
mod rope;
mod rows;
mod simd;
mod team;

pub use argmax::argmax;
pub use attention::{Attention, Run, Span};
pub use embedding::Embedding;
pub use experts::Routing;
pub use kv::{Heads, KvLayer};
pub use linear::{Linear, Output};
pub use rope::{HeadNorms, Rotation};
pub use rows::Rows;
pub use simd::Isa;
pub use team::Team;

/// The number format of weights, with which a linear layer computes. Accumulation is f32 in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 8-bit integers with a scale per 32 input features, on both sides: weights when packed, activations as they come.
    Int8,
    /// bf16 on both sides: weights when packed, activations as they come.
    Bf16,
    /// f32 throughout: the reference.
    F32,
}
