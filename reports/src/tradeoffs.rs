//! The winner's trade-offs: against other operating points (the Pareto fronts) and against its neighbours, one knob
//! away.

use crate::charts::{self, Chart};
use crate::figures::{ms, percent, rate, sig};
use crate::page::{self, Row, cell, code, table};
use crate::plot::{Axis, Figure, Ink, Layer, Mark, Scale, thinned};
use crate::policies;
use loadgen::Metric;
use maud::{Markup, html};
use std::collections::BTreeSet;
use tuner::result::pareto::front as pareto_front;
use tuner::result::{Neighbour, ParetoPoint, TuneResult};

/// Both fronts with every passing run behind them.
pub(crate) fn pareto(r: &TuneResult) -> Markup {
    if r.pareto.points.len() < 2 {
        return html! {};
    }
    let p = &r.pareto;
    let names = policy_names(&p.points);
    let chosen = r.best.as_ref();
    let interactivity = front(
        &Front {
            title: "Throughput against interactivity",
            x: ("output tokens/s per user (1 / median TPOT)", |p| p.tokens_per_s_per_user),
            y: ("output tokens/s per GPU", |p| Some(p.tokens_per_s_per_gpu)),
            right_is_better: true,
            chosen: chosen.and_then(|b| Some((b.tokens_per_s_per_user?, b.tokens_per_s_per_gpu))),
            device: chosen.map(|b| b.device.as_str()),
            say: |a, b| {
                format!(
                    "The front runs from {} output tokens/s per GPU at {} tokens/s per user to {} at {}; up and right \
                     is better.",
                    sig(a.1, 3),
                    sig(a.0, 3),
                    sig(b.1, 3),
                    sig(b.0, 3)
                )
            },
        },
        &p.points,
    );
    let ttft = front(
        &Front {
            title: "Goodput against p99 TTFT",
            x: ("p99 TTFT, ms", |p| p.p99.get(Metric::Ttft)),
            y: ("goodput per GPU, requests/s", |p| Some(p.goodput_rps / f64::from(p.gpus))),
            right_is_better: false,
            chosen: chosen
                .and_then(|b| Some((b.p99.get(Metric::Ttft)?, b.goodput_rps / f64::from(b.gpus)))),
            device: chosen.map(|b| b.device.as_str()),
            say: |a, b| {
                format!(
                    "The front runs from {} good requests/s per GPU at a p99 TTFT of {} to {} at {}; up and left is \
                     better.",
                    sig(a.1, 3),
                    ms(a.0),
                    sig(b.1, 3),
                    ms(b.0)
                )
            },
        },
        &p.points,
    );
    html! {
        p { "Every run on the whole trace that held the targets. Only the points on a line, the front of a device, are worth choosing from on it." }
        (page::key(names.iter().zip(policies::inks(&names)).map(|(name, ink)| (ink, *name))))
        (page::charts(&[interactivity, ttft], "two"))
    }
}

fn policy_names(points: &[ParetoPoint]) -> Vec<&str> {
    let names: BTreeSet<&str> = points.iter().map(|p| p.policy.as_str()).collect();
    names.into_iter().collect()
}

type Value = fn(&ParetoPoint) -> Option<f64>;

