//! Puts a [`Figure`] on paper through plotters: frame, layers, then names beside what they name.

use super::canvas::{Area, Chart, Drawn, Ticked, px};
use super::clip::{self, Point};
use super::figure::{Axis, Figure, Layer, Mark};
use super::names::{Name, Names, beside, printable, text_style, width_of};
use super::palette::{Ink, themed};
use super::scale::{Scale, Span};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// The places of things, in the unit square.
struct Places {
    x: Span,
    y: Span,
}

impl Places {
    fn point(&self, (x, y): (f64, f64)) -> Option<Point> {
        Some((self.x.place(x)?, self.y.place(y)?))
    }

    fn inside(&self, at: (f64, f64)) -> Option<Point> {
        let near = |v: f64| (-1e-9..=1.0 + 1e-9).contains(&v);
        self.point(at)
            .filter(|p| near(p.0) && near(p.1))
            .map(|p| (p.0.clamp(0.0, 1.0), p.1.clamp(0.0, 1.0)))
    }

    /// A line's pieces inside the frame; broken where a value has no place.
    fn line(&self, points: &[(f64, f64)]) -> Vec<Vec<Point>> {
        let placed: Vec<Option<Point>> = points.iter().map(|p| self.point(*p)).collect();
        placed
            .split(Option::is_none)
            .flat_map(|run| clip::polyline(&run.iter().flatten().copied().collect::<Vec<_>>()))
            .collect()
    }
}

/// The drawing and its values.
pub(super) fn svg(figure: &Figure) -> (String, String) {
    let mut values = String::new();
    let mut text = String::new();
    let size = (px(f64::from(figure.width)), px(f64::from(figure.height)));
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        // Nothing can fail: the backend is a string, and places are finite.
        if let Err(e) = draw(figure, &root, &mut values) {
            unreachable!("drawing into a string: {e}");
        }
    }
    let body = text.find('>').map_or("", |at| &text[at + 1..]);
    let head = format!(
        "<svg class=\"plot\" viewBox=\"0 0 {} {}\" style=\"max-width:{}px\" role=\"img\" aria-label=\"{}\">",
        size.0,
        size.1,
        figure.width * 5 / 4,
        escaped(&printable(&figure.about)),
    );
    (head + &grouped(&themed(body, "18 14")), values)
}

/// Stands in a drawing where a layer begins, before its number ([`END`] behind the last): no text of a plot has that control
/// character.
const LAYER: &str = "\u{2}layer-";
const END: &str = "end";

/// A drawing whose layers are groups, so that a script can switch them.
fn grouped(svg: &str) -> String {
    let (mut out, mut rest, mut open) = (String::with_capacity(svg.len()), svg, false);
    while let Some(at) = rest.find(LAYER) {
        let from = rest[..at].rfind("<text").unwrap_or(at);
        let name = &rest[at + LAYER.len()..];
        let name = &name[..name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len())];
        out.push_str(&rest[..from]);
        out.push_str(if open { "</g>" } else { "" });
        open = name != END;
        if open {
            out.push_str(&format!("<g data-layer=\"{name}\">"));
        }
        rest = rest[at..].split_once("</text>").map_or("", |(_, behind)| behind);
    }
    out + rest
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn draw(figure: &Figure, root: &Area<'_>, values: &mut String) -> Drawn {
    let (x, y) = figure.spans();
    let places = Places { x, y };
    let [xs, ys] = [(&figure.x, &x, ticks_across(figure)), (&figure.y, &y, 5)]
        .map(|(axis, span, wanted)| marks(axis, span, wanted));
    let left = ys.iter().map(|t| width_of(&t.1)).fold(14.0_f64.max(figure.left), f64::max) + 9.0;
    let (right, top) = margins(figure, &places, left);
    let title = if figure.y.title.is_empty() { 6.0 } else { 22.0 };
    let keys = |ticks: &[(f64, String)]| ticks.iter().map(|t| t.0).collect::<Vec<_>>();
    let bottom = if figure.x.title.is_empty() { 20.0 } else { 37.0 };
    let mut chart = ChartBuilder::on(root)
        .margin_top(px(title + top))
        .margin_right(px(right))
        .margin_left(px(1.0))
        .x_label_area_size(px(bottom))
        .y_label_area_size(px(left))
        .build_cartesian_2d(Ticked(keys(&xs)), Ticked(keys(&ys)))?;
    frame(&mut chart, &xs, &ys, figure.x.names.is_none(), figure.y.names.is_none())?;
    let mut names = Names::default();
    for (number, layer) in figure.layers.iter().enumerate() {
        begin(root, &number.to_string())?;
        paint(&mut chart, root, &places, layer, &mut names)?;
    }
    begin(root, END)?;
    let (width, height) = root.dim_in_pixel();
    *values = super::values::of(figure, |point| {
        let (left, top) = chart.backend_coord(&places.inside(point)?);
        Some((f64::from(left) / f64::from(width), f64::from(top) / f64::from(height)))
    });
    titles(figure, &chart, root)?;
    names.draw(
        root,
        (title + top - 4.0, f64::from(figure.height) - bottom),
        f64::from(figure.width),
    )?;
    root.present()?;
    Ok(())
}

