//! The client's account of itself: how late it sent, how late it read, what it could not do, and whether that
//! matters for what was asked.
//!
//! An error of the client is material when it is a good part of a latency target (without targets, of the median
//! measured): from 5 % on the figures are SUSPECT, from 20 % on INVALID. Every reason says what to do.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use workloads::Trace;

use super::LiveOptions;
use super::counts::Doubtful;
use super::failure::Failures;
use super::gauges::{Gauge, Gauges};
use super::meter::{Meter, Wire};
use crate::metric::{Counted, Metric};
use crate::net::clock;
use crate::record::Record;
use crate::recorder::Recording;
use crate::slo::BoundSlo;
use crate::steady::{Wanted, beginning, precision, values};
use crate::sustain::Sustain;
use crate::worker::Worker;

/// Shares of a target from which an error of the client makes figures suspect, or invalid.
const MATERIAL: (f64, f64) = (0.05, 0.20);
/// Fewer requests than this are no load to judge.
const FEWEST: usize = 20;
/// Busier than this share of a core, the client may be what is measured.
const BUSY: f64 = 0.9;

/// The degree to which figures can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Trust {
    /// The client's own error does not matter.
    Valid,
    /// It may.
    Suspect,
    /// It does.
    Invalid,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "VALID",
            Self::Suspect => "SUSPECT",
            Self::Invalid => "INVALID",
        })
    }
}

/// The client's measurements of itself. Times in ms unless named otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// From when a request was due to when its first byte was handed to the socket: median.
    pub send_lateness_p50_ms: f64,
    /// 99th percentile.
    pub send_lateness_p99_ms: f64,
    /// The worst.
    pub send_lateness_max_ms: f64,
    /// The time that bytes had lain in the socket when they were read, median over reads. It is an
    /// upper bound if the system does not stamp arrivals.
    pub reader_lag_p50_ms: f64,
    /// 99th percentile.
    pub reader_lag_p99_ms: f64,
    /// The worst.
    pub reader_lag_max_ms: f64,
    /// The largest possible error of the times of tokens, 99th percentile over reads. It is zero
    /// for a read with one token whose arrival the system stamped. With several tokens it is the
    /// time that the earliest bytes of the read had lain in the socket. Without a stamp it is the
    /// reader's lag.
    pub stamp_error_p99_ms: f64,
    /// Requests in flight, mean over time until the last send.
    pub streams_held: f64,
    /// Most at once.
    pub streams_peak: u64,
    /// Streams asked for, in a closed loop.
    pub streams_asked: Option<u32>,
    /// Requests per second asked for, over the window of arrivals; none in a closed loop.
    pub asked_rps: Option<f64>,
    /// Requests per second sent.
    pub sent_rps: Option<f64>,
    /// Processor time of the client's loop, seconds.
    pub cpu_s: f64,
    /// The same as a share of one core.
    pub cpu_share: f64,
    /// Smallest difference the clock shows, ns.
    pub clock_resolution_ns: u64,
    /// Connections made.
    pub connections: u64,
    /// Requests sent again because an idle connection was closed under them.
    pub resent: u64,
    /// Requests held back by the limit on requests in flight, or for want of a connection. Their sends are late by
    /// intent and not part of the lateness above.
    pub held_back: u64,
    /// Share of token events that came in one read with the one before: their gap is not the server's.
    pub coalesced_share: f64,
    /// Completed requests whose tokens neither the server nor a tokenizer counted: their events stand for them.
    pub without_usage: u64,
    /// Completed requests with fewer tokens than asked for.
    pub short_outputs: u64,
    /// Turns that repeated an earlier answer as the server gave it.
    #[serde(default)]
    pub answers_returned: u64,
    /// Turns that could not: it failed, brought no text, was shorter than the workload's, or had not ended by then.
    /// Made-up tokens stood in its place.
    #[serde(default)]
    pub answers_made_up: u64,
    /// Share of tokens that were in time for a reader at the pace of the targets (Etalon's fluidity index); none
    /// without targets on first token and pace.
    pub fluidity: Option<f64>,
    /// True if token times or counts are unreliable; TPOT and ITL are then left out.
    #[serde(default)]
    pub paceless: bool,
    /// The verdict on the figures.
    pub verdict: Trust,
    /// Why, and what to do.
    pub reasons: Vec<String>,
}

