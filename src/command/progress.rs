//! A progress bar on a terminal; nothing elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tuner::contest::progress::{Progress, Status};

/// Draws a search's status on standard error.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::no_length();
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr_with_hz(8)
        } else {
            ProgressDrawTarget::hidden()
        };
        bar.set_draw_target(target);
        let style =
            ProgressStyle::with_template("{prefix:>24} [{bar:24}] {pos}/{len} {eta:>4} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Self(bar)
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn update(&self, status: &Status) {
        let phase = reports::plain(&status.phase);
        if self.0.prefix() != phase {
            self.0.reset();
            self.0.set_prefix(phase);
            self.0.set_message("");
        }
        self.0.set_length(status.total as u64);
        self.0.set_position(status.done as u64);
        if let Some((rate, label)) = &status.best {
            self.0.set_message(reports::plain(&format!("best {rate:.2} rps: {label}")));
        }
    }
}
