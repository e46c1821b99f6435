//! A server under search, and one rate offered to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loadgen::{BoundSlo, Live, LiveOptions, LiveRun, Sustain};
use workloads::{Stream, Trace};

use super::held::Held;
use super::memory::Memory;
use crate::subject::observation::{Observation, Outside};
use crate::subject::unfit::Unfit;

/// A slow rate is offered until so many requests have come on average, so that they are hardly ever
/// too few.
const ENOUGH: f64 = 16.0;
/// The longest that a rate is offered.
pub(super) const MOST: Duration = Duration::from_secs(120);
/// A probe that held is lengthened when its quicker requests lasted more than this share of it: near its capacity a
/// server takes many times what it takes for an unhurried request, and nothing can have fallen behind yet.
pub(super) const CROWDED: f64 = 0.5;

/// A server under search.
pub struct Range<'a> {
    /// The server; none where all that is asked is remembered.
    pub(super) live: Option<&'a Live>,
    /// The traffic.
    pub trace: &'a Trace,
    /// The targets.
    pub slo: &'a BoundSlo,
    /// The client's options; rate and duration are the search's.
    pub options: LiveOptions,
    /// The time for which a rate that fails is watched, for what the server finishes under overload.
    pub(super) glimpse: Duration,
    /// Earlier measurements, if any.
    pub(super) memory: Option<Memory<'a>>,
    /// Runs so far: none sends prompts that another has sent, which the server may remember.
    runs: AtomicU64,
    /// Requests (or sessions) that the traffic can go on to: a rate is offered until they are used up at most.
    most: f64,
}

impl<'a> Range<'a> {
    /// See the fields.
    #[must_use]
    pub fn new(live: &'a Live, trace: &'a Trace, slo: &'a BoundSlo, options: LiveOptions) -> Self {
        Self { live: Some(live), ..Self::of(trace, slo, options) }
    }

    /// A server that is not there: its search ends with an error as soon as it asks for something that is not
    /// remembered.
    #[must_use]
    pub fn of(trace: &'a Trace, slo: &'a BoundSlo, options: LiveOptions) -> Self {
        let (glimpse, runs) = (Duration::ZERO, AtomicU64::new(0));
        let passes =
            Stream::replayed(trace.clone()).most() as f64 / trace.requests.len().max(1) as f64;
        let most = passes * natural_starts(trace);
        Self { live: None, trace, slo, options, glimpse, memory: None, runs, most }
    }

    /// The same with a memory of what was measured before, where there is one.
    #[must_use]
    pub fn remembering(self, memory: Option<Memory<'a>>) -> Self {
        Self { memory, ..self }
    }

