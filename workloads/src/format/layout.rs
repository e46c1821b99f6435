//! The peculiarities of a format whose requests are rows of a table.

use super::clock::Unit;
use super::names::Own;

/// The peculiarities of a format's rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Columns in words that mean something else elsewhere.
    pub names: &'static [Own],
    /// Unit of numbers in a time column that does not say its own.
    pub unit: Unit,
    /// Tokens per hash id, where the format has a convention.
    pub block_tokens: u32,
    /// A request without output is one that failed.
    pub zero_output_failed: bool,
    /// Failed requests count like all others: their lengths are known.
    pub keeps_failed: bool,
    /// A log of many things, of which those with token counts are requests.
    pub log: bool,
    /// Turns of a session follow each other where they have no times.
    pub turns: bool,
}

impl Layout {
    /// Nothing special.
    pub(crate) const PLAIN: Self = Self {
        names: &[],
        unit: Unit::Unknown,
        block_tokens: 0,
        zero_output_failed: false,
        keeps_failed: false,
        log: false,
        turns: false,
    };
}