impl Audit {
    pub(super) fn new(
        meter: &Meter,
        run: &Recording,
        wires: &[Wire],
        (options, slo, short_outputs): (&LiveOptions, &BoundSlo, u64),
    ) -> Self {
        let pairs = || run.records.iter().zip(wires);
        let (late, sent) = lateness(&run.records, wires);
        let lag = |percent| ms(meter.lag.percentile(percent).unwrap_or_default());
        let completed = || pairs().filter(|(r, _)| r.completed());
        let open = options.streams.is_none();
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let mut audit = Self {
            send_lateness_p50_ms: rank(&late, 0.5),
            send_lateness_p99_ms: rank(&late, 0.99),
            send_lateness_max_ms: rank(&late, 1.0),
            reader_lag_p50_ms: lag(50.0),
            reader_lag_p99_ms: lag(99.0),
            reader_lag_max_ms: lag(100.0),
            stamp_error_p99_ms: ms(meter.stamp_error.percentile(99.0).unwrap_or_default()),
            streams_held: share(meter.held_ns as f64, meter.until_ns as f64),
            streams_peak: meter.peak as u64,
            streams_asked: options.streams,
            asked_rps: rate(sent.iter().map(|s| s.0)).filter(|_| open),
            sent_rps: rate(sent.iter().map(|s| s.1)),
            cpu_s: meter.cpu.as_secs_f64(),
            cpu_share: share(meter.cpu.as_secs_f64(), meter.wall.as_secs_f64()),
            clock_resolution_ns: crate::time::nanos(clock::resolution()),
            connections: meter.connections,
            resent: meter.resent,
            held_back: wires.iter().filter(|w| w.held_back).count() as u64,
            coalesced_share: coalesced(wires),
            without_usage: completed().filter(|(_, w)| w.output().is_none()).count() as u64,
            short_outputs,
            answers_returned: meter.answers.0,
            answers_made_up: meter.answers.1,
            fluidity: (meter.fluid.1 > 0).then(|| meter.fluid.0 as f64 / meter.fluid.1 as f64),
            paceless: false,
            verdict: Trust::Valid,
            reasons: Vec::new(),
        };
        audit.judge(run, slo, options.most_in_flight.is_some());
        audit
    }

    /// Of several clients under one schedule: what can be counted together is, of the rest the worst counts.
    pub(super) fn of_all(parts: &[(Worker, &Self)], records: &[Record], wires: &[Wire]) -> Self {
        let worst = |f: fn(&Self) -> f64| parts.iter().map(|(_, a)| f(a)).fold(0.0, f64::max);
        let sum =
            |f: fn(&Self) -> u64| parts.iter().map(|(_, a)| f(a)).fold(0, u64::saturating_add);
        let (late, sent) = lateness(records, wires);
        let open = parts.iter().all(|(_, a)| a.asked_rps.is_some());
        let mean = parts.iter().map(|(_, a)| a.fluidity).sum::<Option<f64>>();
        let reason = |(w, a): &(Worker, &Self)| {
            a.reasons.iter().map(|r| format!("worker {w}: {r}")).collect::<Vec<_>>()
        };
        Self {
            send_lateness_p50_ms: rank(&late, 0.5),
            send_lateness_p99_ms: rank(&late, 0.99),
            send_lateness_max_ms: rank(&late, 1.0),
            reader_lag_p50_ms: worst(|a| a.reader_lag_p50_ms),
            reader_lag_p99_ms: worst(|a| a.reader_lag_p99_ms),
            reader_lag_max_ms: worst(|a| a.reader_lag_max_ms),
            stamp_error_p99_ms: worst(|a| a.stamp_error_p99_ms),
            streams_held: parts.iter().map(|(_, a)| a.streams_held).sum(),
            streams_peak: sum(|a| a.streams_peak),
            streams_asked: parts
                .iter()
                .try_fold(0, |all: u32, (_, a)| Some(all.saturating_add(a.streams_asked?))),
            asked_rps: rate(sent.iter().map(|s| s.0)).filter(|_| open),
            sent_rps: rate(sent.iter().map(|s| s.1)),
            cpu_s: parts.iter().map(|(_, a)| a.cpu_s).sum(),
            cpu_share: worst(|a| a.cpu_share),
            clock_resolution_ns: parts
                .iter()
                .map(|(_, a)| a.clock_resolution_ns)
                .max()
                .unwrap_or(0),
            connections: sum(|a| a.connections),
            resent: sum(|a| a.resent),
            held_back: sum(|a| a.held_back),
            coalesced_share: coalesced(wires),
            without_usage: sum(|a| a.without_usage),
            short_outputs: sum(|a| a.short_outputs),
            answers_returned: sum(|a| a.answers_returned),
            answers_made_up: sum(|a| a.answers_made_up),
            fluidity: mean.map(|sum| sum / parts.len() as f64),
            paceless: parts.iter().any(|(_, a)| a.paceless),
            verdict: parts.iter().map(|(_, a)| a.verdict).max().unwrap_or(Trust::Valid),
            reasons: parts.iter().flat_map(reason).collect(),
        }
    }

