//! One run in figures: throughput, goodput, latencies, and the verdict on its targets.
//!
//! Rates are over the window from the first scheduled arrival to the last completion. That window includes the
//! drain, so a backlog worked off after the last arrival lowers every rate rather than flattering it. The window
//! of arrivals alone is given beside it ([`Offered`]) and counts only what was completed inside.

use crate::latency::{Latency, Population, Stats};
use crate::metric::{Metric, Span};
use crate::percentile::Statistic;
use crate::record::{Outcome, Record};
use crate::recorder::Recording;
use crate::slo::{BoundSlo, Target};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A run's figures under one SLO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests offered.
    pub requests: u64,
    /// Of these, completed.
    pub completed: u64,
    /// Of these, refused by the server.
    pub rejected: u64,
    /// Of these, broken on the way.
    pub failed: u64,
    /// Of these, cut off by the end of the run.
    pub unfinished: u64,
    /// Requests that met every target; all completed ones where there is none.
    pub good: u64,
    /// First scheduled arrival to last completion, seconds.
    pub duration_s: f64,
    /// Prompt tokens of completed requests.
    pub input_tokens: u64,
    /// Output tokens of completed requests.
    pub output_tokens: u64,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u64,
    /// Times a request gave way to another.
    pub preemptions: u64,
    /// The window of arrivals; none when all arrived at one instant.
    pub offered: Option<Offered>,
    /// Statistics of each latency; of ITL over gaps, each counted once. See [`Summary::stats`].
    #[serde(flatten)]
    pub latencies: BTreeMap<Metric, Stats>,
    /// True where the targets held.
    pub verdict: Verdict,
}

/// Counts between the first and the last scheduled arrival.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Offered {
    /// First to last scheduled arrival, seconds.
    pub duration_s: f64,
    /// Arrivals per second: (requests − 1) / duration.
    pub request_rate_rps: f64,
    /// Requests completed inside, per second.
    pub request_throughput_rps: f64,
    /// Requests completed inside that met every target, per second.
    pub goodput_rps: f64,
    /// Output tokens of the requests completed inside, per second.
    pub output_tokens_per_s: f64,
}

/// The verdict on an SLO, target by target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// True if the run meets the SLO.
    pub met: bool,
    /// Each target, in the order typed.
    pub targets: Vec<Judged>,
    /// The attainment, if one was asked for; it alone decides then.
    pub attainment: Option<Attained>,
}

/// One target's part of a [`Verdict`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The target as typed.
    pub target: Target,
    /// The name of `value`, such as `ttft:p99`. Under an attainment of A it is the A-th percentile over requests, for
    /// ITL of each request's longest gap: within the limit exactly when that share of requests meets this target.
    pub measured: String,
    /// Measured.
    pub value: Latency,
    /// 1 − value/limit: the share of the limit left, negative beyond it; none unless the value is finite.
    pub margin: Option<f64>,
    /// True if the value is within the limit, or no request has the latency.
    pub met: bool,
}

/// Share of requests that met every target at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Attained {
    /// Measured, in [0, 1].
    pub share: f64,
    /// Asked for, in (0, 1].
    pub required: f64,
    /// True if it is reached.
    pub met: bool,
}

impl Summary {
    /// Sums up a run under the targets of `slo`.
    #[must_use]
    pub fn new(run: &Recording, slo: &BoundSlo) -> Self {
        let records = &run.records;
        let outcomes = |outcome| records.iter().filter(|r| r.outcome == outcome).count() as u64;
        let completed = || records.iter().filter(|r| r.completed());
        let good = records.iter().filter(|r| slo.meets(r)).count() as u64;
        let stats = |metric| (metric, population(run, metric, None, metric.per_request()).stats());
        Self {
            requests: records.len() as u64,
            completed: outcomes(Outcome::Completed),
            rejected: outcomes(Outcome::Rejected),
            failed: outcomes(Outcome::Failed),
            unfinished: outcomes(Outcome::Unfinished),
            good,
            duration_s: duration(records).as_secs_f64(),
            input_tokens: completed().map(|r| u64::from(r.input)).sum(),
            output_tokens: completed().map(|r| u64::from(r.output)).sum(),
            cached_tokens: records.iter().map(|r| u64::from(r.cached)).sum(),
            preemptions: records.iter().map(|r| u64::from(r.preemptions)).sum(),
            offered: offered(records, slo),
            latencies: Metric::ALL.into_iter().map(stats).collect(),
            verdict: verdict(run, slo, good),
        }
    }

    /// The same summary if the times or the number of tokens are not known. There is then no pace
    /// (TPOT, ITL), a target on it is not known to be held, and no request is known to have met
    /// such a target.
    #[must_use]
    pub fn without_pace(mut self) -> Self {
        let paceless = self.latencies.iter_mut().filter(|(metric, _)| metric.span() == Span::Pace);
        paceless.for_each(|(_, stats)| *stats = Stats::default());
        let paced = |judged: &&mut Judged| judged.target.metric.span() == Span::Pace;
        for judged in self.verdict.targets.iter_mut().filter(paced) {
            (judged.value, judged.margin, judged.met) = (Latency::Undefined, None, false);
            (self.verdict.met, self.good) = (false, 0);
            if let Some(attained) = &mut self.verdict.attainment {
                (attained.share, attained.met) = (0.0, false);
            }
        }
        self
    }

    fn per_second(&self, count: u64) -> f64 {
        if self.duration_s > 0.0 { count as f64 / self.duration_s } else { 0.0 }
    }

