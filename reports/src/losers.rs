//! The losers, each with the causes that were suspected and the effect of taking them away.

use crate::figures::{capitalised, count, rate};
use crate::page::{Row, cell, table};
use maud::{Markup, html};
use tuner::result::{Attribution, Loser, TuneResult};

/// A row for each policy and device that lost.
pub(crate) fn losers(r: &TuneResult) -> Markup {
    let Some(first) = r.losers.first() else { return html! {} };
    let several = r.devices.len() > 1;
    let mixed = r.losers.iter().any(|l| l.gpus != l.winner_gpus);
    let rows: Vec<Row> = r.losers.iter().map(|l| (row(l, several, mixed), "")).collect();
    let columns = [
        ("best of", false),
        (if mixed { "holds per GPU" } else { "holds" }, true),
        ("lost by", false),
        ("checked by taking it away", false),
    ];
    html! {
        p { "A cause counts only if taking it away makes capacity rise by at least 3 %. Capacities here are in requests/s"
            @if r.losers.iter().all(|l| l.head == first.head) { ", on the first " (count(first.head as u64)) " requests" } "." }
        (table(&columns, &rows))
    }
}

/// A configuration's name, without that of its policy.
fn knobs(l: &Loser) -> &str {
    l.label.strip_prefix(l.policy.as_str()).unwrap_or(&l.label).trim_start()
}

fn row(l: &Loser, several: bool, mixed: bool) -> Vec<Markup> {
    let cause = l.cause.as_deref().unwrap_or("unexplained");
    vec![
        html! {
            b { (l.policy) @if several { " on " (l.device) } } br; span.quiet { (knobs(l)) }
        },
        cell(if mixed {
            let each = |rps: f64, gpus: u32| rate(rps / f64::from(gpus));
            let (own, winner) = (each(l.capacity_rps, l.gpus), each(l.winner_rps, l.winner_gpus));
            format!("{own} of {winner} ({} and {} GPUs)", l.gpus, l.winner_gpus)
        } else {
            format!("{} of {}", rate(l.capacity_rps), rate(l.winner_rps))
        }),
        html! { b { (cause) } br; span.quiet { "broke first: " (l.broke) } },
        html! { @for a in &l.checked { (check(a)) } },
    ]
}

fn check(a: &Attribution) -> Markup {
    html! {
        div class=[(!a.confirmed).then_some("quiet")] {
            (capitalised(&a.relaxed)) ": " (rate(a.before_rps)) " → " (rate(a.after_rps)) ", "
            @if a.confirmed { span.met { "confirmed" } } @else { "no rise" }
            span.quiet { " (suspected, as " (a.evidence) ")" }
        }
    }
}
