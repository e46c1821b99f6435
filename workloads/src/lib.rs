//! What arrives when: traces read from files, synthesised from measured distributions, described and written back.

pub mod trace;

pub use trace::{Arrival, BlockSpan, Trace, TraceRequest};
