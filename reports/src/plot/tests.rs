//! Any series renders, stays inside its frame and is well-formed.

use super::*;
use proptest::prelude::*;

fn figure(scale: Scale, layers: Vec<Layer>) -> Figure {
    Figure {
        width: 380,
        height: 240,
        about: "a <test> & \"more\"".to_owned(),
        x: Axis::new("rate, requests/s", Scale::Linear),
        y: Axis::new("TTFT, ms", scale),
        left: 0.0,
        inks: Vec::new(),
        layers,
    }
}

fn every_layer(points: &[(f64, f64)], text: &str) -> Vec<Layer> {
    let label = Some(text.to_owned());
    let first = points.first().copied().unwrap_or((0.0, 0.0));
    vec![
        Layer::Line {
            points: points.to_vec(),
            ink: Ink::Accent,
            width: 2.0,
            dashed: true,
            label: label.clone(),
        },
        Layer::Band {
            points: points.iter().map(|p| (p.0, 0.0, p.1)).collect(),
            ink: Ink::Kv(2),
            label: label.clone(),
        },
        Layer::Boxes {
            boxes: points.iter().map(|p| [p.0, p.0 + 1.0, 0.0, p.1]).collect(),
            ink: Ink::Phase(1),
            opacity: 0.5,
        },
        Layer::Marks {
            points: points.to_vec(),
            ink: Ink::Line(1),
            mark: Mark::Target,
            size: 3.0,
            label,
        },
        Layer::Across { at: first.1, ink: Ink::Limit, label: text.to_owned() },
        Layer::Upright { at: first.0, ink: Ink::Accent, label: text.to_owned() },
        Layer::Note { at: first, ink: Ink::Text, text: text.to_owned(), left: first.0 < 0.0 },
    ]
}

/// Parses the drawing and checks every coordinate against the view box.
fn check(svg: &str) {
    let document = roxmltree::Document::parse(svg).unwrap_or_else(|e| panic!("{e}\n{svg}"));
    let numbers = |text: &str| -> Vec<f64> {
        let parts = text.split([' ', ',']).filter(|p| !p.is_empty());
        parts.map(|p| p.parse::<f64>().unwrap_or_else(|e| panic!("{p}: {e}"))).collect()
    };
    let frame = numbers(document.root_element().attribute("viewBox").unwrap());
    for node in document.descendants() {
        for (name, most) in [
            ("x", frame[2]),
            ("x1", frame[2]),
            ("x2", frame[2]),
            ("cx", frame[2]),
            ("y", frame[3]),
            ("cy", frame[3]),
        ] {
            if let Some(v) = node.attribute(name) {
                let v: f64 = v.parse().unwrap();
                assert!((-1.0..=most + 1.0).contains(&v), "{name}={v} of {most} in {node:?}");
            }
        }
        for pair in numbers(node.attribute("points").unwrap_or("")).chunks(2) {
            assert!(
                (-1.0..=frame[2] + 1.0).contains(&pair[0])
                    && (-1.0..=frame[3] + 1.0).contains(&pair[1])
            );
        }
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("\"#"), "{svg}");
}

#[test]
fn no_point_one_point_and_huge_values() {
    for points in [
        vec![],
        vec![(3.0, 4.0)],
        vec![(1e300, -1e300), (-1e308, 1e308)],
        vec![(0.0, f64::NAN), (1.0, 2.0)],
    ] {
        for scale in [Scale::Linear, Scale::FromZero, Scale::Log] {
            check(&figure(scale, every_layer(&points, "chunked")).drawn().0);
        }
    }
}

#[test]
fn text_of_others_stays_text() {
    let svg =
        figure(Scale::Linear, every_layer(&[(1.0, 1.0), (2.0, 2.0)], "<script>\u{0}\"#A6C503\""))
            .drawn()
            .0;
    check(&svg);
    assert!(!svg.contains("<script"));
}

#[test]
fn thinning_keeps_the_ends() {
    let items: Vec<u32> = (0..1000).collect();
    let few = thinned(&items, 7);
    assert_eq!((few.len(), few[0], few[6]), (7, 0, 999));
    assert_eq!(thinned(&items, 2000).len(), 1000);
}

proptest! {
    #[test]
    fn any_series_stays_inside_its_frame(
        points in prop::collection::vec((any::<f64>(), any::<f64>()), 0..20),
        bounds in prop::option::of((-5.0..5.0, 6.0..9.0)),
        text in ".{0,30}",
        log in any::<bool>(),
    ) {
        let mut figure = figure(if log { Scale::Log } else { Scale::Linear }, every_layer(&points, &text));
        if let Some((lo, hi)) = bounds {
            figure.x = figure.x.within(lo, hi);
        }
        check(&figure.drawn().0);
    }
}
