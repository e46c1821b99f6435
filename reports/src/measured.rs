//! The additions to the report of a server's measurement: its trust, its failures, and the figures of a client that
//! forgives its own delays.

use crate::figures::{capitalised, count, latency, ms, percent, rate, sig};
use crate::page;
use crate::page::{Row, Section, cell, pairs, table, tile as plain_tile};
use crate::report::{BenchReport, LiveSide};
use loadgen::{Metric, Trust};
use maud::{Markup, html};

/// The server's result in one sentence.
pub(crate) fn headline(report: &BenchReport, live: &LiveSide) -> String {
    let (summary, s) = (&report.summary, &report.scenario);
    let name = &s.workload.name;
    let load = match (live.audit.streams_asked, report.rate_rps) {
        (Some(1), _) => format!("one stream of {name}"),
        (Some(streams), _) => format!("{streams} streams of {name}"),
        (None, Some(rps)) => format!("{} {} of {name}", rate(rps), s.workload.unit()),
        (None, None) => format!("all of {name} at once"),
    };
    if summary.completed == 0 {
        return format!("{} completed nothing of {load}: nothing was measured.", s.device.name);
    }
    format!("{} was offered {load} and {}.", s.device.name, crate::bench::completed(summary))
}

/// The doubts about the measurement itself.
pub(crate) fn doubts(live: &LiveSide) -> Vec<String> {
    let mut doubts = Vec::new();
    if live.interrupted {
        let cut = live.failures.get("cancelled").map_or(0, |f| f.count);
        doubts.push(format!("The run was interrupted. {} requests under way are left out, so long responses are under-represented.", count(cut)));
    }
    let verdict = live.audit.verdict;
    doubts.extend(live.audit.reasons.iter().map(|r| format!("{verdict}: {r}.")));
    let word = |count: u64| if count == 1 { "request" } else { "requests" };
    let failed = |(kind, f): (&String, &loadgen::Failures)| {
        format!("{} {} failed as {kind}: {}", count(f.count), word(f.count), f.cause)
    };
    doubts.extend(live.failures.iter().filter(|(kind, _)| *kind != "cancelled").map(failed));
    let given_up = |what: &String| format!("The server does not take {what}.");
    doubts.extend(live.given_up.iter().map(given_up));
    if live.audit.without_usage > 0 {
        let n = live.audit.without_usage;
        doubts.push(format!("The server did not count the tokens of {} {} (no usage in the stream); its chunks were counted instead.", count(n), word(n)));
    }
    doubts
}

/// The verdict in a tile.
pub(crate) fn tile(live: &LiveSide) -> Markup {
    let a = &live.audit;
    let lateness = format!("sends {} late at p99", millis(a.send_lateness_p99_ms));
    plain_tile(
        false,
        &a.verdict.to_string(),
        "the client\u{2019}s own audit",
        &html! { (lateness) },
    )
}

/// The sections of a measurement.
pub(crate) fn sections(live: &LiveSide) -> Vec<Section> {
    let mut sections = vec![
        Section::new("audit", "Can these figures be trusted?", audit(live)),
        Section::new("send", "Counted from the send instead", from_send(live)),
    ];
    if !live.failures.is_empty() {
        sections.push(Section::new("failures", "Failures", failures(live)));
    }
    sections
}

fn audit(live: &LiveSide) -> Markup {
    let a = &live.audit;
    let three =
        |p50, p99, max| cell(format!("{} / {} / {}", millis(p50), millis(p99), millis(max)));
    let mut rows = vec![
        (
            "sends late, p50 / p99 / max".to_owned(),
            three(a.send_lateness_p50_ms, a.send_lateness_p99_ms, a.send_lateness_max_ms),
        ),
        (
            "bytes read after they came, p50 / p99 / max".to_owned(),
            three(a.reader_lag_p50_ms, a.reader_lag_p99_ms, a.reader_lag_max_ms),
        ),
        ("times of tokens off by at most, p99".to_owned(), cell(millis(a.stamp_error_p99_ms))),
        (
            "streams held, mean and most".to_owned(),
            cell(format!("{}, {}", sig(a.streams_held, 3), count(a.streams_peak))),
        ),
        ("the client\u{2019}s share of a core".to_owned(), cell(percent(a.cpu_share))),
        ("tokens that came with the one before".to_owned(), cell(percent(a.coalesced_share))),
        ("connections made".to_owned(), cell(count(a.connections))),
        ("resolution of the clock".to_owned(), cell(format!("{} ns", a.clock_resolution_ns))),
    ];
    if let (Some(asked), Some(sent)) = (a.asked_rps, a.sent_rps) {
        let both = format!("{}, {}", rate(asked), rate(sent));
        rows.push(("requests/s asked for, sent".to_owned(), cell(both)));
    }
    if a.held_back > 0 {
        rows.push(("requests held back".to_owned(), cell(count(a.held_back))));
    }
    if let Some(fluid) = a.fluidity {
        rows.push((
            "tokens in time for a reader (fluidity index)".to_owned(),
            cell(percent(fluid)),
        ));
    }
    let mark = match a.verdict {
        Trust::Valid => html! { span.met { "VALID" } },
        other => html! { span.missed { (other.to_string()) } },
    };
    html! {
        p { (mark) " " @if a.reasons.is_empty() { "The client\u{2019}s own error does not matter for these figures." } @else { (a.reasons.join("; ")) } }
        @if !live.precision.is_empty() { p { (capitalised(&sure(live))) "." } }
        (pairs(rows.into_iter()))
    }
}

/// The precision of the usual figures, in words.
pub(crate) fn sure(live: &LiveSide) -> String {
    let one = |p: &loadgen::Precision| {
        let name = tuner::result::statistic(&p.measured);
        match p.high_ms {
            Some(high) => format!("{name} within {} to {}", ms(p.low_ms), ms(high)),
            None => format!("{name} above {}", ms(p.low_ms)),
        }
    };
    let all: Vec<String> = live.precision.iter().map(one).collect();
    format!("with 95 % confidence {}", all.join(", "))
}

fn from_send(live: &LiveSide) -> Markup {
    let row = |m: Metric| {
        let x = live.from_send.stats(m);
        let values = [x.mean, x.p50, x.p90, x.p95, x.p99, x.p999, x.max];
        let name = std::iter::once(cell(m.label()));
        (name.chain(values.into_iter().map(|v| cell(latency(v)))).collect(), "")
    };
    let rows: Vec<Row> = Metric::ALL.into_iter().map(row).collect();
    html! {
        p { "All figures above count from when a request was due. These count from when it was sent, as many clients do: they hide whatever the client waited for." }
        (table(&[("", false), ("mean", true), ("p50", true), ("p90", true), ("p95", true), ("p99", true), ("p99.9", true), ("max", true)], &rows))
    }
}

fn failures(live: &LiveSide) -> Markup {
    let row = |(kind, f): (&String, &loadgen::Failures)| -> Row {
        (vec![cell(kind.clone()), cell(count(f.count)), cell(f.cause.clone())], "")
    };
    let rows: Vec<Row> = live.failures.iter().map(row).collect();
    page::fitted(&[("kind", false), ("requests", true), ("the first", false)], &rows)
}

/// A few digits of ms.
pub(crate) fn millis(ms: f64) -> String {
    format!("{} ms", sig(ms, 3))
}
