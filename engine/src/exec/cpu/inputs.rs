//! Rows of a batch and, in the terms of the CPU kernels, the runs of slots that they attend to.

use kernels::cpu::{Run, Span};

use crate::exec::Batch;
use crate::exec::forward::{Context, PADDING, Rows};

/// One batch, ready to be computed. Kept and filled again.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) rows: Rows,
    pub(super) spans: Vec<Span>,
    pub(super) runs: Vec<Run>,
}

impl Inputs {
    /// Those of `batch`; `padding` is the first of the padding's slots.
    pub(super) fn fill(&mut self, batch: &Batch<'_>, padding: u32) {
        let Self { rows, spans, runs } = self;
        rows.fill(batch, padding);
        spans.clear();
        runs.clear();
        for &Context { row, rows, len, seq, discard } in &rows.contexts {
            let start = runs.len() as u32;
            let run = |(position, slot, len)| Run { position, slot, len };
            match seq {
                Some(id) => {
                    let table = batch.state.workers[batch.worker].kv.table(id);
                    runs.extend(table.runs(len).map(run));
                }
                None => runs.extend(
                    (0..len)
                        .step_by(PADDING as usize)
                        .map(|position| run((position, padding, PADDING.min(len - position)))),
                ),
            }
            let runs = (start, runs.len() as u32);
            spans.push(Span { row, rows, first: len - rows, runs, discard });
        }
    }
}
