//! The page and the terminal summary of `knee validate`: a recorded run beside its prediction. Both in one file, because
//! they say the same sentences.

use crate::charts::{Chart, HALF, figure};
use crate::figures::{NONE, count, ms, opt_ms, percent, rate, sig};
use crate::page::{self, Page, Row, Section, Times, cell, code, pairs, tile};
use crate::plot::{Axis, Ink, Layer, Scale};
use crate::report::{Assumption, ValidationReport};
use crate::wrap::{Look, Screen, Terminal};
use loadgen::Metric;
use maud::{Markup, html};
use tuner::evidence::validate::knee::Capacity;
use tuner::evidence::validate::read::failures;
use tuner::evidence::validate::{COMPARED, Occupancy, Validation};

/// Plots are drawn for so many runs at most; tables show all.
const DRAWN: usize = 6;

fn signed(error: Option<f64>) -> String {
    error.map_or_else(|| NONE.to_owned(), |e| format!("{e:+.1}\u{202f}%"))
}

/// Measured, predicted and error of every figure of a run.
fn figures(run: &Validation) -> Vec<[String; 4]> {
    let (m, p, e) = (&run.measured, &run.predicted, &run.errors);
    let mut rows = Vec::new();
    for metric in COMPARED {
        let (m, p, e) = (m.of(metric), p.of(metric), e.of(metric));
        for (((name, m), (_, p)), (_, e)) in m.named().into_iter().zip(p.named()).zip(e.named()) {
            rows.push([format!("{} {name}", metric.label()), opt_ms(m), opt_ms(p), signed(e)]);
        }
    }
    let rps = [m.throughput_rps, p.throughput_rps].map(rate);
    let [measured, predicted] = rps;
    rows.push(["requests/s".to_owned(), measured, predicted, signed(e.throughput)]);
    rows
}

fn headline(r: &ValidationReport) -> String {
    match &r.runs[..] {
        [run] => format!(
            "{}: predicted mean TTFT is {} off, TPOT {}, E2E {}, over {} requests.",
            run.run,
            signed(run.errors.ttft.mean),
            signed(run.errors.tpot.mean),
            signed(run.errors.e2e.mean),
            count(run.compared as u64)
        ),
        runs => {
            let worst = runs
                .iter()
                .filter_map(|v| Some((v, v.errors.e2e.mean?)))
                .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
            let worst = worst.map_or_else(String::new, |(v, e)| {
                format!("; mean E2E is {} off at worst ({})", signed(Some(e)), v.run)
            });
            format!("{} recorded runs replayed{worst}.", runs.len())
        }
    }
}

/// The findings about capacity, as sentences.
fn about_capacity(capacity: &Capacity) -> Vec<String> {
    match capacity {
        Capacity::Validated { target, rates, measured_rps, predicted_rps, error } => {
            vec![format!(
                "Capacity at {target}, from {rates} rates: {} requests/s measured, {} predicted, {}.",
                rate(*measured_rps),
                rate(*predicted_rps),
                signed(Some(*error))
            )]
        }
        Capacity::NotNearTheKnee { reason, sensitivity } => {
            let mut said = vec![format!("Capacity was not validated near the knee: {reason}.")];
            said.extend(sensitivity.as_ref().map(|s| {
                format!(
                    "Sensitivity: {} requests/s are predicted to hold {}. Were {} alone 1 % longer, that would be {:.2} % \
                     less; were every iteration, {:.2} %.",
                    rate(s.capacity_rps),
                    s.target,
                    s.target.split([':', '=']).next().unwrap_or_default().to_uppercase(),
                    s.of_limit,
                    s.of_time
                )
            }));
            said
        }
    }
}

