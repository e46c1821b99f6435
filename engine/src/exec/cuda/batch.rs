//! A plan as the model's input, row by row, in the terms of the CUDA kernels.
//!
//! The padding of static batches becomes rows of its own, computed like any other, and attention whose result is thrown
//! away: seats cost what the plan says they cost.

use kernels::cuda::{Batch as Rows, Seq};

use super::layout::{Arithmetic, PADDING};
use crate::exec::Batch;
use crate::kv::Table;
use crate::plan::Chunk;
use crate::sequence::SeqId;

/// A sequence in one piece: one block that is longer than any sequence.
const WHOLE: i32 = 30;

/// One batch, ready to be computed. Kept and filled again.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Rows, tables and sequences.
    pub(super) batch: Rows,
    /// The sequences of the first rows through the vocabulary head; the rest are padding's.
    pub(super) sampled: Vec<SeqId>,
    /// Rows of attention's output, after those of the batch, that are not read.
    pub(super) discarded: usize,
    /// Attention that is thrown away: (row, tokens of padding).
    backs: Vec<(i32, u32)>,
}

impl Inputs {
    /// `padding` is the first of the padding's slots.
    pub(super) fn fill(&mut self, batch: &Batch<'_>, padding: u32, arithmetic: Arithmetic) {
        self.batch.clear();
        self.sampled.clear();
        self.backs.clear();
        for chunk in &batch.plan.chunks {
            self.add(batch, *chunk, arithmetic);
        }
        let (seats, to) = (batch.plan.seats, batch.plan.padded_to);
        if to > 0 {
            let decodes = batch.shape.decode_seqs > 0;
            for (row, chunk) in (0..).zip(&batch.plan.chunks) {
                if decodes {
                    let context = batch.state.seq(chunk.seq).computed + 1;
                    self.backs.push((row, to.saturating_sub(context)));
                } else {
                    self.pad(chunk.n, to, padding, arithmetic);
                }
            }
            for _ in batch.plan.chunks.len() as u32..seats {
                let last = self.pad(if decodes { to - 1 } else { 0 }, to, padding, arithmetic);
                self.batch.last.extend(last);
            }
        }
        self.look_back(padding, arithmetic);
    }

    /// The rows of a chunk.
    fn add(&mut self, batch: &Batch<'_>, Chunk { seq: id, n }: Chunk, arithmetic: Arithmetic) {
        let seq = batch.state.seq(id);
        let table: Table<'_> = batch.state.workers[batch.worker].kv.table(id);
        let (row, first, end) = (self.batch.ids.len() as i32, seq.computed, seq.computed + n);
        let tokens = &seq.tokens[first as usize..end as usize];
        self.batch.ids.extend(tokens.iter().map(|&token| token as i32));
        self.batch.positions.extend((first..end).map(|at| at as i32));
        self.batch.slots.extend((first..end).map(|at| table.slot(at) as i32));
        let entry = self.batch.tables.len() as i32;
        let shift = match table {
            Table::Extent(start) => {
                self.batch.tables.push(start as i32);
                WHOLE
            }
            // Kernels shift instead of dividing: blocks of 48 are entries of 16.
            Table::Blocks(_, size) => {
                let shift = size.trailing_zeros();
                let firsts = (0..end).step_by(1 << shift).map(|at| table.slot(at) as i32);
                self.batch.tables.extend(firsts);
                shift as i32
            }
        };
        let context = end as i32;
        let rows = n as i32;
        self.push(Seq { row, out: row, rows, context, table: entry, shift }, arithmetic);
        if end == seq.len && seq.len < seq.end {
            self.batch.last.push(row + rows - 1);
            self.sampled.push(id);
        }
    }

    /// Rows, where all of them are single new tokens whose attention is read.
    pub(super) fn decodes(&self) -> Option<usize> {
        let (rows, seqs) =
            (self.batch.ids.len(), self.batch.decodes.len() + self.batch.chunks.len());
        (rows > 0 && rows == seqs && self.discarded == 0).then_some(rows)
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
        for _ in self.batch.ids.len()..rows {
            self.pad(0, 1, padding, arithmetic);
        }
        let last = rows as i32 - 1;
        self.batch.last.resize(rows, last);
        self.batch.reach = reach;
    }

    /// The longest context.
    pub(super) fn longest(&self) -> i32 {
        let all = self.batch.decodes.iter().chain(&self.batch.chunks);
        all.map(|seq| seq.context).max().unwrap_or(0)
    }

    fn push(&mut self, seq: Seq, arithmetic: Arithmetic) {
        if seq.rows == 1 && arithmetic == Arithmetic::Fast {
            self.batch.decodes.push(seq);
        } else {
            self.batch.chunks.push(seq);
        }
    }

    /// Rows of padding at positions `from..to`, which attend to padding before them; returns the last of them.
    fn pad(&mut self, from: u32, to: u32, padding: u32, arithmetic: Arithmetic) -> Option<i32> {
        let rows = to.checked_sub(from).filter(|&n| n > 0)? as i32;
        let row = self.batch.ids.len() as i32;
        self.batch.ids.extend((from..to).map(|_| 0));
        self.batch.positions.extend((from..to).map(|at| at as i32));
        self.batch.slots.extend((from..to).map(|at| (padding + at % PADDING) as i32));
        let seq = self.padding(row, row, rows, to, padding);
        self.push(seq, arithmetic);
        Some(row + rows - 1)
    }

    /// Decoding rows attend to so much padding too.
    fn look_back(&mut self, padding: u32, arithmetic: Arithmetic) {
        self.discarded = 0;
        for (row, context) in std::mem::take(&mut self.backs) {
            if context > 0 {
                let out = (self.batch.ids.len() + self.discarded) as i32;
                self.discarded += 1;
                let seq = self.padding(row, out, 1, context, padding);
                self.push(seq, arithmetic);
            }
        }
    }

    fn padding(&mut self, row: i32, out: i32, rows: i32, context: u32, padding: u32) -> Seq {
        let table = self.batch.tables.len() as i32;
        let blocks = context.div_ceil(PADDING) as usize;
        self.batch.tables.extend(std::iter::repeat_n(padding as i32, blocks));
        let shift = PADDING.trailing_zeros() as i32;
        Seq { row, out, rows, context: context as i32, table, shift }
    }
}
