//! What arrives when: traces read from files, synthesised from measured distributions, described and written back.

mod error;
pub mod format;
pub mod trace;

pub use error::TraceError;
pub use format::{Format, ReadOptions, TimeUnit, losses, read, read_bytes, write};
pub use trace::{Arrival, BlockSpan, Trace, TraceRequest};
