//! Policies at equal rates, drawn the same on the tune and the compare page.

use crate::charts::{Chart, bars};
use crate::figures::{capitalised, latency, listed, ms, percent, rate, sig};
use crate::latency::{At, Curve};
use crate::page::{Row, cell, charts, table};
use crate::plot::Ink;
use loadgen::Metric;
use maud::{Markup, html};
use tuner::compare::PolicyResult;
use tuner::result::Latencies;
use tuner::subject::observation::Observation;

/// A policy's colour; variants and strangers get others by their place.
pub(crate) fn inks(names: &[&str]) -> Vec<Ink> {
    names.iter().enumerate().map(|(i, n)| Ink::policy(n, i)).collect()
}

/// The rate at which bars are drawn: the highest of the common ones that all policies sustain; else
/// the lowest. A rate that only some sustain would show the collapse of the others and nothing
/// else.
fn common(policies: &[PolicyResult]) -> Option<usize> {
    let n = policies.iter().map(|p| p.at.len()).min()?;
    let all = |i: &usize| policies.iter().all(|p| p.at[*i].observation.sustain.sustained);
    (0..n).rev().find(all).or_else(|| (n > 0).then_some(0))
}

/// Bars of what users and memory see at one rate, then every rate as a table.
pub(crate) fn at_equal_rates(policies: &[PolicyResult]) -> Markup {
    let Some(i) = common(policies) else { return Markup::default() };
    let rate_rps = policies[0].at[i].rate_rps;
    html! {
        p { "All offered " (rate(rate_rps)) " requests/s"
            @if !policies.iter().all(|p| p.at[i].observation.sustain.sustained) {
                " (not everybody can sustain it)"
            }
            " of the same trace; the table below has the other rates."
            @if let Some(said) = unlike(policies) { " " (said) }
        }
        (charts(&at_rate(policies, i), ""))
        (every_rate(policies))
    }
}

/// A sentence on equal rates of different numbers of GPUs; none where all take as many.
fn unlike(policies: &[PolicyResult]) -> Option<String> {
    let first = policies.first()?.gpus;
    let gpus = |n: u32| if n == 1 { "one GPU".to_owned() } else { format!("{n} GPUs") };
    let other: Vec<String> = policies
        .iter()
        .filter(|p| p.gpus != first)
        .map(|p| format!("{} takes {}", p.name, gpus(p.gpus)))
        .collect();
    (!other.is_empty()).then(|| {
        format!(
            "{}, the others {}. At an equal rate, more GPUs have less to do each.",
            capitalised(&listed(&other)),
            gpus(first)
        )
    })
}

fn at_rate(policies: &[PolicyResult], i: usize) -> Vec<Chart> {
    let names: Vec<&str> = policies.iter().map(|p| p.name.as_str()).collect();
    let inks = inks(&names);
    let rows = |of: &dyn Fn(&Observation) -> Option<f64>| -> Vec<(String, Ink, Option<f64>)> {
        let each = policies.iter().zip(&inks);
        each.map(|(p, ink)| (p.name.clone(), *ink, of(&p.at[i].observation))).collect()
    };
    let p99 = |m: Metric| rows(&move |o| o.summary.stats(m).p99.millis());
    vec![
        bars("p99 TTFT", "ms", &p99(Metric::Ttft), ms),
        bars("p99 ITL", "ms", &p99(Metric::Itl), ms),
        bars(
            "KV memory wasted",
            "% of what is taken",
            &rows(&|o| Some(o.kv().waste_percent())),
            |v| percent(v / 100.0),
        ),
    ]
}

fn every_rate(policies: &[PolicyResult]) -> Markup {
    let columns = [
        ("requests/s", true),
        ("policy", false),
        ("TTFT p50", true),
        ("TTFT p99", true),
        ("TPOT p99", true),
        ("ITL p99", true),
        ("output tokens/s", true),
        ("mean batch", true),
        ("preempted", true),
        ("KV waste", true),
        ("sustained", false),
    ];
    let rates = policies.iter().map(|p| p.at.len()).min().unwrap_or(0);
    let mut rows: Vec<Row> = Vec::new();
    for i in 0..rates {
        for (j, p) in policies.iter().enumerate() {
            let (s, o) = (&p.at[i].observation.summary, &p.at[i].observation);
            let mark = match (j == 0 && i > 0, o.sustain.sustained) {
                (true, true) => "group",
                (true, false) => "group off",
                (false, true) => "",
                (false, false) => "off",
            };
            let first = if j == 0 { rate(p.at[i].rate_rps) } else { String::new() };
            let cells = [
                first,
                p.name.clone(),
                latency(s.stats(Metric::Ttft).p50),
                latency(s.stats(Metric::Ttft).p99),
                latency(s.stats(Metric::Tpot).p99),
                latency(s.stats(Metric::Itl).p99),
                sig(s.output_tokens_per_s(), 3),
                sig(o.work().mean_batch, 3),
                crate::figures::count(o.work().preemptions),
                percent(o.kv().waste_percent() / 100.0),
                if o.sustain.sustained { "yes" } else { "no" }.to_owned(),
            ];
            rows.push((cells.iter().map(cell).collect(), mark));
        }
    }
    table(&columns, &rows)
}

/// Latency curves from runs at the comparison's rates.
pub(crate) fn curves(policies: &[PolicyResult]) -> Vec<Curve> {
    let names: Vec<&str> = policies.iter().map(|p| p.name.as_str()).collect();
    let at = |a: &tuner::compare::AtRate| At {
        rate: a.rate_rps,
        latencies: Latencies::of(&a.observation.summary),
    };
    let curve = |(p, ink): (&PolicyResult, Ink)| Curve {
        name: p.name.clone(),
        ink,
        chosen: false,
        knee: p.capacity_rps,
        points: p.at.iter().map(at).collect(),
    };
    policies.iter().zip(inks(&names)).map(curve).collect()
}
