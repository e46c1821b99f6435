//! Plots as inline SVG, drawn by plotters in roles instead of colours ([`Ink`]).
//!
//! A [`Figure`] is data: axes with titles and units, and layers. Everything is placed in the unit square first, where
//! lines are cut at the frame, so no value, however wild, can draw outside of it or write a NaN.

mod canvas;
mod clip;
mod draw;
mod figure;
mod names;
mod palette;
mod scale;
mod values;

pub(crate) use figure::{Axis, Figure, Layer, Mark};
pub(crate) use palette::Ink;
pub(crate) use scale::Scale;

impl Figure {
    /// The drawing, one `<svg>` element for use inside an HTML page; and its values, for a script.
    pub(crate) fn drawn(&self) -> (String, String) {
        draw::svg(self)
    }
}

/// At most `most` of `items`, evenly spread, ends included: enough for a drawing.
pub(crate) fn thinned<T: Clone>(items: &[T], most: usize) -> Vec<T> {
    if items.len() <= most || most < 2 {
        return items.to_vec();
    }
    (0..most).map(|i| items[i * (items.len() - 1) / (most - 1)].clone()).collect()
}

#[cfg(test)]
mod tests;
