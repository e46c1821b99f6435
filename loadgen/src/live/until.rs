//! When a run has shown enough: watched beside it, on a thread of its own, so that sorting delays no send.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use crate::record::Record;
use crate::steady::{Wanted, precision, value};

/// A figure looked at again and again until it pleases is too sure of itself: it is looked at only when a fifth more is
/// known.
const MORE: f64 = 1.2;
/// Requests before the first look.
const FIRST: usize = 200;

/// Takes in requests as they end until all of `wanted` is known, then says so in `enough`; or until the run is over.
pub(super) fn watch(wanted: &[Wanted], ended: Receiver<Record>, enough: &AtomicBool) {
    let mut values: Vec<Vec<u64>> = vec![Vec::new(); wanted.len()];
    let (mut seen, mut look) = (0_usize, FIRST);
    for record in ended {
        for (wanted, values) in wanted.iter().zip(&mut values) {
            values.extend(value(wanted.metric, &record));
        }
        seen += 1;
        if seen < look {
            continue;
        }
        look = (seen as f64 * MORE) as usize;
        let known = |(w, v): (&Wanted, &Vec<u64>)| {
            precision(w.metric, w.statistic, v).is_some_and(|p| p.share() <= w.share)
        };
        if wanted.iter().zip(&values).all(known) {
            enough.store(true, Ordering::Relaxed);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A request that took so many ms.
    fn record(ms: u64) -> Record {
        let at = Duration::from_millis(ms);
        Record::due(0, Duration::ZERO, 1).answered(at, at, 1)
    }

    /// Requests until it is enough, of those that take turns at 100 ms and 100 ms ± `spread`.
    fn lasts(spread: u64, wanted: &str) -> Option<usize> {
        let wanted: Vec<Wanted> = vec![wanted.parse().unwrap()];
        let (say, ended) = std::sync::mpsc::sync_channel(0);
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (wanted, enough) = (&wanted, &enough);
            scope.spawn(move || watch(wanted, ended, enough));
            for i in 0..3_000_usize {
                let pattern = (i * 7_919) % 101;
                let ms = 100 - spread + spread * 2 * pattern as u64 / 100;
                if enough.load(Ordering::Relaxed) || say.send(record(ms)).is_err() {
                    return Some(i);
                }
            }
            drop(say);
            None
        })
    }

    #[test]
    fn it_ends_when_the_figure_is_known_and_not_before() {
        let (calm, wild) = (lasts(5, "ttft:mean=2%"), lasts(90, "ttft:mean=0.5%"));
        assert!(calm.is_some_and(|n| (FIRST..=FIRST + 1).contains(&n)), "{calm:?}");
        assert!(wild.is_none_or(|n| n > FIRST + 1), "{wild:?}");
    }
}
