//! The contents of a result that another result, or a requirement, is compared with: what was asked, what was chosen,
//! and every figure with its unit and the direction that is better.

use crate::bench;
use crate::figures;
use crate::report::{BenchReport, CompareReport, Report, Scenario, ServedReport, TuneReport};
use crate::sentences;
use loadgen::{Latency, Metric};
use serde::Serialize;
use std::collections::BTreeMap;
use tuner::result::{Answer, Margin, Operating};

/// The contents of a result.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Facts {
    /// The question, by the name of each part.
    pub question: BTreeMap<String, String>,
    /// The configuration that was chosen, or was run: every knob.
    pub configuration: BTreeMap<String, String>,
    /// The figures.
    pub figures: Vec<Figure>,
    /// True where times are predicted by a cost model; none where some are and some are not.
    pub simulated: Option<bool>,
}

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Its name, such as `capacity` or `ttft:p99`.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// Its value; none where there is none, such as the latency of lost requests.
    pub value: Option<f64>,
    /// The direction that is better.
    pub better: Better,
}

/// The unit of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Requests (or session starts) per second.
    Rps,
    /// Tokens per second.
    TokensPerS,
    /// Milliseconds.
    Ms,
    /// US dollars.
    Usd,
    /// A number of things.
    Count,
    /// A share of a whole.
    Share,
}

/// The direction in which a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// It depends: a latency at capacity is near its limit whatever the capacity.
    Neither,
}

/// The name of the rate that holds the targets.
pub(super) const CAPACITY: &str = "capacity";
/// The name of the rate at which requests met all targets in a run.
pub(super) const GOODPUT: &str = "goodput";

impl Unit {
    /// `value` for people.
    pub(super) fn shown(self, value: Option<f64>) -> String {
        let Some(value) = value else { return figures::NONE.to_owned() };
        match self {
            Self::Rps => figures::rate(value),
            Self::TokensPerS => figures::sig(value, 3),
            Self::Ms => figures::ms(value),
            Self::Usd => figures::usd(value),
            Self::Count => figures::short(value),
            Self::Share => figures::percent(value),
        }
    }

    /// Its name beside numbers that do not carry it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rps => "requests/s",
            Self::TokensPerS => "tokens/s",
            Self::Ms | Self::Usd | Self::Count | Self::Share => "",
        }
    }
}

impl Facts {
    /// Those of a report; none of a validation, which has no answer of this kind.
    #[must_use]
    pub fn of(report: &Report) -> Option<Self> {
        Some(match report {
            Report::Tune(report) => tuned(report),
            Report::Compare(report) => compared(report),
            Report::Bench(report) => benched(report),
            Report::Served(report) => served(report),
            Report::Validate(_) | Report::Fidelity(_) => return None,
        })
    }

    /// The figure called `name`.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    fn ask(&mut self, what: &str, value: impl Into<String>) {
        self.question.insert(what.to_owned(), value.into());
    }

    fn put(&mut self, name: impl Into<String>, unit: Unit, value: Option<f64>, better: Better) {
        let value = value.filter(|value| value.is_finite());
        self.figures.push(Figure { name: name.into(), unit, value, better });
    }

    /// The p99 of each latency.
    fn p99s(&mut self, of: impl Fn(Metric) -> Option<f64>, better: Better) {
        for metric in Metric::ALL {
            self.put(format!("{}:p99", metric.name()), Unit::Ms, of(metric), better);
        }
    }

    /// The targets' own statistics, and what is left of their limits.
    fn margins(&mut self, margins: &[Margin]) {
        for margin in margins {
            if self.figure(&margin.measured).is_none() {
                self.put(&margin.measured, Unit::Ms, margin.value_ms, Better::Neither);
            }
            let name = format!("margin of {}", margin.target);
            self.put(name, Unit::Share, margin.margin, Better::Neither);
        }
    }

    fn scenario(&mut self, s: &Scenario, slo: &str) {
        self.ask("model", &s.model);
        self.ask("device", &s.device.name);
        self.ask("workload", format!("{}, {} requests", s.workload.name, s.workload.requests));
        self.ask("targets", slo.replace(figures::THIN, " "));
        self.ask("seed", s.seed.to_string());
        self.ask("times", times(s.simulated));
        self.simulated = Some(s.simulated);
    }
}

fn times(simulated: bool) -> &'static str {
    if simulated { "simulated" } else { "measured" }
}

