//! The data of the page's panel "What if": the stored runs of each configuration, its GPUs and their price. The page's
//! script computes with them; without it there is no panel.

use crate::figures::short;
use crate::page;
use loadgen::{Metric, Percentile, Statistic, Target};
use maud::{Markup, html};
use serde_json::{Value, json};
use tuner::result::{CurvePoint, Operating, TuneResult};

/// The panel of a result; nothing where no configuration holds the targets.
pub(crate) fn panel(r: &TuneResult) -> Markup {
    let limits = limits(r);
    let configurations: Vec<Value> =
        shown(r).into_iter().map(|o| configuration(r, o, &limits)).collect();
    let Some(best) = r.best.as_ref().filter(|_| !configurations.is_empty()) else {
        return html! {};
    };
    let plan = r.plans.first();
    let data = json!({
        "unit": r.workload.unit(),
        "demand": plan.map_or_else(|| short(best.capacity_rps), |p| short(p.demand_rps)).replace(',', ""),
        "headroom": plan.map_or(10.0, |p| 100.0 * p.headroom),
        "limits": limits.iter().map(|l| json!({"key": l.key(), "name": l.name(), "ms": l.ms})).collect::<Vec<_>>(),
        "configurations": configurations,
    });
    html! {
        p {
            "Recomputed here from the runs stored on this page: another demand, price or limit, without another simulation."
            @if let Some(kept) = kept(r, &limits) { " " (kept) }
        }
        div data-what-if=(data) {}
    }
}

/// The winner, then the best of each policy on each device that is another configuration.
fn shown(r: &TuneResult) -> Vec<&Operating> {
    let best = r.best.iter();
    let others = r.baselines.iter().filter_map(|b| b.best.as_ref());
    let others = others
        .filter(|o| r.best.as_ref().is_none_or(|b| b.config != o.config || b.device != o.device));
    best.chain(others).filter(|o| !o.curve.is_empty()).collect()
}

/// A limit that a reader may set: on a figure that every stored run has.
struct Limit {
    metric: Metric,
    /// The 99th percentile; else the median.
    p99: bool,
    /// The question's own, ms; none where it has none.
    ms: Option<f64>,
}

impl Limit {
    /// Its figure among those of a run.
    fn key(&self) -> String {
        format!("{}:{}", self.metric.name(), if self.p99 { "p99" } else { "p50" })
    }

    fn name(&self) -> String {
        format!("{} {}", if self.p99 { "p99" } else { "median" }, self.metric.label())
    }

    /// True of a target of the question that is this limit.
    fn is(&self, target: &Target) -> bool {
        let percentile = if self.p99 { Percentile::P99 } else { Percentile::P50 };
        let same = matches!(target.statistic, Statistic::Percentile(p) if p == percentile);
        same && target.class.is_none() && target.metric == self.metric
    }

    fn of(&self, p: &CurvePoint) -> Option<f64> {
        let (median, p99) = p.latencies.get(self.metric);
        if self.p99 { p99 } else { median }
    }

    fn holds(&self, p: &CurvePoint) -> bool {
        self.ms.is_none_or(|most| self.of(p).is_some_and(|ms| ms <= most))
    }
}

/// Limits on every figure that a run on the page has, the 99th percentiles first. Where the share of requests that meet
/// all targets decides, no target is a limit on one figure.
fn limits(r: &TuneResult) -> Vec<Limit> {
    let targets = if r.attainment.is_none() { page::targets(&r.slo) } else { Vec::new() };
    let figures = [true, false].into_iter().flat_map(|p99| Metric::ALL.map(|metric| (metric, p99)));
    let limits = figures.map(|(metric, p99)| {
        let plain = Limit { metric, p99, ms: None };
        let own = targets.iter().filter(|t| plain.is(t)).map(|t| t.limit.as_secs_f64() * 1e3);
        Limit { ms: own.reduce(f64::min), ..plain }
    });
    let points = || shown(r).into_iter().flat_map(|o| &o.curve);
    limits.filter(|limit| points().any(|p| limit.of(p).is_some())).collect()
}

/// The question's targets that no field stands for; none where all have one.
fn kept(r: &TuneResult, limits: &[Limit]) -> Option<String> {
    let own = |target: &Target| limits.iter().any(|limit| limit.is(target));
    let all = r.attainment.is_none() && page::targets(&r.slo).iter().all(own);
    (!all).then(|| {
        "Targets that no field stands for are kept: a run that missed one of them is missed here, too.".to_owned()
    })
}

fn configuration(r: &TuneResult, o: &Operating, limits: &[Limit]) -> Value {
    let device = r.devices.iter().find(|d| d.name == o.device);
    let price = device.and_then(|d| d.price.as_ref()).map(|p| p.usd_per_gpu_hour);
    let gpus = if o.gpus == 1 { "1 GPU".to_owned() } else { format!("{} GPUs", o.gpus) };
    json!({
        "name": format!("{} on {} ({gpus})", o.label, o.device),
        "device": o.device,
        "gpus": o.gpus,
        // Replicas that were run together: each is taken to carry its part.
        "replicas": o.config.get("replicas").and_then(|n| n.parse::<u32>().ok()).unwrap_or(1),
        "price": price,
        "runs": o.curve.iter().map(|p| run(p, limits)).collect::<Vec<_>>(),
    })
}

/// A stored run. One that failed though every limit offered here held has broken something else: no limit here saves it.
fn run(p: &CurvePoint, limits: &[Limit]) -> Value {
    let other = !p.slo_met && limits.iter().all(|limit| limit.holds(p));
    let figures = limits.iter().map(|limit| (limit.key(), json!(limit.of(p))));
    json!({
        "rate": p.rate_rps,
        "sustainable": p.sustainable && !other,
        "figures": figures.collect::<serde_json::Map<_, _>>(),
    })
}
