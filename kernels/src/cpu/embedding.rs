//! The token embedding: rows looked up, not multiplied.

use super::Precision;
use super::simd::Element;

/// One row per token of the vocabulary; in f32 for the reference, otherwise in bf16.
#[derive(Debug)]
pub struct Embedding {
    rows: Table,
    width: usize,
}

#[derive(Debug)]
enum Table {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

impl Embedding {
    /// Keeps `rows` of `width` elements each.
    ///
    /// # Panics
    /// When they are not whole.
    #[must_use]
    pub fn new(precision: Precision, rows: &[f32], width: usize) -> Self {
        assert!(width > 0 && rows.len().is_multiple_of(width), "whole rows of {width}");
        let rows = match precision {
            Precision::F32 => Table::F32(rows.to_vec()),
            _ => Table::Bf16(rows.iter().map(|&x| u16::from_f32(x)).collect()),
        };
        Self { rows, width }
    }

    /// Writes the row of `token`; zeroes for one beyond the vocabulary.
    pub fn look_up(&self, token: u32, to: &mut [f32]) {
        let at = token as usize * self.width..(token as usize + 1) * self.width;
        match &self.rows {
            Table::F32(rows) => match rows.get(at) {
                Some(row) => to.copy_from_slice(row),
                None => to.fill(0.0),
            },
            Table::Bf16(rows) => match rows.get(at) {
                Some(row) => to.iter_mut().zip(row).for_each(|(to, x)| *to = x.to_f32()),
                None => to.fill(0.0),
            },
        }
    }
}
