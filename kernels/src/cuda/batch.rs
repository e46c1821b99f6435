//! A batch's metadata: what kernels index with. Checked once, here, and then kept on the device from batch to batch.

use std::sync::Arc;

use super::device::Device;
use super::error::{CudaError, ensure};
use super::memory::{Buffer, Element, Memory};

/// One sequence's part of a batch; see `common.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Seq {
    /// Its first row among the queries.
    pub row: i32,
    /// The place of its first row's result.
    pub out: i32,
    /// New tokens: the last ones of its context.
    pub rows: i32,
    /// Tokens it has, the new ones included.
    pub context: i32,
    /// Its first entry in the tables: the first slot of its first block.
    pub table: i32,
    /// Its blocks have `1 << shift` slots.
    pub shift: i32,
}

// SAFETY: four-byte numbers.
unsafe impl Element for Seq {}

/// A batch as the host describes it; kept and filled again.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Token of each row.
    pub ids: Vec<i32>,
    /// Position of each row in its sequence.
    pub positions: Vec<i32>,
    /// The place of each row's keys and values.
    pub slots: Vec<i32>,
    /// Sequences with one new token, attended to by the split kernel.
    pub decodes: Vec<Seq>,
    /// Sequences with any number of new tokens, attended to by the tiled kernel.
    pub chunks: Vec<Seq>,
    /// First slots of blocks.
    pub tables: Vec<i32>,
    /// Rows whose logits are wanted.
    pub last: Vec<i32>,
    /// Context for which the split kernel is laid out, where it is longer than the longest of `decodes`: batches that
    /// agree on it are launched alike.
    pub reach: i32,
}

/// The bounds of a batch's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Positions of the rotary table.
    pub positions: usize,
    /// Slots of the pool.
    pub slots: usize,
    /// Rows of attention's output.
    pub rows: usize,
}

impl Batch {
    /// Empties it.
    pub fn clear(&mut self) {
        let Self { ids, positions, slots, decodes, chunks, tables, last, reach } = self;
        *reach = 0;
        [ids, positions, slots, tables, last].into_iter().for_each(Vec::clear);
        [decodes, chunks].into_iter().for_each(Vec::clear);
    }

    fn check(&self, limits: Limits) -> Result<(), CudaError> {
        let rows = self.ids.len();
        ensure(self.positions.len() == rows && self.slots.len() == rows, || {
            format!("{rows} tokens need as many positions and slots")
        })?;
        let below = |what: &str, values: &[i32], most: usize| {
            let bad = values.iter().find(|&&v| v < 0 || v as usize >= most);
            ensure(bad.is_none(), || format!("{what} {} is not below {most}", bad.unwrap_or(&0)))
        };
        below("token", &self.ids, limits.vocab)?;
        below("position", &self.positions, limits.positions)?;
        below("slot", &self.slots, limits.slots)?;
        below("row", &self.last, rows)?;
        let lone = self.decodes.iter().find(|s| s.rows != 1);
        ensure(lone.is_none(), || format!("{lone:?} does not have one row"))?;
        self.decodes.iter().chain(&self.chunks).try_for_each(|seq| self.check_seq(seq, limits))
    }

    fn check_seq(&self, seq: &Seq, limits: Limits) -> Result<(), CudaError> {
        let Seq { row, out, rows, context, table, shift } = *seq;
        let within = |from: i32, len: i32, most: usize| {
            from >= 0 && len > 0 && from as usize + len as usize <= most
        };
        let shape = within(row, rows, self.ids.len()) && within(out, rows, limits.rows);
        ensure(shape && rows <= context && (0..31).contains(&shift), || {
            format!("{seq:?} does not fit a batch of {} rows", self.ids.len())
        })?;
        let blocks = ((context - 1) >> shift) + 1;
        ensure(within(table, blocks, self.tables.len()), || {
            format!("{seq:?} has no table of {blocks} blocks")
        })?;
        let entries = &self.tables[table as usize..(table + blocks) as usize];
        let slots_exist = entries.iter().enumerate().all(|(i, &first)| {
            let len = (context - ((i as i32) << shift)).min(1 << shift);
            within(first, len, limits.slots)
        });
        ensure(slots_exist, || format!("{seq:?} lies beyond {} slots", limits.slots))
    }
}

/// Rows of a tile of the tiled kernel.
pub(super) const TILE: i32 = 64;

