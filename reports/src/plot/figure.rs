//! A plot as data: axes with titles and units, and layers.

use super::palette::Ink;
use super::scale::{Scale, Span};

/// A plot.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// Width in CSS pixels at its natural size; it grows and shrinks with the page.
    pub(crate) width: u32,
    /// Height likewise.
    pub(crate) height: u32,
    /// A description for those who cannot see it.
    pub(crate) about: String,
    /// Horizontal.
    pub(crate) x: Axis,
    /// Vertical.
    pub(crate) y: Axis,
    /// Least room for names left of the vertical axis, CSS pixels: equal for plots that stand one above another.
    pub(crate) left: f64,
    /// The names of inks that no layer names.
    pub(crate) inks: Vec<(Ink, String)>,
    /// Drawn in this order.
    pub(crate) layers: Vec<Layer>,
}

#[derive(Debug, Clone)]
pub(crate) struct Axis {
    /// Its quantity and unit.
    pub(crate) title: String,
    /// The spacing of values.
    pub(crate) scale: Scale,
    /// Its ends; from the data where none.
    pub(crate) bounds: Option<(f64, f64)>,
    /// Names at places instead of numbers.
    pub(crate) names: Option<Vec<(f64, String)>>,
}

impl Axis {
    /// An axis whose ends follow the data.
    pub(crate) fn new(title: impl Into<String>, scale: Scale) -> Self {
        Self { title: title.into(), scale, bounds: None, names: None }
    }

    /// With these ends.
    pub(crate) fn within(mut self, lo: f64, hi: f64) -> Self {
        self.bounds = (lo.is_finite() && hi.is_finite() && lo < hi).then_some((lo, hi));
        self
    }

    /// With names at places.
    pub(crate) fn named(mut self, names: Vec<(f64, String)>) -> Self {
        self.names = Some(names);
        self
    }
}

/// Something drawn. Values that are not finite are left out, and lines broken there.
#[derive(Debug, Clone)]
pub(crate) enum Layer {
    /// A line through points, named at its end.
    Line { points: Vec<(f64, f64)>, ink: Ink, width: f64, dashed: bool, label: Option<String> },
    /// A band between two heights: (x, low, high), named at its right end.
    Band { points: Vec<(f64, f64, f64)>, ink: Ink, label: Option<String> },
    /// Filled boxes: x from and to, y from and to.
    Boxes { boxes: Vec<[f64; 4]>, ink: Ink, opacity: f64 },
    /// Marks at points.
    Marks { points: Vec<(f64, f64)>, ink: Ink, mark: Mark, size: f64, label: Option<String> },
    /// A line across at a height, named at its right end.
    Across { at: f64, ink: Ink, label: String },
    /// A line upright at a place, named at its top.
    Upright { at: f64, ink: Ink, label: String },
    /// Text beside a point: to its right, or to its left.
    Note { at: (f64, f64), ink: Ink, text: String, left: bool },
}

/// A mark's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Filled.
    Dot,
    /// Open: not good enough.
    Ring,
    /// The chosen one: a dot in a ring.
    Target,
}

impl Layer {
    /// Every value on both axes.
    fn extent(&self) -> (Vec<f64>, Vec<f64>) {
        match self {
            Self::Line { points, .. } | Self::Marks { points, .. } => {
                points.iter().copied().unzip()
            }
            Self::Band { points, .. } => (
                points.iter().map(|p| p.0).collect(),
                points.iter().flat_map(|p| [p.1, p.2]).collect(),
            ),
            Self::Boxes { boxes, .. } => (
                boxes.iter().flat_map(|b| [b[0], b[1]]).collect(),
                boxes.iter().flat_map(|b| [b[2], b[3]]).collect(),
            ),
            Self::Across { at, .. } => (Vec::new(), vec![*at]),
            Self::Upright { at, .. } => (vec![*at], Vec::new()),
            Self::Note { at, .. } => (vec![at.0], vec![at.1]),
        }
    }
}

impl Figure {
    /// The ranges of both axes.
    pub(super) fn spans(&self) -> (Span, Span) {
        let (xs, ys): (Vec<_>, Vec<_>) = self.layers.iter().map(Layer::extent).unzip();
        (
            Span::around(self.x.scale, xs.into_iter().flatten(), self.x.bounds),
            Span::around(self.y.scale, ys.into_iter().flatten(), self.y.bounds),
        )
    }
}

/// At most `most` of `items`, evenly spread, ends included: enough for a drawing.
pub(crate) fn thinned<T: Clone>(items: &[T], most: usize) -> Vec<T> {
    if items.len() <= most || most < 2 {
        return items.to_vec();
    }
    (0..most).map(|i| items[i * (items.len() - 1) / (most - 1)].clone()).collect()
}
