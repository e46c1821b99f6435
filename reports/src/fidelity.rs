//! The page and the terminal summary of `knee profile check`: the engine on this machine beside its simulation. Both in
//! one file, because they say the same sentences.

use crate::charts::{Chart, HALF, THIRD, figure};
use crate::figures::{NONE, count, ms, rate, sig};
use crate::page::{self, Page, Row, Section, Times, cell, code, pairs, tile};
use crate::plot::{Axis, Ink, Layer, Mark, Scale};
use crate::report::{Assumption, FidelityReport};
use crate::wrap::{Look, Screen, Terminal};
use maud::{Markup, html};
use tuner::evidence::fidelity::{BothKnees, Figure, Steps};
use tuner::evidence::validate::COMPARED;

fn signed(error: f64) -> String {
    format!("{error:+.1}\u{202f}%")
}

fn value(f: &Figure, value: f64) -> String {
    if f.is_time { ms(value) } else { rate(value) }
}

/// Columns of the table of figures.
const COLUMNS: [(&str, bool); 6] = [
    ("", false),
    ("measured", true),
    ("simulated", true),
    ("error", true),
    ("repeats differ by", true),
    ("good enough", false),
];

fn cells(f: &Figure) -> [String; 6] {
    let verdict = match (f.holds(), f.aim) {
        (Some(true), Some(aim)) if f.error.abs() <= aim => format!("yes, within {aim} %"),
        (Some(true), _) => "yes, as repeats".to_owned(),
        (Some(false), Some(aim)) => format!("no, {aim} % aimed at"),
        _ => String::new(),
    };
    let spread = f.spread.map_or_else(|| NONE.to_owned(), |s| format!("{s:.1}\u{202f}%"));
    let (measured, predicted) = (value(f, f.median), value(f, f.predicted));
    [f.name.clone(), measured, predicted, signed(f.error), spread, verdict]
}

/// Columns of the table of iterations.
const STEPS: [(&str, bool); 6] = [
    ("iterations", false),
    ("number", true),
    ("measured", true),
    ("error of the sum", true),
    ("mean error of one", true),
    ("p95", true),
];

fn step_cells(s: &Steps) -> [String; 6] {
    [
        s.of.clone(),
        count(s.count as u64),
        format!("{} s", sig(s.measured_s, 3)),
        signed(100.0 * (s.predicted_s / s.measured_s - 1.0)),
        format!("{:.1}\u{202f}%", s.mean_error),
        format!("{:.1}\u{202f}%", s.p95_error),
    ]
}

fn headline(r: &FidelityReport) -> String {
    let judged: Vec<&Figure> = r.fidelity.figures.iter().filter(|f| f.aim.is_some()).collect();
    let good = judged.iter().filter(|f| f.holds() == Some(true)).count();
    let error = |name: &str| {
        let found = r.fidelity.figures.iter().find(|f| f.name == name);
        found.map_or_else(|| NONE.to_owned(), |f| signed(f.error))
    };
    format!(
        "Simulated median TTFT is {} off, TPOT {}: {good} of {} figures are good enough.",
        error("TTFT p50"),
        error("TPOT p50"),
        judged.len()
    )
}

fn about_runs(r: &FidelityReport) -> String {
    let f = &r.fidelity;
    let runs = if f.repeats == 1 { "once" } else { "times" };
    let times = if f.repeats == 1 { String::new() } else { format!("{} ", f.repeats) };
    format!(
        "{} requests at {}/s, run {times}{runs} on this machine and simulated with {}.",
        count(f.requests as u64),
        rate(f.rate_rps),
        r.profile
    )
}

fn about_capacity(knees: &BothKnees, targets: &str) -> String {
    match (knees.measured_rps, knees.predicted_rps, knees.error()) {
        (Some(measured), Some(predicted), Some(error)) => format!(
            "Capacity with {targets}: {} requests/s measured in {} runs, {} simulated, {}.",
            rate(measured),
            knees.runs,
            rate(predicted),
            signed(error)
        ),
        (None, Some(predicted), _) => {
            format!("With {targets} nothing is carried for real; {} simulated.", rate(predicted))
        }
        (Some(measured), None, _) => {
            format!(
                "With {targets} {} requests/s are carried for real; none simulated.",
                rate(measured)
            )
        }
        _ => format!("With {targets} nothing is carried in either world."),
    }
}

