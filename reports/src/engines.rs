//! The best that each engine can be told, and a queue in another order: rows and a sentence, the same on the page and in
//! a terminal.

use crate::figures::{NONE, opt_ms, percent, rate};
use crate::page::Column;
use tuner::result::{Reordered, TuneResult};

/// The columns of [`rows`].
pub(crate) const COLUMNS: [Column; 3] =
    [("engine", false), ("requests/s", true), ("the best that it can be told", false)];

/// A row for each engine.
pub(crate) fn rows(r: &TuneResult) -> impl Iterator<Item = [String; 3]> + '_ {
    r.engines.iter().map(|e| match &e.best {
        Some(best) => {
            let same = r.best.as_ref().is_some_and(|b| b.config == best.config);
            let label = if same { "the winner".to_owned() } else { best.label.clone() };
            [e.title.clone(), rate(best.capacity_rps), label]
        }
        None => {
            [e.title.clone(), NONE.to_owned(), "nothing found that holds the targets".to_owned()]
        }
    })
}

/// The effect of a queue in another order, and the reason why it did not win.
pub(crate) fn reordered(r: &TuneResult) -> Option<String> {
    let Reordered { at, slowest_ttft_ms, winner_slowest_ttft_ms, why } = r.reordered.as_ref()?;
    let winner = r.best.as_ref()?;
    let queue = at.config.get("queue").map_or("?", String::as_str);
    Some(format!(
        "Queue {queue} carries {} requests/s ({} more) and lets the slowest request in a thousand wait {} for its first \
         token instead of {}: it is not the winner because {why}.",
        rate(at.capacity_rps),
        percent(at.capacity_rps / winner.capacity_rps - 1.0),
        opt_ms(*slowest_ttft_ms),
        opt_ms(*winner_slowest_ttft_ms)
    ))
}
