//! Times passes over a grid of batches: the raw material of a profile of this machine.
//!
//! Small batches run through all layers, because they wait for weights that no cache holds. Large ones run through a
//! few, because every layer takes as long as the next. Keys and values lie as a fresh pool gives them out, each
//! sequence's in one run. No profile contains the cost of a pool's disorder: blocks that sequences took in turns cost
//! up to a tenth, and blocks strewn about memory twice the time (`--example attention_speed` of the kernels).

use kernels::cpu::{Run, Span, Team};

use super::collective::Alone;
use super::forward::{Rank, Scratch};
use super::inputs::Inputs;
use super::memory::KvMemory;
use super::weights::CpuModel;
use crate::exec::forward::{BLOCK, Greedy, Measured, Spent, Work};
use crate::request::Token;

/// Rows per pass from which a few layers tell as much as all.
const MANY: u32 = 128;
const FEW_LAYERS: usize = 6;
/// Passes timed, after one that is not.
const TIMES: usize = 3;
/// Tokens of keys and values in the pool, at most.
const POOL: u32 = 32_768;
/// Rows of the largest batch.
const MOST_ROWS: u32 = 2048;

/// The grid for sequences of up to `most` tokens.
fn grid(most: u32) -> Vec<Work> {
    let none = Work::default();
    let mut grid = Vec::new();
    for length in [16, 64, 128, 256, 512, 1024, 2048, 4096, 8192] {
        for decodes in (0..=8).map(|p| 1 << p) {
            grid.push(Work { decodes, length, ..none });
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
    // Several prompts at once: more rows than the longest has.
    let tokens = most.min(512);
    grid.extend([2, 3, 4, 6, 8].map(|prompts| Work { prompts, tokens, ..none }));
    grid.retain(|work| work.rows() <= MOST_ROWS && work.fits(most, POOL));
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
                let rows = scratch.logits.chunks_exact(model.vocab()).take(inputs.rows.last.len());
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
        let sampled = inputs.rows.last.len() as u32;
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

/// One more sequence, behind those before.
fn sequence(inputs: &mut Inputs, seq: u32, first: u32, new: u32, vocab: u32) {
    let Inputs { rows, spans, runs } = inputs;
    let (row, end) = (rows.len() as u32, first + new);
    let slot = runs.last().map_or(0, |run| (run.slot + run.len).next_multiple_of(BLOCK));
    rows.tokens.extend((first..end).map(|at| (at * 31 + seq * 7) % vocab as Token));
    rows.positions.extend(first..end);
    rows.slots.extend((first..end).map(|at| slot + at));
    let run = runs.len() as u32;
    runs.push(Run { position: 0, slot, len: end });
    spans.push(Span { row, rows: new, first, runs: (run, run + 1), discard: false });
    rows.last.push(row + new - 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_fits_sequences_and_pool_and_holds_several_prompts() {
        for most in [16, 64, 100, 512, 2048, 8192] {
            let grid = grid(most);
            for (i, work) in grid.iter().enumerate() {
                assert!(!grid[..i].contains(work), "{work:?} twice, up to {most}");
                let inputs = inputs(*work, 251);
                assert_eq!(inputs.rows.len() as u32, work.rows());
                assert!(
                    work.rows() <= MOST_ROWS && inputs.rows.positions.iter().all(|&p| p < most)
                );
                let mut slots = inputs.rows.slots.clone();
                slots.sort_unstable();
                assert!(slots.is_sorted_by(|a, b| a < b), "{work:?}: a slot of two tokens");
                assert!(slots.iter().all(|&slot| slot < POOL), "{work:?}");
            }
            let rows = |of: fn(&Work) -> bool| grid.iter().filter(|w| of(w)).map(Work::rows).max();
            assert!(rows(|w| w.prompts > 1) >= Some((8 * most).min(MOST_ROWS)), "up to {most}");
            assert!(rows(|w| w.decodes > 0) >= Some(128), "up to {most}");
            assert!(grid.contains(&Work { decodes: 1, length: 16, ..Work::default() }));
        }
    }
}