/// The summary for a terminal.
#[must_use]
pub(crate) fn terminal(r: &FidelityReport, terminal: Terminal) -> String {
    let mut s = Screen::new(terminal);
    s.say(&headline(r), 0, Some(Look::Bold));
    let what = format!("SIMULATED beside MEASURED  {} · {} · {}", r.model, r.device, r.workload);
    s.say(&what, 2, Some(Look::Quiet));
    s.gap();
    let rows: Vec<Vec<String>> = r.fidelity.figures.iter().map(|f| cells(f).into()).collect();
    s.table(&COLUMNS.map(|c| c.0), &rows, None);
    s.gap();
    let rows: Vec<Vec<String>> = r.fidelity.steps.iter().map(|f| step_cells(f).into()).collect();
    s.table(&STEPS.map(|c| c.0), &rows, None);
    s.gap();
    s.say(&about_runs(r), 2, None);
    if let Some(knees) = &r.fidelity.capacity {
        s.say(&about_capacity(knees, &r.targets), 2, None);
    }
    s.text
}

/// The page.
#[must_use]
pub fn fidelity_page(r: &FidelityReport) -> String {
    let distributions: Vec<Chart> = (0..3).filter_map(|at| distribution(r, at)).collect();
    let steps: Vec<Chart> = scatter(r).into_iter().collect();
    let sections = vec![
        Section::new("answer", "", answer(r)),
        Section::new("figures", "Figures", tables(r)),
        Section::new("distributions", "Distributions", page::charts(&distributions, "")),
        Section::new("steps", "Iterations", page::charts(&steps, "two")),
        Section::new(
            "configuration",
            "Settings of both",
            pairs(r.config.iter().map(|(k, v)| (k.clone(), code(v)))),
        ),
        Section::new("provenance", "Where these figures come from", provenance(r)),
    ];
    Page {
        title: format!("knee profile check: {} on {}", r.model, r.device),
        headline: headline(r),
        times: Times::Both,
        facts: vec![
            "beside measured".to_owned(),
            r.model.clone(),
            r.device.clone(),
            r.workload.clone(),
        ],
        sections,
        version: &r.version,
    }
    .render()
}

fn answer(r: &FidelityReport) -> Markup {
    let shown = ["TTFT p50", "TPOT p50", "TPOT p99", "requests/s"];
    let figures = shown.iter().filter_map(|n| r.fidelity.figures.iter().find(|f| f.name == *n));
    html! {
        div.tiles {
            @for (i, f) in figures.enumerate() {
                (tile(i == 0, &signed(f.error), &format!("error of {}", f.name),
                    &html! { (value(f, f.median)) " measured" }))
            }
        }
        p { (about_runs(r)) }
        @if let Some(knees) = &r.fidelity.capacity { p { (about_capacity(knees, &r.targets)) } }
    }
}

fn tables(r: &FidelityReport) -> Markup {
    let rows: Vec<Row> =
        r.fidelity.figures.iter().map(|f| (cells(f).map(cell).into(), "")).collect();
    let steps: Vec<Row> =
        r.fidelity.steps.iter().map(|s| (step_cells(s).map(cell).into(), "")).collect();
    html! {
        (page::fitted(&COLUMNS, &rows))
        p {
            "Measured is the median of the repeats; they differ by the standard deviation given. An error below twice "
            "that cannot be told from another repeat: it is good enough."
        }
        (page::fitted(&STEPS, &steps))
        p { "Iterations are predicted for the very batches that were measured." }
    }
}

