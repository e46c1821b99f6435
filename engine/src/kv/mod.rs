//! The KV cache: its slots, and the sequences that hold them.
//!
//! A slot holds one token's keys and values, of the layers of one group where there are several ([`group`]). An
//! allocator turns "this sequence needs room for so many tokens" into slots, or says that it is full; it never decides
//! which sequence gives way. Nothing here is called per token: a sequence remembers how many slots it holds and asks
//! only for more.

mod buddy;
mod contiguous;
pub mod group;
mod paged;
mod pool;
pub mod waste;

pub use contiguous::Contiguous;
pub use group::{Group, Reach};
pub use paged::Paged;

use crate::sequence::{SeqId, Sequence};

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Room taken for a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Tokens found computed already.
    pub hit: u32,
    /// Slots held, those of the hit included.
    pub slots: u32,
}

/// Keys and values to copy inside the pool before the next pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCopy {
    /// First slot read.
    pub from: u32,
    /// First slot written.
    pub to: u32,
    /// Slots, consecutive on both sides.
    pub len: u32,
}

/// The place of a sequence's tokens.
#[derive(Debug, Clone, Copy)]
pub enum Table<'a> {
    /// Consecutive slots from here.
    Extent(u32),
    /// Block `i` holds tokens `[i*size, (i+1)*size)`.
    Blocks(&'a [u32], u32),
}

impl Table<'_> {
    /// The slot of token `position`.
    #[must_use]
    pub fn slot(&self, position: u32) -> u32 {
        match *self {
            Table::Extent(start) => start + position,
            Table::Blocks(blocks, size) => {
                blocks[(position / size) as usize] * size + position % size
            }
        }
    }

    /// The slots of tokens `0..len` as runs of consecutive ones: (first token, its slot, how many), as few as there can
    /// be.
    pub fn runs(&self, len: u32) -> impl Iterator<Item = (u32, u32, u32)> {
        let table = *self;
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = next;
            if first >= len {
                return None;
            }
            let slot = table.slot(first);
            next = match table {
                Table::Extent(_) => len,
                Table::Blocks(_, size) => {
                    let mut end = (first / size + 1) * size;
                    while end < len && table.slot(end) == slot + end - first {
                        end += size;
                    }
                    end.min(len)
                }
            };
            Some((first, slot, next - first))
        })
    }
}

/// The slots that an allocator has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All slots.
    pub capacity: u32,
    /// Out of reach for other sequences (extents or blocks).
    pub taken: u32,
    /// Of `taken`, the slots that sequences asked for; the rest is rounding.
    pub requested: u32,
    /// Tokens counted by more than one table, beyond the first.
    pub shared: u32,
    /// Free, but holding a prefix that may be hit.
    pub cached: u32,
    /// Slots that a token has in all groups together: 1 where there is one group.
    pub token: u32,
    /// Hold the states of linear layers.
    pub states: u32,
    /// Slots of computed tokens that sequences have given back behind their windows, shared ones counted by each.
    pub behind: u64,
}

/// The way in which sequences grow; it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growing {
    /// Tokens after which a sequence needs another block in some group; 0 when it cannot grow block by block.
    pub block: u32,
    /// True where sequences grow in several groups, or give slots back as they grow: then the order of growing matters.
    pub in_turn: bool,
}

/// A policy for KV memory.
pub trait KvAllocator: Send {
    /// All slots.
    fn capacity(&self) -> u32;

    /// True where an empty pool could hold `seq` up to its end.
    fn fits(&self, seq: &Sequence) -> bool;

    /// Takes room for the cached tokens of `seq` and `first` tokens more (no more than it has), leaving `spare` slots
    /// free. Nothing changes when it is full.
    fn open(&mut self, id: SeqId, seq: &Sequence, first: u32, spare: u32) -> Result<Opened, Full>;

    /// Makes room for the first `len` tokens, writable from `seq.computed` on, and gives back the slots that are behind
    /// windows by then; returns the tokens that there are slots for now.
    fn grow(&mut self, id: SeqId, seq: &Sequence, len: u32) -> Result<u32, Full>;

    /// Gives `child` the computed tokens of `parent`, shared where the layout allows.
    fn fork(
        &mut self,
        parent: SeqId,
        child: SeqId,
        seq: &Sequence,
        spare: u32,
    ) -> Result<u32, Full>;

    /// Gives back the slots that were taken for tokens after `seq.computed`; returns the tokens that there are slots for
    /// now. Slots that were reserved beforehand stay.
    fn shrink(&mut self, _id: SeqId, seq: &Sequence) -> u32 {
        seq.slots
    }

    /// The first `seq.computed` tokens are written; before it was the first `before`.
    fn commit(&mut self, id: SeqId, seq: &Sequence, before: u32);

    /// Gives everything back; copies for it that were not handed over are void. `again`: the same sequence will be
    /// computed once more (it was preempted).
    fn close(&mut self, id: SeqId, seq: &Sequence, again: bool);

    /// Slots of `id` that lie beyond its token `end`, in all groups. Only asked where sequences grow in turn: elsewhere
    /// the slots that it was given tell.
    fn beyond(&self, _id: SeqId, _end: u32) -> u32 {
        0
    }

    /// The place of `id`'s tokens, of the first group.
    fn table(&self, id: SeqId) -> Table<'_>;

    /// Copies to make before the next pass; they are handed over once.
    fn copies(&mut self) -> Vec<KvCopy>;

    /// The slots that are given out.
    fn usage(&self) -> Usage;

    /// The way in which sequences grow.
    fn growing(&self) -> Growing;

    /// Blocks that running sequences can take without asking, in each group.
    fn headroom(&self) -> u32;

    /// Tokens of `seq` that are cached now.
    fn lookup(&self, _seq: &Sequence) -> u32 {
        0
    }

    /// Panics unless every slot is accounted for once; for tests.
    fn check(&self);
}

/// Slots of a page: so many that each group's tokens fill it evenly.
#[must_use]
pub fn page_slots(groups: &[Group]) -> u32 {
    let blocks = groups.iter().filter(|g| g.keeps_tokens()).map(|g| g.block);
    let common = blocks.reduce(|a, b| a / gcd(a, b) * b);
    common.or(groups.first().map(|g| g.block)).unwrap_or(1)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_slots_in_as_few_pieces_as_there_can_be() {
        let blocks = [3, 4, 5, 1, 0, 7];
        for (table, pieces) in [(Table::Blocks(&blocks, 4), 4), (Table::Extent(9), 1)] {
            for len in 0..=24 {
                let runs: Vec<_> = table.runs(len).collect();
                let slots = runs.iter().flat_map(|&(_, slot, n)| slot..slot + n);
                assert!(slots.eq((0..len).map(|at| table.slot(at))), "{table:?} up to {len}");
                let firsts =
                    runs.iter().scan(0, |at, &(_, _, n)| Some(std::mem::replace(at, *at + n)));
                assert!(runs.iter().map(|r| r.0).eq(firsts));
            }
            assert_eq!(table.runs(24).count(), pieces);
        }
    }
}
