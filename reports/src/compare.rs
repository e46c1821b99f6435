//! The page of `knee compare`: what each policy buys on this trace, and whether the papers' claims hold here.

use crate::charts::{self, Chart, bars};
use crate::figures::{listed, opt_ms, percent, rate, sig};
use crate::page::{self, Origin, Page, Row, Section, Times, cell, table};
use crate::plot::Ink;
use crate::report::{CompareReport, Scenario};
use crate::{latency, policies};
use loadgen::Metric;
use maud::{Markup, html};
use tuner::claims::{Claim, Finding};
use tuner::compare::PolicyResult;

/// The page.
#[must_use]
pub fn compare_page(report: &CompareReport) -> String {
    let s = &report.scenario;
    let sections = vec![
        Section::new("answer", "", answer(report)),
        Section::new("claims", "Claims of the papers, tried here", claims(&report.claims.claims)),
        Section::new("saturated", "All requests at once", saturated(report)),
        Section::new("latency", "Latency against rate", curves(report)),
        Section::new("equal", "At equal rates", policies::at_equal_rates(&report.policies)),
        Section::new("kv", "KV memory", memory(report)),
        Section::new("sweeps", "What it depends on", sweeps(report)),
        page::provenance(&origin(&report.about, s, slo_text(report)), Vec::new()),
    ];
    Page {
        title: format!("knee compare: {} on {}", s.model, s.device.name),
        headline: headline(report),
        times: Times::of(s.simulated),
        facts: facts(s, slo_text(report)),
        sections,
        version: &s.version,
    }
    .render()
}

/// The targets as a person says them.
pub(crate) fn slo_text(report: &CompareReport) -> String {
    let first = report.policies.first();
    let attained = first.and_then(|p| p.saturated.summary.verdict.attainment);
    page::slo_text(&report.scenario.slo, attained.map(|a| a.required))
}

/// The facts of a page about one scenario; `slo` are the targets in words.
pub(crate) fn facts(s: &Scenario, slo: String) -> Vec<String> {
    vec![s.model.clone(), s.device.name.clone(), format!("workload {}", s.workload.name), slo]
}

/// The origin of a scenario's figures.
pub(crate) fn origin<'a>(
    about: &'a crate::report::About,
    s: &'a Scenario,
    slo: String,
) -> Origin<'a> {
    Origin {
        about,
        version: &s.version,
        simulated: s.simulated,
        seed: s.seed,
        workload: &s.workload,
        model: &s.model,
        notes: &s.notes,
        devices: vec![&s.device],
        slo,
        wall_s: s.wall_s,
        cpu_s: s.cpu_s,
        host: &s.host,
    }
}

/// True if the policies take different numbers of GPUs, so that only rates per GPU compare.
pub(crate) fn mixes_gpus(report: &CompareReport) -> bool {
    report.policies.windows(2).any(|p| p[0].gpus != p[1].gpus)
}

/// The number that a policy's rates are divided by to compare them, and the name of the result.
pub(crate) fn share(report: &CompareReport) -> (impl Fn(&PolicyResult) -> f64, &'static str) {
    let mixed = mixes_gpus(report);
    let by = move |p: &PolicyResult| if mixed { f64::from(p.gpus) } else { 1.0 };
    (by, if mixed { " per GPU" } else { "" })
}

/// The winner, and its margin.
pub(crate) fn headline(report: &CompareReport) -> String {
    let (by, each) = share(report);
    let tokens = |p: &&PolicyResult| p.saturated_output_tokens_per_s / by(p);
    let most = report.policies.iter().max_by(|a, b| tokens(a).total_cmp(&tokens(b)));
    let least = report.policies.iter().min_by(|a, b| tokens(a).total_cmp(&tokens(b)));
    match (most, least) {
        (Some(a), Some(b)) if a.name != b.name => format!(
            "With all requests at once, {} makes {} output tokens/s{each}, {}× those of {}.",
            a.name,
            sig(tokens(&a), 3),
            sig(tokens(&a) / tokens(&b), 3),
            b.name
        ),
        (Some(a), _) => format!(
            "{} makes {} output tokens/s{each} with all requests at once.",
            a.name,
            sig(tokens(&a), 3)
        ),
        _ => "No policy was compared.".to_owned(),
    }
}