/// The distance between two series, at the instants of the first.
fn apart(measured: &[Occupancy], predicted: &[Occupancy]) -> Option<String> {
    let at = |t: f64| {
        let after = predicted.partition_point(|p| p.at_s <= t + 1e-9);
        after.checked_sub(1).map(|i| predicted[i])
    };
    let both: Vec<(Occupancy, Occupancy)> =
        measured.iter().filter_map(|m| Some((*m, at(m.at_s)?))).collect();
    if both.is_empty() {
        return None;
    }
    let n = both.len() as f64;
    let mean = |f: &dyn Fn(&(Occupancy, Occupancy)) -> f64| both.iter().map(f).sum::<f64>() / n;
    let one = |name: &str, of: fn(&Occupancy) -> u32| {
        let (m, p) = (mean(&|b| f64::from(of(&b.0))), mean(&|b| f64::from(of(&b.1))));
        let off = mean(&|b| f64::from(of(&b.0).abs_diff(of(&b.1))));
        format!(
            "{name} {} measured, {} predicted on average, {} apart",
            sig(m, 3),
            sig(p, 3),
            sig(off, 2)
        )
    };
    Some(format!("{}; {}.", one("running", |o| o.running), one("waiting", |o| o.waiting)))
}

/// The summary for a terminal.
#[must_use]
pub(crate) fn terminal(r: &ValidationReport, terminal: Terminal) -> String {
    let mut s = Screen::new(terminal);
    s.say(&headline(r), 0, Some(Look::Bold));
    s.say(
        &format!("SIMULATED beside MEASURED  {} · {} · {}", r.model, r.device, r.file),
        2,
        Some(Look::Quiet),
    );
    s.gap();
    match &r.runs[..] {
        [run] => {
            let rows: Vec<Vec<String>> = figures(run).into_iter().map(Vec::from).collect();
            s.table(&["", "measured", "predicted", "error"], &rows, None);
            s.gap();
            s.say(&spell(run), 2, None);
            if let Some(text) = loads(r, run) {
                s.say(&text, 2, None);
            }
        }
        runs => {
            let row = |v: &Validation| {
                let e = &v.errors;
                let cells = [
                    e.ttft.mean,
                    e.ttft.p50,
                    e.ttft.p99,
                    e.tpot.mean,
                    e.tpot.p99,
                    e.e2e.p50,
                    e.e2e.p99,
                ];
                let errors = cells.into_iter().chain([e.throughput]).map(signed);
                [v.run.clone()].into_iter().chain(errors).collect::<Vec<_>>()
            };
            let head =
                ["error", "TTFT mean", "p50", "p99", "TPOT mean", "p99", "E2E p50", "p99", "req/s"];
            s.table(&head, &runs.iter().map(row).collect::<Vec<_>>(), None);
            s.gap();
        }
    }
    for text in about_capacity(&r.capacity) {
        s.say(&text, 2, None);
    }
    // Times of operators fill a page, and are on it.
    let constants = |a: &&Assumption| a.what.contains("host time") || a.what.contains("factors");
    for Assumption { what, source } in r.about.assumptions.iter().filter(constants) {
        s.say(&format!("{what}: {source}"), 4, Some(Look::Quiet));
    }
    s.text
}

fn spell(run: &Validation) -> String {
    let failed = match run.failures.values().sum() {
        0 => String::new(),
        n => format!("{} had failed ({}); ", count(n), failures(&run.failures)),
    };
    format!(
        "{} of {} requests compared at {} requests/s; {failed}predicted: {} preemptions, {} of prompt tokens cached.",
        count(run.compared as u64),
        count(run.requests as u64),
        rate(run.rate_rps),
        count(run.preemptions),
        percent(run.cached)
    )
}

fn loads(r: &ValidationReport, run: &Validation) -> Option<String> {
    let (measured, predicted) = alike(r, run);
    apart(measured, predicted)
}

/// Requests running and waiting, measured and predicted, counted alike: as an engine reports them where it did, else
/// from records.
fn alike<'a>(r: &'a ValidationReport, run: &'a Validation) -> (&'a [Occupancy], &'a [Occupancy]) {
    if r.reported_load.is_empty() {
        (&run.measured_load, &run.predicted_from_records)
    } else {
        (&r.reported_load, &run.predicted_load)
    }
}

