//! The simulated winner: what to use, what it holds, what to paste; or why nothing holds, and what comes nearest.

use crate::figures::{NONE, limit, month, opt_ms, percent, rate, sig, usd};
use crate::page::{self, Row, cell, code, pairs, tile};
use crate::report::TuneReport;
use crate::{engines, exports, planned, sentences};
use loadgen::Metric;
use maud::{Markup, html};
use std::collections::BTreeMap;
use tuner::result::{Infeasible, Margin, Objective, Operating, TuneResult, statistic};

/// The first section of the page.
pub(crate) fn winner(report: &TuneReport) -> Markup {
    let r = &report.result;
    html! {
        p.asked { (sentences::question(r)) }
        (planned::plans(r))
        @match &r.best {
            Some(b) => {
                @if !r.plans.is_empty() { h3 { (planned::heading(r)) } }
                p.lead { (sentences::sentence(b)) }
                (tiles(r, b))
                (margins(b))
                @for said in sentences::trust(r).into_iter().chain(sentences::ties(r)) { p { (said) } }
                (warnings(r))
                (exports::section(report))
                (beside(r))
                details { summary { "Every knob" } (knobs(&b.config)) }
            }
            None => { (infeasible(r.infeasible.as_ref())) (warnings(r)) }
        }
    }
}

/// The best that each engine can be told, and a queue in another order.
fn beside(r: &TuneResult) -> Markup {
    let rows: Vec<Row> =
        engines::rows(r).map(|row| (row.into_iter().map(cell).collect(), "")).collect();
    html! {
        @if !rows.is_empty() {
            h3 { "The best that each engine can be told" }
            (page::fitted(&engines::COLUMNS, &rows))
        }
        @if let Some(said) = engines::reordered(r) { p { (said) } }
    }
}

fn tiles(r: &TuneResult, b: &Operating) -> Markup {
    let none = || html! {};
    let per_user = b.tokens_per_s_per_user;
    let [ttft, tpot, itl] = [Metric::Ttft, Metric::Tpot, Metric::Itl].map(|m| opt_ms(b.p99.get(m)));
    html! {
        div.tiles {
            (tile(true, &rate(b.capacity_rps), &format!("capacity, {}", r.workload.unit()), &html! { (sig(b.goodput_rps, 3)) " requests/s meet every target, the end of the run included" }))
            (tile(false, &ttft, "p99 TTFT", &none()))
            (tile(false, &itl, "p99 ITL", &html! { "p99 TPOT " (tpot) }))
            (tile(false, &sig(b.tokens_per_s_per_gpu, 3), "output tokens/s per GPU", &html! {
                @if let Some(user) = per_user { (sig(user, 3)) " tokens/s per user" }
            }))
            @if let Some(cost) = b.usd_per_million_tokens {
                (tile(false, &usd(cost), "per million output tokens", &html! {
                    @if let Some(hour) = b.usd_per_hour { (month(hour)) " per month (" (usd(hour)) " per hour), " } (b.gpus) " GPU" @if b.gpus != 1 { "s" }
                }))
            }
        }
        @if r.objective != Objective::Rps && r.plans.is_empty() {
            p.quiet { "Chosen for " @if r.objective == Objective::Cost { "cost per token" } @else { "tokens/s per GPU" } ", not for requests/s." }
        }
    }
}

fn margins(b: &Operating) -> Markup {
    let row = |m: &Margin| {
        let left = match m.margin {
            Some(share) if share >= 0.0 => format!("{} of the limit left", percent(share)),
            Some(share) => format!("{} beyond the limit", percent(-share)),
            None => NONE.to_owned(),
        };
        let verdict = if m.met {
            html! { span.met { "held" } }
        } else {
            html! { span.missed { "missed" } }
        };
        let cells = vec![
            cell(statistic(&m.measured)),
            cell(opt_ms(m.value_ms)),
            cell(limit(m.limit_ms)),
            cell(left),
            verdict,
        ];
        (cells, "")
    };
    let rows: Vec<Row> = b.margins.iter().map(row).collect();
    let columns =
        [("target", false), ("at capacity", true), ("limit", true), ("margin", true), ("", false)];
    html! {
        @if !rows.is_empty() { (page::fitted(&columns, &rows)) }
        @if let Some(a) = &b.attained {
            p { "All targets: " (tuner::result::attained(a)) ": "
                @if a.met { span.met { "held" } } @else { span.missed { "missed" } } "." }
        }
    }
}

fn warnings(r: &TuneResult) -> Markup {
    let mut all = r.warnings.clone();
    if r.interrupted {
        all.push("interrupted: this is the best of what had been tried".to_owned());
    }
    page::risks(&all)
}

fn knobs(config: &BTreeMap<String, String>) -> Markup {
    let rows = config.iter().map(|(k, v)| (k.clone(), code(v)));
    pairs(rows)
}

fn infeasible(why: Option<&Infeasible>) -> Markup {
    let Some(why) = why else { return html! { p.lead { "No configuration was found." } } };
    let reached = |m: &Margin| {
        let cells =
            vec![cell(statistic(&m.measured)), cell(opt_ms(m.value_ms)), cell(limit(m.limit_ms))];
        (cells, if m.met { "off" } else { "" })
    };
    let rows: Vec<Row> = why.reaches.iter().map(reached).collect();
    html! {
        p.lead { (sentences::nowhere(why)) }
        @if why.nearest.is_some() {
            @if let Some(slo) = sentences::holdable(why) { p { "Some rate can be held with " (code(slo)) "." } }
            (page::fitted(&[("target", false), ("reaches", true), ("asked for", true)], &rows))
        }
    }
}
