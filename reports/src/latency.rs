//! Latency against rate, the field's first picture: small multiples of TTFT, TPOT and ITL, one line per
//! configuration, the limit across and the knee marked.

use crate::charts::{Chart, THIRD, figure, metric_name};
use crate::figures::{ms, rate};
use crate::plot::{Axis, Ink, Layer, Mark, Scale};
use loadgen::{Metric, Statistic, Target};

/// Median and p99 in ms; none where lost or undefined.
pub(crate) type Pair = (Option<f64>, Option<f64>);

/// One configuration's latencies by rate.
pub(crate) struct Curve {
    /// What it is called.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) ink: Ink,
    /// Whether it is the one that matters.
    pub(crate) chosen: bool,
    /// Highest rate that holds, requests/s.
    pub(crate) knee: Option<f64>,
    /// By rising rate.
    pub(crate) points: Vec<At>,
}

/// One rate.
pub(crate) struct At {
    /// Requests/s offered.
    pub(crate) rate: f64,
    /// TTFT, TPOT, ITL.
    pub(crate) latencies: [Pair; 3],
}

const METRICS: [Metric; 3] = [Metric::Ttft, Metric::Tpot, Metric::Itl];

/// A chart for each of TTFT, TPOT and ITL. Of several targets on a metric only those over all requests are drawn.
pub(crate) fn charts(curves: &[Curve], targets: &[Target]) -> Vec<Chart> {
    METRICS.iter().enumerate().map(|(i, metric)| chart(curves, targets, *metric, i)).collect()
}

fn line(curve: &Curve, metric: usize, of: fn(&Pair) -> Option<f64>) -> Vec<(f64, f64)> {
    curve.points.iter().map(|p| (p.rate, of(&p.latencies[metric]).unwrap_or(f64::NAN))).collect()
}

fn chart(curves: &[Curve], targets: &[Target], metric: Metric, index: usize) -> Chart {
    let limits: Vec<&Target> =
        targets.iter().filter(|t| t.metric == metric && t.class.is_none()).collect();
    let mut layers = Vec::new();
    // The chosen one last, on top of the others.
    let order = curves.iter().filter(|c| !c.chosen).chain(curves.iter().filter(|c| c.chosen));
    for curve in order {
        let (heavy, light) = if curve.chosen { (2.5, 1.1) } else { (1.6, 0.9) };
        let (p50, p99) = (line(curve, index, |p| p.0), line(curve, index, |p| p.1));
        let whole = |points, width, dashed, label| Layer::Line {
            points,
            ink: curve.ink,
            width,
            dashed,
            label,
        };
        layers.push(whole(p50, light, true, None));
        layers.push(whole(p99.clone(), heavy, false, Some(curve.name.clone())));
        let knee = p99.iter().find(|p| curve.knee.is_some_and(|k| (p.0 / k - 1.0).abs() < 1e-6));
        if let Some(knee) = knee {
            let (mark, size) = if curve.chosen { (Mark::Target, 3.5) } else { (Mark::Ring, 3.0) };
            layers.push(Layer::Marks {
                points: vec![*knee],
                ink: curve.ink,
                mark,
                size,
                label: None,
            });
        }
    }
    for t in &limits {
        let limit = t.limit.as_secs_f64() * 1e3;
        let label = format!("{} ≤ {}", t.statistic, ms(limit));
        layers.push(Layer::Across { at: limit, ink: Ink::Limit, label });
    }
    let name = metric_name(metric);
    let y = vertical(curves, &limits, index);
    let x = Axis::new("offered rate, requests/s", Scale::FromZero);
    let x = match widest(curves) {
        Some(most) => x.within(0.0, most * 1.12),
        None => x,
    };
    Chart {
        title: name.to_owned(),
        figure: figure(
            THIRD,
            &format!("{name} against offered rate"),
            x,
            Axis { title: format!("{name}, ms (p99 solid, p50 dashed)"), ..y },
            layers,
        ),
        caption: caption(curves, &limits, metric, index),
    }
}

/// The highest knee; without any, the data decide.
fn widest(curves: &[Curve]) -> Option<f64> {
    curves.iter().filter_map(|c| c.knee).max_by(f64::total_cmp).filter(|most| *most > 0.0)
}

