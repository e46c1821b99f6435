//! A feed-forward layer that every token goes through.

use super::super::bounds::Field;
use super::super::operators::{Class, Matrix, Operators};

/// Two matrices, or three with a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dense {
    /// Inner width.
    pub width: u32,
    /// True where it has a gate.
    pub gated: bool,
    /// True where its matrices have biases.
    pub bias: bool,
}

impl Dense {
    pub(super) fn describe(&self) -> String {
        format!("dense, {} wide", self.width)
    }

    pub(super) fn operators(&self, hidden: u32, tp: u32) -> Operators {
        matrices(hidden, tp, (self.width, self.gated, self.bias), Class::FeedForward)
    }

    pub(super) fn fields(&self) -> Vec<Field> {
        vec![("ffn", self.width, 1 << 24)]
    }
}

/// The operators of a feed-forward layer of this width, gate and bias: shared experts are one, too.
pub(super) fn matrices(
    hidden: u32,
    tp: u32,
    (width, gated, bias): (u32, bool, bool),
    class: Class,
) -> Operators {
    let (h, width) = (u64::from(hidden), u64::from(width));
    let up = if gated { 2 * width } else { width };
    Operators {
        matrices: vec![Matrix::columns(up, h, class), Matrix::rows(h, width, class)],
        split_vectors: u64::from(bias) * up,
        copied_vectors: u64::from(bias) * h,
        moved: vec![(up as f64 + width as f64) / f64::from(tp)],
        summed: None,
        pool: None,
    }
}
