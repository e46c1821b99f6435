//! Standard error.

use std::io::Write;

/// Says a line on standard error, without whatever in it would act on a terminal.
pub(crate) fn tell(line: &str) {
    // A line that cannot be written is dropped.
    let _ = writeln!(std::io::stderr(), "{}", reports::plain(line));
}