/// Logarithmic; overloaded runs may leave at the top rather than flatten everything else.
fn vertical(curves: &[Curve], limits: &[&Target], metric: usize) -> Axis {
    let x = widest(curves).map_or(f64::INFINITY, |m| m * 1.12);
    let shown = curves.iter().flat_map(|c| &c.points).filter(|p| p.rate <= x);
    let values = shown.flat_map(|p| [p.latencies[metric].0, p.latencies[metric].1]).flatten();
    let (mut lo, mut hi) = (f64::INFINITY, 0.0_f64);
    for v in values.filter(|v| *v > 0.0) {
        (lo, hi) = (lo.min(v), hi.max(v));
    }
    let limit = limits.iter().map(|t| t.limit.as_secs_f64() * 1e3).fold(0.0, f64::max);
    if limit > 0.0 {
        (lo, hi) = (lo.min(limit * 0.8), hi.clamp(limit * 1.5, limit * 20.0));
    } else if let Some(at_knee) =
        curves.iter().filter_map(|c| at_knee(c, metric)?.1).max_by(f64::total_cmp)
    {
        hi = hi.min(at_knee * 6.0);
    }
    Axis::new("", Scale::Log).within(lo / 1.2, hi * 1.2)
}

fn at_knee(curve: &Curve, metric: usize) -> Option<Pair> {
    let knee = curve.knee?;
    curve.points.iter().find(|p| (p.rate / knee - 1.0).abs() < 1e-6).map(|p| p.latencies[metric])
}

/// Where the chosen curve (or the first) meets its limit.
fn caption(curves: &[Curve], limits: &[&Target], metric: Metric, index: usize) -> String {
    let Some(curve) = curves.iter().find(|c| c.chosen).or_else(|| curves.first()) else {
        return "Nothing was measured.".to_owned();
    };
    let (name, who) = (metric_name(metric), &curve.name);
    let p99: Vec<(f64, Option<f64>)> =
        curve.points.iter().map(|p| (p.rate, p.latencies[index].1)).collect();
    let Some(knee) = curve.knee.filter(|_| at_knee(curve, index).is_some()) else {
        let known: Vec<(f64, f64)> = p99.iter().filter_map(|p| Some((p.0, p.1?))).collect();
        return match (known.first(), known.last()) {
            (Some(a), Some(b)) => format!(
                "With {who}, p99 {name} goes from {} at {} to {} at {} requests/s.",
                ms(a.1),
                rate(a.0),
                ms(b.1),
                rate(b.0)
            ),
            _ => format!(
                "No rate tried gave {who} a p99 {name}: requests were lost or have no such latency."
            ),
        };
    };
    let at = p99.iter().find(|p| (p.0 / knee - 1.0).abs() < 1e-6).and_then(|p| p.1);
    let above = p99.iter().find(|p| p.0 > knee * (1.0 + 1e-6));
    let limit = limits.iter().find(|t| is_p99(t)).map(|t| t.limit.as_secs_f64() * 1e3);
    match (at, above, limit) {
        (Some(v), Some((next, worse)), Some(limit))
            if v <= limit && worse.is_none_or(|w| w > limit) =>
        {
            format!(
                "p99 {name} of {who} crosses {} between {} and {} requests/s.",
                ms(limit),
                crate::figures::sig(knee, 4),
                crate::figures::sig(*next, 4)
            )
        }
        (Some(v), _, Some(limit)) => format!(
            "At its knee, {} requests/s, {who} has a p99 {name} of {}: {} {} the limit of {}, so something else gives way first.",
            rate(knee),
            ms(v),
            crate::figures::percent((1.0 - v / limit).abs()),
            if v <= limit { "below" } else { "above" },
            ms(limit)
        ),
        (Some(v), _, None) => {
            let low = p99.iter().find_map(|p| Some((p.0, p.1?)));
            let from = low.filter(|l| l.0 < knee).map_or_else(String::new, |l| {
                format!(", from {} at {} requests/s", ms(l.1), rate(l.0))
            });
            format!(
                "{who} reaches a p99 {name} of {} at its knee, {} requests/s{from}; nothing limits it.",
                ms(v),
                rate(knee)
            )
        }
        (None, _, _) => format!("At its knee {who} has no p99 {name}."),
    }
}

fn is_p99(target: &Target) -> bool {
    matches!(target.statistic, Statistic::Percentile(p) if p == loadgen::Percentile::P99)
}
