//! A plan as the model's input, row by row: tokens, positions, slots, and the context that each row attends to.
//!
//! The padding of static batches becomes rows of its own, computed like any other, and attention whose result is thrown
//! away: seats cost what the plan says they cost.

use kernels::cpu::{Run, Span};

use super::memory::Padding;
use crate::exec::Batch;
use crate::kv::Table;
use crate::plan::Chunk;
use crate::request::Token;
use crate::sequence::SeqId;

/// One batch, ready to be computed. Kept and filled again.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// By row.
    pub(super) tokens: Vec<Token>,
    pub(super) positions: Vec<u32>,
    pub(super) slots: Vec<u32>,
    /// The rows and the context that each attends to.
    pub(super) spans: Vec<Span>,
    pub(super) runs: Vec<Run>,
    /// Rows that go through the vocabulary head.
    pub(super) heads: Vec<u32>,
    /// The sequences of the first of these rows; the rest are padding's.
    pub(super) sampled: Vec<SeqId>,
}

impl Inputs {
    pub(super) fn fill(&mut self, batch: &Batch<'_>, padding: Padding) {
        let Self { tokens, positions, slots, spans, runs, heads, sampled } = self;
        [tokens, positions, slots, heads, sampled].into_iter().for_each(Vec::clear);
        spans.clear();
        runs.clear();
        for chunk in &batch.plan.chunks {
            self.add(batch, *chunk);
        }
        let (seats, to) = (batch.plan.seats, batch.plan.padded_to);
        if to > 0 {
            let decodes = batch.shape.decode_seqs > 0;
            for (row, chunk) in batch.plan.chunks.iter().enumerate() {
                if decodes {
                    let context = batch.state.seq(chunk.seq).computed + 1;
                    self.look_back(row as u32, to.saturating_sub(context), padding);
                } else {
                    self.pad(chunk.n, to, padding);
                }
            }
            for _ in batch.plan.chunks.len() as u32..seats {
                let row = self.pad(if decodes { to - 1 } else { 0 }, to, padding);
                self.heads.extend(row);
            }
        }
    }

    /// The rows of a chunk.
    fn add(&mut self, batch: &Batch<'_>, Chunk { seq: id, n }: Chunk) {
        let seq = batch.state.seq(id);
        let table: Table<'_> = batch.state.workers[batch.worker].kv.table(id);
        let (row, first, end) = (self.tokens.len() as u32, seq.computed, seq.computed + n);
        self.tokens.extend_from_slice(&seq.tokens[first as usize..end as usize]);
        self.positions.extend(first..end);
        self.slots.extend((first..end).map(|at| table.slot(at)));
        let start = self.runs.len() as u32;
        let run = |(position, slot, len)| Run { position, slot, len };
        self.runs.extend(table.runs(end).map(run));
        let runs = (start, self.runs.len() as u32);
        self.spans.push(Span { row, rows: n, first, runs, discard: false });
        if end == seq.len && seq.len < seq.end {
            self.heads.push(row + n - 1);
            self.sampled.push(id);
        }
    }

    /// Rows of padding at positions `from..to`, which attend to padding before them; returns the last of them.
    fn pad(&mut self, from: u32, to: u32, padding: Padding) -> Option<u32> {
        let (row, rows) = (self.tokens.len() as u32, to.checked_sub(from).filter(|&n| n > 0)?);
        self.tokens.extend((from..to).map(|_| 0));
        self.positions.extend(from..to);
        self.slots.extend((from..to).map(|at| padding.slot(at)));
        let runs = self.padding_runs(to, padding);
        self.spans.push(Span { row, rows, first: from, runs, discard: false });
        Some(row + rows - 1)
    }

    /// A decoding row attends to `context` tokens of padding too.
    fn look_back(&mut self, row: u32, context: u32, padding: Padding) {
        if context > 0 {
            let runs = self.padding_runs(context, padding);
            self.spans.push(Span { row, rows: 1, first: context - 1, runs, discard: true });
        }
    }

    fn padding_runs(&mut self, len: u32, padding: Padding) -> (u32, u32) {
        let start = self.runs.len() as u32;
        self.runs.extend(padding.runs(len));
        (start, self.runs.len() as u32)
    }
}
