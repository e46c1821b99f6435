//! Draws what was measured.
mod error;
mod figures;
mod plot;
mod report;
pub use error::Error;
pub use report::*;
