//! Blocks taken as a sequence grows (PagedAttention, SOSP '23), optionally shared between equal beginnings.
//!
//! With the prefix cache on, a full block becomes shareable when its tokens have been computed, never before, under
//! a key chained over everything in front of it. Blocks whose key is the sequence's own are published only when it
//! is preempted: nobody else could meet them. A block held by several tables is copied by the first to write to it.

use super::pool::Pool;
use super::{Full, Headroom, KvAllocator, KvCopy, Opened, Table, Usage};
use crate::request::{ROOT, Token};
use crate::sequence::{SeqId, Sequence};

/// Paged KV.
#[derive(Debug)]
pub struct Paged {
    pool: Pool,
    prefix_cache: bool,
    tables: Vec<Vec<u32>>,
    copies: Vec<KvCopy>,
    hits: Vec<u32>,
}

/// The tokens of block `index`, when they are known.
fn tokens_of(seq: &Sequence, index: u32, size: u32) -> &[Token] {
    if seq.tokens.is_empty() {
        return &[];
    }
    &seq.tokens[(index * size) as usize..((index + 1) * size) as usize]
}

impl Paged {
    /// `capacity` slots in blocks of `block` tokens; a remainder is left out.
    #[must_use]
    pub fn new(capacity: u32, block: u32, prefix_cache: bool) -> Self {
        Self {
            pool: Pool::new(capacity / block, block),
            prefix_cache,
            tables: Vec::new(),
            copies: Vec::new(),
            hits: Vec::new(),
        }
    }

    /// Calls `found` for each leading block of `seq` that is cached, up to its last token but one.
    fn walk(&self, seq: &Sequence, mut found: impl FnMut(u32)) {
        let size = self.pool.size();
        let own = seq.reached > 0;
        let mut parent = ROOT;
        for index in 0..(seq.len - 1) / size {
            if !(own || seq.is_shared_block(index, size)) {
                return;
            }
            let key = seq.block_key(parent, index, size);
            match self.pool.find(key, tokens_of(seq, index, size)) {
                Some(block) => found(block),
                None => return,
            }
            parent = key;
        }
    }

    fn extend(&mut self, id: SeqId, blocks: u32) -> u32 {
        let table = &mut self.tables[id as usize];
        self.pool.take_into(blocks, table);
        table.len() as u32 * self.pool.size()
    }

    /// Gives block `index` of `id`, which is full, its key.
    fn hash(&mut self, id: SeqId, seq: &Sequence, index: u32) -> u32 {
        let (table, size) = (&self.tables[id as usize], self.pool.size());
        let block = table[index as usize];
        if self.pool.key(block) == 0 {
            let parent = if index == 0 { ROOT } else { self.pool.key(table[index as usize - 1]) };
            let key = seq.block_key(parent, index, size);
            self.pool.fill(block, key, tokens_of(seq, index, size));
        }
        block
    }
}

impl KvAllocator for Paged {
    fn capacity(&self) -> u32 {
        self.pool.total() * self.pool.size()
    }

    fn fits(&self, seq: &Sequence) -> bool {
        seq.end.max(seq.len).div_ceil(self.pool.size()) <= self.pool.total()
    }

    fn open(&mut self, id: SeqId, seq: &Sequence, first: u32, spare: u32) -> Result<Opened, Full> {
        let size = self.pool.size();
        let mut hits = std::mem::take(&mut self.hits);
        hits.clear();
        if self.prefix_cache {
            self.walk(seq, |block| hits.push(block));
        }
        let hit = hits.len() as u32 * size;
        let fresh = seq.len.min(hit.saturating_add(first)).div_ceil(size) - hits.len() as u32;
        let revived = hits.iter().filter(|&&b| self.pool.refs(b) == 0).count() as u32;
        let room = fresh + revived + spare.div_ceil(size) <= self.pool.free();
        if room {
            if id as usize >= self.tables.len() {
                self.tables.resize_with(id as usize + 1, Vec::new);
            }
            for &block in &hits {
                self.pool.share(block, size);
            }
            self.tables[id as usize].extend_from_slice(&hits);
        }
        self.hits = hits;
        if !room {
            return Err(Full);
        }
        Ok(Opened { hit, slots: self.extend(id, fresh) })
    }