    /// True where anything was measured, and whether that was the load meant.
    pub(super) fn judge_failures(
        &mut self,
        records: &[Record],
        failures: &BTreeMap<String, Failures>,
    ) {
        let (all, completed) = (records.len(), records.iter().filter(|r| r.completed()).count());
        let failed = failures.iter().filter(|(kind, _)| *kind != "cancelled");
        let most = failed.clone().max_by_key(|(_, f)| f.count);
        let failed: u64 = failed.map(|(_, f)| f.count).sum();
        let most = most.map_or_else(String::new, |(kind, f)| format!(" ({kind}: {})", f.cause));
        if completed == 0 && all > 0 {
            self.doubt(Trust::Invalid, format!(
                "nothing completed, so nothing was measured: {failed} of {all} requests failed{most}"
            ));
        } else if failed * 20 > all as u64 {
            self.doubt(Trust::Suspect, format!(
                "{failed} of {all} requests failed{most}: the others were served under a lighter load than was asked for"
            ));
        }
    }

    /// True where tokens can be counted and timed.
    pub(super) fn judge_counts(&mut self, doubtful: &Doubtful) {
        for reason in doubtful.reasons() {
            self.paceless = true;
            self.doubt(Trust::Suspect, reason);
        }
    }

    /// Some of the load was not put together with the rest.
    pub(super) fn missing_workers(&mut self, missing: usize, of: u32) {
        if missing > 0 {
            self.doubt(Trust::Suspect, format!(
                "{missing} of {of} workers are missing: the figures leave out a part of the load; add their folders"
            ));
        }
    }

    /// True where the run was steady: a figure of a queue that grows tells how long the run was.
    pub(super) fn judge_steadiness(
        &mut self,
        records: &[Record],
        trace: &Trace,
        options: &LiveOptions,
    ) {
        let sustain = Sustain::new(trace, records);
        let open = options.streams.is_none() && sustain.span_s > 0.0;
        if open && records.len() >= FEWEST && !sustain.sustained {
            let reason = &sustain.reason;
            self.doubt(Trust::Suspect, if sustain.falls_behind() {
                format!(
                    "the queue grew, the server {reason}: latencies show the length of the run, not the speed of the server; lower the rate"
                )
            } else {
                format!("{reason}: send for longer")
            });
            return;
        }
        let times = values(Metric::Ttft, records.iter());
        if let Some(cut) = beginning(&times) {
            let first = records.iter().map(|r| r.scheduled).min().unwrap_or_default();
            self.doubt(Trust::Suspect, match records.get(cut) {
                Some(record) => {
                    let s = (record.scheduled - first).as_secs_f64();
                    let warmup = s + options.warmup.as_secs_f64();
                    format!(
                        "the first {s:.1} s were unlike the rest: leave them out with --warmup {}s",
                        warmup.ceil()
                    )
                }
                None => "first-token times drifted all through the run and never settled: send for longer, or warm the server up first".to_owned(),
            });
        }
        self.judge_precision(records, &options.until);
    }

    /// True where figures are as sure as they were to be.
    fn judge_precision(&mut self, records: &[Record], wanted: &[Wanted]) {
        for wanted in wanted {
            let of = values(wanted.metric, records.iter());
            let known = precision(wanted.metric, wanted.statistic, &of);
            let share = known.map_or(f64::INFINITY, |p| p.share());
            if share > wanted.share {
                let reached = match share {
                    s if s.is_finite() => format!("known to {:.1} % only", 100.0 * s),
                    _ => "not known to any precision".to_owned(),
                };
                self.doubt(
                    Trust::Suspect,
                    format!("{wanted} was asked for and the figure is {reached}: raise --duration"),
                );
            }
        }
    }

