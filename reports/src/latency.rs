//! Latency against rate, the field's first picture: a small picture for each latency, one line per
//! configuration, the limit across and the knee marked.

use crate::charts::{Chart, THIRD, figure};
use crate::figures::{self, SHOWN, ms, percent, rate, sig};
use crate::plot::{Axis, Ink, Layer, Mark, Scale};
use loadgen::{Metric, Statistic, Target};
use tuner::result::{Both, Latencies};

/// One configuration's latencies by rate.
pub(crate) struct Curve {
    pub(crate) name: String,
    /// Its colour.
    pub(crate) ink: Ink,
    /// True of the one that matters.
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
    /// Median and p99 of each latency, ms; none where lost or undefined.
    pub(crate) latencies: Latencies<Both>,
}

impl At {
    fn p99(&self, metric: Metric) -> Option<f64> {
        self.latencies.get(metric).1
    }
}

/// A chart for each latency shown. Of several targets on a metric only those over all requests are drawn.
/// `likely` are the rates between which the chosen one's knee lies.
pub(crate) fn charts(
    curves: &[Curve],
    targets: &[Target],
    likely: Option<(f64, f64)>,
) -> Vec<Chart> {
    SHOWN.map(|metric| chart(curves, targets, likely, metric)).into()
}

fn line(curve: &Curve, of: impl Fn(&At) -> Option<f64>) -> Vec<(f64, f64)> {
    curve.points.iter().map(|p| (p.rate, of(p).unwrap_or(f64::NAN))).collect()
}

fn chart(
    curves: &[Curve],
    targets: &[Target],
    likely: Option<(f64, f64)>,
    metric: Metric,
) -> Chart {
    let limits: Vec<&Target> =
        targets.iter().filter(|t| t.metric == metric && t.class.is_none()).collect();
    let mut layers = Vec::new();
    let y = vertical(curves, &limits, metric);
    let floor = y.bounds.map_or(f64::NAN, |b| b.0);
    if let (Some((low, high)), Some(y)) = (likely, y.bounds) {
        let boxes = vec![[low, high, y.0, y.1]];
        layers.push(Layer::Boxes { boxes, ink: Ink::Accent, opacity: 0.1 });
    }
    // The chosen one last, on top of the others.
    let order = curves.iter().filter(|c| !c.chosen).chain(curves.iter().filter(|c| c.chosen));
    for curve in order {
        let (heavy, light) = if curve.chosen { (2.5, 1.1) } else { (1.6, 0.9) };
        let p50 = line(curve, |p| p.latencies.get(metric).0);
        let p99 = line(curve, |p| p.p99(metric));
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
        } else if let Some(knee) = curve.knee {
            // Known, but no run was made right there: on the axis.
            let (points, mark) = (vec![(knee, floor)], Mark::Ring);
            layers.push(Layer::Marks { points, ink: curve.ink, mark, size: 3.0, label: None });
        }
    }
    for t in &limits {
        let limit = t.limit.as_secs_f64() * 1e3;
        let label = format!("{} ≤ {}", t.statistic, figures::limit(limit));
        layers.push(Layer::Across { at: limit, ink: Ink::Limit, label });
    }
    let name = metric.label();
    let x = Axis::new("offered rate, requests/s", Scale::FromZero);
    let x = match widest(curves) {
        Some(most) => x.within(0.0, (most * 1.12).max(likely.map_or(0.0, |l| l.1 * 1.02))),
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
        caption: caption(curves, &limits, metric),
    }
}

/// The highest knee; without any, the data decide.
fn widest(curves: &[Curve]) -> Option<f64> {
    curves.iter().filter_map(|c| c.knee).max_by(f64::total_cmp).filter(|most| *most > 0.0)
}

/// Logarithmic; overloaded runs may leave at the top rather than flatten everything else.
fn vertical(curves: &[Curve], limits: &[&Target], metric: Metric) -> Axis {
    let x = widest(curves).map_or(f64::INFINITY, |m| m * 1.12);
    let shown = curves.iter().flat_map(|c| &c.points).filter(|p| p.rate <= x);
    let values = shown.flat_map(|p| <[_; 2]>::from(p.latencies.get(metric))).flatten();
    let (mut lo, mut hi) = (f64::INFINITY, 0.0_f64);
    for v in values.filter(|v| *v > 0.0) {
        (lo, hi) = (lo.min(v), hi.max(v));
    }
    let limit = limits.iter().map(|t| t.limit.as_secs_f64() * 1e3).fold(0.0, f64::max);
    if limit > 0.0 {
        (lo, hi) = (lo.min(limit * 0.8), hi.clamp(limit * 1.5, limit * 300.0));
    } else if let Some(at_knee) =
        curves.iter().filter_map(|c| at_knee(c, metric)).max_by(f64::total_cmp)
    {
        hi = hi.min(at_knee * 6.0);
    }
    Axis::new("", Scale::Log).within(lo / 1.2, hi * 1.2)
}

