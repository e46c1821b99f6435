//! The progress of a run against a server, on standard error: a few lines that change on a terminal, a line every ten
//! seconds elsewhere.
//!
//! The run's loop only hands over its counters, ten times per second; a thread beside it works out what they come to and
//! draws.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use loadgen::{BoundSlo, Gauge, Gauges, Progress};
use reports::terminal::time;

use crate::tell::{Showing, showing, tell};

/// Rates are those of the latest so many glances.
const WINDOW: usize = 20;
/// The time from line to line without a terminal.
const SELDOM: Duration = Duration::from_secs(10);
/// Times per second that a terminal is drawn.
const HZ: u8 = 5;

/// The load to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests at most.
    pub(crate) requests: u64,
    /// From the first to the last send, where that is known.
    pub(crate) lasts: Option<Duration>,
    /// True if sending ends when enough is known.
    pub(crate) may_end_early: bool,
}

/// The drawing thread.
pub(crate) struct View {
    show: Sender<Progress>,
    drawing: Option<JoinHandle<()>>,
}

impl View {
    /// Draws until it is closed; nothing if `quiet`.
    pub(crate) fn open(load: Load, gauges: &Arc<Gauges>, slo: &BoundSlo, quiet: bool) -> Self {
        let (show, shown) = channel();
        let showing = if quiet { Showing::Nothing } else { showing() };
        let screen =
            Screen { load, gauges: Arc::clone(gauges), slo: slo.clone(), window: VecDeque::new() };
        let drawing = (showing != Showing::Nothing).then(|| {
            std::thread::spawn(move || match showing {
                Showing::Drawn => screen.draw(&shown),
                Showing::Lines | Showing::Nothing => screen.tell(&shown),
            })
        });
        Self { show, drawing }
    }

    /// Hands over the progress of the run.
    pub(crate) fn show(&self, progress: &Progress) {
        // Without a drawing thread there is no receiver, so a failed send is ignored.
        let _ = self.show.send(*progress);
    }

    /// Clears the terminal.
    pub(crate) fn close(self) {
        drop(self.show);
        if let Some(drawing) = self.drawing {
            // A thread that could not draw leaves a terminal undrawn, and the figures as they are.
            let _ = drawing.join();
        }
    }
}

/// The lines that are drawn.
struct Screen {
    load: Load,
    gauges: Arc<Gauges>,
    slo: BoundSlo,
    window: VecDeque<Progress>,
}

