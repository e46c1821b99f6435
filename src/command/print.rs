//! Standard output.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use reports::terminal::{Terminal, WIDTH};

use crate::tell::is_dumb;

/// The fewest columns that anything is laid out for.
const NARROWEST: usize = 40;

/// The abilities of standard output: colours on a terminal, unless `NO_COLOR` or `TERM=dumb` says otherwise, and as many
/// columns as `COLUMNS` says or the terminal has, within limits.
pub(crate) fn terminal() -> Terminal {
    let is_terminal = std::io::stdout().is_terminal();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    let typed = std::env::var("COLUMNS").ok().and_then(|columns| columns.trim().parse().ok());
    let size = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let columns = typed.or_else(|| size().filter(|_| is_terminal)).unwrap_or(WIDTH);
    Terminal {
        colour: is_terminal && !no_colour && !is_dumb(),
        columns: columns.clamp(NARROWEST, WIDTH),
    }
}

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