/// Begins the layer called `name`.
fn begin(root: &Area<'_>, name: &str) -> Drawn {
    let style = text_style(Ink::Text, HPos::Left, VPos::Top);
    root.draw(&Text::new(format!("{LAYER}{name}"), (0, 0), style))?;
    Ok(())
}

fn ticks_across(figure: &Figure) -> usize {
    (figure.width / 90).clamp(3, 10) as usize
}

/// Places and labels of an axis's ticks.
fn marks(axis: &Axis, span: &Span, wanted: usize) -> Vec<(f64, String)> {
    let ticks = axis.names.clone().unwrap_or_else(|| span.ticks(wanted));
    let placed =
        ticks.into_iter().filter_map(|(v, label)| Some((span.place(v)?, printable(&label))));
    placed
        .filter(|(p, _)| (-1e-6..=1.0 + 1e-6).contains(p))
        .map(|(p, l)| (p.clamp(0.0, 1.0), l))
        .collect()
}

/// Room for names at the right and above.
fn margins(figure: &Figure, places: &Places, left: f64) -> (f64, f64) {
    let (mut right, mut top) = (14.0_f64, 6.0_f64);
    let across = f64::from(figure.width) - left;
    for layer in &figure.layers {
        // A name that begins inside the frame needs that much less outside.
        let outside = |text: &str, from: f64| width_of(text) + 12.0 - (1.0 - from) * across * 0.9;
        match layer {
            Layer::Line { points, label: Some(label), .. } => {
                match places.line(points).last().and_then(|p| p.last().copied()) {
                    Some((x, y)) if y >= 0.999 && x < 0.999 => top = 22.0,
                    Some((x, _)) => right = right.max(outside(label, x)),
                    None => {}
                }
            }
            Layer::Band { label: Some(label), .. } => right = right.max(outside(label, 1.0) + 13.0),
            Layer::Across { label, .. } => right = right.max(outside(label, 1.0)),
            Layer::Upright { .. } => top = top.max(20.0),
            _ => {}
        }
    }
    (right.min(f64::from(figure.width) * 0.4), top)
}

