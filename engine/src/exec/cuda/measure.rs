//! Times passes over a grid of batches on a device: the raw material of its profile.
//!
//! All layers of all batches run, timed by the device's own clock between operators. Keys and values are scattered over
//! the pool in blocks of 16, as a busy pool leaves them: to a GPU a block of them is read like the next. Decodes that
//! the engine replays as graphs are timed so too.

use std::time::Duration;

use kernels::cuda::{Batch, CudaError, Draw, KvPool, Limits, Seq};

use super::graphs::{self, Graphs};
use super::layout::Arithmetic;
use super::pass::{Pass, Place};
use super::weights::CudaModel;
use crate::exec::forward::{BLOCK, Measured, Spent, Work};

/// Passes timed, after one that is not.
const TIMES: usize = 3;
/// Tokens of keys and values in the pool, at most, and the share of free memory they may take.
const POOL: u32 = 1 << 18;
const SHARE: f64 = 0.5;
/// Tokens in the pool where the device does not report its memory (an emulated one).
const SMALL_POOL: u32 = 1 << 10;

/// Batches of decodes of unequal lengths: how many, and the tokens of the longest, which a quarter of them are.
const UNEVEN: [(u32, u32); 7] =
    [(8, 64), (16, 1024), (64, 1024), (16, 4096), (64, 4096), (8, 8192), (32, 8192)];
/// The others are shorter by this factor.
const SHORTER: u32 = 4;

/// The time of attention in all layers for batches of as many decodes.
#[derive(Debug, Clone, Copy)]
pub struct Uneven {
    /// Of unequal lengths.
    pub mixed: Duration,
    /// All of their mean length.
    pub mean: Duration,
    /// All of the longest one's.
    pub longest: Duration,
}

/// The grid for sequences of up to `most` tokens over a pool of `pool`.
fn grid(most: u32, pool: u32) -> Vec<Work> {
    let (none, chunk) = (Work::default(), Work { prompts: 1, ..Work::default() });
    let mut grid = Vec::new();
    for length in [16, 64, 256, 512, 1024, 2048, 4096, 8192, 16_384] {
        for decodes in (0..=8).map(|p| 1 << p) {
            grid.push(Work { decodes, length, ..none });
        }
    }
    grid.extend([3, 6, 12, 24, 48, 96, 192].map(|decodes| Work { decodes, length: 64, ..none }));
    for history in [0, 256, 1024, 4096, 8192] {
        for tokens in [16, 64, 128, 256, 512, 1024, 2048, 4096, 8192] {
            grid.push(Work { tokens, history, ..chunk });
        }
    }
    grid.extend([32, 96, 192, 384, 768, 1536].map(|tokens| Work { tokens, ..chunk }));
    // More rows than one prompt has.
    let tokens = most.min(512);
    grid.extend([2, 4, 8, 16].map(|prompts| Work { prompts, tokens, ..none }));
    // A chunk beside decodes.
    for (decodes, length) in [(4, 16), (16, 512), (64, 1024), (128, 512)] {
        for (tokens, history) in [(48, 0), (256, 0), (256, 2048), (1024, 0), (1024, 2048)] {
            grid.push(Work { tokens, history, decodes, length, ..chunk });
        }
    }
    // No engine computes more than a part of its sequences at once.
    grid.retain(|work| work.fits(most, pool) && work.rows() <= (pool / 4).max(most));
    grid
}

/// Times `model` on its devices, as an engine that replays graphs or does not; `watch` is told how many of how many batches
/// are done. Sequences have up to `most` tokens.
///
/// # Errors
/// When memory is short or a device fails.
pub fn measure(
    model: &CudaModel,
    with_graphs: bool,
    most: u32,
    watch: &mut dyn FnMut(usize, usize),
) -> Result<(Vec<Measured>, Vec<Uneven>), CudaError> {
    let most = most.min(model.config.max_position);
    let mut stand = Stand::new(model, most)?;
    let grid = grid(most, stand.slots);
    let uneven =
        UNEVEN.iter().filter(|(n, longest)| *longest <= most && n * longest <= stand.slots);
    let uneven: Vec<_> = uneven.copied().collect();
    let all = grid.len() + uneven.len();
    let mut measured = Vec::with_capacity(grid.len());
    for (done, &work) in grid.iter().enumerate() {
        watch(done, all);
        let lengths = vec![work.length; work.decodes as usize];
        let batch =
            stand.batch(&vec![(work.history, work.tokens); work.prompts as usize], &lengths);
        let mut spent = stand.time(&batch)?;
        if with_graphs && work.prompts == 0 {
            let apart = spent.total() - spent.sampling;
            if let Some(whole) = stand.replayed(&batch)?.filter(|whole| *whole < apart) {
                // A graph saves the wait for launches, of which short operators have most.
                spent = spent.computing(whole.as_secs_f64() / apart.as_secs_f64());
            }
        }
        let (layers, sampled) = (model.config.layers, batch.last.len() as u32);
        measured.push(Measured { work, layers, sampled, spent });
    }
    let mut skewed = Vec::with_capacity(uneven.len());
    for (done, (decodes, longest)) in uneven.into_iter().enumerate() {
        watch(grid.len() + done, all);
        let long = |i: u32| i < decodes / 4;
        let lengths: Vec<u32> =
            (0..decodes).map(|i| if long(i) { longest } else { longest / SHORTER }).collect();
        let mean = lengths.iter().sum::<u32>() / decodes;
        let mut attention = |lengths: &[u32]| {
            let batch = stand.batch(&[], lengths);
            stand.time(&batch).map(|spent| spent.attention)
        };
        skewed.push(Uneven {
            mixed: attention(&lengths)?,
            mean: attention(&vec![mean; decodes as usize])?,
            longest: attention(&vec![longest; decodes as usize])?,
        });
    }
    watch(all, all);
    Ok((measured, skewed))
}

