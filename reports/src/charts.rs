//! The plots that pages share, each with the sentence that says what to see in it. The sentence comes from the same
//! data as the plot: it can be wrong together with it, never against it.

use crate::figures::{self, ms, percent, sig};
use crate::plot::{Axis, Figure, Ink, Layer, Mark, Scale, thinned};
use crate::report::Detail;
use loadgen::{Metric, Target};
use tuner::claims::Sweep;
use tuner::subject::observation::KvShares;

/// A plot and what it shows.
pub(crate) struct Chart {
    /// Its heading.
    pub(crate) title: String,
    /// The drawing.
    pub(crate) figure: Figure,
    /// Its message.
    pub(crate) caption: String,
}

/// Half a page, a third of a page, and the whole width.
pub(crate) const HALF: (u32, u32) = (520, 300);
pub(crate) const THIRD: (u32, u32) = (350, 270);
pub(crate) const WHOLE: (u32, u32) = (1040, 300);

/// A figure of a size.
pub(crate) fn figure(
    size: (u32, u32),
    about: &str,
    x: Axis,
    y: Axis,
    layers: Vec<Layer>,
) -> Figure {
    let (inks, left, about) = (Vec::new(), 0.0, about.to_owned());
    Figure { width: size.0, height: size.1, about, x, y, left, inks, layers }
}

