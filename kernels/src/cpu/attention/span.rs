//! The rows that attention works on, and where their keys and values lie.

/// Queries of one piece of work: rows of a chunk times heads that share keys.
pub(super) const QUERIES: usize = 12;

/// Consecutive positions in consecutive slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First position.
    pub position: u32,
    /// Its slot.
    pub slot: u32,
    /// Their number.
    pub len: u32,
}

/// Rows of one sequence that follow each other: row `row + i` is at position `first + i` and attends up to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first row in the batch.
    pub row: u32,
    /// Rows.
    pub rows: u32,
    /// Position of the first.
    pub first: u32,
    /// Its runs, a range of the batch's: they cover positions `0..first + rows` in order.
    pub runs: (u32, u32),
    /// True if results are thrown away (padding).
    pub discard: bool,
}

/// Some rows of a span.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub(super) span: Span,
    pub(super) row: u32,
    pub(super) rows: u32,
}
