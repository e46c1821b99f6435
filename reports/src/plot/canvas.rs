//! The paper: plotters' types as plots use them here, and the size of a pixel.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

/// Plotters places everything on whole pixels; at four times the size, quarters of a pixel remain.
pub(super) const FINE: f64 = 4.0;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Unit = Cartesian2d<Ticked, Ticked>;
pub(super) type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Unit>;
pub(super) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// The unit interval with ticks at these places.
pub(super) struct Ticked(pub(super) Vec<f64>);

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        (f64::from(from) + value * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.0.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..1.0
    }
}

/// CSS pixels in the drawing's own.
pub(super) fn px(css: f64) -> u32 {
    (css * FINE).round().max(0.0) as u32
}