/// The page.
#[must_use]
pub fn validation_page(r: &ValidationReport) -> String {
    let drawn = || r.runs.iter().take(DRAWN);
    let distributions: Vec<Chart> =
        drawn().flat_map(|run| COMPARED.into_iter().filter_map(|m| distribution(run, m))).collect();
    let series: Vec<Chart> = drawn().flat_map(|run| over_time(r, run)).collect();
    let sections = vec![
        Section::new("answer", "", answer(r)),
        Section::new("figures", "Figures", tables(r)),
        Section::new("distributions", "Distributions", page::charts(&distributions, "")),
        Section::new("time", "Over time", page::charts(&series, "two")),
        Section::new(
            "configuration",
            "Settings replayed",
            pairs(r.config.iter().map(|(k, v)| (k.clone(), code(v)))),
        ),
        Section::new("provenance", "Where these figures come from", provenance(r)),
    ];
    Page {
        title: format!("knee validate: {} on {}", r.model, r.device),
        headline: headline(r),
        times: Times::Both,
        facts: vec!["beside a recorded run".to_owned(), r.model.clone(), r.device.clone()],
        sections,
        version: &r.version,
    }
    .render()
}

fn answer(r: &ValidationReport) -> Markup {
    html! {
        @if let [run] = &r.runs[..] {
            div.tiles {
                @for metric in COMPARED {
                    @let e = run.errors.of(metric);
                    (tile(metric == Metric::Ttft, &signed(e.mean), &format!("error of mean {}", metric.label()),
                        &html! { "p50 " (signed(e.p50)) ", p99 " (signed(e.p99)) }))
                }
                (tile(false, &signed(run.errors.throughput), "error of requests/s", &html! { (rate(run.measured.throughput_rps)) " measured" }))
            }
        }
        @for text in about_capacity(&r.capacity) { p { (text) } }
    }
}

fn tables(r: &ValidationReport) -> Markup {
    let columns = [("", false), ("measured", true), ("predicted", true), ("error", true)];
    html! {
        @for run in &r.runs {
            h3 { (run.run) }
            p { (spell(run)) }
            @let rows: Vec<Row> = figures(run).into_iter().map(|c| (c.map(cell).into(), "")).collect();
            (page::fitted(&columns, &rows))
        }
    }
}

/// Measured and predicted shares of requests up to each latency.
fn distribution(run: &Validation, metric: Metric) -> Option<Chart> {
    let at = COMPARED.iter().position(|m| *m == metric)?;
    let (m, p) = (&run.measured.values[at], &run.predicted.values[at]);
    let steps = |values: &[f64]| {
        let n = values.len() as f64;
        let one =
            |(i, v): (usize, &f64)| [(*v, 100.0 * i as f64 / n), (*v, 100.0 * (i + 1) as f64 / n)];
        values.iter().enumerate().flat_map(one).collect::<Vec<_>>()
    };
    let (least, most) = (m.first()?.min(*p.first()?), m.last()?.max(*p.last()?));
    let line = |values: &[f64], ink, name: &str, dashed| Layer::Line {
        points: steps(values),
        ink,
        width: 1.75,
        dashed,
        label: Some(name.to_owned()),
    };
    let e = run.errors.of(metric);
    let scale = if most > 8.0 * least.max(1e-3) { Scale::Log } else { Scale::Linear };
    let name = metric.label();
    Some(Chart {
        title: format!("{name}, {}", run.run),
        figure: figure(
            HALF,
            &format!("cumulative distributions of {name}, measured and predicted"),
            Axis::new(format!("{name}, ms"), scale),
            Axis::new("requests at or below, %", Scale::FromZero).within(0.0, 102.0),
            vec![line(m, Ink::Line(1), "measured", false), line(p, Ink::Accent, "predicted", true)],
        ),
        caption: format!(
            "Median {} off, p90 {}, p99 {}; the slowest took {} measured, {} predicted.",
            signed(e.p50),
            signed(e.p90),
            signed(e.p99),
            ms(*m.last()?),
            ms(*p.last()?)
        ),
    })
}