fn tuned(report: &TuneReport) -> Facts {
    let (r, mut facts) = (&report.result, Facts::default());
    let devices: Vec<&str> = r.devices.iter().map(|d| d.name.as_str()).collect();
    facts.ask("model", &r.model);
    facts.ask("devices", devices.join(", "));
    facts.ask("GPUs at most", r.gpus.to_string());
    facts.ask("workload", format!("{}, {} requests", r.workload.name, r.workload.requests));
    facts.ask("targets", sentences::slo_text(r).replace(figures::THIN, " "));
    let objective = serde_json::to_value(r.objective).unwrap_or_default();
    facts.ask("objective", objective.as_str().unwrap_or_default());
    facts.ask("seed", r.seed.to_string());
    if let Some(plan) = r.plans.first() {
        facts.ask("demand", format!("{} requests/s", figures::rate(plan.demand_rps)));
        facts.ask("headroom", figures::percent(plan.headroom).replace(figures::THIN, " "));
    }
    if let Some(answer) = &report.measured {
        facts.ask("times", "simulated, then measured");
        measured(&mut facts, answer);
        return facts;
    }
    facts.ask("times", times(r.simulated));
    facts.simulated = Some(r.simulated);
    let best = r.best.as_ref();
    if let Some(best) = best {
        facts.configuration.clone_from(&best.config);
        facts.configuration.insert("device".to_owned(), best.device.clone());
    }
    let of = |value: fn(&Operating) -> Option<f64>| best.and_then(value);
    facts.put(CAPACITY, Unit::Rps, of(|b| Some(b.capacity_rps)), Better::Higher);
    if let Some(c) = &r.confidence {
        facts.put("capacity with slow iterations", Unit::Rps, Some(c.low_rps), Better::Neither);
        facts.put("capacity with fast iterations", Unit::Rps, Some(c.high_rps), Better::Neither);
    }
    facts.put("GPUs", Unit::Count, of(|b| Some(b.gpus.into())), Better::Neither);
    let per_gpu = of(|b| Some(b.tokens_per_s_per_gpu));
    facts.put("output per GPU", Unit::TokensPerS, per_gpu, Better::Higher);
    let per_million = of(|b| b.usd_per_million_tokens);
    facts.put("per million output tokens", Unit::Usd, per_million, Better::Lower);
    if let Some(plan) = crate::planned::chosen(r) {
        facts.put("GPUs of the plan", Unit::Count, Some(plan.gpus.into()), Better::Lower);
        facts.put("plan, per hour", Unit::Usd, plan.usd_per_hour, Better::Lower);
    }
    if let Some(best) = best {
        facts.p99s(|metric| best.p99.get(metric), Better::Neither);
        facts.margins(&best.margins);
    }
    facts
}

/// The answer of an engine or a server.
fn measured(facts: &mut Facts, answer: &Answer) {
    facts.put(CAPACITY, Unit::Rps, answer.capacity_rps, Better::Higher);
    facts.put("fails at", Unit::Rps, answer.fails_at_rps, Better::Neither);
    let Some((best, rate)) = answer.best() else { return };
    facts.configuration.clone_from(&best.config);
    // The last run at that rate is the one that decided.
    if let Some(tried) = best.tried.iter().rev().find(|t| t.held && t.rate_rps == rate) {
        facts.p99s(|metric| tried.p99.get(metric), Better::Neither);
    }
}

fn served(report: &ServedReport) -> Facts {
    let mut facts = Facts::default();
    let slo = crate::page::slo_text(&report.scenario.slo, report.attainment);
    facts.scenario(&report.scenario, &slo);
    measured(&mut facts, &report.answer);
    facts
}

fn benched(report: &BenchReport) -> Facts {
    let (summary, mut facts) = (&report.summary, Facts::default());
    facts.scenario(&report.scenario, &bench::slo_text(report));
    facts.ask(
        "load",
        match (report.streams, report.rate_rps) {
            (Some(streams), _) => format!("{streams} streams"),
            (None, Some(rps)) => format!("{} requests/s", figures::rate(rps)),
            (None, None) => "all at once, or as they end".to_owned(),
        },
    );
    facts.configuration.clone_from(&report.config);
    facts.put("completed", Unit::Rps, Some(summary.request_throughput_rps()), Better::Higher);
    facts.put(GOODPUT, Unit::Rps, Some(summary.goodput_rps()), Better::Higher);
    facts.put("output", Unit::TokensPerS, Some(summary.output_tokens_per_s()), Better::Higher);
    for metric in Metric::ALL {
        let stats = summary.stats(metric);
        let all =
            [("mean", stats.mean), ("p50", stats.p50), ("p90", stats.p90), ("p95", stats.p95)];
        for (name, value) in all.into_iter().chain([("p99", stats.p99), ("p99.9", stats.p999)]) {
            let name = format!("{}:{name}", metric.name());
            facts.put(name, Unit::Ms, Latency::millis(value), Better::Lower);
        }
    }
    facts
}

fn compared(report: &CompareReport) -> Facts {
    let mut facts = Facts::default();
    facts.scenario(&report.scenario, &crate::compare::slo_text(report));
    let names: Vec<&str> = report.policies.iter().map(|p| p.name.as_str()).collect();
    facts.ask("policies", names.join(", "));
    for p in &report.policies {
        facts.put(format!("{CAPACITY} of {}", p.name), Unit::Rps, p.capacity_rps, Better::Higher);
        let output = Some(p.saturated_output_tokens_per_s);
        facts.put(
            format!("saturated output of {}", p.name),
            Unit::TokensPerS,
            output,
            Better::Higher,
        );
    }
    facts
}
