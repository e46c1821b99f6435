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

pub(crate) use figure::{Axis, Figure, Layer, Mark, thinned};
pub(crate) use palette::Ink;
pub(crate) use scale::Scale;

impl Figure {
    /// The drawing, one `<svg>` element for use inside an HTML page; and its values, for a script.
    pub(crate) fn drawn(&self) -> (String, String) {
        draw::svg(self)
    }
}

#[cfg(test)]
mod tests;