/// KV classes with their names and values, most useful first: the order of stacking.
pub(crate) fn classes(kv: &KvShares) -> [(&'static str, f64); 6] {
    [
        ("used", kv.used),
        ("reserved", kv.reserved),
        ("internal", kv.internal),
        ("external", kv.external),
        ("cached", kv.cached),
        ("idle", kv.idle),
    ]
}

/// Share of requests up to each latency, with limits.
pub(crate) fn distribution(detail: &Detail, metric: Metric, targets: &[Target]) -> Option<Chart> {
    let points: Vec<(f64, f64)> =
        detail.distribution(metric)?.points.iter().map(|p| (p.0, p.1 * 100.0)).collect();
    let (first, last) = (points.first()?, points.last()?);
    let shares = &detail.distribution(metric)?.points;
    let at = |share: f64| shares.iter().find(|p| p.1 >= share).map(|p| p.0);
    let p99 = at(0.99);
    // Steps, not slopes: between two values nothing was measured.
    let mut steps = vec![(first.0, 0.0)];
    for p in &points {
        steps.push((p.0, steps[steps.len() - 1].1));
        steps.push(*p);
    }
    let wide = last.0 > 8.0 * first.0.max(1e-3);
    let limits: Vec<f64> = targets
        .iter()
        .filter(|t| t.metric == metric)
        .map(|t| t.limit.as_secs_f64() * 1e3)
        .collect();
    let mut layers = vec![Layer::Line {
        points: steps,
        ink: Ink::Accent,
        width: 1.75,
        dashed: false,
        label: None,
    }];
    for at in &limits {
        let label = format!("limit {}", figures::limit(*at));
        layers.push(Layer::Upright { at: *at, ink: Ink::Limit, label });
    }
    if let Some(p99) = p99 {
        let (points, mark) = (vec![(p99, 99.0)], Mark::Dot);
        layers.push(Layer::Marks { points, ink: Ink::Accent, mark, size: 3.5, label: None });
        // Below the line, which goes on level from here.
        let text = format!("p99 {}", ms(p99));
        layers.push(Layer::Note { at: (p99, 90.0), ink: Ink::Accent, text, left: false });
    }
    let name = metric.label();
    let what = if metric.per_request() { "requests" } else { "gaps" };
    let median = at(0.5).map_or_else(|| "∞".to_owned(), ms);
    let caption = match p99 {
        Some(p99) => format!(
            "Half of the {what} are below {median}, 99 % below {}; the slowest took {}.",
            ms(p99),
            ms(last.0)
        ),
        None => format!(
            "Half of the {what} are below {median}; only {} of them ended at all.",
            percent(last.1 / 100.0)
        ),
    };
    Some(Chart {
        title: format!("{name} distribution"),
        figure: figure(
            HALF,
            &format!("cumulative distribution of {name}"),
            roomy(format!("{name}, ms"), wide, (first.0, last.0), p99, &limits),
            Axis::new(format!("{what} at or below, %"), Scale::FromZero).within(0.0, 102.0),
            layers,
        ),
        caption,
    })
}

/// An axis over `ends` and `limits` with room for a name right of `mark`.
fn roomy(title: String, wide: bool, ends: (f64, f64), mark: Option<f64>, limits: &[f64]) -> Axis {
    let low = limits.iter().copied().fold(ends.0, f64::min);
    let high = limits.iter().copied().fold(ends.1, f64::max);
    // A name takes about a fifth of the width.
    let beyond = |at: f64| {
        if wide { at * (high / low).powf(0.2) } else { at + 0.2 * (high - low) }
    };
    let high = mark.map_or(high, |mark| beyond(mark).max(high));
    Axis::new(title, if wide { Scale::Log } else { Scale::Linear }).within(low, high)
}

/// One value per name as horizontal bars.
pub(crate) fn bars(
    title: &str,
    axis: &str,
    rows: &[(String, Ink, Option<f64>)],
    text: fn(f64) -> String,
) -> Chart {
    let n = rows.len() as f64;
    let most = rows.iter().filter_map(|r| r.2).fold(0.0, f64::max);
    let mut layers = Vec::new();
    for (i, (_, ink, value)) in rows.iter().enumerate() {
        let y = n - i as f64 - 0.5;
        let value_text = value.map_or_else(|| figures::NONE.to_owned(), text);
        let value = value.unwrap_or(0.0);
        layers.push(Layer::Boxes {
            boxes: vec![[0.0, value, y - 0.33, y + 0.33]],
            ink: *ink,
            opacity: 1.0,
        });
        layers.push(Layer::Note { at: (value, y), ink: Ink::Text, text: value_text, left: false });
    }
    let names = rows.iter().enumerate().map(|(i, r)| (n - i as f64 - 0.5, r.0.clone())).collect();
    let known = || rows.iter().filter_map(|r| Some((r.0.as_str(), r.2?)));
    let best = known().min_by(|a, b| a.1.total_cmp(&b.1));
    let worst = known().max_by(|a, b| a.1.total_cmp(&b.1));
    let caption = match (best, worst) {
        (Some(least), Some(top)) if least.0 != top.0 => {
            format!("From {} ({}) to {} ({}).", text(least.1), least.0, text(top.1), top.0)
        }
        _ => String::new(),
    };
    Chart {
        title: title.to_owned(),
        figure: figure(
            (THIRD.0, 56 + 27 * rows.len().max(1) as u32),
            &format!("{title} as bars"),
            Axis::new(axis, Scale::FromZero)
                .within(0.0, if most > 0.0 { most * 1.22 } else { 1.0 }),
            Axis::new("", Scale::Linear).within(0.0, n.max(1.0)).named(names),
            layers,
        ),
        caption,
    }
}

/// Lines of a sweep.
pub(crate) fn sweep(sweep: &Sweep) -> Chart {
    let points = || sweep.lines.iter().flat_map(|l| l.1.iter().copied());
    let span = |of: fn(&(f64, f64)) -> f64| {
        let least = points().map(|p| of(&p)).fold(f64::INFINITY, f64::min);
        (least, points().map(|p| of(&p)).fold(f64::NEG_INFINITY, f64::max))
    };
    let (low, high) = span(|p| p.0);
    let scale = if low > 0.0 && high >= 8.0 * low { Scale::Log } else { Scale::Linear };
    let mut layers = Vec::new();
    let mut said = Vec::new();
    for (i, (name, points)) in sweep.lines.iter().enumerate() {
        let ink = Ink::nth(i);
        let label = (sweep.lines.len() > 1).then(|| name.clone());
        layers.push(Layer::Line {
            points: thinned(points, 400),
            ink,
            width: 2.0,
            dashed: false,
            label,
        });
        layers.push(Layer::Marks {
            points: thinned(points, 40),
            ink,
            mark: Mark::Dot,
            size: 2.5,
            label: None,
        });
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            said.push(format!("{name} from {} to {}", sig(first.1, 3), sig(last.1, 3)));
        }
    }
    Chart {
        title: sweep.title.clone(),
        figure: figure(
            HALF,
            &format!("{} against {}", sweep.y, sweep.x),
            Axis::new(sweep.x.clone(), scale),
            Axis::new(sweep.y.clone(), Scale::FromZero),
            layers,
        ),
        caption: format!(
            "As {} goes from {} to {}: {}.",
            sweep.x.split(',').next().unwrap_or_default(),
            figures::short(low),
            figures::short(high),
            said.join(", ")
        ),
    }
}
