//! The page of `knee bench`: one configuration at one rate, over time.

use crate::charts::{self, Chart};
use crate::compare::{facts, origin};
use crate::figures::{NONE, capitalised, count, latency, limit, percent, rate, seconds, sig};
use crate::measured;
use crate::over_time;
use crate::page::{self, Page, Row, Section, Times, cell, code, pairs, table, tile};
use crate::report::{BenchReport, Inside};
use loadgen::{Judged, Latency, Metric, Summary, Verdict};
use maud::{Markup, html};

/// The page.
#[must_use]
pub fn bench_page(report: &BenchReport) -> String {
    let s = &report.scenario;
    let mut sections = vec![Section::new("answer", "", answer(report))];
    sections.extend(seen(report));
    if let Some(inside) = &report.inside {
        sections.push(Section::new("kv", "KV memory", memory(report, inside)));
        sections.push(Section::new(
            "timeline",
            "Iterations",
            over_time::iterations(&report.detail),
        ));
        let config = pairs(report.config.iter().map(|(k, v)| (k.clone(), code(v))));
        sections.push(Section::new("configuration", "Configuration", config));
    }
    sections.push(page::provenance(&origin(&report.about, s, slo_text(report)), Vec::new()));
    Page {
        title: format!("knee bench: {} on {}", s.model, s.device.name),
        headline: headline(report),
        times: Times::of(s.simulated),
        facts: facts(s, slo_text(report)),
        sections,
        version: &s.version,
    }
    .render()
}

/// The run as seen from outside.
pub(crate) fn seen(report: &BenchReport) -> Vec<Section> {
    let mut sections = vec![
        Section::new("latency", "Latency", latencies(report)),
        Section::new("output", "Over time", over_time::course(&report.detail)),
    ];
    if let Some(live) = &report.live {
        sections.extend(measured::sections(live));
    }
    sections
}

/// The targets as a person says them.
pub(crate) fn slo_text(report: &BenchReport) -> String {
    let attained = report.summary.verdict.attainment;
    page::slo_text(&report.scenario.slo, attained.map(|a| a.required))
}

/// Its result in one sentence.
pub(crate) fn headline(report: &BenchReport) -> String {
    let (summary, s) = (&report.summary, &report.scenario);
    if let Some(live) = &report.live {
        return measured::headline(report, live);
    }
    let name = &s.workload.name;
    let load = match (report.streams, report.rate_rps) {
        (Some(1), _) => format!("one stream of {name}"),
        (Some(streams), _) => format!("{streams} streams of {name}"),
        (None, Some(rps)) => format!("{} {} of {name}", rate(rps), s.workload.unit()),
        (None, None) => format!("all of {name} at once"),
    };
    let who = match report.gpus {
        None | Some(1) => format!("One {} was", s.device.name),
        Some(gpus) => format!("{gpus} × {} were", s.device.name),
    };
    format!("{who} offered {load} and {}.", completed(summary))
}

/// The work completed, and its speed: `completed 14.5 requests/s for 20.6 s: 3,240 output tokens/s`.
pub(crate) fn completed(summary: &Summary) -> String {
    format!(
        "completed {} requests/s for {}: {} output tokens/s",
        rate(summary.request_throughput_rps()),
        seconds(summary.duration_s),
        sig(summary.output_tokens_per_s(), 3)
    )
}

/// The share of requests that met all targets, where that decides: in words, and true if it was reached.
pub(crate) fn attained(verdict: &Verdict) -> Option<(String, bool)> {
    let a = verdict.attainment?;
    let word = if a.met { "held" } else { "missed" };
    Some((format!("all targets: {}: {word}", tuner::result::attained(&a)), a.met))
}

/// The text that a target has instead of a value, because so many requests can never be served.
pub(crate) fn without_value(report: &BenchReport, target: &Judged) -> Option<String> {
    let none = target.value == Latency::Infinite && report.unfit.any();
    none.then(|| report.unfit.short())
}

/// The doubts about a run.
pub(crate) fn doubts(report: &BenchReport) -> Vec<String> {
    let summary = &report.summary;
    let mut doubts = report.live.as_ref().map_or_else(Vec::new, measured::doubts);
    let said = |live: &crate::report::LiveSide| {
        live.audit.reasons.iter().any(|r| r.contains(&report.sustain.reason))
    };
    let new = !report.live.as_ref().is_some_and(said);
    if !report.sustain.sustained && report.rate_rps.is_some() && new {
        doubts.push(format!("This rate cannot go on for ever: {}", report.sustain.reason));
    }
    if report.unfit.any() {
        doubts.push(format!("{}. They have failed, and count as infinitely late.", report.unfit));
    }
    let lost = summary.requests - (summary.completed + report.unfit.requests).min(summary.requests);
    if lost > 0 {
        doubts.push(format!(
            "{} of {} requests did not complete and count as infinitely late.",
            count(lost),
            count(summary.requests)
        ));
    }
    doubts
}