fn frame(
    chart: &mut Chart<'_, '_>,
    xs: &[(f64, String)],
    ys: &[(f64, String)],
    x_grid: bool,
    y_grid: bool,
) -> Drawn {
    let label = |ticks: &[(f64, String)], v: f64| {
        let nearest = ticks.iter().min_by(|a, b| (a.0 - v).abs().total_cmp(&(b.0 - v).abs()));
        nearest.map_or_else(String::new, |t| t.1.clone())
    };
    let (of_x, of_y) = (|v: &f64| label(xs, *v), |v: &f64| label(ys, *v));
    let quiet = text_style(Ink::Muted, HPos::Center, VPos::Top);
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh();
    if !y_grid {
        mesh.disable_y_mesh();
    }
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(Ink::Grid.marker(false).stroke_width(px(0.75)))
        .axis_style(Ink::Muted.marker(false).stroke_width(px(if x_grid { 0.75 } else { 0.5 })))
        .label_style(quiet)
        .x_labels(xs.len().max(1))
        .y_labels(ys.len().max(1))
        .x_label_formatter(&of_x)
        .y_label_formatter(&of_y)
        .set_all_tick_mark_size(px(3.0))
        .draw()?;
    Ok(())
}

/// An axis's title, and that its values stand by ratio where they do.
fn title(axis: &Axis) -> String {
    match axis.scale {
        Scale::Log if !axis.title.is_empty() => format!("{}, log scale", axis.title),
        _ => axis.title.clone(),
    }
}

fn titles(figure: &Figure, chart: &Chart<'_, '_>, root: &Area<'_>) -> Drawn {
    let (xs, _) = chart.plotting_area().get_pixel_range();
    let bottom = px(f64::from(figure.height)) as i32;
    let x = text_style(Ink::Text, HPos::Center, VPos::Bottom);
    let at = (i32::midpoint(xs.start, xs.end), bottom - px(3.0) as i32);
    root.draw(&Text::new(printable(&title(&figure.x)), at, x))?;
    // Level and above the axis, so that it reads without a turn of the head.
    let y = text_style(Ink::Text, HPos::Left, VPos::Top);
    root.draw(&Text::new(printable(&title(&figure.y)), (px(1.0) as i32, px(3.0) as i32), y))?;
    Ok(())
}

fn paint(
    chart: &mut Chart<'_, '_>,
    root: &Area<'_>,
    places: &Places,
    layer: &Layer,
    names: &mut Names,
) -> Drawn {
    match layer {
        Layer::Line { points, ink, width, dashed, label } => {
            let style = ink.marker(*dashed).stroke_width(px(*width));
            let pieces = places.line(points);
            let end = pieces.last().and_then(|p| p.last().copied());
            for piece in pieces {
                chart.draw_series(std::iter::once(PathElement::new(piece, style)))?;
            }
            if let (Some(label), Some((x, y))) = (label, end) {
                let name = Name::new(chart, (x, y), label, *ink);
                if y >= 0.999 && x < 0.999 { names.top.push(name) } else { names.right.push(name) }
            }
        }
        Layer::Band { points, ink, label } => {
            band(chart, places, points, *ink, label.as_deref(), names)?;
        }
        Layer::Boxes { boxes, ink, opacity } => {
            let style = ink.marker(false).mix(opacity.clamp(0.0, 1.0)).filled();
            let placed = boxes.iter().filter_map(|b| {
                let (from, to) = (places.point((b[0], b[2]))?, places.point((b[1], b[3]))?);
                let cut = |p: Point| (p.0.clamp(0.0, 1.0), p.1.clamp(0.0, 1.0));
                let seen = from.0 < 1.0 && to.0 > 0.0 && from.1 < 1.0 && to.1 > 0.0;
                seen.then(|| Rectangle::new([cut(from), cut(to)], style))
            });
            chart.draw_series(placed)?;
        }
        Layer::Marks { points, ink, mark, size, label } => {
            let placed: Vec<Point> = points.iter().filter_map(|p| places.inside(*p)).collect();
            dots(chart, &placed, *ink, *mark, *size)?;
            if let (Some(label), Some(at)) = (label, placed.last()) {
                beside(chart, root, *at, label, *ink, (*size + 4.0, false))?;
            }
        }
        Layer::Note { at, ink, text, left } => {
            if let Some(at) = places.inside(*at) {
                beside(chart, root, at, text, *ink, (5.0, *left))?;
            }
        }
        Layer::Across { at, ink, label } => across(chart, places, *at, *ink, label, names)?,
        Layer::Upright { at, ink, label } => upright(chart, root, places, *at, *ink, label)?,
    }
    Ok(())
}

