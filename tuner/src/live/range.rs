//! A server under search: rates offered to it, what of them held, and the whole search of its capacity.

use std::cell::Cell;
use std::time::Duration;

use loadgen::{BoundSlo, Judged, Latency, Live, LiveOptions, LiveRun, Summary, Sustain};
use workloads::{Arrival, Stream, Trace};

use super::{Effort, Found, Limit, Memory, Shot, overtake, seek};

/// Fewer requests than this show nothing.
const FEWEST: usize = 10;
/// A rate is offered for so many on average, however long they take to come: then there hardly ever are too few.
const ENOUGH: f64 = 16.0;
/// A probe lasts so many unhurried requests, but not less than the least or more than the most.
const LIFETIMES: f64 = 4.0;
const LEAST: Duration = Duration::from_secs(8);
const MOST: Duration = Duration::from_secs(120);
/// A probe that held is lengthened when its quicker requests lasted more than this share of it: near its capacity a
/// server takes many times what it takes for an unhurried request, and nothing can have fallen behind yet.
const CROWDED: f64 = 0.5;
/// The share that they are then to last.
const ROOMY: f64 = 0.25;
/// The same of a probe that held its targets and yet seems to fall behind: while a server fills up, its first requests
/// are quicker than any later ones will ever be.
const FILLED: f64 = 0.125;
/// Requests in flight at the first rate, where no other is expected (Little's law): nearly every server takes as many,
/// and slower rates cost the most seconds to offer.
const FIRST: f64 = 4.0;
/// From a rate that holds to the next one looked at, where nothing else says where to look.
const AHEAD: f64 = 1.25;

/// What a search is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aim {
    /// How long a rate must hold; none: four unhurried requests, 8 s at least, and longer where requests under load
    /// outlast that.
    pub probe: Option<Duration>,
    /// Load to spend at most.
    pub budget: Duration,
    /// The rate to hold for the search to go on at all.
    pub beat: Option<f64>,
    /// Where the answer is expected, requests/s.
    pub expected: Option<f64>,
}

/// What a search of a server showed.
pub struct Searched {
    /// The answer.
    pub found: Found,
    /// The run at the rate found.
    pub best: Option<Held>,
}

/// A rate that held.
pub struct Held {
    /// Requests (or sessions) per second offered.
    pub rate_rps: f64,
    /// What was seen.
    pub run: LiveRun,
    /// What was sent: the trace, over and over. The run's records count through it.
    pub sent: Trace,
    /// How long a request lasts at the pace of the run's quicker ones, as a share of the run
    /// ([`Sustain::request_share`]).
    pub lasted: f64,
    /// Whether it held its targets, and some work was overdue.
    pub overdue: bool,
}

/// A server under search.
pub struct Range<'a> {
    /// The server; none where all that is asked is remembered.
    live: Option<&'a Live>,
    /// The traffic.
    pub trace: &'a Trace,
    /// The targets.
    pub slo: &'a BoundSlo,
    /// How it is driven; rate and duration are the search's.
    pub options: LiveOptions,
    /// How long a rate that fails is watched, for what the server finishes under overload.
    glimpse: Duration,
    /// What is known already.
    memory: Option<Memory<'a>>,
    /// Runs so far: none sends prompts that another has sent, which the server may remember.
    runs: Cell<u64>,
    /// Requests (or sessions) that the traffic can go on to: a rate is offered until they are used up at most.
    most: f64,
}

impl<'a> Range<'a> {
    /// See the fields.
    #[must_use]
    pub fn new(live: &'a Live, trace: &'a Trace, slo: &'a BoundSlo, options: LiveOptions) -> Self {
        Self { live: Some(live), ..Self::of(trace, slo, options) }
    }