fn at_knee(curve: &Curve, metric: Metric) -> Option<f64> {
    let knee = curve.knee?;
    curve.points.iter().find(|p| same(p.rate, knee))?.p99(metric)
}

/// The point at which the chosen curve meets its limit; without a chosen one, the distance between curves.
fn caption(curves: &[Curve], limits: &[&Target], metric: Metric) -> String {
    match curves.iter().find(|c| c.chosen) {
        Some(curve) => at_the_knee(curve, limits, metric),
        None => side_by_side(curves, metric),
    }
}

/// Every curve's p99 at the highest rate that all of them have.
fn side_by_side(curves: &[Curve], metric: Metric) -> String {
    let name = metric.label();
    let shared = |p: &&At| curves.iter().all(|c| c.points.iter().any(|q| same(q.rate, p.rate)));
    let Some(top) = curves.first().and_then(|c| c.points.iter().rev().find(shared)) else {
        return "No rate was tried with all of them.".to_owned();
    };
    let mut seen: Vec<(&str, Option<f64>)> = curves
        .iter()
        .filter_map(|c| Some((c.name.as_str(), c.points.iter().find(|p| same(p.rate, top.rate))?)))
        .map(|(who, p)| (who, p.p99(metric)))
        .collect();
    seen.sort_by(|a, b| a.1.unwrap_or(f64::INFINITY).total_cmp(&b.1.unwrap_or(f64::INFINITY)));
    let said = seen.iter().map(|(who, v)| format!("{} with {who}", v.map_or("∞".to_owned(), ms)));
    format!(
        "At {} requests/s p99 {name} is {}.",
        rate(top.rate),
        said.collect::<Vec<_>>().join(", ")
    )
}

fn same(a: f64, b: f64) -> bool {
    (a / b - 1.0).abs() < 1e-6
}

fn at_the_knee(curve: &Curve, limits: &[&Target], metric: Metric) -> String {
    let (name, who) = (metric.label(), &curve.name);
    let p99 = |p: &At| p.p99(metric);
    let knee = curve.knee.and_then(|k| curve.points.iter().find(|p| same(p.rate, k)));
    let Some((knee, Some(value))) = knee.map(|k| (k.rate, p99(k))) else {
        return format!("At its knee {who} has no p99 {name}.");
    };
    let above = curve.points.iter().find(|p| p.rate > knee * (1.0 + 1e-6));
    let limit = limits.iter().find(|t| is_p99(t)).map(|t| t.limit.as_secs_f64() * 1e3);
    let Some(limit) = limit else {
        let low = curve.points.iter().find_map(|p| Some((p.rate, p99(p)?)));
        let from = low.filter(|l| l.0 < knee).map_or_else(String::new, |(r, v)| {
            format!("from {} at {} requests/s ", ms(v), rate(r))
        });
        return format!(
            "p99 {name} of {who} goes {from}to {} at its knee, {} requests/s; no p99 target limits it.",
            ms(value),
            rate(knee)
        );
    };
    if let Some(next) = above.filter(|a| value <= limit && p99(a).is_none_or(|w| w > limit)) {
        let (from, to) = (sig(knee, 4), sig(next.rate, 4));
        return format!(
            "p99 {name} of {who} crosses {} between {from} and {to} requests/s.",
            figures::limit(limit)
        );
    }
    let side = if value <= limit { "below" } else { "above" };
    format!(
        "At its knee, {} requests/s, {who} has a p99 {name} of {}, {} {side} the limit of {}: something else gives way first.",
        rate(knee),
        ms(value),
        percent((1.0 - value / limit).abs()),
        figures::limit(limit)
    )
}

fn is_p99(target: &Target) -> bool {
    matches!(target.statistic, Statistic::Percentile(p) if p == loadgen::Percentile::P99)
}
