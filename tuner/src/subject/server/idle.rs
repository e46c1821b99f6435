//! An idle server: its time for one request, and its recovery from an overload. A server that
//! refuses every request for a while is neither slow nor dead: it is asked again at the time it
//! names.

use std::time::{Duration, Instant};

use loadgen::LiveOptions;

use super::range::{Range, doubt};
use crate::result::missed;

/// The time for which a server may take to be itself again after a rate that was too much.
const REST: Duration = Duration::from_secs(30);
/// From one look at a server that refuses every request to the next, if it does not say how long to
/// wait.
const PAUSE: Duration = Duration::from_millis(500);
/// The interval at which a wait checks whether to go on.
const GLANCE: Duration = Duration::from_millis(50);

/// The figures of an idle server.
#[derive(Default)]
struct Unhurried {
    /// Seconds that it takes for a request; none where none completed.
    takes_s: Option<f64>,
    /// The targets that it misses even so.
    misses: Option<String>,
    /// The fate of the requests that did not complete, in words.
    why: String,
    /// The time that the server asks to wait, or the usual one, if it refuses requests for the time
    /// being.
    refuses: Option<Duration>,
}

/// Waits for `time`, or until `watch` says no.
fn pause(time: Duration, watch: &mut dyn FnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < time && watch() {
        std::thread::sleep(GLANCE.min(time));
    }
}

impl Range<'_> {
    /// Sends a few requests one after the other: the figures of the idle server.
    fn unhurried(&self, watch: &mut dyn FnMut() -> bool) -> Unhurried {
        let trace = self.trace.head(3);
        let options = LiveOptions { streams: Some(1), salt: self.salt(), ..self.options.clone() };
        let run = self.live().and_then(|live| {
            live.run(&trace, &options, self.slo, |_| watch()).map_err(|e| e.to_string())
        });
        let run = match run {
            Ok(run) => run,
            Err(why) => return Unhurried { why, ..Unhurried::default() },
        };
        let took: Vec<f64> =
            run.from_send.records.iter().filter_map(|r| Some(r.e2e()?.as_secs_f64())).collect();
        let (summary, lost) = (run.summary_from_send(self.slo), run.lost());
        Unhurried {
            takes_s: (!took.is_empty()).then(|| took.iter().sum::<f64>() / took.len() as f64),
            misses: (!summary.verdict.met).then(|| {
                let (lost, doubt) = (lost.as_ref().map(|l| l.words.as_str()), doubt(&run));
                missed(&summary, lost, doubt.as_deref())
            }),
            why: lost.as_ref().map_or("it was interrupted".to_owned(), |lost| lost.words.clone()),
            refuses: lost.filter(|l| l.refused > 0).map(|l| l.retry_after.unwrap_or(PAUSE)),
        }
    }

    /// Seconds that it takes for a request then, and the targets that it misses even so. A server that refuses requests
    /// then is waited for, for half a minute at most.
    ///
    /// # Errors
    /// When nothing completes.
    pub(super) fn awake(
        &self,
        watch: &mut dyn FnMut() -> bool,
    ) -> Result<(f64, Option<String>), String> {
        let began = Instant::now();
        loop {
            let seen = self.unhurried(watch);
            let left = REST.saturating_sub(began.elapsed());
            if let Some(wait) = seen.refuses.filter(|_| !left.is_zero() && watch()) {
                pause(wait.min(left), watch);
                continue;
            }
            let nothing = || format!("no request completed on the idle server: {}", seen.why);
            return seen.takes_s.map(|takes_s| (takes_s, seen.misses)).ok_or_else(nothing);
        }
    }

    /// Waits until the server is as quick again as it was when idle, and takes requests again if it
    /// refused them, for half a minute at most.
    ///
    /// # Errors
    /// When nothing completes until then.
    pub(super) fn recover(
        &self,
        takes_s: f64,
        watch: &mut dyn FnMut() -> bool,
    ) -> Result<(), String> {
        let (began, patience) = (Instant::now(), REST.max(Duration::from_secs_f64(9.0 * takes_s)));
        loop {
            let seen = self.unhurried(&mut || watch() && began.elapsed() < patience);
            let left = patience.saturating_sub(began.elapsed());
            let itself = seen.takes_s.is_some_and(|again| again <= 1.5 * takes_s + 0.01);
            if (itself && seen.refuses.is_none()) || !watch() {
                return Ok(());
            }
            if left.is_zero() {
                let (s, why) = (patience.as_secs(), seen.why);
                let gone = format!("it completed nothing for {s} s after an overload: {why}");
                return if seen.takes_s.is_some() { Ok(()) } else { Err(gone) };
            }
            if seen.refuses.is_some() || seen.takes_s.is_none() {
                pause(seen.refuses.unwrap_or(PAUSE).min(left), watch);
            }
        }
    }
}