    fn doubt(&mut self, trust: Trust, reason: String) {
        self.verdict = self.verdict.max(trust);
        self.reasons.push(reason);
    }

    fn judge(&mut self, run: &Recording, slo: &BoundSlo, limited: bool) {
        let completed = run.records.iter().filter(|r| r.completed()).count() as u64;
        let (late, error) = (self.send_lateness_p99_ms, self.stamp_error_p99_ms);
        self.weigh(late + error, &reference(run, slo, Metric::Ttft, Metric::from_arrival), |share| format!(
            "sends were {late:.2} ms late and times of tokens up to {error:.2} ms (p99), together {share}: lower the load or give the client cores of its own"
        ));
        self.weigh(error, &reference(run, slo, Metric::Itl, gaps), |share| format!(
            "times of tokens may be up to {error:.2} ms late (p99), {share}: lower the load or give the client cores of its own"
        ));
        if let (Some(asked), Some(sent), 0) = (self.asked_rps, self.sent_rps, self.held_back)
            && sent < 0.98 * asked
        {
            let trust = if sent < 0.9 * asked { Trust::Invalid } else { Trust::Suspect };
            self.doubt(trust, format!(
                "{sent:.1} requests/s were sent of {asked:.1} asked for: the client could not keep up; lower the rate"
            ));
        }
        if let Some(asked) = self.streams_asked
            && self.streams_peak < u64::from(asked)
            && run.records.len() as u64 > u64::from(asked)
        {
            let held = self.streams_peak;
            self.doubt(Trust::Invalid, format!(
                "{held} streams were held of {asked} asked for: raise the limit of open files (ulimit -n)"
            ));
        }
        if self.held_back > 0 && !limited {
            let held = self.held_back;
            self.doubt(Trust::Suspect, format!(
                "{held} requests waited for a connection: raise the limit of open files (ulimit -n)"
            ));
        }
        if self.cpu_share > BUSY {
            let busy = 100.0 * self.cpu_share;
            self.doubt(Trust::Suspect, format!(
                "the client kept a core {busy:.0} % busy and may be the bottleneck: spread the load over several clients"
            ));
        }
        if self.short_outputs * 20 > completed {
            let short = self.short_outputs;
            self.doubt(Trust::Suspect, format!(
                "{short} of {completed} responses ended before the length asked for: the server does not honour ignore_eos, so the load is lighter than the workload"
            ));
        }
        let repeating = self.answers_returned + self.answers_made_up;
        if self.answers_made_up * 20 > repeating {
            let made_up = self.answers_made_up;
            self.doubt(Trust::Suspect, format!(
                "{made_up} of {repeating} turns should repeat an earlier answer that failed, had no text, was cut short or had not ended: made-up tokens stand for the rest of it, so the server's prefix cache finds less than in production"
            ));
        }
        if self.coalesced_share > 0.05 && slo.slo().targets().iter().any(|t| gaps(t.metric)) {
            let share = 100.0 * self.coalesced_share;
            self.doubt(Trust::Suspect, format!(
                "{share:.0} % of the tokens came together with the one before: gaps between tokens are not the server's; set a target on tpot instead of itl"
            ));
        }
        if self.clock_resolution_ns > 1_000_000 {
            self.doubt(
                Trust::Invalid,
                "the clock is coarser than 1 ms: use another machine".to_owned(),
            );
        }
    }

    /// Adds what `error` ms mean beside a reference, if they mean anything.
    fn weigh(&mut self, error: f64, reference: &Option<Reference>, say: impl Fn(&str) -> String) {
        let Some(reference) = reference else { return };
        let (trust, share) = (reference.trust(error), 100.0 * error / reference.ms);
        if trust > Trust::Valid {
            self.doubt(trust, say(&format!("{share:.0} % of {}", reference.name)));
        }
    }
}

/// The latency that an error is compared with.
struct Reference {
    ms: f64,
    name: String,
    target: bool,
}

