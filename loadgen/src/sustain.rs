//! The test that the offered load could have gone on for ever. Overdue work decides it, not
//! latency.
//!
//! A finite trace always drains, so a run at any rate completes; and latencies drift in runs that
//! are perfectly stable, because the rate of real traces does. The backlog cannot hide. A server
//! whose capacity is C and that is offered ρ·C over a span leaves at least (1 − 1/ρ) of the work
//! undone at the end of the span, under any scheduling. Of the undone work, some is merely young.
//! So each request gets the latency that this run's own unhurried requests had,
//!
//! > reference(i) = TTFT₁₀ + (output(i) − 1) · TPOT₂₅
//!
//! (10th and 25th percentiles over completed requests), and is *overdue* at t when it could have ended by then at
//! that pace and has not. Low percentiles, because in an overloaded run the early requests still show the pace that
//! the late ones miss. A closed-loop turn is offered where its predecessor's reference ends, plus think time: a slow
//! server that thereby holds back its own load is not excused.
//!
//! > overdue(t) = work of the overdue at t / work offered by t,  work = input + output tokens
//!
//! The run is sustainable when overdue(t) is at most 3 % at one of five instants of the last fifth of the arrivals:
//! a server that keeps up comes back from a burst, one that does not never does. Of fewer than 67 requests, as many as
//! a real engine gets, two average ones may be overdue.
//!
//! If a trace arrives within a few requests' lifetimes, nothing can be overdue yet, at any load.
//! When the mean reference latency, weighted by work, is more than half of the span, no steady load
//! was offered and none is accepted.
//!
//! Against servers of known capacity (one queue, processor sharing, batches of 16 to 256), six arrival patterns
//! from Poisson to on/off and a rate rising by 35 %, and exact loads (`tests/sustain.rs`): with 1,000 requests or
//! more, of loads from 0.7 to 0.9 about 4 % are refused (nearly all where a request lasts a tenth of the span, or
//! the rate's rise overloads the end), of loads of 1.1 and 1.2 under 1 % accepted. Between 0.95 and 1.05 it is a toss.
//! With 500 requests the grey zone is 0.7 to 1.2. Of Azure's traces through the batch of 256, conv is told right at
//! 0.9 and 1.1; code, whose bursts last a good part of the trace, from 0.85 down and from 1.1 up.
//!
//! Rejected and failed requests leave no backlog: shedding load is sustainable, and the SLO's matter.

use crate::percentile::Percentile;
use crate::record::{Outcome, Record};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use workloads::{Arrival, Trace};

/// Largest share of overdue work that passes.
const LIMIT: f64 = 0.03;
/// Requests that may be overdue whatever their share: with few, one that was merely unlucky is more than the limit.
const UNLUCKY: f64 = 2.0;
/// The instants at which overdue work is looked for, as shares of the span of arrivals.
const CHECKPOINTS: [f64; 5] = [0.80, 0.85, 0.90, 0.95, 1.0];
/// Largest mean reference latency as a share of the span at which there is a steady load to speak of.
const STEADY: f64 = 0.5;
/// Beyond this share of the span, a typical request leaves too little of the trace to judge by.
const SHORT: f64 = 0.05;

/// True where a run could have gone on for ever, and the figures behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sustain {
    /// The verdict.
    pub sustained: bool,
    /// Least share of overdue work at the instants examined.
    pub overdue: f64,
    /// The share that passes.
    pub limit: f64,
    /// Work overdue at the last arrival less that at half time, per work offered between: near 1 − 1/ρ for a
    /// steady overload of ρ, around 0 for a stable server.
    pub growth: f64,
    /// Share of the work offered that was undone at the last arrival, young requests included.
    pub backlog: f64,
    /// First to last open-loop arrival, seconds.
    pub span_s: f64,
    /// Last open-loop arrival to last completion, seconds; none when something never ended.
    pub drain_s: Option<f64>,
    /// Mean reference latency, weighted by work, as a share of the span: above 5 % the trace is short for a verdict.
    pub request_share: f64,
    /// The verdict in a sentence.
    pub reason: String,
}

/// One request's work and when it was offered, could have ended and did end; seconds since the first arrival.
struct Job {
    work: f64,
    offered: f64,
    due: f64,
    ended: f64,
}

impl Sustain {
    /// Judges the records of a run of `trace`, cut short or not.
    #[must_use]
    pub fn new(trace: &Trace, records: &[Record]) -> Self {
        let open =
            |r: &&Record| matches!(trace.requests[r.request as usize].arrival, Arrival::At(_));
        let arrivals = || records.iter().filter(open).map(|r| r.scheduled);
        let first = arrivals().min().unwrap_or_default();
        let span = arrivals().max().unwrap_or_default().saturating_sub(first).as_secs_f64();
        let jobs = jobs(trace, records, first);
        let end = jobs.iter().map(|j| j.ended).fold(0.0, f64::max);
        let (_, whole) = overdue(&jobs, span);
        let undone = jobs.iter().filter(|j| j.offered <= span && j.ended > span);
        let (late_half, offered_half) = overdue(&jobs, span / 2.0);
        let (late, _) = overdue(&jobs, span);
        let at = |t: &f64| {
            let (late, offered) = overdue(&jobs, t * span);
            share(late, offered)
        };
        let mut sustain = Self {
            sustained: false,
            overdue: CHECKPOINTS.iter().map(at).fold(1.0, f64::min),
            limit: share(UNLUCKY, jobs.len() as f64).clamp(LIMIT, STEADY),
            growth: share(late - late_half, whole - offered_half),
            backlog: share(undone.map(|j| j.work).sum(), whole),
            span_s: span,
            drain_s: end.is_finite().then_some((end - span).max(0.0)),
            request_share: share(
                jobs.iter().map(|j| j.work * (j.due - j.offered)).sum(),
                span * total(&jobs),
            ),
            reason: String::new(),
        };
        sustain.judge(records);
        sustain
    }