fn dots(chart: &mut Chart<'_, '_>, at: &[Point], ink: Ink, mark: Mark, size: f64) -> Drawn {
    let line = ink.marker(false).stroke_width(px(1.25));
    let circles =
        |radius: f64, style: ShapeStyle| at.iter().map(move |p| Circle::new(*p, px(radius), style));
    match mark {
        Mark::Dot => chart.draw_series(circles(size, ink.marker(false).filled()))?,
        Mark::Ring => {
            chart.draw_series(circles(size, Ink::Paper.marker(false).filled()))?;
            chart.draw_series(circles(size, line))?
        }
        Mark::Target => {
            chart.draw_series(circles(size + 3.0, line))?;
            chart.draw_series(circles(size, ink.marker(false).filled()))?
        }
    };
    Ok(())
}

fn band(
    chart: &mut Chart<'_, '_>,
    places: &Places,
    points: &[(f64, f64, f64)],
    ink: Ink,
    label: Option<&str>,
    names: &mut Names,
) -> Drawn {
    let cut = |v: f64| v.clamp(0.0, 1.0);
    let placed: Vec<(f64, f64, f64)> = points
        .iter()
        .filter_map(|(x, low, high)| {
            Some((places.x.place(*x)?, places.y.place(*low)?, places.y.place(*high)?))
        })
        .filter(|p| (-1e-9..=1.0 + 1e-9).contains(&p.0))
        .map(|p| (cut(p.0), cut(p.1), cut(p.2)))
        .collect();
    if placed.len() < 2 {
        return Ok(());
    }
    let upper = placed.iter().map(|p| (p.0, p.2));
    let outline: Vec<Point> = upper.chain(placed.iter().rev().map(|p| (p.0, p.1))).collect();
    chart.draw_series(std::iter::once(Polygon::new(outline, ink.marker(false).filled())))?;
    if let (Some(label), Some((x, low, high))) = (label, placed.last()) {
        let middle = (*x, f64::midpoint(*low, *high));
        names.right.push(Name::new(chart, middle, label, ink).with_patch());
    }
    Ok(())
}

fn across(
    chart: &mut Chart<'_, '_>,
    places: &Places,
    at: f64,
    ink: Ink,
    label: &str,
    names: &mut Names,
) -> Drawn {
    let Some(y) = places.y.place(at).filter(|y| (0.0..=1.0).contains(y)) else { return Ok(()) };
    let style = ink.marker(true).stroke_width(px(1.25));
    chart.draw_series(std::iter::once(PathElement::new(vec![(0.0, y), (1.0, y)], style)))?;
    names.right.push(Name::new(chart, (1.0, y), label, ink));
    Ok(())
}

fn upright(
    chart: &mut Chart<'_, '_>,
    root: &Area<'_>,
    places: &Places,
    at: f64,
    ink: Ink,
    label: &str,
) -> Drawn {
    let Some(x) = places.x.place(at).filter(|x| (0.0..=1.0).contains(x)) else { return Ok(()) };
    let style = ink.marker(true).stroke_width(px(1.25));
    chart.draw_series(std::iter::once(PathElement::new(vec![(x, 0.0), (x, 1.0)], style)))?;
    let (place, top) = chart.backend_coord(&(x, 1.0));
    let h = if x > 0.8 {
        HPos::Right
    } else if x < 0.2 {
        HPos::Left
    } else {
        HPos::Center
    };
    let text = text_style(ink, h, VPos::Bottom);
    root.draw(&Text::new(printable(label), (place, top - px(3.0) as i32), text))?;
    Ok(())
}