/// The load that each carries under the targets, the most first; none without targets.
pub(crate) fn capacities(report: &CompareReport) -> Option<String> {
    if report.scenario.slo.is_empty() {
        return None;
    }
    let (by, each) = share(report);
    let held =
        report.policies.iter().filter_map(|p| Some((p.capacity_rps? / by(p), p.name.as_str())));
    let mut held: Vec<(f64, &str)> = held.collect();
    held.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (most, rest) = held.split_first()?;
    let rest: Vec<String> = rest.iter().map(|(c, name)| format!("{name} {}", rate(*c))).collect();
    let rest = if rest.is_empty() { String::new() } else { format!("; {}", listed(&rest)) };
    Some(format!(
        "With {}, {} carries the most, {} {}{each}{rest}.",
        slo_text(report),
        most.1,
        rate(most.0),
        report.scenario.workload.unit()
    ))
}

/// Requests that policies can never serve, and why: one sentence for all that say the same.
pub(crate) fn unfit(report: &CompareReport) -> Vec<String> {
    let mut said: Vec<(String, Vec<&str>)> = Vec::new();
    for p in report.policies.iter().filter(|p| p.saturated.unfit.any()) {
        let text = p.saturated.unfit.to_string();
        match said.iter_mut().find(|(other, _)| *other == text) {
            Some((_, names)) => names.push(&p.name),
            None => said.push((text, vec![&p.name])),
        }
    }
    said.iter().map(|(text, names)| format!("With {} {text}; they fail", listed(names))).collect()
}

fn answer(report: &CompareReport) -> Markup {
    let (by, _) = share(report);
    let mixed = mixes_gpus(report);
    let columns = [
        ("policy", false),
        ("GPUs", true),
        (
            if mixed { "output tokens/s per GPU, saturated" } else { "output tokens/s, saturated" },
            true,
        ),
        (
            if mixed {
                "capacity under the targets, req/s per GPU"
            } else {
                "capacity under the targets, req/s"
            },
            true,
        ),
        ("p99 TTFT", true),
        ("p99 ITL", true),
        ("KV waste", true),
        ("mean batch", true),
        ("padded", true),
        ("recomputed", true),
    ];
    let row = |p: &PolicyResult| {
        let w = &p.saturated.work();
        let share = |n: u64| percent(n as f64 / w.tokens_executed.max(1) as f64);
        let capacity = match p.capacity_rps {
            Some(c) => cell(rate(c / by(p))),
            None => html! { span.missed { "infeasible" } },
        };
        let cells = vec![
            cell(&p.name),
            cell(p.gpus.to_string()),
            cell(sig(p.saturated_output_tokens_per_s / by(p), 3)),
            capacity,
            cell(opt_ms(p.p99.get(Metric::Ttft))),
            cell(opt_ms(p.p99.get(Metric::Itl))),
            cell(percent(p.kv_waste_percent / 100.0)),
            cell(sig(p.mean_batch, 3)),
            cell(share(w.tokens_padded)),
            cell(share(w.tokens_recomputed)),
        ];
        (cells, "")
    };
    let rows: Vec<Row> = report.policies.iter().map(row).collect();
    let first = report.policies.first();
    html! {
        @if let Some(said) = capacities(report) { p.lead { (said) } }
        p { "Every policy has the same KV bytes, seats and token budget; only scheduler and allocator differ." }
        (table(&columns, &rows))
        p.quiet {
            "Saturated: all requests offered at once; waste, batch, padding and recomputation are of that run."
            @if let Some(first) = first { " Latencies are at " (rate(first.rate_rps)) " requests/s." }
        }
        (page::warnings(&unfit(report)))
    }
}

/// The outcome of a claim, in a word.
pub(crate) fn finding(finding: Finding) -> &'static str {
    match finding {
        Finding::Confirmed => "confirmed",
        Finding::Partly => "partly",
        Finding::Refuted => "refuted",
        Finding::Untried => "not tried",
    }
}