impl Screen {
    fn draw(mut self, shown: &Receiver<Progress>) {
        let bar = ProgressBar::new(self.load.requests);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(HZ));
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} done\n{msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        for (glance, progress) in shown.iter().enumerate() {
            self.note(progress);
            if glance % 2 == 0 {
                bar.set_prefix(self.time(&progress));
                bar.set_message(self.lines(&progress));
                bar.set_position(progress.completed + progress.failed);
            }
        }
        bar.finish_and_clear();
    }

    fn tell(self, shown: &Receiver<Progress>) {
        let mut next = SELDOM;
        for p in shown {
            if p.elapsed < next {
                continue;
            }
            next = p.elapsed + SELDOM;
            let (at, done) = (p.elapsed.as_secs(), p.completed + p.failed);
            let rate = p.completed as f64 / p.elapsed.as_secs_f64().max(1e-9);
            let (total, flying, failed) = (self.load.requests, p.in_flight, p.failed);
            tell(&format!(
                "{at:>5} s: {done} of {total} done, {flying} in flight, {failed} failed, {rate:.1} requests/s"
            ));
        }
    }

    fn note(&mut self, progress: Progress) {
        self.window.push_back(progress);
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
    }

    /// Time gone, and time to go.
    fn time(&self, p: &Progress) -> String {
        let gone = clock(p.elapsed);
        let done = p.completed + p.failed;
        let left = match self.load.lasts {
            Some(lasts) => lasts.saturating_sub(p.elapsed),
            // A closed loop goes on as fast as it has.
            None if done > 0 => {
                p.elapsed.mul_f64(self.load.requests.saturating_sub(done) as f64 / done as f64)
            }
            None => return gone,
        };
        let most = if self.load.may_end_early { "at most " } else { "" };
        match left {
            Duration::ZERO => format!("{gone}, sent, waiting for the last"),
            left => format!("{gone}, {most}{} left", clock(left)),
        }
    }

    fn lines(&self, p: &Progress) -> String {
        let first = self.window.front().copied().unwrap_or_default();
        let seconds = (p.elapsed.saturating_sub(first.elapsed)).as_secs_f64();
        let rate =
            |now: u64, then: u64| if seconds > 0.0 { (now - then) as f64 / seconds } else { 0.0 };
        let (sent, due) = (rate(p.sent, first.sent), rate(p.due, first.due));
        let (tokens, flying) = (rate(p.tokens, first.tokens), p.in_flight);
        let (completed, failed) = (p.completed, p.failed);
        let missed = match p.missed - failed.min(p.missed) {
            missed if !self.slo.slo().targets().is_empty() => format!(", {missed} too slow"),
            _ => String::new(),
        };
        let (ttft, tpot) = (spread(&self.gauges.ttft), spread(&self.gauges.tpot));
        let p99 = |gauge: &Gauge| gauge.percentile(99.0).map_or_else(|| "-".to_owned(), time);
        let (late, error) = (p99(&self.gauges.late), p99(&self.gauges.stamp_error));
        let trust =
            self.gauges.trust(&self.slo).map_or_else(String::new, |t| format!(": {t} so far"));
        format!(
            "sending {sent:.1} of {due:.1} requests/s due, {flying} in flight, {tokens:.0} tokens/s\n\
             {completed} completed{missed}, {failed} failed\n\
             TTFT {ttft}   TPOT {tpot}\n\
             sends {late} late, times of tokens off by up to {error} (p99){trust}"
        )
    }
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    let s = time.as_secs();
    format!("{}:{:02}", s / 60, s % 60)
}

fn spread(gauge: &Gauge) -> String {
    let at = |percent| gauge.percentile(percent).map(time);
    at(50.0)
        .zip(at(99.0))
        .map_or_else(|| "-".to_owned(), |(median, p99)| format!("p50 {median}, p99 {p99}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(lasts: Option<u64>) -> Screen {
        let load =
            Load { requests: 100, lasts: lasts.map(Duration::from_secs), may_end_early: false };
        let slo =
            loadgen::Slo::parse(&["ttft=200ms"], None).unwrap().bind(&["all".to_owned()]).unwrap();
        Screen { load, gauges: Arc::default(), slo, window: VecDeque::new() }
    }

    #[test]
    fn the_time_left_follows_the_schedule_or_the_pace() {
        let at = |s, completed| Progress {
            elapsed: Duration::from_secs(s),
            completed,
            ..Progress::default()
        };
        assert_eq!(screen(Some(90)).time(&at(15, 3)), "0:15, 1:15 left");
        assert_eq!(screen(Some(90)).time(&at(95, 99)), "1:35, sent, waiting for the last");
        assert_eq!(screen(None).time(&at(20, 25)), "0:20, 1:00 left");
        assert_eq!(screen(None).time(&at(20, 0)), "0:20");
    }

    #[test]
    fn rates_are_of_the_window_and_a_dash_if_not_measured() {
        let mut screen = screen(Some(90));
        for i in 0..50_u64 {
            let elapsed = Duration::from_millis(100 * i);
            let (sent, due, tokens) = (i, 2 * i, 10 * i);
            screen.note(Progress { elapsed, sent, due, tokens, ..Progress::default() });
        }
        assert_eq!(screen.window.len(), WINDOW);
        let mut last = *screen.window.back().unwrap();
        (last.completed, last.failed, last.missed, last.in_flight) = (7, 2, 3, 4);
        let said = screen.lines(&last);
        assert!(
            said.contains("sending 10.0 of 20.0 requests/s due, 4 in flight, 100 tokens/s"),
            "{said}"
        );
        assert!(said.contains("7 completed, 1 too slow, 2 failed"), "{said}");
        assert!(said.contains("TTFT -   TPOT -") && !said.contains("so far"), "{said}");
    }
}