    /// True where more work than passes was overdue.
    #[must_use]
    pub fn falls_behind(&self) -> bool {
        self.overdue > self.limit
    }

    fn judge(&mut self, records: &[Record]) {
        let percent = |x: f64| format!("{:.1} %", 100.0 * x);
        let completed = records.iter().filter(|r| r.completed()).count();
        let overdue = percent(self.overdue);
        (self.sustained, self.reason) = if completed == 0 && !records.is_empty() {
            (false, "no request completed".to_owned())
        } else if self.span_s == 0.0 && records.len() > 1 {
            (false, "all requests arrive at one instant: no steady rate is offered".to_owned())
        } else if self.falls_behind() {
            let growth = percent(self.growth.max(0.0));
            (
                false,
                format!(
                    "falls behind: {overdue} of the work offered is overdue, {growth} of that offered in the second half"
                ),
            )
        } else if self.request_share > STEADY {
            let (share, span) = (percent(self.request_share), self.span_s);
            (
                false,
                format!(
                    "no steady load: a typical request lasts {share} of the {span:.1} s of arrivals"
                ),
            )
        } else {
            (
                true,
                format!(
                    "keeps up: {overdue} of the work offered is overdue towards the last arrival"
                ),
            )
        };
        if self.request_share > SHORT {
            let share = percent(self.request_share);
            self.reason +=
                &format!("; the trace is short, a request takes {share} of it even unhurried");
        }
    }
}

fn share(part: f64, whole: f64) -> f64 {
    // An empty sum of floats is -0; adding 0 makes it 0.
    if whole > 0.0 { part / whole + 0.0 } else { 0.0 }
}

fn total(jobs: &[Job]) -> f64 {
    jobs.iter().map(|j| j.work).sum()
}

/// Work overdue at `t`, and work offered by `t`.
fn overdue(jobs: &[Job], t: f64) -> (f64, f64) {
    let sum = |late: bool| {
        let counts = |j: &&Job| if late { j.due <= t && j.ended > t } else { j.offered <= t };
        jobs.iter().filter(counts).map(|j| j.work).sum()
    };
    (sum(true), sum(false))
}

/// The jobs that were offered: what arrived, and the turns that would have followed had the server been quicker.
fn jobs(trace: &Trace, records: &[Record], first: Duration) -> Vec<Job> {
    let mut of: Vec<Option<&Record>> = vec![None; trace.requests.len()];
    records.iter().for_each(|r| of[r.request as usize] = Some(r));
    let ttft = quantile(records, 10_000, Record::ttft);
    let tpot = quantile(records, 25_000, Record::tpot);
    let since = |at: Duration| at.saturating_sub(first).as_secs_f64();
    let mut dues: Vec<Option<f64>> = Vec::with_capacity(trace.requests.len());
    let mut jobs = Vec::with_capacity(trace.requests.len());
    for (request, record) in trace.requests.iter().zip(of) {
        let offered = match request.arrival {
            Arrival::At(_) => record.map(|r| since(r.scheduled)),
            Arrival::After { previous, think } => {
                dues[previous as usize].map(|due| due + think.as_secs_f64())
            }
        };
        let shed = record.is_some_and(|r| matches!(r.outcome, Outcome::Rejected | Outcome::Failed));
        let pace = ttft + f64::from(request.output.saturating_sub(1)) * tpot;
        let due = offered.map(|offered| if shed { offered } else { offered + pace });
        dues.push(due);
        let (Some(offered), Some(due), false) = (offered, due, shed) else { continue };
        let end = record.filter(|r| r.completed()).and_then(|r| r.last_token);
        let ended = end.map_or(f64::INFINITY, since);
        let work = f64::from(request.input) + f64::from(request.output);
        jobs.push(Job { work, offered, due, ended });
    }
    jobs
}

/// Nearest-rank percentile over completed requests, seconds; 0 when none has it.
fn quantile(records: &[Record], thousandths: u32, of: fn(&Record) -> Option<Duration>) -> f64 {
    let mut times: Vec<_> = records.iter().filter(|r| r.completed()).filter_map(of).collect();
    let percentile = Percentile::new(thousandths).expect("constants in range");
    let Some(index) = (percentile.rank(times.len() as u64) as usize).checked_sub(1) else {
        return 0.0;
    };
    times.select_nth_unstable(index).1.as_secs_f64()
}
