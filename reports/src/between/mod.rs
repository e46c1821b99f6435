//! Two results side by side, and one result beside its requirements.

mod difference;
mod facts;
mod requirements;

pub use difference::{Changed, Difference, Moved, difference_page};
pub use facts::{Better, Facts, Figure, Unit};
pub use requirements::{Checked, Requirements, checked_lines, junit};
