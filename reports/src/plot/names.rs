//! Names beside what they name, instead of a legend far away: put where there is room, moved apart where there is not.

use super::canvas::{Area, Chart, Drawn, FINE, px};
use super::clip::Point;
use super::palette::Ink;
use crate::figures::THIN;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Text height, CSS pixels.
const FONT: f64 = 11.5;
/// Mean width of a character as a share of its height, in the widest of the usual fonts.
const WIDE: f64 = 0.6;
/// Side of a patch of colour, CSS pixels.
const PATCH: f64 = 8.0;

/// A name waiting for room.
pub(super) struct Name {
    /// Its point, CSS pixels.
    at: (f64, f64),
    text: String,
    ink: Ink,
    /// A patch of colour before it, where the colour may be too light for letters.
    patch: bool,
}

/// Names by where they go.
#[derive(Default)]
pub(super) struct Names {
    /// Right of their points.
    pub(super) right: Vec<Name>,
    /// Above the upper edge, where lines leave the frame.
    pub(super) top: Vec<Name>,
}

impl Name {
    pub(super) fn new(chart: &Chart<'_, '_>, at: Point, text: &str, ink: Ink) -> Self {
        let (x, y) = chart.backend_coord(&at);
        let at = (f64::from(x) / FINE, f64::from(y) / FINE);
        Self { at, text: printable(text), ink, patch: false }
    }

    pub(super) fn with_patch(self) -> Self {
        Self { patch: true, ..self }
    }
}

impl Names {
    /// Puts them between the heights of `frame` (upper and lower edge), within `width`.
    pub(super) fn draw(self, root: &Area<'_>, frame: (f64, f64), width: f64) -> Drawn {
        beside_each(root, self.right, frame.1)?;
        above(root, self.top, frame.0, width)
    }
}

/// About how wide a text is, CSS pixels.
pub(super) fn width_of(text: &str) -> f64 {
    text.chars().filter(|c| *c != THIN).count() as f64 * FONT * WIDE
}

/// Text that XML can hold.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c })
        .collect()
}

pub(super) fn text_style(ink: Ink, h: HPos, v: VPos) -> TextStyle<'static> {
    // Plotters divides sizes by 1.24, its guess at line height over letter height.
    ("sans-serif", FONT * FINE * 1.24).into_font().color(&ink.marker(false)).pos(Pos::new(h, v))
}

/// Text next to a point, at a distance: to its right, unless there is no room or the left is asked for.
pub(super) fn beside(
    chart: &Chart<'_, '_>,
    root: &Area<'_>,
    at: Point,
    text: &str,
    ink: Ink,
    (gap, left): (f64, bool),
) -> Drawn {
    let (x, y) = chart.backend_coord(&at);
    let (xs, ys) = chart.plotting_area().get_pixel_range();
    let room = f64::from(xs.end - x) / FINE;
    let fits = room > width_of(text) + gap;
    let (h, side) = if fits && !left { (HPos::Left, 1) } else { (HPos::Right, -1) };
    let half = px(FONT / 2.0) as i32;
    let y = y.clamp(ys.start + half, (ys.end - half).max(ys.start + half));
    let style = text_style(ink, h, VPos::Center);
    root.draw(&Text::new(printable(text), (x + side * px(gap) as i32, y), style))?;
    Ok(())
}

/// Moves sorted `places` apart until every two of them keep their gap (0 or less where they cannot meet), within
/// `lo..=hi` as far as they fit.
fn apart(places: &mut [f64], gap: impl Fn(usize, usize) -> f64, lo: f64, hi: f64) {
    let meet = |i, j| Some(gap(i, j)).filter(|g| *g > 0.0);
    for i in 0..places.len() {
        let least = (0..i).filter_map(|j| Some(places[j] + meet(j, i)?)).fold(lo, f64::max);
        places[i] = places[i].max(least);
    }
    for i in (0..places.len()).rev() {
        let after = i + 1..places.len();
        let most = after.filter_map(|j| Some(places[j] - meet(i, j)?)).fold(hi, f64::min);
        places[i] = places[i].min(most);
    }
}

fn beside_each(root: &Area<'_>, mut names: Vec<Name>, bottom: f64) -> Drawn {
    names.sort_by(|a, b| a.at.1.total_cmp(&b.at.1));
    let mut ys: Vec<f64> = names.iter().map(|n| n.at.1).collect();
    let ends = |n: &Name| n.at.0 + width_of(&n.text) + 10.0;
    let meet = |a: &Name, b: &Name| a.at.0 < ends(b) && b.at.0 < ends(a);
    let gap = |i: usize, j: usize| if meet(&names[i], &names[j]) { FONT + 1.5 } else { 0.0 };
    apart(&mut ys, gap, FONT / 2.0, bottom.max(FONT));
    for (name, y) in names.iter().zip(ys) {
        let mut x = name.at.0 + 5.0;
        if name.patch {
            let corner = |dx: f64, dy: f64| (((x + dx) * FINE) as i32, ((y + dy) * FINE) as i32);
            let (from, to) = (corner(0.0, -PATCH / 2.0), corner(PATCH, PATCH / 2.0));
            root.draw(&Rectangle::new([from, to], name.ink.marker(false).filled()))?;
            x += PATCH + 5.0;
        }
        let ink = if name.patch { Ink::Text } else { name.ink };
        let style = text_style(ink, HPos::Left, VPos::Center);
        let at = ((x * FINE) as i32, (y * FINE) as i32);
        root.draw(&Text::new(name.text.clone(), at, style))?;
    }
    Ok(())
}

fn above(root: &Area<'_>, mut names: Vec<Name>, y: f64, width: f64) -> Drawn {
    names.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
    let half = |n: &Name| width_of(&n.text) / 2.0;
    let mut xs: Vec<f64> = names.iter().map(|n| n.at.0).collect();
    let gap = |i: usize, j: usize| half(&names[i]) + half(&names[j]) + 7.0;
    let (first, last) = (names.first().map_or(0.0, half), names.last().map_or(0.0, half));
    apart(&mut xs, gap, first + 2.0, width - last - 2.0);
    for (name, x) in names.iter().zip(xs) {
        let style = text_style(name.ink, HPos::Center, VPos::Bottom);
        let at = ((x * FINE) as i32, (y * FINE) as i32);
        root.draw(&Text::new(name.text.clone(), at, style))?;
    }
    Ok(())
}