    pub(super) fn live(&self) -> Result<&'a Live, String> {
        self.live.ok_or_else(|| "it was not measured to the end".to_owned())
    }

    /// Of so long, the time for which `rate` can be offered.
    pub(super) fn offerable(&self, rate: f64, time: Duration) -> Duration {
        time.min(Duration::from_secs_f64(self.most / rate))
    }

    /// The salt that makes the next run's prompts its own.
    pub(super) fn salt(&self) -> u64 {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        self.options.salt ^ run.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Offers `rate` for `time` (longer where requests are too rare, and less long where there are not so many), or
    /// until it has failed.
    ///
    /// # Errors
    /// A failure of the client itself; a server's failures are failures of the rate.
    pub fn offer(
        &self,
        rate: f64,
        time: Duration,
        watch: &mut dyn FnMut() -> bool,
    ) -> Result<(Observation, Held), String> {
        let natural = self.trace.offered_rate();
        let time = time.max(Duration::from_secs_f64(ENOUGH / rate));
        let time = self.offerable(rate, time);
        let needed = (rate * time.as_secs_f64() * 1.05).ceil() as usize + 8;
        let trace = lengthened(self.trace, needed);
        let options = LiveOptions {
            rate_scale: rate / natural,
            duration: Some(time),
            salt: self.salt(),
            ..self.options.clone()
        };
        let planned = rate * time.as_secs_f64();
        let allowed = self.slo.allowance(planned.round() as u64);
        let (mut half, mut last, mut hopeless) = (None, (0.0, 0), false);
        let run = self.live()?.run(&trace, &options, self.slo, |p| {
            last = (p.elapsed.as_secs_f64(), p.tokens);
            if half.is_none() && p.elapsed >= self.glimpse / 2 {
                half = Some(last);
            }
            hopeless |= p.missed + p.missing > allowed;
            watch() && !(hopeless && p.elapsed >= self.glimpse * 3 / 4)
        });
        let run = run.map_err(|e| e.to_string())?;
        let (summary, records) = (run.summary(self.slo), &run.recording.records);
        let sustain = Sustain::new(&trace, records);
        let output = self.trace.requests.iter().map(|r| f64::from(r.output)).sum::<f64>();
        let per_start = output / natural_starts(self.trace);
        let pace =
            |(t, n): (f64, u64)| (last.1.saturating_sub(n)) as f64 / (last.0 - t) / per_start;
        let late = records.iter().filter(|r| r.completed() && !self.slo.meets(r)).count();
        let (took_s, whole, lost) = (last.0, time.as_secs_f64(), run.lost());
        // A rate that held its targets was offered to the end.
        let ended_early = hopeless || !summary.verdict.met;
        let outside = Outside {
            offered_s: if ended_early { took_s.min(whole) } else { whole },
            took_s,
            steady: sustain.request_share <= CROWDED,
            hopeless,
            requests: records.len() as u64,
            late: late as u64,
            refused: lost.as_ref().map_or(0, |l| l.refused),
            failed: lost.as_ref().map_or(0, |l| l.failed),
            lost: lost.map_or_else(String::new, |l| l.words),
            doubt: doubt(&run),
            finished_rps: half.filter(|h| last.0 > h.0 + 0.3).map(pace).filter(|r| *r > 0.0),
        };
        let (inside, unfit) = (None, Unfit::default());
        let observation = Observation { summary, sustain, inside, outside: Some(outside), unfit };
        Ok((observation, Held { rate_rps: rate, run, sent: trace }))
    }
}

/// Why the pace of a run's tokens is not known, if it is not.
pub(super) fn doubt(run: &LiveRun) -> Option<String> {
    run.audit.paceless.then(|| run.audit.reasons.first().cloned().unwrap_or_default())
}

pub(super) fn natural_starts(trace: &Trace) -> f64 {
    trace.starts().max(1) as f64
}

/// `trace`, over and over, until it has `n` requests that wait for no other. Copies share no
/// blocks.
#[must_use]
pub fn lengthened(trace: &Trace, n: usize) -> Trace {
    let copies = n.div_ceil(natural_starts(trace) as usize).max(1);
    Stream::replayed(trace.clone()).head(copies * trace.requests.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadgen::{Mock, MockOptions, Prompts, Server, Slo};
    use std::sync::atomic::AtomicBool;
    use workloads::{Arrival, BlockSpan, TraceRequest};

    #[test]
    fn a_rate_is_offered_for_the_time_asked() {
        let request = |i: u32| TraceRequest {
            arrival: Arrival::At(Duration::from_millis(20 * u64::from(i))),
            input: 8,
            output: 2,
            blocks: BlockSpan::default(),
            class: 0,
            session: None,
        };
        let trace = Trace {
            requests: (0..50).map(request).collect(),
            classes: vec!["all".to_owned()],
            ..Trace::default()
        };
        let slo = Slo::parse(&["ttft=5s"], None).unwrap().bind(&trace.classes).unwrap();
        let mock = Mock::bind("127.0.0.1:0", MockOptions::default(), None).unwrap();
        let url = format!("http://{}", mock.address());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| mock.serve(&stop).unwrap());
            let server = Server { url, ..Server::default() };
            let live = Live::assume(&server, "mock", Prompts::Ids).unwrap();
            let range = Range::new(&live, &trace, &slo, LiveOptions::default());
            let time = Duration::from_millis(800);
            for (most, offered_s) in [(range.most, 0.8), (60.0, 0.3)] {
                let range =
                    Range { most, ..Range::new(&live, &trace, &slo, LiveOptions::default()) };
                let (seen, held) = range.offer(200.0, time, &mut || true).unwrap();
                let shot = seen.outside.unwrap();
                assert!((shot.offered_s - offered_s).abs() < 1e-9, "{}", shot.offered_s);
                let sent = held.run.recording.records.len() as f64;
                assert!((sent - 200.0 * offered_s).abs() < 3.0, "{sent} in {offered_s} s");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
