//! Times passes over a grid of batches: the raw material of a profile of this machine.
//!
//! Small batches run through all layers, because what they wait for is weights that no cache holds; large ones through
//! a few, because there every layer takes as long as the next. Keys and values lie as an allocator leaves them, each
//! sequence's in one run: blocks of 16 strewn over memory take twice as long to attend to (`--example attention_speed`
//! of the kernels), which happens to no pool that gives its blocks out and takes them back by the sequence.

use kernels::cpu::{Run, Span, Team};

use super::batch::Inputs;
use super::collective::Alone;
use super::forward::{Rank, Scratch};
use super::memory::KvMemory;
use super::weights::CpuModel;
use super::{Greedy, Spent};
use crate::request::Token;

/// A batch: `prompts` chunks of `tokens` each after `history`, and `decodes` sequences of `length` tokens each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Chunks of prompts.
    pub prompts: u32,
    /// New tokens of each.
    pub tokens: u32,
    /// Tokens of each that were computed before.
    pub history: u32,
    /// Sequences that decode.
    pub decodes: u32,
    /// Tokens of each, the new one included.
    pub length: u32,
}

impl Work {
    /// Rows: new tokens of all sequences.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.prompts * self.tokens + self.decodes
    }
}

/// A batch and what it took.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// What was run.
    pub work: Work,
    /// Layers it ran through.
    pub layers: u32,
    /// Rows that went through the vocabulary head.
    pub sampled: u32,
    /// Time by operator, over these layers: of the pass in the middle of those timed.
    pub spent: Spent,
}

/// Rows per pass from which a few layers tell as much as all.
const MANY: u32 = 128;
const FEW_LAYERS: usize = 6;
/// Passes timed, after one that is not.
const TIMES: usize = 3;
/// Tokens of keys and values in the pool, at most.
const POOL: u32 = 32_768;
const BLOCK: u32 = 16;
/// Rows of the largest batch.
const MOST_ROWS: u32 = 2048;

/// The grid for sequences of up to `most` tokens.
fn grid(most: u32) -> Vec<Work> {
    let none = Work::default();
    let mut grid = Vec::new();
    for length in [16, 64, 128, 256, 512, 1024, 2048, 4096, 8192] {
        for decodes in (0..=8).map(|p| 1 << p) {
            if length <= most && decodes * length <= POOL {
                grid.push(Work { decodes, length, ..none });
            }
        }
    }
    grid.extend([3, 6, 12, 24, 48, 96].map(|decodes| Work { decodes, length: 64, ..none }));
    let prompt = Work { prompts: 1, ..none };
    for history in [0, 128, 256, 1024, 4096] {
        for tokens in [16, 64, 128, 256, 512, 1024, 2048] {
            grid.push(Work { tokens, history, ..prompt });
        }
    }
    grid.extend([32, 96, 192, 384, 768, 1536].map(|tokens| Work { tokens, ..prompt }));
    grid.retain(|w| w.prompts == 0 || w.tokens + w.history <= most);
    // Several prompts at once: more rows than the longest has.
    let tokens = most.min(512);
    grid.extend([2, 3, 4, 6, 8].map(|prompts| Work { prompts, tokens, ..none }));
    grid.retain(|w| w.rows() <= MOST_ROWS);
    grid
}

/// Times `model` on `team`; `watch` is told how many of how many batches are done. Sequences have up to `most` tokens.
pub fn measure(
    team: &Team,
    model: &CpuModel,
    most: u32,
    watch: &mut dyn FnMut(usize, usize),
) -> Vec<Measured> {
    let rank = Rank { model, team, collective: &Alone };
    let grid = grid(most.min(model.config.max_position));
    let mut memory = KvMemory::new(model, POOL);
    let mut scratch = Scratch::new(model.precision());
    let mut measured = Vec::with_capacity(grid.len());
    for (done, &work) in grid.iter().enumerate() {
        watch(done, grid.len());
        let inputs = inputs(work, model.vocab() as u32);
        let layers =
            if work.rows() >= MANY { FEW_LAYERS.min(model.layers()) } else { model.layers() };
        let mut passes: Vec<Spent> = (0..=TIMES)
            .map(|_| {
                scratch.forward_through(rank, &inputs, &[], &mut memory, layers);
                let start = std::time::Instant::now();
                let rows = scratch.logits.chunks_exact(model.vocab()).take(inputs.heads.len());
                for logits in rows {
                    std::hint::black_box(Greedy::default().choose(logits));
                }
                scratch.spent.sampling = start.elapsed();
                scratch.spent
            })
            .skip(1)
            .collect();
        passes.sort_by_key(|spent| spent.total());
        let spent = passes[passes.len() / 2];
        let sampled = inputs.heads.len() as u32;
        measured.push(Measured { work, layers: layers as u32, sampled, spent });
    }
    watch(grid.len(), grid.len());
    measured
}

/// The rows of `work`: the last of each chunk, and every decode, is sampled.
fn inputs(work: Work, vocab: u32) -> Inputs {
    let mut inputs = Inputs::default();
    for seq in 0..work.prompts {
        sequence(&mut inputs, seq, work.history, work.tokens, vocab);
    }
    for seq in 0..work.decodes {
        sequence(&mut inputs, seq, work.length - 1, 1, vocab);
    }
    inputs
}

/// Sequence `seq` of several that are as long, one behind the other.
fn sequence(inputs: &mut Inputs, seq: u32, first: u32, rows: u32, vocab: u32) {
    let (row, end) = (inputs.tokens.len() as u32, first + rows);
    let slot = seq * end.next_multiple_of(BLOCK);
    inputs.tokens.extend((first..end).map(|at| (at * 31 + seq * 7) % vocab as Token));
    inputs.positions.extend(first..end);
    inputs.slots.extend((first..end).map(|at| slot + at));
    let run = inputs.runs.len() as u32;
    inputs.runs.push(Run { position: 0, slot, len: end });
    inputs.spans.push(Span { row, rows, first, runs: (run, run + 1), discard: false });
    inputs.heads.push(row + rows - 1);
}