impl Reference {
    /// The tightest target on a metric of which `of` holds.
    fn target(slo: &BoundSlo, of: fn(Metric) -> bool) -> Option<Self> {
        let targets = slo.slo().targets().iter().filter(|t| of(t.metric));
        let tightest = targets.min_by_key(|t| t.limit)?;
        let name = format!("the target {tightest}");
        Some(Self { ms: ms(tightest.limit), name, target: true })
    }

    /// The trust in figures beside this latency that have an error of so many ms.
    fn trust(&self, error: f64) -> Trust {
        match error / self.ms {
            share if share < MATERIAL.0 => Trust::Valid,
            // Beside nothing but a measured median, an error of a tenth of a millisecond is no reason for doubt.
            _ if !self.target && error < 0.1 => Trust::Valid,
            share if share >= MATERIAL.1 && self.target => Trust::Invalid,
            _ => Trust::Suspect,
        }
    }
}

impl Gauges {
    /// The trust in the figures by the client's own errors so far; none while nothing has been
    /// sent. The [`Audit`] of a whole run asks more.
    #[must_use]
    pub fn trust(&self, slo: &BoundSlo) -> Option<Trust> {
        let p99 = |gauge: &Gauge| gauge.percentile(99.0).map_or(0.0, ms);
        let own = ms(self.late.percentile(99.0)?) + p99(&self.stamp_error);
        let median = || {
            let ms = ms(self.ttft.percentile(50.0)?);
            Some(Reference { ms, name: String::new(), target: false })
        };
        let first = Reference::target(slo, Metric::from_arrival).or_else(median);
        let gaps = Reference::target(slo, gaps);
        let trusts = [first.map(|r| r.trust(own)), gaps.map(|r| r.trust(p99(&self.stamp_error)))];
        trusts.into_iter().flatten().max()
    }
}

/// True of latencies that single gaps between tokens decide.
fn gaps(metric: Metric) -> bool {
    metric.counted() == Counted::Gaps
}

/// The tightest target on a metric of which `of` holds; without any, the median measured of `usual`.
fn reference(
    run: &Recording,
    slo: &BoundSlo,
    usual: Metric,
    of: fn(Metric) -> bool,
) -> Option<Reference> {
    if let Some(target) = Reference::target(slo, of) {
        return Some(target);
    }
    let mut values: Vec<u64> = match usual.counted() {
        Counted::Gaps => vec![crate::time::nanos(run.itl_of_all().percentile(50.0)?)],
        Counted::Requests => {
            run.records.iter().filter_map(|r| usual.of(r)).map(crate::time::nanos).collect()
        }
    };
    values.sort_unstable();
    let median = rank(&values, 0.5);
    let name = format!("the median {} of {median:.2} ms", usual.label());
    (median > 0.0).then_some(Reference { ms: median, name, target: false })
}

/// The lateness, ns, ascending, of the sends that nothing was meant to hold back; and every
/// request's scheduled and real send.
fn lateness(records: &[Record], wires: &[Wire]) -> (Vec<u64>, Vec<(Duration, Duration)>) {
    let pairs = || records.iter().zip(wires);
    let sent = pairs().filter_map(|(r, w)| Some((r.scheduled, w.sent?))).collect();
    let free = pairs().filter(|(_, w)| !w.held_back);
    let mut late: Vec<u64> = free
        .filter_map(|(r, w)| Some(crate::time::nanos(w.sent?.saturating_sub(r.scheduled))))
        .collect();
    late.sort_unstable();
    (late, sent)
}

/// Share of token events that came in one read with the one before.
fn coalesced(wires: &[Wire]) -> f64 {
    let (chunks, coalesced) = wires.iter().fold((0u64, 0u64), |(all, part), w| {
        (all + u64::from(w.chunks), part + u64::from(w.coalesced))
    });
    if chunks > 0 { coalesced as f64 / chunks as f64 } else { 0.0 }
}

fn ms(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

/// Nearest rank of ascending ns, in ms; 0 of none.
fn rank(ascending: &[u64], share: f64) -> f64 {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.max(1) - 1).map_or(0.0, |&ns| ns as f64 / 1e6)
}

/// Events per second over their own window.
fn rate(times: impl Iterator<Item = Duration> + Clone) -> Option<f64> {
    let (first, last) = (times.clone().min()?, times.clone().max()?);
    let span = last.saturating_sub(first).as_secs_f64();
    (span > 0.0).then(|| (times.count() - 1) as f64 / span)
}