    fn grow(&mut self, id: SeqId, seq: &Sequence, len: u32) -> Result<u32, Full> {
        let size = self.pool.size();
        let table = &self.tables[id as usize];
        let more = len.div_ceil(size).saturating_sub(table.len() as u32);
        let at = (seq.computed / size) as usize;
        let shared = table.get(at).copied().filter(|&b| self.pool.refs(b) > 1);
        if more + u32::from(shared.is_some()) > self.pool.free() {
            return Err(Full);
        }
        if let Some(old) = shared {
            let new = self.pool.take();
            self.copies.push(KvCopy { from: old * size, to: new * size, len: seq.computed % size });
            self.pool.release(old);
            self.tables[id as usize][at] = new;
        }
        Ok(self.extend(id, more))
    }

    fn fork(
        &mut self,
        parent: SeqId,
        child: SeqId,
        seq: &Sequence,
        _spare: u32,
    ) -> Result<u32, Full> {
        let size = self.pool.size();
        let whole = seq.computed.div_ceil(size);
        if child as usize >= self.tables.len() {
            self.tables.resize_with(child as usize + 1, Vec::new);
        }
        let mut table = std::mem::take(&mut self.tables[child as usize]);
        table.extend_from_slice(&self.tables[parent as usize][..whole as usize]);
        for (index, &block) in table.iter().enumerate() {
            self.pool.share(block, (seq.computed - index as u32 * size).min(size));
        }
        self.tables[child as usize] = table;
        Ok(whole * size)
    }

    fn commit(&mut self, id: SeqId, seq: &Sequence, before: u32) {
        if !self.prefix_cache {
            return;
        }
        let size = self.pool.size();
        for index in before / size..seq.computed / size {
            if !seq.is_shared_block(index, size) {
                return;
            }
            let block = self.hash(id, seq, index);
            self.pool.publish(block);
        }
    }

    fn close(&mut self, id: SeqId, seq: &Sequence, again: bool) {
        let size = self.pool.size();
        if self.prefix_cache && again {
            for index in 0..seq.computed / size {
                let block = self.hash(id, seq, index);
                self.pool.publish(block);
            }
        }
        let mut table = std::mem::take(&mut self.tables[id as usize]);
        if self.prefix_cache && !again {
            for (index, &block) in table.iter().enumerate() {
                if !seq.may_be_met(index as u32, size) {
                    self.pool.withdraw(block);
                }
            }
        }
        if !self.copies.is_empty() {
            // Whoever gets a block next must not find a copy in it that was meant for this one.
            let gone =
                |c: &KvCopy| table.contains(&(c.to / size)) && self.pool.refs(c.to / size) == 1;
            self.copies.retain(|c| !gone(c));
        }
        // From the end, so that of a cached prefix the tail is given up first.
        self.pool.release_all(table.iter().rev().copied());
        table.clear();
        self.tables[id as usize] = table;
    }

    fn table(&self, id: SeqId) -> Table<'_> {
        Table::Blocks(&self.tables[id as usize], self.pool.size())
    }

    fn copies(&mut self) -> Vec<KvCopy> {
        std::mem::take(&mut self.copies)
    }

    fn usage(&self) -> Usage {
        let taken = (self.pool.total() - self.pool.free()) * self.pool.size();
        Usage {
            capacity: self.capacity(),
            taken,
            requested: taken,
            shared: self.pool.shared(),
            cached: self.pool.cached() * self.pool.size(),
        }
    }

    fn headroom(&self) -> Headroom {
        Headroom { block: self.pool.size(), blocks: self.pool.free() }
    }

    fn lookup(&self, seq: &Sequence) -> u32 {
        let mut blocks = 0;
        if self.prefix_cache {
            self.walk(seq, |_| blocks += 1);
        }
        blocks * self.pool.size()
    }

    fn check(&self) {
        let mut held = vec![0; self.pool.total() as usize];
        for &block in self.tables.iter().flatten() {
            held[block as usize] += 1;
        }
        self.pool.check(&held);
    }
}