    /// Completed requests per second.
    #[must_use]
    pub fn request_throughput_rps(&self) -> f64 {
        self.per_second(self.completed)
    }

    /// Requests per second that met every target.
    #[must_use]
    pub fn goodput_rps(&self) -> f64 {
        self.per_second(self.good)
    }

    /// Output tokens of completed requests per second.
    #[must_use]
    pub fn output_tokens_per_s(&self) -> f64 {
        self.per_second(self.output_tokens)
    }

    /// Prompt tokens of completed requests per second.
    #[must_use]
    pub fn input_tokens_per_s(&self) -> f64 {
        self.per_second(self.input_tokens)
    }

    /// Share of the requests offered that met every target; none of no requests.
    #[must_use]
    pub fn attainment(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.good as f64 / self.requests as f64)
    }

    /// The statistics of one metric; undefined where it was not measured.
    #[must_use]
    pub fn stats(&self, metric: Metric) -> Stats {
        self.latencies.get(&metric).copied().unwrap_or_default()
    }

    /// Flat keys for machine-readable output, `{mean,p50,p90,p99}_{ttft,tpot,itl,e2e}_ms` among them. A latency
    /// is null when undefined or infinite; `completed` below `requests` tells the latter.
    #[must_use]
    pub fn flat(&self) -> Map<String, Value> {
        let mut flat = Map::new();
        let mut put = |key: &str, value: Value| flat.insert(key.to_owned(), value);
        put("requests", json!(self.requests));
        put("completed", json!(self.completed));
        put("rejected", json!(self.rejected));
        put("failed", json!(self.failed));
        put("unfinished", json!(self.unfinished));
        put("duration_s", json!(self.duration_s));
        put("input_tokens_per_s", json!(self.input_tokens_per_s()));
        put("output_tokens_per_s", json!(self.output_tokens_per_s()));
        put(
            "total_tokens_per_s",
            json!(self.per_second(self.input_tokens.saturating_add(self.output_tokens))),
        );
        put("request_throughput_rps", json!(self.request_throughput_rps()));
        put("offered_rps", json!(self.offered.map(|o| o.request_rate_rps)));
        put("goodput_rps", json!(self.goodput_rps()));
        put("attainment", json!(self.attainment()));
        put("cached_tokens", json!(self.cached_tokens));
        put("preemptions", json!(self.preemptions));
        for metric in Metric::ALL {
            let Stats { mean, p50, p90, p99, .. } = self.stats(metric);
            for (name, value) in [("mean", mean), ("p50", p50), ("p90", p90), ("p99", p99)] {
                put(&format!("{name}_{}_ms", metric.name()), json!(value.millis()));
            }
        }
        flat
    }
}

/// First scheduled arrival to last completion.
fn duration(records: &[Record]) -> Duration {
    let first = records.iter().map(|r| r.scheduled).min().unwrap_or_default();
    let last = records.iter().filter(|r| r.completed()).filter_map(|r| r.last_token).max();
    last.unwrap_or(first).saturating_sub(first)
}

fn offered(records: &[Record], slo: &BoundSlo) -> Option<Offered> {
    let first = records.iter().map(|r| r.scheduled).min()?;
    let last = records.iter().map(|r| r.scheduled).max()?;
    let duration_s = (last - first).as_secs_f64();
    if duration_s == 0.0 {
        return None;
    }
    let (mut completed, mut good, mut tokens) = (0u64, 0u64, 0u64);
    for r in records.iter().filter(|r| r.completed() && r.last_token.is_some_and(|t| t <= last)) {
        completed += 1;
        good += u64::from(slo.meets(r));
        tokens += u64::from(r.output);
    }
    Some(Offered {
        duration_s,
        request_rate_rps: (records.len() - 1) as f64 / duration_s,
        request_throughput_rps: completed as f64 / duration_s,
        goodput_rps: good as f64 / duration_s,
        output_tokens_per_s: tokens as f64 / duration_s,
    })
}

fn verdict(run: &Recording, slo: &BoundSlo, good: u64) -> Verdict {
    let requests = run.records.len() as u64;
    let attainment = slo.slo().attainment().map(|required| Attained {
        share: if requests == 0 { 1.0 } else { good as f64 / requests as f64 },
        required: required.fraction(),
        met: good >= required.rank(requests),
    });
    let targets: Vec<Judged> = slo
        .resolved()
        .map(|(target, resolved)| {
            let statistic = slo.slo().attainment().map_or(target.statistic, Statistic::Percentile);
            let per_request = target.metric.per_request() || attainment.is_some();
            let value =
                population(run, target.metric, resolved.class, per_request).statistic(statistic);
            judge(Target { statistic, ..target.clone() }.subject(), target.clone(), value)
        })
        .collect();
    let met = attainment.map_or(targets.iter().all(|t| t.met), |a| a.met);
    Verdict { met, targets, attainment }
}

fn population(
    run: &Recording,
    metric: Metric,
    class: Option<u16>,
    per_request: bool,
) -> Population {
    let records = run.records.iter().filter(|r| class.is_none_or(|class| class == r.class));
    if per_request {
        return Population::of_requests(metric, records);
    }
    let itl = match class {
        Some(class) => run.itl.get(usize::from(class)).cloned().unwrap_or_default(),
        None => run.itl_of_all(),
    };
    Population::of_gaps(itl, records)
}

fn judge(measured: String, target: Target, value: Latency) -> Judged {
    let margin = value.finite().map(|v| 1.0 - v.as_secs_f64() / target.limit.as_secs_f64());
    Judged { met: value <= Latency::Finite(target.limit), measured, value, margin, target }
}
