//! The values of a drawing, for a script beside it: a point of the data and its place in the drawing, by series.
//!
//! Written as compact JSON: `{"x":"rate","y":"ms","series":[{"name":"paged","layer":3,"points":[[x, y, left, top]]}]}`,
//! places in shares of the drawing's width and height.

use super::figure::{Axis, Figure, Layer, thinned};
use super::palette::Ink;
use serde_json::{Value, json};

/// Points of a series at most: a pointer hits no more.
const MOST: usize = 120;
/// Boxes beyond this are a texture and no values.
const BOXES: usize = 60;

/// The values of `figure`; `place` says where a point is drawn, if it is.
pub(super) fn of(figure: &Figure, place: impl Fn((f64, f64)) -> Option<(f64, f64)>) -> String {
    let series: Vec<Value> = figure
        .layers
        .iter()
        .enumerate()
        .filter_map(|(number, layer)| {
            let points: Vec<Value> = points(layer)
                .into_iter()
                .filter_map(|(drawn, (x, y))| {
                    let (left, top) = place(drawn)?;
                    let named = |axis: &Axis, value: f64| {
                        axis.names.as_ref().and_then(|names| nearest(names, value))
                    };
                    let value = |axis: &Axis, value: f64| {
                        named(axis, value).map_or_else(|| json!(digits(value, 5)), Value::from)
                    };
                    Some(json!([
                        value(&figure.x, x),
                        value(&figure.y, y),
                        digits(left, 4),
                        digits(top, 4)
                    ]))
                })
                .collect();
            let name = name(figure, layer);
            (!points.is_empty()).then(|| json!({ "name": name, "layer": number, "points": points }))
        })
        .collect();
    json!({ "x": figure.x.title, "y": figure.y.title, "series": series }).to_string()
}

/// The values of a layer, each behind the place where it is drawn: a band's value is its height.
fn points(layer: &Layer) -> Vec<((f64, f64), (f64, f64))> {
    let plain = |p: &(f64, f64)| (*p, *p);
    match layer {
        Layer::Line { points, .. } | Layer::Marks { points, .. } => {
            thinned(points, MOST).iter().map(plain).collect()
        }
        Layer::Band { points, .. } => {
            let value = |p: &(f64, f64, f64)| ((p.0, f64::midpoint(p.1, p.2)), (p.0, p.2 - p.1));
            thinned(points, MOST / 2).iter().map(value).collect()
        }
        Layer::Boxes { boxes, .. } if boxes.len() <= BOXES => {
            let far = |from: f64, to: f64| if from.abs() > to.abs() { from } else { to };
            let end = |b: &[f64; 4]| (far(b[0], b[1]), f64::midpoint(b[2], b[3]));
            boxes.iter().map(|b| plain(&end(b))).collect()
        }
        _ => Vec::new(),
    }
}

/// The name of a layer: its own, the one that the figure gives its ink, or that of another layer in the same ink.
fn name(figure: &Figure, layer: &Layer) -> String {
    let own = |layer: &Layer| match layer {
        Layer::Line { label, ink, .. }
        | Layer::Band { label, ink, .. }
        | Layer::Marks { label, ink, .. } => (Some(*ink), label.clone()),
        Layer::Boxes { ink, .. } => (Some(*ink), None),
        _ => (None, None),
    };
    let (ink, label) = own(layer);
    let given =
        |ink: Ink| figure.inks.iter().find(|(i, _)| *i == ink).map(|(_, name)| name.clone());
    let alike = |ink: Ink| {
        figure
            .layers
            .iter()
            .map(own)
            .find_map(|(other, label)| label.filter(|_| other == Some(ink)))
    };
    let found = label.or_else(|| given(ink?)).or_else(|| alike(ink?));
    found.unwrap_or_default()
}

fn nearest(names: &[(f64, String)], value: f64) -> Option<String> {
    let away = |at: f64| (at - value).abs();
    names.iter().min_by(|a, b| away(a.0).total_cmp(&away(b.0))).map(|(_, name)| name.clone())
}

/// `value` with so many significant digits: a page is not to hold more than it shows.
fn digits(value: f64, digits: usize) -> f64 {
    format!("{value:.*e}", digits - 1).parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::super::{Mark, Scale};
    use super::*;
    use proptest::prelude::*;

    fn figure(layers: Vec<Layer>) -> Figure {
        let x = Axis::new("rate", Scale::FromZero);
        let y = Axis::new("ms", Scale::Log);
        crate::charts::figure(crate::charts::HALF, "a figure", x, y, layers)
    }

    #[test]
    fn layers_in_one_ink_are_one_series() {
        let line = |points: &[(f64, f64)], dashed, label: Option<&str>| Layer::Line {
            points: points.to_vec(),
            ink: Ink::Line(1),
            width: 1.0,
            dashed,
            label: label.map(str::to_owned),
        };
        let layers = vec![
            line(&[(1.0, 10.0), (2.0, 20.0)], true, None),
            line(&[(1.0, 100.0), (2.0, f64::NAN)], false, Some("paged")),
            Layer::Across { at: 50.0, ink: Ink::Limit, label: "limit".to_owned() },
        ];
        let (svg, values) = figure(layers).drawn();
        let read: Value = serde_json::from_str(&values).unwrap();
        let names: Vec<&Value> =
            read["series"].as_array().unwrap().iter().map(|s| &s["name"]).collect();
        assert_eq!(names, ["paged", "paged"]);
        // A point without a place has no value, and each layer is a group of the drawing.
        assert_eq!(read["series"][1]["points"].as_array().unwrap().len(), 1);
        assert_eq!(read["series"][0]["points"][1][1], 20.0);
        for layer in 0..3 {
            assert_eq!(svg.matches(&format!("<g data-layer=\"{layer}\">")).count(), 1, "{svg}");
        }
        assert!(svg.contains("ms, log scale") && !svg.contains("rate, log"));
    }

    proptest! {
        #[test]
        fn places_are_inside_the_drawing(points in prop::collection::vec((any::<f64>(), any::<f64>()), 0..300)) {
            let (ink, mark) = (Ink::Accent, Mark::Dot);
            let layer = Layer::Marks { points, ink, mark, size: 2.0, label: None };
            let read: Value = serde_json::from_str(&figure(vec![layer]).drawn().1).unwrap();
            for point in read["series"].as_array().unwrap().iter().flat_map(|s| s["points"].as_array().unwrap()) {
                let place = |i: usize| point[i].as_f64().unwrap();
                prop_assert!((0.0..=1.0).contains(&place(2)) && (0.0..=1.0).contains(&place(3)), "{point}");
            }
        }
    }
}