/// The sizes that launches for a batch depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    rows: usize,
    decodes: usize,
    chunks: usize,
    tiles: usize,
    last: usize,
    longest: i32,
    limits: Limits,
}

/// A batch on a device.
#[derive(Debug)]
pub struct DeviceBatch {
    pub(super) ids: Grown<i32>,
    pub(super) positions: Grown<i32>,
    pub(super) slots: Grown<i32>,
    pub(super) decodes: Grown<Seq>,
    pub(super) chunks: Grown<Seq>,
    pub(super) tables: Grown<i32>,
    pub(super) tiles: Grown<i32>,
    pub(super) last: Grown<i32>,
    pub(super) longest: i32,
    /// Rows of attention's output that are written.
    pub(super) out_rows: usize,
    pub(super) limits: Limits,
}

/// A buffer that grows to the largest batch and stays.
#[derive(Debug)]
pub(super) struct Grown<T> {
    pub(super) data: Buffer<T>,
    pub(super) len: usize,
}

impl<T: Element> Grown<T> {
    fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self { data: device.zeros(0)?, len: 0 })
    }

    fn set(&mut self, device: &Device, data: &[T]) -> Result<(), CudaError> {
        if self.data.len() < data.len() {
            self.data = device.zeros(data.len().next_power_of_two())?;
        }
        self.len = data.len();
        if data.is_empty() { Ok(()) } else { self.data.write(0, data) }
    }
}

impl DeviceBatch {
    /// An empty one.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self {
            ids: Grown::new(device)?,
            positions: Grown::new(device)?,
            slots: Grown::new(device)?,
            decodes: Grown::new(device)?,
            chunks: Grown::new(device)?,
            tables: Grown::new(device)?,
            tiles: Grown::new(device)?,
            last: Grown::new(device)?,
            longest: 0,
            out_rows: 0,
            limits: Limits { vocab: 0, positions: 0, slots: 0, rows: 0 },
        })
    }

    /// Checks `batch` and puts it on the device.
    ///
    /// # Errors
    /// When an index is beyond `limits`, or there is no memory for it.
    pub fn set(&mut self, device: &Device, batch: &Batch, limits: Limits) -> Result<(), CudaError> {
        batch.check(limits)?;
        // Nothing of an older batch is left behind should the device fail half-way.
        (self.ids.len, self.decodes.len, self.chunks.len, self.last.len) = (0, 0, 0, 0);
        self.limits = limits;
        let tiles = batch.chunks.iter().zip(0..);
        let tiles = tiles.flat_map(|(seq, i)| (0..(seq.rows - 1) / TILE + 1).map(move |t| [i, t]));
        let tiles: Vec<i32> = tiles.flatten().collect();
        self.ids.set(device, &batch.ids)?;
        self.positions.set(device, &batch.positions)?;
        self.slots.set(device, &batch.slots)?;
        self.decodes.set(device, &batch.decodes)?;
        self.chunks.set(device, &batch.chunks)?;
        self.tables.set(device, &batch.tables)?;
        self.tiles.set(device, &tiles)?;
        self.last.set(device, &batch.last)?;
        let longest = batch.decodes.iter().map(|seq| seq.context).max();
        self.longest = longest.map_or(0, |longest| longest.max(batch.reach));
        let all = batch.decodes.iter().chain(&batch.chunks);
        self.out_rows = all.map(|seq| (seq.out + seq.rows) as usize).max().unwrap_or(0);
        Ok(())
    }

    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            rows: self.ids.len,
            decodes: self.decodes.len,
            chunks: self.chunks.len,
            tiles: self.tiles.len,
            last: self.last.len,
            longest: self.longest,
            limits: self.limits,
        }
    }

    pub(super) fn memories(&self) -> [&Arc<Memory>; 8] {
        let Self { ids, positions, slots, decodes, chunks, tables, tiles, last, .. } = self;
        let [ids, positions, slots] = [ids, positions, slots].map(|b| &b.data.memory);
        let [tables, tiles, last] = [tables, tiles, last].map(|b| &b.data.memory);
        [ids, positions, slots, &decodes.data.memory, &chunks.data.memory, tables, tiles, last]
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.ids.len
    }

    /// Rows of attention's output, unread ones included.
    #[must_use]
    pub fn attended_rows(&self) -> usize {
        self.out_rows
    }

    /// Rows whose logits are wanted.
    #[must_use]
    pub fn last_rows(&self) -> usize {
        self.last.len
    }
}
