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
    let targets: Vec<Target> = page::targets(&r.slo);
    let limits: Vec<&Target> = targets.iter().filter(|t| is_plain_p99(t)).collect();
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
        "limits": limits.iter().map(|t| json!({
            "metric": t.metric.name(), "name": t.metric.label(), "ms": t.limit.as_secs_f64() * 1e3,
        })).collect::<Vec<_>>(),
        "configurations": configurations,
    });
    html! {
        p { "Recomputed here from the runs stored on this page: another demand, price or limit, without another simulation." }
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

fn is_plain_p99(target: &Target) -> bool {
    let p99 = matches!(target.statistic, Statistic::Percentile(p) if p == Percentile::P99);
    p99 && target.class.is_none()
}

fn configuration(r: &TuneResult, o: &Operating, limits: &[&Target]) -> Value {
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
fn run(p: &CurvePoint, limits: &[&Target]) -> Value {
    let p99 = |metric: Metric| p.latencies.get(metric).1;
    let within = |t: &&Target| p99(t.metric).is_some_and(|ms| ms <= t.limit.as_secs_f64() * 1e3);
    let other = !p.slo_met && limits.iter().all(within);
    let p99s = limits.iter().map(|t| (t.metric.name().to_owned(), json!(p99(t.metric))));
    json!({
        "rate": p.rate_rps,
        "sustainable": p.sustainable && !other,
        "p99": p99s.collect::<serde_json::Map<_, _>>(),
    })
}
