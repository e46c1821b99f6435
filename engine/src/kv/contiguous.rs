//! One extent per sequence, reserved when it is admitted: the layout before paging (FasterTransformer, Orca).
//!
//! The size of the reservation is the whole policy ([`Reserve`]); the rest is a buddy arena.

use super::buddy::{Buddy, Extent};
use super::{Full, Growing, KvAllocator, KvCopy, Opened, Table, Usage};
use crate::config::Reserve;
use crate::sequence::{SeqId, Sequence};

/// Contiguous KV.
#[derive(Debug)]
pub struct Contiguous {
    arena: Buddy,
    reserve: Reserve,
    max_len: u32,
    /// By sequence: its extent, and the slots it asked for.
    held: Vec<(Extent, u32)>,
    requested: u32,
    copies: Vec<KvCopy>,
}

impl Contiguous {
    /// An arena of `capacity` slots for sequences of at most `max_len` tokens.
    #[must_use]
    pub fn new(capacity: u32, reserve: Reserve, max_len: u32) -> Self {
        Self {
            arena: Buddy::new(capacity),
            reserve,
            max_len,
            held: Vec::new(),
            requested: 0,
            copies: Vec::new(),
        }
    }

    /// Slots to reserve for `seq` so that it can hold `len` tokens.
    fn slots(&self, seq: &Sequence, len: u32) -> u32 {
        match self.reserve {
            Reserve::Max => self.max_len.max(len),
            Reserve::Pow2 => {
                let output = (seq.end - seq.prompt).max(1).next_power_of_two();
                seq.prompt.saturating_add(output).min(self.max_len).max(len)
            }
            Reserve::Oracle => seq.end,
            Reserve::Doubling => len.next_power_of_two(),
        }
    }

    fn put(&mut self, id: SeqId, extent: Extent, asked: u32) {
        let at = id as usize;
        if at >= self.held.len() {
            self.held.resize(at + 1, (Extent::default(), 0));
        }
        self.held[at] = (extent, asked);
        self.requested += asked;
    }

    fn take(&mut self, slots: u32, spare: u32) -> Result<Extent, Full> {
        let extent = self.arena.take(slots).ok_or(Full)?;
        if self.arena.left() < spare {
            self.arena.give(extent);
            return Err(Full);
        }
        Ok(extent)
    }
}

impl KvAllocator for Contiguous {
    fn capacity(&self) -> u32 {
        self.arena.capacity()
    }

    fn fits(&self, seq: &Sequence) -> bool {
        self.slots(seq, seq.end.max(seq.len)) <= self.arena.largest()
    }

    fn open(&mut self, id: SeqId, seq: &Sequence, _first: u32, spare: u32) -> Result<Opened, Full> {
        let slots = self.slots(seq, seq.len);
        let extent = self.take(slots, spare)?;
        self.put(id, extent, slots);
        Ok(Opened { hit: 0, slots })
    }

    /// Only a doubling reservation ever grows: into an extent twice as large, with its content copied over.
    fn grow(&mut self, id: SeqId, seq: &Sequence, len: u32) -> Result<u32, Full> {
        let (old, asked) = self.held[id as usize];
        if len <= asked {
            return Ok(asked);
        }
        let slots = self.slots(seq, len);
        let extent = self.take(slots, 0)?;
        self.copies.push(KvCopy { from: old.start, to: extent.start, len: seq.computed });
        self.arena.give(old);
        self.requested -= asked;
        self.put(id, extent, slots);
        Ok(slots)
    }

    fn fork(
        &mut self,
        parent: SeqId,
        child: SeqId,
        seq: &Sequence,
        spare: u32,
    ) -> Result<u32, Full> {
        let (from, asked) = self.held[parent as usize];
        let extent = self.take(asked, spare)?;
        self.copies.push(KvCopy { from: from.start, to: extent.start, len: seq.computed });
        self.put(child, extent, asked);
        Ok(asked)
    }

    fn commit(&mut self, _id: SeqId, _seq: &Sequence, _before: u32) {}

    fn close(&mut self, id: SeqId, _seq: &Sequence, _again: bool) {
        let (extent, asked) = std::mem::take(&mut self.held[id as usize]);
        // The next holder of the extent must not find a copy in it that was meant for this one.
        self.copies.retain(|c| c.to != extent.start);
        self.arena.give(extent);
        self.requested -= asked;
    }

    fn table(&self, id: SeqId) -> Table<'_> {
        Table::Extent(self.held[id as usize].0.start)
    }

    fn copies(&mut self) -> Vec<KvCopy> {
        std::mem::take(&mut self.copies)
    }

    fn usage(&self) -> Usage {
        let capacity = self.arena.capacity();
        Usage {
            capacity,
            taken: capacity - self.arena.left(),
            requested: self.requested,
            token: 1,
            ..Usage::default()
        }
    }

    fn growing(&self) -> Growing {
        Growing { block: 0, in_turn: false }
    }

    fn headroom(&self) -> u32 {
        0
    }

    fn check(&self) {
        let taken: u32 = self.held.iter().map(|h| h.0.size).sum();
        assert_eq!(self.arena.left() + taken, self.arena.capacity(), "slots are conserved");
        assert_eq!(self.held.iter().map(|h| h.1).sum::<u32>(), self.requested);
    }
}
