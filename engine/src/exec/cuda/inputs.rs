//! Rows of a batch in the terms of the CUDA kernels: block tables, and the sequences that attend to them.

use kernels::cuda::{Batch as Described, Seq};

use super::layout::Arithmetic;
use crate::exec::Batch;
use crate::exec::forward::{Context, PADDING, Rows};
use crate::kv::Table;

/// A sequence in one piece: one block that is longer than any sequence.
const WHOLE: i32 = 30;

/// One batch, ready to be computed. Kept and filled again.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) rows: Rows,
    /// The same as kernels read it.
    pub(super) batch: Described,
    /// Rows of attention's output, after those of the batch, that are not read.
    pub(super) discarded: usize,
}

impl Inputs {
    /// Those of `batch`; `padding` is the first of the padding's slots.
    pub(super) fn fill(&mut self, batch: &Batch<'_>, padding: u32, arithmetic: Arithmetic) {
        self.rows.fill(batch, padding);
        self.batch.clear();
        self.discarded = 0;
        let Rows { tokens, positions, slots, contexts, last, .. } = &self.rows;
        self.batch.ids.extend(tokens.iter().map(|&token| token as i32));
        self.batch.positions.extend(positions.iter().map(|&at| at as i32));
        self.batch.slots.extend(slots.iter().map(|&slot| slot as i32));
        self.batch.last.extend(last.iter().map(|&row| row as i32));
        for context in contexts {
            let (entry, tables) = (self.batch.tables.len() as i32, &mut self.batch.tables);
            let shift = match context.seq {
                Some(id) => {
                    let table = batch.state.workers[batch.worker].kv.table(id);
                    list(tables, table, context.len)
                }
                None => list_padding(tables, context.len, padding),
            };
            // Rows that are not read go behind those that are.
            let out =
                if context.discard { tokens.len() + self.discarded } else { context.row as usize };
            self.discarded += usize::from(context.discard);
            push(&mut self.batch, *context, (out, entry, shift), arithmetic);
        }
    }

    /// Rows, where all of them are single new tokens whose attention is read.
    pub(super) fn decodes(&self) -> Option<usize> {
        let (rows, contexts) = (self.rows.len(), self.rows.contexts.len());
        (rows > 0 && rows == contexts && self.discarded == 0).then_some(rows)
    }

    /// Fills a batch of decodes up to `rows` rows, whose logits are all computed, and lays it out for contexts of up to
    /// `reach` where that matters.
    pub(super) fn fill_up(
        &mut self,
        rows: usize,
        reach: i32,
        padding: u32,
        arithmetic: Arithmetic,
    ) {
        for row in self.batch.ids.len()..rows {
            let Described { ids, positions, slots, tables, .. } = &mut self.batch;
            ids.push(0);
            positions.push(0);
            slots.push(padding as i32);
            let (entry, shift) = (tables.len() as i32, list_padding(tables, 1, padding));
            let context = Context { row: row as u32, rows: 1, len: 1, seq: None, discard: false };
            push(&mut self.batch, context, (row, entry, shift), arithmetic);
        }
        self.batch.last.resize(rows, rows as i32 - 1);
        self.batch.reach = reach;
    }

    /// The longest context.
    pub(super) fn longest(&self) -> i32 {
        self.rows.contexts.iter().map(|context| context.len as i32).max().unwrap_or(0)
    }
}

/// Adds the blocks of the first `len` tokens of `table` to `tables`; returns their size as a shift.
fn list(tables: &mut Vec<i32>, table: Table<'_>, len: u32) -> i32 {
    match table {
        Table::Extent(start) => {
            tables.push(start as i32);
            WHOLE
        }
        // Kernels shift instead of dividing: blocks of 48 are entries of 16.
        Table::Blocks(_, size) => {
            let shift = size.trailing_zeros();
            tables.extend((0..len).step_by(1 << shift).map(|at| table.slot(at) as i32));
            shift as i32
        }
    }
}

/// The same of padding.
fn list_padding(tables: &mut Vec<i32>, len: u32, padding: u32) -> i32 {
    tables.extend(std::iter::repeat_n(padding as i32, len.div_ceil(PADDING) as usize));
    PADDING.trailing_zeros() as i32
}

/// Adds a sequence whose attention goes to row `out`, and whose blocks begin at entry `table`.
fn push(
    batch: &mut Described,
    Context { row, rows, len, .. }: Context,
    (out, table, shift): (usize, i32, i32),
    arithmetic: Arithmetic,
) {
    let (row, rows, context, out) = (row as i32, rows as i32, len as i32, out as i32);
    let seq = Seq { row, out, rows, context, table, shift };
    if rows == 1 && arithmetic == Arithmetic::Fast {
        batch.decodes.push(seq);
    } else {
        batch.chunks.push(seq);
    }
}
