//! The progress of a search on standard error: a bar on a terminal, a line every few seconds elsewhere.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tuner::contest::progress::{Progress, Status};

use crate::tell::{Showing, detail, showing, tell};

/// From one line to the next.
const SELDOM: Duration = Duration::from_secs(4);

/// Shows a search's status on standard error.
pub(crate) struct Bar {
    drawn: ProgressBar,
    lines: Option<Mutex<Lines>>,
    phase: Mutex<Option<(String, Instant)>>,
}

/// The line to come.
struct Lines {
    due: Instant,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let drawn = ProgressBar::no_length();
        drawn.set_draw_target(match showing() {
            Showing::Drawn => ProgressDrawTarget::stderr_with_hz(8),
            Showing::Lines | Showing::Nothing => ProgressDrawTarget::hidden(),
        });
        let style =
            ProgressStyle::with_template("{prefix:>24} [{bar:24}] {pos}/{len} {eta:>4} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        drawn.set_style(style.progress_chars("=> "));
        let lines = (showing() == Showing::Lines).then(|| Lines { due: Instant::now() + SELDOM });
        Self { drawn, lines: lines.map(Mutex::new), phase: Mutex::new(None) }
    }

    pub(crate) fn finish(&self) {
        self.drawn.finish_and_clear();
        self.enter(None);
    }

    /// Goes on to `phase`, and tells the time that the one before took.
    fn enter(&self, phase: Option<&str>) {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if now.as_ref().map(|(name, _)| name.as_str()) != phase {
            let next = phase.map(|name| (name.to_owned(), Instant::now()));
            if let Some((done, began)) = std::mem::replace(&mut *now, next) {
                detail(&format!("{done}: {:.1} s", began.elapsed().as_secs_f64()));
            }
        }
    }
}

impl Progress for Bar {
    fn update(&self, status: &Status) {
        let phase = reports::plain(&status.phase);
        self.enter(Some(&phase));
        let best = |(rate, label): &(f64, String)| format!("best {rate:.2} rps: {label}");
        let best = status.best.as_ref().map(best);
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() >= lines.due {
                lines.due = Instant::now() + SELDOM;
                let best = best.map_or_else(String::new, |best| format!("; {best}"));
                tell(&format!("knee: {phase}: {} of {}{best}", status.done, status.total));
            }
            return;
        }
        if self.drawn.prefix() != phase {
            self.drawn.reset();
            self.drawn.set_prefix(phase);
            self.drawn.set_message("");
        }
        self.drawn.set_length(status.total as u64);
        self.drawn.set_position(status.done as u64);
        if let Some(best) = best {
            self.drawn.set_message(reports::plain(&best));
        }
    }
}
