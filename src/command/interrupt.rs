//! Ctrl-C: what is under way ends early, and keeps what it has.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tuner::subject::Stop;

/// A flag that Ctrl-C (or SIGTERM) sets; a second one ends the process at once.
pub(crate) fn cancel() -> Result<&'static AtomicBool> {
    static CANCEL: AtomicBool = AtomicBool::new(false);
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.swap(true, Ordering::Relaxed) {
        ctrlc::set_handler(|| {
            if CANCEL.swap(true, Ordering::Relaxed) {
                std::process::exit(INTERRUPTED.into());
            }
        })
        .context("cannot handle Ctrl-C")?;
    }
    Ok(&CANCEL)
}

/// Exit status of a process that Ctrl-C ended, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// True of a failure that is the user's own end, before there was anything to show.
pub(crate) fn was_interrupted(error: &anyhow::Error) -> bool {
    error.downcast_ref() == Some(&Stop::Cancelled)
}
