//! Times passes over a grid of batches on a device: the raw material of its profile.
//!
//! All layers of all batches run, timed by the device's own clock between operators. Keys and values are scattered over
//! the pool in blocks of 16.

use kernels::cuda::{Batch, CudaError, Draw, Limits, Seq};

use super::pass::{Pass, Place};
use super::weights::CudaModel;
use super::{Arithmetic, Spent};
use crate::exec::cpu::{Measured, Work};

/// Passes timed, after one that is not.
const TIMES: usize = 3;
/// Tokens of keys and values in the pool, at most, and the share of free memory they may take.
const POOL: u32 = 1 << 18;
const SHARE: f64 = 0.5;
const BLOCK: u32 = 16;
/// Tokens in the pool where nobody says how much memory there is (an emulated device).
const SMALL_POOL: u32 = 1 << 10;

/// The grid for sequences of up to `most` tokens over a pool of `pool`.
fn grid(most: u32, pool: u32) -> Vec<Work> {
    let none = Work { tokens: 0, history: 0, decodes: 0, length: 0 };
    let mut grid = Vec::new();
    for length in [16, 64, 256, 512, 1024, 2048, 4096, 8192, 16_384] {
        for decodes in (0..=8).map(|p| 1 << p) {
            grid.push(Work { decodes, length, ..none });
        }
    }
    grid.extend([3, 6, 12, 24, 48, 96, 192].map(|decodes| Work { decodes, length: 64, ..none }));
    for history in [0, 256, 1024, 4096, 8192] {
        for tokens in [16, 64, 128, 256, 512, 1024, 2048, 4096, 8192] {
            grid.push(Work { tokens, history, ..none });
        }
    }
    grid.extend([32, 96, 192, 384, 768, 1536].map(|tokens| Work { tokens, ..none }));
    let fits = |w: &Work| {
        let longest = w.length.max(w.tokens + w.history);
        longest <= most && w.decodes * w.length <= pool && w.tokens + w.history <= pool
    };
    grid.retain(fits);
    grid
}

/// Times `model` on its devices; `watch` is told how many of how many batches are done. Sequences have up to `most` tokens.
///
/// # Errors
/// When memory is short or a device fails.
pub fn measure(
    model: &CudaModel,
    most: u32,
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Measured>, CudaError> {
    let slots = slots(model)?;
    let mut pools = super::pools(model, slots as usize)?;
    let most = most.min(model.config.max_position);
    let grid = grid(most, slots);
    let (mut places, mut pass) = (Place::all(model, most)?, Pass::new(model)?);
    let mut measured = Vec::with_capacity(grid.len());
    for (done, &work) in grid.iter().enumerate() {
        watch(done, grid.len());
        let batch = inputs(work, model.config.vocab, slots, model.arithmetic());
        let limits = Limits {
            vocab: model.vocab(),
            positions: most as usize,
            slots: slots as usize,
            rows: batch.ids.len(),
        };
        for Place { device, batch: on_device, .. } in &mut places {
            on_device.set(device, &batch, limits)?;
        }
        let draws = vec![Draw::GREEDY; batch.last.len()];
        let mut passes = Vec::with_capacity(TIMES);
        for time in 0..=TIMES {
            pass.start_laps();
            pass.run(model, &places, &mut pools)?;
            pass.sample(model, &draws)?;
            let spent: Spent = pass.end_laps()?;
            if time > 0 {
                passes.push(spent);
            }
        }
        passes.sort_by_key(Spent::total);
        let spent = passes[passes.len() / 2];
        let (layers, sampled) = (model.config.layers, batch.last.len() as u32);
        measured.push(Measured { work, layers, sampled, spent });
    }
    watch(grid.len(), grid.len());
    Ok(measured)
}

/// Tokens of keys and values that there is room for in a share of every device's memory.
fn slots(model: &CudaModel) -> Result<u32, CudaError> {
    let mut slots = POOL;
    for (place, device) in model.devices().iter().enumerate() {
        let here = match device.memory()? {
            None => SMALL_POOL,
            Some((free, _)) => (free as f64 * SHARE / model.slot_bytes(place) as f64) as u32,
        };
        slots = slots.min(here);
    }
    Ok((slots / BLOCK * BLOCK).max(BLOCK))
}

/// The rows of `work`, whose last row, or every decode, is sampled.
fn inputs(work: Work, vocab: u32, pool: u32, arithmetic: Arithmetic) -> Batch {
    let mut batch = Batch::default();
    if work.tokens > 0 {
        let seq = sequence(&mut batch, 0, (work.history, work.tokens), vocab, pool);
        batch.chunks.push(seq);
    }
    for seq in 0..work.decodes {
        let seq = sequence(&mut batch, seq, (work.length - 1, 1), vocab, pool);
        match arithmetic {
            Arithmetic::Fast => batch.decodes.push(seq),
            Arithmetic::Invariant => batch.chunks.push(seq),
        }
    }
    batch
}

/// Adds `rows` rows after `first` others.
fn sequence(batch: &mut Batch, seq: u32, (first, rows): (u32, u32), vocab: u32, pool: u32) -> Seq {
    let (row, end) = (batch.ids.len() as i32, first + rows);
    let blocks = end.div_ceil(BLOCK);
    // An odd stride visits every block of a pool of 2^n before one twice.
    let slot = |at: u32| {
        let block = (seq * blocks + at / BLOCK).wrapping_mul(1237) % (pool / BLOCK);
        (block * BLOCK + at % BLOCK) as i32
    };
    batch.ids.extend((first..end).map(|at| ((at * 31 + seq * 7) % vocab) as i32));
    batch.positions.extend((first..end).map(|at| at as i32));
    batch.slots.extend((first..end).map(slot));
    let table = batch.tables.len() as i32;
    batch.tables.extend((0..blocks).map(|block| slot(block * BLOCK)));
    batch.last.push(row + rows as i32 - 1);
    let shift = BLOCK.trailing_zeros() as i32;
    Seq { row, out: row, rows: rows as i32, context: end as i32, table, shift }
}