struct Front<'a> {
    title: &'a str,
    x: (&'a str, Value),
    y: (&'a str, Value),
    right_is_better: bool,
    chosen: Option<(f64, f64)>,
    /// The device of the chosen one.
    device: Option<&'a str>,
    /// The message of a chart, from the front's leftmost point and its rightmost.
    say: fn((f64, f64), (f64, f64)) -> String,
}

fn front(f: &Front<'_>, points: &[ParetoPoint]) -> Chart {
    let at = |p: &ParetoPoint| Some(((f.x.1)(p)?, (f.y.1)(p)?));
    let mut layers = Vec::new();
    let names = policy_names(points);
    for (name, ink) in names.iter().zip(policies::inks(&names)) {
        let own: Vec<(f64, f64)> =
            points.iter().filter(|p| p.policy == *name).filter_map(at).collect();
        layers.push(Layer::Marks {
            points: thinned(&own, 250),
            ink,
            mark: Mark::Dot,
            size: 1.8,
            label: None,
        });
    }
    let line_of = |device: &str| {
        let own: Vec<(f64, f64)> =
            points.iter().filter(|p| p.device == device).filter_map(at).collect();
        let sign = if f.right_is_better { 1.0 } else { -1.0 };
        let towards: Vec<(f64, f64)> = own.iter().map(|(x, y)| (*y, sign * x)).collect();
        let mut line: Vec<(f64, f64)> =
            pareto_front(&towards).into_iter().map(|i| own[i]).collect();
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        line
    };
    let devices: BTreeSet<&str> = points.iter().map(|p| p.device.as_str()).collect();
    let own = f.device.filter(|device| devices.contains(device)).or(devices.first().copied());
    let line = line_of(own.unwrap_or_default());
    // The chosen device's front last, on top of the others.
    for device in devices.iter().filter(|d| Some(**d) != own).chain(own.iter()) {
        let is_own = Some(*device) == own;
        layers.push(Layer::Line {
            points: line_of(device),
            ink: if is_own { Ink::Text } else { Ink::Muted },
            width: if is_own { 1.3 } else { 1.0 },
            dashed: !is_own,
            label: (devices.len() > 1).then(|| (*device).to_owned()),
        });
    }
    if let Some(chosen) = f.chosen {
        let label = Some("chosen".to_owned());
        layers.push(Layer::Marks {
            points: vec![chosen],
            ink: Ink::Accent,
            mark: Mark::Target,
            size: 4.0,
            label,
        });
    }
    let caption = match (line.first(), line.last()) {
        (Some(a), Some(b)) if line.len() > 1 => (f.say)(*a, *b),
        _ => "One point beats all others on both axes.".to_owned(),
    };
    let inks =
        names.iter().zip(policies::inks(&names)).map(|(name, ink)| (ink, (*name).to_owned()));
    let inks = inks.chain([(Ink::Text, "the front".to_owned())]).collect();
    let (x, y) = (Axis::new(f.x.0, Scale::Linear), Axis::new(f.y.0, Scale::FromZero));
    let figure = charts::figure(charts::HALF, f.title, x, y, layers);
    Chart { title: f.title.to_owned(), figure: Figure { inks, ..figure }, caption }
}

/// Capacity when one knob moves from the best.
pub(crate) fn sensitivity(r: &TuneResult) -> Markup {
    if r.sensitivity.is_empty() {
        return html! {};
    }
    let row = |n: &Neighbour| {
        let change = if n.winner_rps > 0.0 { n.capacity_rps / n.winner_rps - 1.0 } else { 0.0 };
        let sign = if change > 0.0 { "+" } else { "" };
        (
            vec![
                code(&n.knob),
                code(&n.from),
                code(&n.to),
                cell(rate(n.capacity_rps)),
                cell(format!("{sign}{}", percent(change))),
                cell(&n.broke),
            ],
            "",
        )
    };
    let rows: Vec<Row> = r.sensitivity.iter().map(row).collect();
    html! {
        (page::charts(&[moves(&r.sensitivity)], "one"))
        details {
            summary { "As a table, with what gives way first" }
            (table(&[("knob", false), ("best has", false), ("here", false), ("requests/s", true), ("change", true), ("what gives way above that", false)], &rows))
        }
    }
}

/// Capacity with one knob changed, percent of the winner's more or less.
fn change(m: &Neighbour) -> f64 {
    if m.winner_rps > 0.0 { 100.0 * (m.capacity_rps / m.winner_rps - 1.0) } else { 0.0 }
}

/// Changes below this are drawn at it: a knob that ruins everything must not hide the others.
const WORST: f64 = -60.0;

/// A row per change.
fn moves(all: &[Neighbour]) -> Chart {
    let n = all.len() as f64;
    let low = all.iter().map(change).fold(0.0, f64::min).max(WORST);
    let high = all.iter().map(change).fold(0.0, f64::max);
    let mut layers =
        vec![Layer::Upright { at: 0.0, ink: Ink::Accent, label: "the best".to_owned() }];
    let mut names = Vec::new();
    for (i, m) in all.iter().enumerate() {
        let (y, x) = (n - i as f64 - 0.5, change(m));
        names.push((y, format!("{} {} → {}", m.knob, m.from, m.to)));
        let ink = match x {
            x if x > 2.5 => Ink::Line(2),
            x if x < -2.5 => Ink::Limit,
            _ => Ink::Muted,
        };
        let seen = x.clamp(low, high);
        let boxes = vec![[seen.min(0.0), seen.max(0.0), y - 0.18, y + 0.18]];
        layers.push(Layer::Boxes { boxes, ink, opacity: 0.5 });
        let (points, mark) = (vec![(seen, y)], Mark::Dot);
        layers.push(Layer::Marks { points, ink, mark, size: 3.0, label: None });
        let sign = if x > 0.0 { "+" } else { "" };
        let text = format!("{sign}{}{}%", sig(x, 2), crate::figures::THIN);
        layers.push(Layer::Note { at: (seen, y), ink, text, left: x < 0.0 });
    }
    let room = ((high - low) * 0.1).max(1.0);
    Chart {
        title: "Capacity with one knob changed".to_owned(),
        figure: charts::figure(
            (1040, 64 + 22 * all.len() as u32),
            "change of capacity for each changed knob",
            Axis::new("change of capacity, %", Scale::Linear).within(low - room, high + room),
            Axis::new("", Scale::Linear).within(0.0, n).named(names),
            layers,
        ),
        caption: costliest(all),
    }
}

fn costliest(all: &[Neighbour]) -> String {
    let Some(w) = all.iter().min_by(|a, b| change(a).total_cmp(&change(b))) else {
        return String::new();
    };
    let flat = all.iter().filter(|m| change(m).abs() <= 2.5).count();
    format!(
        "The costliest single change is {} from {} to {} ({}); {flat} of {} changes move capacity by no more than the \
         2 % to which it is known here.",
        w.knob,
        w.from,
        w.to,
        percent(change(w) / 100.0),
        all.len()
    )
}