pub(crate) fn answer(report: &BenchReport) -> Markup {
    let s = &report.summary;
    let [ttft, tpot, itl] = [Metric::Ttft, Metric::Tpot, Metric::Itl].map(|metric| s.stats(metric));
    let attained = s
        .attainment()
        .map_or_else(String::new, |a| format!("{} of requests meet every target", percent(a)));
    html! {
        p.lead { (report.label) }
        div.tiles {
            @if s.verdict.targets.is_empty() {
                (tile(true, &rate(s.request_throughput_rps()), "completed, requests/s", &html! { "no latency target was given" }))
            } @else {
                (tile(true, &rate(s.goodput_rps()), "goodput, requests/s", &html! { (attained) }))
            }
            (tile(false, &latency(ttft.p99), "p99 TTFT", &html! { "median " (latency(ttft.p50)) }))
            (tile(false, &latency(itl.p99), "p99 ITL", &html! { "p99 TPOT " (latency(tpot.p99)) }))
            (tile(false, &sig(s.output_tokens_per_s(), 3), "output tokens/s", &html! { (rate(s.request_throughput_rps())) " requests/s" }))
            @if let Some(Inside { work, .. }) = &report.inside {
                (tile(false, &sig(work.mean_batch, 3), "sequences per iteration", &html! { (count(work.iterations)) " iterations" }))
            }
            @if let Some(live) = &report.live { (measured::tile(live)) }
        }
        @if !s.verdict.targets.is_empty() { (verdict(report)) }
        (page::warnings(&doubts(report)))
    }
}

fn verdict(report: &BenchReport) -> Markup {
    let row = |j: &loadgen::Judged| {
        let margin = j.margin.map_or_else(|| NONE.to_owned(), percent);
        let met = if j.met {
            html! { span.met { "held" } }
        } else {
            html! { span.missed { "missed" } }
        };
        let name = tuner::result::statistic(&j.measured);
        let most = limit(j.target.limit.as_secs_f64() * 1e3);
        (
            vec![
                cell(name),
                cell(without_value(report, j).unwrap_or_else(|| latency(j.value))),
                cell(most),
                cell(margin),
                met,
            ],
            "",
        )
    };
    let rows: Vec<Row> = report.summary.verdict.targets.iter().map(row).collect();
    let table = page::fitted(
        &[
            ("target", false),
            ("found", true),
            ("limit", true),
            ("of the limit left", true),
            ("", false),
        ],
        &rows,
    );
    html! {
        (table)
        @if let Some((said, met)) = attained(&report.summary.verdict) {
            p { span.met[met].missed[!met] { (capitalised(&said)) } "." }
        }
    }
}

fn latencies(report: &BenchReport) -> Markup {
    let s = &report.summary;
    let row = |m: Metric| {
        let x = s.stats(m);
        let values = [x.mean, x.p50, x.p90, x.p95, x.p99, x.p999, x.max];
        let name = std::iter::once(cell(m.label()));
        (name.chain(values.into_iter().map(|v| cell(latency(v)))).collect(), "")
    };
    let rows: Vec<Row> = Metric::ALL.into_iter().map(row).collect();
    let targets = page::targets(&report.scenario.slo);
    let charts: Vec<Chart> = Metric::ALL
        .into_iter()
        .filter_map(|m| charts::distribution(&report.detail, m, &targets))
        .collect();
    html! {
        (table(&[("", false), ("mean", true), ("p50", true), ("p90", true), ("p95", true), ("p99", true), ("p99.9", true), ("max", true)], &rows))
        (page::charts(&charts, "two"))
    }
}

fn memory(report: &BenchReport, inside: &Inside) -> Markup {
    let (kv, w) = (&inside.kv, &inside.work);
    let shares = charts::classes(kv).map(|c| (c.0.to_owned(), cell(percent(c.1))));
    let hit = w.tokens_cached as f64 / w.tokens_looked_up.max(1) as f64;
    let share = |n: u64| percent(n as f64 / w.tokens_executed.max(1) as f64);
    let accepted = w.tokens_accepted as f64 / w.tokens_drafted.max(1) as f64;
    let drafted = (w.tokens_drafted > 0).then(|| {
        [
            ("tokens drafted".to_owned(), cell(count(w.tokens_drafted))),
            ("of these accepted".to_owned(), cell(percent(accepted))),
        ]
    });
    let work = [
        ("tokens executed".to_owned(), cell(count(w.tokens_executed))),
        ("of these padding".to_owned(), cell(share(w.tokens_padded))),
        ("of these recomputed".to_owned(), cell(share(w.tokens_recomputed))),
        ("prompt tokens found in cache".to_owned(), cell(percent(hit))),
        ("preemptions".to_owned(), cell(count(w.preemptions))),
        (
            "time the queue's head was refused for want of seats".to_owned(),
            cell(percent(w.refused_seats)),
        ),
        ("… for want of KV memory".to_owned(), cell(percent(w.refused_kv))),
        ("busy time in iterations that filled the budget".to_owned(), cell(percent(w.full_budget))),
        ("time busy".to_owned(), cell(percent(w.busy))),
    ];
    let work = work.into_iter().chain(drafted.into_iter().flatten());
    html! {
        (over_time::memory(&report.detail, kv))
        div.grid2 {
            div { h3 { "Mean share of " (count(w.kv_slots)) " KV slots" } (pairs(shares)) }
            div { h3 { "Work" } (pairs(work)) }
        }
    }
}