/// Running and waiting, measured where known, and predicted.
fn over_time(r: &ValidationReport, run: &Validation) -> Vec<Chart> {
    let (measured, predicted) = alike(r, run);
    let Some(text) = apart(measured, predicted) else { return Vec::new() };
    let chart = |what: &str, of: fn(&Occupancy) -> u32| {
        let points = |s: &[Occupancy]| s.iter().map(|o| (o.at_s, f64::from(of(o)))).collect();
        let line = |s: &[Occupancy], ink, name: &str, dashed| Layer::Line {
            points: points(s),
            ink,
            width: 1.5,
            dashed,
            label: Some(name.to_owned()),
        };
        Chart {
            title: format!("Requests {what}, {}", run.run),
            figure: figure(
                HALF,
                &format!("requests {what} over time, measured and predicted"),
                Axis::new("time, s", Scale::Linear),
                Axis::new(format!("requests {what}"), Scale::FromZero),
                vec![
                    line(measured, Ink::Line(1), "measured", false),
                    line(predicted, Ink::Accent, "predicted", true),
                ],
            ),
            caption: text.clone(),
        }
    };
    vec![chart("running", |o| o.running), chart("waiting", |o| o.waiting)]
}

fn provenance(r: &ValidationReport) -> Markup {
    let rows: Vec<Row> =
        r.about.assumptions.iter().map(|a| (vec![cell(&a.what), cell(&a.source)], "")).collect();
    html! {
        (pairs([
            ("Measured".to_owned(), cell(&r.file)),
            ("Predicted".to_owned(), cell("SIMULATED by the cost model, in virtual time, from the same arrivals and lengths")),
            ("Command".to_owned(), code(&r.about.command)),
        ]))
        h3 { "Constants and their sources" }
        (page::table(&[("constant", false), ("source", false)], &rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{About, SAMPLES};
    use std::collections::BTreeMap;
    use tuner::evidence::validate::{Errors, Four};

    fn four(x: f64) -> Four {
        Four { mean: Some(x), p50: Some(x), p90: Some(x), p99: Some(x) }
    }

    fn report() -> ValidationReport {
        let side = |x: f64| tuner::evidence::validate::Side {
            ttft: four(x),
            tpot: four(x),
            e2e: four(x),
            throughput_rps: 5.0,
            values: [vec![x], vec![x, x + 1.0], (0..1000).map(f64::from).collect()],
        };
        let load = |n: u32| vec![Occupancy { at_s: 1.0, running: n, waiting: 2 * n }];
        let run = Validation {
            run: "<run>".into(),
            rate_rps: 5.0,
            requests: 10,
            compared: 9,
            failures: [("status 503 <b>".to_owned(), 1)].into(),
            errors: Errors { ttft: four(-3.25), tpot: four(1.0), e2e: four(0.0), throughput: None },
            measured: side(100.0),
            predicted: side(96.75),
            preemptions: 3,
            cached: 0.25,
            predicted_load: load(5),
            predicted_from_records: load(4),
            measured_load: load(6),
        };
        let sensitivity = None;
        ValidationReport {
            about: About::default(),
            version: "0".into(),
            file: "requests.csv".into(),
            model: "m".into(),
            device: "d".into(),
            config: BTreeMap::new(),
            runs: vec![run],
            capacity: Capacity::NotNearTheKnee { reason: "one rate".into(), sensitivity },
            reported_load: Vec::new(),
        }
    }

    #[test]
    fn the_terminal_shows_every_figure_within_its_width() {
        let text = terminal(&report(), Terminal::default());
        assert!(
            text.lines()
                .all(|l| unicode_width::UnicodeWidthStr::width(l) <= crate::terminal::WIDTH)
        );
        for wanted in [
            "TTFT p99",
            "-3.2",
            "not validated near the knee: one rate",
            "preemptions, 25.0 %",
            "1 had failed",
            "2.0 apart",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        let mut many = report();
        many.runs = vec![many.runs[0].clone(), many.runs[0].clone()];
        let text = terminal(&many, Terminal::default());
        assert!(text.starts_with("2 recorded runs replayed") && text.contains("E2E p50"), "{text}");
    }

    #[test]
    fn the_page_is_whole_escaped_and_thinned() {
        let report = report().thinned();
        assert_eq!(report.runs[0].measured.values[2].len(), SAMPLES);
        let page = validation_page(&report);
        assert!(page.contains("&lt;run&gt;") && !page.contains("<run>"));
        assert!(page.contains("1 had failed (1 × status 503 &lt;b&gt;)"));
        let drawn = page.split("<script>").next().unwrap();
        assert!(drawn.matches("<svg").count() == 5 && !drawn.contains("NaN"));
        let stored = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<ValidationReport>(&stored).unwrap(), report);
    }
}