/// A model on its devices, and memory to time it with.
struct Stand<'a> {
    model: &'a CudaModel,
    pools: Vec<KvPool>,
    places: Vec<Place>,
    pass: Pass,
    /// Tokens that each pool has room for.
    slots: u32,
    /// Tokens of the longest sequence.
    most: u32,
}

impl<'a> Stand<'a> {
    fn new(model: &'a CudaModel, most: u32) -> Result<Self, CudaError> {
        let slots = slots(model)?;
        let pools = model.pools(slots as usize)?;
        let (places, pass) = (Place::all(model, most)?, Pass::new(model)?);
        Ok(Self { model, pools, places, pass, slots, most })
    }

    /// The rows of chunks of (history, tokens) and of decodes of these lengths. The last row of each chunk, and every
    /// decode, is sampled.
    fn batch(&self, chunks: &[(u32, u32)], lengths: &[u32]) -> Batch {
        let (vocab, pool) = (self.model.config.vocab, self.slots);
        let mut batch = Batch::default();
        for (seq, &chunk) in chunks.iter().enumerate() {
            let seq = sequence(&mut batch, seq as u32, chunk, vocab, pool);
            batch.chunks.push(seq);
        }
        for (seq, length) in lengths.iter().enumerate() {
            let seq = sequence(&mut batch, seq as u32, (length - 1, 1), vocab, pool);
            match self.model.arithmetic() {
                Arithmetic::Fast => batch.decodes.push(seq),
                Arithmetic::Invariant => batch.chunks.push(seq),
            }
        }
        batch
    }

    /// Time by operator: of the pass in the middle of those timed.
    fn time(&mut self, batch: &Batch) -> Result<Spent, CudaError> {
        let limits = Limits {
            vocab: self.model.vocab(),
            positions: self.most as usize,
            slots: self.slots as usize,
            rows: batch.ids.len(),
        };
        for Place { device, batch: on_device, .. } in &mut self.places {
            on_device.set(device, batch, limits)?;
        }
        let draws = vec![Draw::GREEDY; batch.last.len()];
        let mut passes = Vec::with_capacity(TIMES);
        for time in 0..=TIMES {
            self.pass.start_laps();
            self.pass.run(self.model, &self.places, &mut self.pools)?;
            self.pass.sample(self.model, &draws)?;
            let spent: Spent = self.pass.end_laps()?;
            if time > 0 {
                passes.push(spent);
            }
        }
        passes.sort_by_key(Spent::total);
        Ok(passes[passes.len() / 2])
    }

    /// The time of the batch timed last up to its logits when it is replayed as a graph; none where the engine would
    /// not replay it.
    fn replayed(&mut self, batch: &Batch) -> Result<Option<Duration>, CudaError> {
        let Self { model, pools, places, pass, .. } = self;
        let ([place], rows) = (&places[..], batch.ids.len()) else { return Ok(None) };
        if graphs::bucket(rows) != Some(rows) {
            return Ok(None);
        }
        let (mut graphs, mut passes) = (Graphs::default(), Vec::with_capacity(TIMES));
        // Seen, then recorded.
        for time in 0..2 + TIMES {
            let began = place.device.mark()?;
            graphs.run((rows, 0), place, pass, |pass| pass.run(model, places, pools))?;
            let ended = place.device.mark()?;
            let took = ended.since(&began)?;
            if time >= 2 {
                passes.push(took);
            }
        }
        passes.sort_unstable();
        Ok(Some(passes[passes.len() / 2]))
    }
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
