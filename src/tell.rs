//! Standard error: mistakes, notes and progress, as loud as was asked for.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU8, Ordering};

/// The loudness of everything that is said on standard error besides mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Voice {
    /// Nothing (`-q`).
    Quiet = 0,
    /// Notes and progress.
    Usual = 1,
    /// Each step as well (`-v`).
    Verbose = 2,
}

static VOICE: AtomicU8 = AtomicU8::new(Voice::Usual as u8);

/// Speaks like this from here on.
pub(crate) fn speak(voice: Voice) {
    VOICE.store(voice as u8, Ordering::Relaxed);
}

fn heard(voice: Voice) -> bool {
    VOICE.load(Ordering::Relaxed) >= voice as u8
}

/// Says a line on standard error, without whatever in it would act on a terminal; not after `-q`.
pub(crate) fn tell(line: &str) {
    if heard(Voice::Usual) {
        // A line that cannot be written is dropped.
        let _ = writeln!(std::io::stderr(), "{}", reports::plain(line));
    }
}

/// The same of a step that only `-v` tells.
pub(crate) fn detail(line: &str) {
    if heard(Voice::Verbose) {
        tell(&format!("knee: {line}"));
    }
}

/// The places that progress can be shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Showing {
    /// Nowhere: `-q`.
    Nothing,
    /// In a line now and then: standard error is a file, a pipe, or a terminal that moves no cursor.
    Lines,
    /// In place, on a terminal.
    Drawn,
}

/// The place that progress is shown in here.
pub(crate) fn showing() -> Showing {
    match heard(Voice::Usual) {
        false => Showing::Nothing,
        true if std::io::stderr().is_terminal() && !is_dumb() => Showing::Drawn,
        true => Showing::Lines,
    }
}

/// True of a terminal that only prints.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}
