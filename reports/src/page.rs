//! The shell of every page and its recurring parts. One file, no network: styles, plots and one small script of our
//! own inside. A page is complete without the script, and in print.

use crate::charts::Chart;
use crate::figures::{self, THIN};
use crate::plain::plain_lines;
use crate::plot::Ink;
use crate::report::About;
use loadgen::Target;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use tuner::result::{DeviceInfo, WorkloadInfo};

/// A page's frame.
pub(crate) struct Page<'a> {
    /// Title of the window.
    pub(crate) title: String,
    /// The answer in one sentence.
    pub(crate) headline: String,
    /// The origin of its times.
    pub(crate) times: Times,
    /// Its subject, in a few words each.
    pub(crate) facts: Vec<String>,
    /// Sections in order; those without content are left out.
    pub(crate) sections: Vec<Section>,
    /// Version of knee.
    pub(crate) version: &'a str,
}

/// The origin of a page's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// A cost model.
    Simulated,
    /// A device or a server.
    Measured,
    /// Some from the one, some from the other.
    Both,
}

impl Times {
    /// Of a run.
    pub(crate) fn of(simulated: bool) -> Self {
        if simulated { Self::Simulated } else { Self::Measured }
    }

    /// The first sentence, and its looks.
    fn badges(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let measured = (self != Self::Simulated).then_some(("MEASURED", "badge live"));
        let simulated = (self != Self::Measured).then_some(("SIMULATED", "badge"));
        measured.into_iter().chain(simulated)
    }
}

/// The section that the script shows, because it does nothing without it.
pub(crate) const SCRIPTED: &str = "what-if";

/// Part of a page.
pub(crate) struct Section {
    /// Anchor.
    pub(crate) id: &'static str,
    /// Heading; the first section may go without.
    pub(crate) title: &'static str,
    /// Its content.
    pub(crate) body: Markup,
}

impl Section {
    pub(crate) fn new(id: &'static str, title: &'static str, body: Markup) -> Self {
        Self { id, title, body }
    }
}

impl Page<'_> {
    /// The whole file.
    pub(crate) fn render(&self) -> String {
        let sections: Vec<&Section> =
            self.sections.iter().filter(|s| !s.body.0.is_empty()).collect();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    // Nothing is fetched, and no script comes from elsewhere.
                    meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
                    meta name="generator" content={ "knee " (self.version) };
                    title { (self.title) }
                    style { (PreEscaped(include_str!("page.css"))) }
                }
                body {
                    header {
                        p.kicker {
                            @for (name, class) in self.times.badges() { span class=(class) { (name) } }
                            @for fact in &self.facts { span { (fact) } }
                        }
                        h1 { (self.headline) }
                        nav aria-label="contents" {
                            @for s in sections.iter().filter(|s| !s.title.is_empty() && s.id != SCRIPTED) {
                                a href={ "#" (s.id) } { (s.title) }
                            }
                        }
                    }
                    main {
                        @for (i, s) in sections.iter().enumerate() {
                            section id=(s.id) class=[(i == 0).then_some("first")] hidden[s.id == SCRIPTED] {
                                @if !s.title.is_empty() { h2 { (s.title) } }
                                (s.body)
                            }
                        }
                    }
                    footer { (footer(self.times, self.version)) }
                    script { (PreEscaped(include_str!("page.js"))) }
                }
            }
        };
        // No text in a name or a server's words acts on its reader's machine.
        plain_lines(&page.into_string())
    }
}

fn footer(times: Times, version: &str) -> Markup {
    html! {
        p {
            @match times {
                Times::Simulated => "SIMULATED: every time in this report is predicted by a cost model, none was measured on a device. ",
                Times::Both => "SIMULATED and MEASURED times are in this report, each called so. ",
                Times::Measured => "",
            }
            "Made by knee " (version) "."
        }
    }
}

/// Charts in a grid of `columns` (`""`, `two`, `one`).
pub(crate) fn charts(charts: &[Chart], columns: &str) -> Markup {
    html! {
        @if !charts.is_empty() {
            div class={ "charts " (columns) } {
                @for (chart, (svg, values)) in charts.iter().map(|chart| (chart, chart.figure.drawn())) {
                    figure data-plot=(values) {
                        h3 { (chart.title) }
                        (PreEscaped(svg))
                        figcaption { (chart.caption) }
                    }
                }
            }
        }
    }
}

