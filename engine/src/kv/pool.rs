//! Blocks of a fixed size: the tables that hold each, its content, and the order in which free ones are used again.
//!
//! Free blocks are used in this order: those whose content cannot be met again, the last given back first; those that
//! were never used; those that may be hit, the first given back first, which makes them the prefix cache's LRU.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::request::{BlockKey, Token};

/// A block's state.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    /// Tables that hold it.
    refs: u32,
    /// Tokens counted by each table that shares it.
    fill: u32,
    /// The key of its content; 0 = none that can be met again.
    key: BlockKey,
    /// True where the index leads to it.
    indexed: bool,
    /// Its neighbours among cached free blocks.
    prev: u32,
    next: u32,
}

/// Stands for the end of the list of cached blocks.
const END: u32 = u32::MAX;

/// Block keys are hashes already.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// All blocks of a worker.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Those that were ever used.
    blocks: Vec<Block>,
    total: u32,
    size: u32,
    /// Free ones of no use.
    spare: Vec<u32>,
    /// The free ones that hold a prefix, from the first to the last given back.
    oldest: u32,
    newest: u32,
    free: u32,
    cached: u32,
    shared: u32,
    index: HashMap<BlockKey, u32, BuildHasherDefault<Identity>>,
    /// Tokens of hashed blocks, when they are known: a hit compares them.
    tokens: Vec<Token>,
}

impl Pool {
    pub(crate) fn new(total: u32, size: u32) -> Self {
        Self {
            blocks: Vec::new(),
            total,
            spare: Vec::new(),
            oldest: END,
            newest: END,
            size,
            free: total,
            cached: 0,
            shared: 0,
            index: HashMap::default(),
            tokens: Vec::new(),
        }
    }

    pub(crate) fn total(&self) -> u32 {
        self.total
    }
    pub(crate) fn size(&self) -> u32 {
        self.size
    }
    /// Blocks that no table holds, cached ones included.
    pub(crate) fn free(&self) -> u32 {
        self.free
    }
    /// Free blocks that hold a prefix.
    pub(crate) fn cached(&self) -> u32 {
        self.cached
    }
    /// Tokens counted by more than one table, beyond the first.
    pub(crate) fn shared(&self) -> u32 {
        self.shared
    }
    pub(crate) fn key(&self, block: u32) -> BlockKey {
        self.blocks[block as usize].key
    }
    pub(crate) fn refs(&self, block: u32) -> u32 {
        self.blocks[block as usize].refs
    }

    /// Takes a cached block out of their list. The caller counts the free ones.
    fn unlink(&mut self, block: u32) {
        let Block { prev, next, .. } = self.blocks[block as usize];
        *self.after(prev) = next;
        *self.before(next) = prev;
        self.cached -= 1;
    }

    /// Adds it as the newest.
    fn link(&mut self, block: u32) {
        let prev = std::mem::replace(&mut self.newest, block);
        *self.after(prev) = block;
        let b = &mut self.blocks[block as usize];
        (b.prev, b.next) = (prev, END);
        (self.free, self.cached) = (self.free + 1, self.cached + 1);
    }

    fn after(&mut self, block: u32) -> &mut u32 {
        if block == END { &mut self.oldest } else { &mut self.blocks[block as usize].next }
    }

    fn before(&mut self, block: u32) -> &mut u32 {
        if block == END { &mut self.newest } else { &mut self.blocks[block as usize].prev }
    }

    /// The next free block, its old content forgotten. The caller has checked that there is one.
    pub(crate) fn take(&mut self) -> u32 {
        self.free -= 1;
        self.next()
    }

    /// Appends the next `n` free blocks to `table`, their old content forgotten. The caller has checked that there are
    /// as many.
    pub(crate) fn take_into(&mut self, n: u32, table: &mut Vec<u32>) {
        assert!(n <= self.free, "room was checked before taking");
        self.free -= n;
        table.reserve(n as usize);
        for _ in 0..n {
            table.push(self.next());
        }
    }

    /// The next block to use, which is no longer counted as free.
    #[inline]
    fn next(&mut self) -> u32 {
        if let Some(block) = self.spare.pop() {
            self.blocks[block as usize].refs = 1;
            return block;
        }
        if self.blocks.len() < self.total as usize {
            self.blocks.push(Block { refs: 1, ..Block::default() });
            return self.blocks.len() as u32 - 1;
        }
        self.reclaim()
    }