fn claims(claims: &[Claim]) -> Markup {
    if claims.is_empty() {
        return html! {};
    }
    let row = |c: &Claim| {
        let class = match c.finding {
            Finding::Confirmed => "met",
            Finding::Refuted => "missed",
            Finding::Partly => "partly",
            Finding::Untried => "quiet",
        };
        let verdict = html! { b class=(class) { (finding(c.finding)) } };
        let claim = html! { (c.claim) br; span.quiet { (c.paper) } };
        (vec![claim, cell(&c.setup), cell(&c.measured), verdict], "")
    };
    let rows: Vec<Row> = claims.iter().map(row).collect();
    let count = |f: Finding| claims.iter().filter(|c| c.finding == f).count();
    let tried = claims.len() - count(Finding::Untried);
    html! {
        p { "Of " (tried) " claims that could be tried on this trace, model and device, " (count(Finding::Confirmed)) " hold, "
            (count(Finding::Partly)) " hold in part and " (count(Finding::Refuted)) " do not. "
            "The paper's own setup stands under each: what is refuted here is not refuted there." }
        (table(&[("claim, and the paper's setup", false), ("setup here", false), ("found", false), ("verdict", false)], &rows))
    }
}

fn named(
    report: &CompareReport,
    of: impl Fn(&PolicyResult) -> Option<f64>,
) -> Vec<(String, Ink, Option<f64>)> {
    let names: Vec<&str> = report.policies.iter().map(|p| p.name.as_str()).collect();
    let each = report.policies.iter().zip(policies::inks(&names));
    each.map(|(p, ink)| (p.name.clone(), ink, of(p))).collect()
}

fn saturated(report: &CompareReport) -> Markup {
    if report.policies.is_empty() {
        return html! {};
    }
    let three = |v: f64| sig(v, 3);
    let (by, each) = share(report);
    let charts: [Chart; 3] = [
        bars(
            "Output, saturated",
            &format!("output tokens/s{each}"),
            &named(report, |p| Some(p.saturated_output_tokens_per_s / by(p))),
            three,
        ),
        bars(
            "Capacity under the targets",
            &format!("requests/s{each}"),
            &named(report, |p| Some(p.capacity_rps? / by(p))),
            three,
        ),
        bars(
            "Mean batch, saturated",
            "sequences per iteration",
            &named(report, |p| Some(p.mean_batch)),
            three,
        ),
    ];
    page::charts(&charts, "")
}

fn curves(report: &CompareReport) -> Markup {
    if report.policies.iter().all(|p| p.at.len() < 2) {
        return html! {};
    }
    let curves = policies::curves(&report.policies);
    html! {
        p { "Rings on the axis mark capacities under the targets." }
        (page::charts(&latency::charts(&curves, &page::targets(&report.scenario.slo), None), ""))
    }
}

fn memory(report: &CompareReport) -> Markup {
    let row = |p: &PolicyResult| {
        let mut cells = vec![cell(&p.name)];
        cells.extend(charts::classes(&p.saturated.kv()).iter().map(|c| cell(percent(c.1))));
        cells.push(cell(percent(p.saturated.kv().waste_percent() / 100.0)));
        (cells, "")
    };
    let rows: Vec<Row> = report.policies.iter().map(row).collect();
    let Some(first) = report.policies.first() else { return html! {} };
    let mut columns = vec![("saturated, share of all slots", false)];
    columns.extend(charts::classes(&first.saturated.kv()).map(|c| (c.0, true)));
    columns.push(("wasted of taken", true));
    html! {
        (page::charts(&[bars("KV memory wasted, saturated", "% of what is taken", &named(report, |p| Some(p.kv_waste_percent)), |v| percent(v / 100.0))], ""))
        (table(&columns, &rows))
        p.quiet { "Wasted: reserved for later, never to be filled (internal) or lost between extents (external); "
            "idle and cached slots count as neither taken nor wasted." }
    }
}

fn sweeps(report: &CompareReport) -> Markup {
    let charts: Vec<Chart> = report.claims.sweeps.iter().map(charts::sweep).collect();
    page::charts(&charts, "two")
}
