//! A plan as the model's input, row by row: tokens, positions, slots, and the context that each row attends to.
//!
//! The padding of static batches becomes rows of its own, computed like any other, and attention whose result is thrown
//! away: seats cost what the plan says they cost.

use crate::exec::Batch;
use crate::plan::Chunk;
use crate::request::Token;
use crate::sequence::SeqId;

/// Slots of a worker, after its allocator's, that stand for the padding of static batches: read and written like any
/// other, by no sequence. Longer padding runs over them again. A power of two.
pub(in crate::exec) const PADDING: u32 = 1024;

/// Rows in sequence, and the context that they are the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) struct Context {
    /// The first of the rows.
    pub(in crate::exec) row: u32,
    /// Rows: new tokens, of which each attends to those up to itself.
    pub(in crate::exec) rows: u32,
    /// Tokens, the new ones included.
    pub(in crate::exec) len: u32,
    /// Whose they are; none = padding's.
    pub(in crate::exec) seq: Option<SeqId>,
    /// True where the result of attention is thrown away.
    pub(in crate::exec) discard: bool,
}

/// One batch, ready to be computed. Kept and filled again.
#[derive(Debug, Default)]
pub(in crate::exec) struct Rows {
    /// By row.
    pub(in crate::exec) tokens: Vec<Token>,
    pub(in crate::exec) positions: Vec<u32>,
    pub(in crate::exec) slots: Vec<u32>,
    /// Every row is in one of them that is not thrown away.
    pub(in crate::exec) contexts: Vec<Context>,
    /// Rows that go through the vocabulary head.
    pub(in crate::exec) last: Vec<u32>,
    /// The sequences of the first of these, and the drafted tokens up to there; the rest are padding's.
    pub(in crate::exec) sampled: Vec<(SeqId, u32)>,
}

impl Rows {
    /// Those of `batch`; `padding` is the first of the padding's slots.
    pub(in crate::exec) fn fill(&mut self, batch: &Batch<'_>, padding: u32) {
        let Self { tokens, positions, slots, contexts, last, sampled } = self;
        [tokens, positions, slots, last].into_iter().for_each(Vec::clear);
        sampled.clear();
        contexts.clear();
        for chunk in &batch.plan.chunks {
            self.add(batch, *chunk);
        }
        let (seats, to) = (batch.plan.seats, batch.plan.padded_to);
        if to == 0 {
            return;
        }
        let decodes = batch.shape.decode_seqs > 0;
        let mut row = 0;
        for chunk in &batch.plan.chunks {
            if decodes {
                let context = batch.state.seq(chunk.seq).computed + chunk.n;
                self.look_back(row + chunk.n - 1, to.saturating_sub(context));
                row += chunk.n;
            } else {
                self.pad(chunk.n, to, padding);
            }
        }
        for _ in batch.plan.chunks.len() as u32..seats {
            let row = self.pad(if decodes { to - 1 } else { 0 }, to, padding);
            self.last.extend(row);
        }
    }

    /// The rows of a chunk.
    fn add(&mut self, batch: &Batch<'_>, Chunk { seq: id, n }: Chunk) {
        let seq = batch.state.seq(id);
        let table = batch.state.workers[batch.worker].kv.table(id);
        let (row, first, end) = (self.tokens.len() as u32, seq.computed, seq.computed + n);
        self.tokens.extend(seq.tokens_in(first, end));
        self.positions.extend(first..end);
        self.slots.extend((first..end).map(|at| table.slot(at)));
        self.contexts.push(Context { row, rows: n, len: end, seq: Some(id), discard: false });
        if seq.samples_after(end) && seq.len < seq.end {
            let drafted = seq.drafted;
            self.last.extend(row + n - 1 - drafted..row + n);
            self.sampled.extend((0..=drafted).map(|before| (id, before)));
        }
    }

    /// Rows of padding at positions `from..to`, which attend to padding before them; returns the last of them.
    pub(in crate::exec) fn pad(&mut self, from: u32, to: u32, padding: u32) -> Option<u32> {
        let (row, rows) = (self.tokens.len() as u32, to.checked_sub(from).filter(|&n| n > 0)?);
        self.tokens.extend((from..to).map(|_| 0));
        self.positions.extend(from..to);
        self.slots.extend((from..to).map(|at| padding + at % PADDING));
        self.contexts.push(Context { row, rows, len: to, seq: None, discard: false });
        Some(row + rows - 1)
    }

    /// A decoding row attends to `len` tokens of padding too.
    fn look_back(&mut self, row: u32, len: u32) {
        if len > 0 {
            self.contexts.push(Context { row, rows: 1, len, seq: None, discard: true });
        }
    }

    /// Their number.
    pub(in crate::exec) fn len(&self) -> usize {
        self.tokens.len()
    }
}