/// Shares of requests up to each latency: every repeat, and the simulation.
fn distribution(r: &FidelityReport, at: usize) -> Option<Chart> {
    let name = COMPARED[at].label();
    let steps = |values: &[f64]| -> Vec<(f64, f64)> {
        let n = values.len() as f64;
        let share = |i: usize| 100.0 * i as f64 / n;
        values.iter().enumerate().flat_map(|(i, v)| [(*v, share(i)), (*v, share(i + 1))]).collect()
    };
    let predicted = &r.fidelity.predicted[at];
    let all = || r.fidelity.measured.iter().map(|m| &m[at]).chain([predicted]);
    let least = all().filter_map(|v| v.first()).copied().reduce(f64::min)?;
    let most = all().filter_map(|v| v.last()).copied().reduce(f64::max)?;
    let line = |values: &[f64], ink, name: Option<&str>, dashed| Layer::Line {
        points: steps(values),
        ink,
        width: 1.5,
        dashed,
        label: name.map(str::to_owned),
    };
    let mut layers: Vec<Layer> = (r.fidelity.measured.iter().enumerate())
        .map(|(i, m)| line(&m[at], Ink::Line(1), (i == 0).then_some("measured"), false))
        .collect();
    layers.push(line(predicted, Ink::Accent, Some("simulated"), true));
    let scale = if most > 8.0 * least.max(1e-3) { Scale::Log } else { Scale::Linear };
    let median = r.fidelity.figures.iter().find(|f| f.name == format!("{name} p50"))?;
    Some(Chart {
        title: name.to_owned(),
        figure: figure(
            THIRD,
            &format!("cumulative distributions of {name}, measured and simulated"),
            Axis::new(format!("{name}, ms"), scale),
            Axis::new("requests at or below, %", Scale::FromZero).within(0.0, 102.0),
            layers,
        ),
        caption: format!(
            "A line for each of {} repeats. Half of the requests are below {} measured, {} simulated.",
            r.fidelity.repeats,
            ms(median.median),
            ms(median.predicted)
        ),
    })
}

/// Every iteration: its time as predicted and as measured.
fn scatter(r: &FidelityReport) -> Option<Chart> {
    let pairs = &r.fidelity.pairs;
    let all = pairs.iter().flat_map(|p| [p.0, p.1]);
    let (low, high) = (all.clone().reduce(f64::min)?, all.reduce(f64::max)?);
    let steps = r.fidelity.steps.first()?;
    Some(Chart {
        title: "Time of an iteration".to_owned(),
        figure: figure(
            HALF,
            "measured against simulated time of iterations",
            Axis::new("simulated, ms", Scale::Log).within(low, high),
            Axis::new("measured, ms", Scale::Log).within(low, high),
            vec![
                Layer::Marks {
                    points: pairs.clone(),
                    ink: Ink::Line(1),
                    mark: Mark::Dot,
                    size: 1.5,
                    label: None,
                },
                Layer::Line {
                    points: vec![(low, low), (high, high)],
                    ink: Ink::Accent,
                    width: 1.5,
                    dashed: true,
                    label: Some("equal".to_owned()),
                },
            ],
        ),
        caption: format!(
            "{} of {} iterations. One is {:.0} % off on average; all together {}.",
            count(pairs.len() as u64),
            count(steps.count as u64),
            steps.mean_error,
            signed(100.0 * (steps.predicted_s / steps.measured_s - 1.0))
        ),
    })
}

fn provenance(r: &FidelityReport) -> Markup {
    let sources = |a: &Assumption| -> Row { (vec![cell(&a.what), cell(&a.source)], "") };
    let rows: Vec<Row> = r.about.assumptions.iter().map(sources).collect();
    html! {
        (pairs([
            ("Measured".to_owned(), cell("by the engine on this machine: iterations as they took, idle time skipped")),
            ("Simulated".to_owned(), cell("SIMULATED by the cost model, in virtual time, the same requests at the same instants")),
            ("Machine".to_owned(), cell(&r.host)),
            ("Command".to_owned(), code(&r.about.command)),
        ]))
        h3 { "Constants and their sources" }
        (page::table(&[("constant", false), ("source", false)], &rows))
    }
}
