//! Draws what was measured.
mod charts;
mod error;
mod figures;
mod latency;
mod page;
mod plot;
mod policies;
mod report;
pub use error::Error;
pub use report::*;
