//! Traces of requests: read from files, synthesised from measured distributions, described and written back.
//!
//! Everything else sees a workload as a [`Trace`]. It comes from a file ([`read`], whatever the format) or from a
//! description ([`Spec`], [`synthesise`]) such as the presets ([`preset`]); [`describe`] says what it is like, and
//! [`write()`] stores it.
//!
//! ```
//! let chat = workloads::preset("chat").expect("it ships");
//! let trace = workloads::synthesise(&chat, None)?;
//! let figures = workloads::describe(&trace);
//! for line in figures.beside(chat.reference().expect("presets have one")) {
//!     println!("{}: {} in the source, {:?} here", line.figure, line.source, line.here);
//! }
//! # Ok::<(), workloads::TraceError>(())
//! ```
//!
//! Internal to knee: this interface changes without notice. The crate `knee` is the stable one.

mod alike;
mod arrival;
mod describe;
mod error;
pub mod format;
mod length;
mod spec;
mod stream;
mod synth;
pub mod trace;

pub use alike::meant;
pub use describe::{
    Comparison, Description, Lengths, PrefixHits, QUANTILE_LEVELS, Reference, SessionFigures,
    describe,
};
pub use error::TraceError;
pub use format::{
    DateOrder, Format, Mapping, ReadOptions, TimeUnit, losses, read, read_bytes, write,
};
pub use spec::{Spec, preset, presets};
pub use stream::Stream;
pub use synth::synthesise;
pub use trace::{Arrival, BlockSpan, Trace, TraceRequest};