    /// A server that is not there: its search ends with an error as soon as it asks for something that is not remembered.
    #[must_use]
    pub fn of(trace: &'a Trace, slo: &'a BoundSlo, options: LiveOptions) -> Self {
        let (glimpse, runs) = (Duration::ZERO, Cell::new(0));
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
    fn offerable(&self, rate: f64, time: Duration) -> Duration {
        time.min(Duration::from_secs_f64(self.most / rate))
    }

    /// What makes the next run's prompts its own.
    pub(super) fn salt(&self) -> u64 {
        self.runs.set(self.runs.get() + 1);
        self.options.salt ^ self.runs.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The highest rate that holds. Where a rate is to be beaten, that one is tried first and decides whether the search
    /// goes on. What was found until `watch` said no, or until the server was no more to be measured, is kept.
    ///
    /// # Errors
    /// When the idle server completes nothing, or the client cannot even begin.
    pub fn search(
        &mut self,
        aim: &Aim,
        say: &mut dyn FnMut(&Shot),
        watch: &mut dyn FnMut() -> bool,
    ) -> Result<Searched, String> {
        let (unhurried, misses) = match self.memory.as_ref().and_then(Memory::unhurried) {
            Some(known) => known,
            None => {
                let seen = self.awake(watch)?;
                self.memory.iter().filter(|_| watch()).for_each(|m| m.keep_unhurried(&seen));
                seen
            }
        };
        if let Some(misses) = misses {
            // What one request at a time cannot have, no rate can.
            let note = Some(format!("one request at a time misses the targets: {misses}"));
            return Ok(Searched { found: Found { note, ..Found::of(Vec::new()) }, best: None });
        }
        let typical = Duration::from_secs_f64(LIFETIMES * unhurried).clamp(LEAST, MOST);
        let probe = aim.probe.unwrap_or(typical);
        let effort = Effort { probe, budget: aim.budget, ..Effort::default() };
        self.glimpse = effort.glimpse();
        let (mut runs, mut stopped): (Vec<Held>, Option<String>) = (Vec::new(), None);
        // An interruption ends the search like an error, and what was found until then is kept here.
        let mut shots: Vec<Shot> = Vec::new();
        let (mut whole, mut load_s) = (probe, 0.0);
        let longest = if aim.probe.is_some() { Duration::ZERO } else { MOST };
        let shoot = |rate, time: Duration| {
            let (mut time, mut shorter_s) = (if time < probe { time } else { whole }, 0.0);
            loop {
                let asked = self.memory.as_ref().map(|memory| (memory, memory.offered(rate, time)));
                let (mut shot, held, fresh) = match asked {
                    Some((_, (_, Some((shot, held))))) => (shot, held, false),
                    asked => {
                        let offered = self.shoot(rate, time, watch);
                        let (shot, held) = offered.map_err(|e| stopped = Some(e))?;
                        if let Some((memory, (what, _))) = asked.filter(|_| watch()) {
                            memory.keep_offered(&what, &shot, &held, &self.options);
                        }
                        (shot, held, true)
                    }
                };
                if !watch() {
                    return Err(());
                }
                let probed = shot.offered_s >= 0.99 * self.offerable(rate, probe).as_secs_f64();
                let probed = probed && (shot.passed || held.overdue);
                let lasted = (held.lasted, held.overdue);
                let longest = self.offerable(rate, longest).as_secs_f64();
                let longer = longer(shot.offered_s, lasted, longest);
                shot.steady |= probed && longer.is_none();
                say(&shot);
                load_s += shot.seconds;
                let longer = longer.filter(|_| probed && load_s < aim.budget.as_secs_f64());
                if shot.passed || longer.is_none() {
                    shots.push(shot.clone());
                }
                if shot.passed {
                    runs.push(held);
                    whole = whole.max(time.min(MOST));
                } else if fresh {
                    self.recover(unhurried, watch).map_err(|e| stopped = Some(e))?;
                }
                let Some(longer) = longer else {
                    shot.seconds += shorter_s;
                    return Ok(shot);
                };
                shorter_s += shot.seconds;
                time = Duration::from_secs_f64(longer);
            }
        };
        let found = match aim.beat {
            None => seek(aim.expected.unwrap_or(FIRST / unhurried), effort, shoot),
            Some(beat) => {
                let next = aim.expected.filter(|e| *e > AHEAD * beat).unwrap_or(AHEAD * beat);
                overtake(beat, next, effort, shoot)
            }
        };
        let found = match (found, stopped) {
            (Ok(found), _) => found,
            (Err(()), Some(why)) if shots.is_empty() || self.live.is_none() => return Err(why),
            (Err(()), note) => Found { note, ..Found::of(shots) },
        };
        let best = found.capacity_rps;
        let run = runs.into_iter().rev().find(|held| Some(held.rate_rps) == best);
        Ok(Searched { found, best: run })
    }

    /// Offers `rate` for `time` (longer where requests are too rare, and less long where there are not so many), or until
    /// it has failed.
    ///
    /// # Errors
    /// What the client cannot do; a server's failures are failures of the rate.
    pub fn shoot(
        &self,
        rate: f64,
        time: Duration,
        watch: &mut dyn FnMut() -> bool,
    ) -> Result<(Shot, Held), String> {
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
        let summary = run.summary(self.slo);
        let sustain = Sustain::new(&trace, &run.recording.records);
        let (offered, lasted) = (run.recording.records.len(), sustain.request_share);
        let (why, limit) = if hopeless || !summary.verdict.met {
            (missed(&run, &summary), Some(limit(&run, self.slo)))
        } else if offered < FEWEST {
            let why = format!("{offered} requests in {time:?} show nothing: give a longer --probe");
            (why, Some(Limit::Unknown))
        } else if sustain.falls_behind() {
            (sustain.reason.clone(), Some(Limit::Throughput))
        } else {
            (String::new(), None)
        };
        let output = self.trace.requests.iter().map(|r| f64::from(r.output)).sum::<f64>();
        let per_start = output / natural_starts(self.trace);
        let pace =
            |(t, n): (f64, u64)| (last.1.saturating_sub(n)) as f64 / (last.0 - t) / per_start;
        let finished_rps = half.filter(|h| last.0 > h.0 + 0.3).map(pace).filter(|r| *r > 0.0);
        let seconds = last.0;
        let passed = why.is_empty();
        let overdue = !hopeless && summary.verdict.met && sustain.falls_behind();
        let whole = time.as_secs_f64();
        let offered_s = if passed || overdue { whole } else { seconds.min(whole) };
        let steady = lasted <= CROWDED;
        let shot =
            Shot { rate_rps: rate, passed, offered_s, steady, seconds, finished_rps, why, limit };
        Ok((shot, Held { rate_rps: rate, run, sent: trace, lasted, overdue }))
    }
}

/// How long a probe should be, s, in which requests lasted such a share of the time that the rate was offered, and
/// whether some were overdue; none where that was long enough, or is as long as it may be.
fn longer(offered_s: f64, (lasted, overdue): (f64, bool), longest_s: f64) -> Option<f64> {
    let (most, aim) = if overdue { (ROOMY, FILLED) } else { (CROWDED, ROOMY) };
    let wanted = (offered_s * lasted / aim).min(longest_s);
    (lasted > most && wanted > offered_s).then_some(wanted)
}

/// What is wrong with a run that misses its targets, in words: first the requests that came to nothing, then the targets
/// that those which completed miss.
pub(super) fn missed(run: &LiveRun, summary: &Summary) -> String {
    let lost = run.lost();
    let late = |j: &&Judged| !j.met && (lost.is_none() || j.value.finite().is_some());
    let mut words: Vec<String> = lost.iter().map(|lost| lost.words.clone()).collect();
    words.extend(summary.verdict.targets.iter().filter(late).map(|j| match j.value {
        Latency::Finite(_) => format!("{} of {:.1}", j.measured, j.value),
        Latency::Infinite => format!("{} missed by too many requests", j.measured),
        Latency::Undefined => {
            let doubt = run.audit.reasons.first().map_or("", String::as_str);
            format!("{} is not known: {doubt}", j.measured)
        }
    }));
    if words.is_empty() {
        "too many requests missed their targets".to_owned()
    } else {
        words.join(", ")
    }
}

/// What kind of thing that is: whatever cost more requests.
fn limit(run: &LiveRun, slo: &BoundSlo) -> Limit {
    let late = run.recording.records.iter().filter(|r| r.completed() && !slo.meets(r)).count();
    match run.lost() {
        Some(lost) if lost.refused + lost.failed >= late as u64 => {
            if lost.refused >= lost.failed {
                Limit::Admission
            } else {
                Limit::Failures
            }
        }
        _ if run.audit.paceless => Limit::Unknown,
        _ => Limit::Latency,
    }
}

fn natural_starts(trace: &Trace) -> f64 {
    trace.requests.iter().filter(|r| matches!(r.arrival, Arrival::At(_))).count().max(1) as f64
}

/// `trace`, over and over, until it has `n` requests that wait for nobody. Copies share no blocks.
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
    use workloads::{BlockSpan, TraceRequest};

    #[test]
    fn a_rate_is_offered_for_as_long_as_is_said() {
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
                let (shot, held) = range.shoot(200.0, time, &mut || true).unwrap();
                assert!((shot.offered_s - offered_s).abs() < 1e-9, "{}", shot.offered_s);
                let sent = held.run.recording.records.len() as f64;
                assert!((sent - 200.0 * offered_s).abs() < 3.0, "{sent} in {offered_s} s");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_probe_that_its_requests_outlast_is_lengthened_once() {
        let held = |lasted| (lasted, false);
        assert_eq!(longer(8.0, held(0.3), 120.0), None);
        let s = longer(8.0, held(0.8), 120.0).unwrap();
        // The same requests in the longer probe leave it as it is.
        assert_eq!((s, longer(s, held(0.8 * 8.0 / s), 120.0)), (25.6, None));
        assert_eq!(longer(8.0, held(0.8), 16.0), Some(16.0), "as far as probes go");
        assert_eq!(longer(16.0, held(0.8), 16.0), None);
        assert_eq!(longer(160.0, held(0.8), 120.0), None, "rare requests are offered for longer");
        assert_eq!(longer(8.0, held(0.8), 0.0), None, "a length that was asked for stays");
        let s = longer(16.0, (0.35, true), 120.0).unwrap();
        assert_eq!((s, longer(s, (0.35 * 16.0 / s, true), 120.0)), (44.8, None));
    }
}