/// Colours and their meaning, where names do not fit beside what they name.
pub(crate) fn key<'a>(entries: impl IntoIterator<Item = (Ink, &'a str)>) -> Markup {
    html! {
        p.key {
            @for (ink, name) in entries {
                span { span.swatch style={ "background:var(" (ink.variable()) ")" } {} (name) }
            }
        }
    }
}

/// A column: its heading, and whether it holds numbers.
pub(crate) type Column = (&'static str, bool);

/// A row of a table and how it is marked (`chosen`, `off` or nothing).
pub(crate) type Row = (Vec<Markup>, &'static str);

/// A table that scrolls sideways where it does not fit.
pub(crate) fn table(columns: &[Column], rows: &[Row]) -> Markup {
    tabled(columns, rows, "")
}

/// A table no wider than it needs.
pub(crate) fn fitted(columns: &[Column], rows: &[Row]) -> Markup {
    tabled(columns, rows, "fit")
}

fn tabled(columns: &[Column], rows: &[Row], class: &str) -> Markup {
    html! {
        div.scroll {
            table class=[(!class.is_empty()).then_some(class)] {
                thead { tr { @for (name, number) in columns { th class=[number.then_some("n")] { (name) } } } }
                tbody {
                    @for (cells, mark) in rows {
                        tr class=[(!mark.is_empty()).then_some(mark)] {
                            @for (cell, (_, number)) in cells.iter().zip(columns) {
                                td class=[number.then_some("n")] { (cell) }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(crate) fn cell(text: impl AsRef<str>) -> Markup {
    html! { (text.as_ref()) }
}

/// A name that is not broken across lines.
pub(crate) fn whole(text: impl AsRef<str>) -> Markup {
    html! { span.whole { (text.as_ref()) } }
}

/// A knob or its value as a cell.
pub(crate) fn code(text: impl AsRef<str>) -> Markup {
    html! { span.knob { (text.as_ref()) } }
}

/// Name and value.
pub(crate) fn pairs(rows: impl IntoIterator<Item = (String, Markup)>) -> Markup {
    html! {
        div.scroll { table { tbody {
            @for (name, value) in rows { tr { th scope="row" { (name) } td { (value) } } }
        } } }
    }
}

/// A number that matters: the figure, what it is, and a note.
pub(crate) fn tile(main: bool, value: &str, name: &str, note: &Markup) -> Markup {
    html! {
        div class={ "tile" @if main { " main" } } {
            span { (name) }
            b { (value) }
            small { (note) }
        }
    }
}

/// Warnings, if any.
pub(crate) fn warnings<S: AsRef<str>>(warnings: &[S]) -> Markup {
    html! { @for w in warnings { (warning(&html! { (figures::capitalised(w.as_ref().trim_end_matches('.'))) "." })) } }
}

/// The risks of an answer: the first three, and the rest behind them.
pub(crate) fn risks<S: AsRef<str>>(risks: &[S]) -> Markup {
    let line = |risk: &S| figures::capitalised(risk.as_ref().trim_end_matches('.')) + ".";
    let (first, rest) = risks.split_at(risks.len().min(3));
    html! {
        @if !first.is_empty() {
            div.warning role="note" {
                h3 { "What could go wrong" }
                ul { @for risk in first { li { (line(risk)) } } }
                @if !rest.is_empty() {
                    details { summary { (rest.len()) " more" } ul { @for risk in rest { li { (line(risk)) } } } }
                }
            }
        }
    }
}

/// Something to know before believing.
pub(crate) fn warning(text: &Markup) -> Markup {
    html! { div.warning role="note" { p { (text) } } }
}

/// Targets that parse: those of a stored report always do.
pub(crate) fn targets(slo: &[String]) -> Vec<Target> {
    slo.iter().filter_map(|t| t.parse().ok()).collect()
}

/// The targets as a person says them; `attained` is the share of requests that must meet all of them, where that and
/// not each target's percentile decides.
pub(crate) fn slo_text(slo: &[String], attained: Option<f64>) -> String {
    let one = |t: &Target| {
        let class = t.class.as_ref().map_or(String::new(), |c| format!(" of {c}"));
        let name = t.metric.label();
        let statistic =
            if attained.is_some() { String::new() } else { format!("{} ", t.statistic) };
        format!("{statistic}{name}{class} ≤ {}", figures::limit(t.limit.as_secs_f64() * 1e3))
    };
    let targets: Vec<String> = targets(slo).iter().map(one).collect();
    match attained {
        _ if targets.is_empty() => "no latency target".to_owned(),
        Some(share) => {
            let share = figures::short(share * 100.0);
            format!("{} for {share}{THIN}% of requests", figures::listed(&targets))
        }
        None => figures::listed(&targets),
    }
}

/// A stored attainment such as `99%` as a share.
pub(crate) fn share(percent: &str) -> Option<f64> {
    Some(percent.strip_suffix('%')?.parse::<f64>().ok()? / 100.0)
}

/// The origin of a report's figures, told alike by every report.
pub(crate) struct Origin<'a> {
    pub(crate) about: &'a About,
    pub(crate) version: &'a str,
    pub(crate) simulated: bool,
    pub(crate) seed: u64,
    pub(crate) workload: &'a WorkloadInfo,
    pub(crate) model: &'a str,
    /// The parts of it that are left out, and those that were not measured.
    pub(crate) notes: &'a [String],
    pub(crate) devices: Vec<&'a DeviceInfo>,
    /// The targets in words.
    pub(crate) slo: String,
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) host: &'a str,
}

/// The last section.
pub(crate) fn provenance(o: &Origin<'_>, more: Vec<(String, Markup)>) -> Section {
    let w = o.workload;
    let mut rows = vec![
        (
            "Times".to_owned(),
            cell(if o.simulated {
                "SIMULATED by the cost model, in virtual time"
            } else {
                "measured"
            }),
        ),
        (
            "Workload".to_owned(),
            html! {
                (w.name) ": " (figures::count(w.requests as u64)) " requests, "
                (figures::rate(w.natural_rps)) "/s as recorded, "
                (figures::sig(w.output_tokens_per_request, 3)) " output tokens each on average"
                @for line in &w.provenance { br; span.quiet { (line) } }
            },
        ),
        (
            "Model".to_owned(),
            html! { (o.model) @for note in o.notes { br; span.quiet { (note) } } },
        ),
    ];
    for d in &o.devices {
        let price = d
            .price
            .as_ref()
            .map(|p| format!("{} per GPU-hour ({})", figures::usd(p.usd_per_gpu_hour), p.source));
        // Assumptions say it again.
        let said = o.about.assumptions.iter().any(|a| a.source == d.provenance);
        rows.push((
            "Device".to_owned(),
            html! {
                (d.name) @if let Some(price) = price { ", " (price) }
                @if !said { br; span.quiet { (d.provenance) } }
            },
        ));
    }
    rows.push(("Targets".to_owned(), cell(&o.slo)));
    rows.extend(more);
    rows.push(("Command".to_owned(), code_block(&o.about.command)));
    rows.push(("Seed, version".to_owned(), cell(format!("{}, knee {}", o.seed, o.version))));
    rows.push((
        "Cost of this answer".to_owned(),
        cell(format!(
            "{} elapsed, {} of processor time on {}",
            figures::seconds(o.wall_s),
            figures::seconds(o.cpu_s),
            o.host
        )),
    ));
    let assumed = |a: &crate::report::Assumption| (vec![cell(&a.what), cell(&a.source)], "");
    let assumptions: Vec<Row> = o.about.assumptions.iter().map(assumed).collect();
    Section::new(
        "provenance",
        "Where these figures come from",
        html! {
            (pairs(rows))
            @if !assumptions.is_empty() {
                h3 { "Taken for granted" }
                (table(&[("assumption", false), ("source", false)], &assumptions))
            }
        },
    )
}

fn code_block(text: &str) -> Markup {
    html! { @if text.is_empty() { (figures::NONE) } @else { span.knob style="white-space:pre-wrap" { (text) } } }
}
