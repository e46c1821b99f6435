//! Standard output.

use std::io::Write;

use anyhow::{Context, Result};

/// Prints lines to standard output, without whatever in them would act on a terminal.
pub(crate) fn print(text: &str) -> Result<()> {
    print_as_is(&reports::plain_lines(text))
}

/// Prints what is plain already and coloured, or data; a reader that has gone away (`| head`) is not an error.
pub(crate) fn print_as_is(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// Prints `value` as indented JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print_as_is(&(reports::plain_json(&serde_json::to_string_pretty(value)?) + "\n"))
}