    /// The cached block given back first, which can no longer be hit.
    fn reclaim(&mut self) -> u32 {
        let block = self.oldest;
        self.unlink(block);
        let b = &mut self.blocks[block as usize];
        (b.refs, b.indexed) = (1, false);
        self.index.remove(&std::mem::take(&mut b.key));
        block
    }

    /// One more table holds `block`, which has `fill` tokens.
    pub(crate) fn share(&mut self, block: u32, fill: u32) {
        if self.blocks[block as usize].refs == 0 {
            self.unlink(block);
            self.free -= 1;
        } else {
            self.shared += fill;
        }
        let b = &mut self.blocks[block as usize];
        b.refs += 1;
        b.fill = fill;
    }

    /// One table fewer holds `block`.
    pub(crate) fn release(&mut self, block: u32) {
        self.release_all([block].into_iter());
    }

    /// One table fewer holds each of `blocks`, given back in this order.
    pub(crate) fn release_all(&mut self, blocks: impl Iterator<Item = u32>) {
        let before = self.spare.len();
        for block in blocks {
            let b = &mut self.blocks[block as usize];
            b.refs -= 1;
            if b.refs > 0 {
                self.shared -= b.fill;
            } else if b.indexed {
                self.link(block);
            } else {
                b.key = 0;
                self.spare.push(block);
            }
        }
        self.free += (self.spare.len() - before) as u32;
    }

    /// `block` is full and holds what `key` says; `tokens` when they are known.
    pub(crate) fn fill(&mut self, block: u32, key: BlockKey, tokens: &[Token]) {
        self.blocks[block as usize].key = key;
        if !tokens.is_empty() {
            self.tokens.resize((self.total() * self.size) as usize, 0);
            let at = (block * self.size) as usize;
            self.tokens[at..at + tokens.len()].copy_from_slice(tokens);
        }
    }

    /// `block` will not be asked for again, unless another table holds it.
    pub(crate) fn withdraw(&mut self, block: u32) {
        let b = &mut self.blocks[block as usize];
        if b.indexed && b.refs == 1 {
            b.indexed = false;
            self.index.remove(&b.key);
        }
    }

    /// Lets `block` be found by its key, unless another block already is.
    pub(crate) fn publish(&mut self, block: u32) {
        let key = self.blocks[block as usize].key;
        if key != 0 && *self.index.entry(key).or_insert(block) == block {
            self.blocks[block as usize].indexed = true;
        }
    }

    /// A published block that holds what `key` says (and exactly `tokens`, when they are known).
    pub(crate) fn find(&self, key: BlockKey, tokens: &[Token]) -> Option<u32> {
        let block = *self.index.get(&key)?;
        let at = (block * self.size) as usize;
        let same = tokens.is_empty() || self.tokens.get(at..at + tokens.len()) == Some(tokens);
        same.then_some(block)
    }

    /// Panics unless references, free list and counters agree with `held`, the tables' references by block.
    pub(crate) fn check(&self, held: &[u32]) {
        for &block in &self.spare {
            let b = &self.blocks[block as usize];
            assert_eq!((b.refs, b.key, b.indexed), (0, 0, false), "block {block} is of no use");
        }
        let (mut at, mut before, mut cached) = (self.oldest, END, 0);
        while at != END {
            let b = &self.blocks[at as usize];
            assert_eq!((b.refs, b.prev), (0, before), "a free block is held by nobody");
            assert!(b.indexed && b.key != 0, "a cached block can be found");
            (before, at, cached) = (at, b.next, cached + 1);
        }
        let unused = self.total as usize - self.blocks.len();
        let free = (unused + self.spare.len()) as u32 + cached;
        assert_eq!((before, free, cached), (self.newest, self.free, self.cached), "all are there");
        for (block, &refs) in held.iter().enumerate() {
            let own = self.blocks.get(block).map_or(0, |b| b.refs);
            assert_eq!(own, refs, "refs = tables that hold block {block}");
        }
        let shared: u32 =
            self.blocks.iter().filter(|b| b.refs > 1).map(|b| (b.refs - 1) * b.fill).sum();
        assert_eq!(shared, self.shared);
        for (&key, &block) in &self.index {
            assert_eq!(self.blocks[block as usize].key, key, "the index leads to what it says");
        }
    }
}
