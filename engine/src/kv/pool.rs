//! Blocks of a fixed size: the tables that hold each, its content, and the order in which free ones are used again.
//!
//! One list of free blocks serves as the prefix cache's LRU: a block with content that cannot be met again goes to the
//! front and is used first, one that may be hit goes to the back.

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
    prev: u32,
    next: u32,
}

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
    /// The last entry is the free list's head and tail.
    blocks: Vec<Block>,
    size: u32,
    free: u32,
    cached: u32,
    shared: u32,
    index: HashMap<BlockKey, u32, BuildHasherDefault<Identity>>,
    /// Tokens of hashed blocks, when they are known: a hit compares them.
    tokens: Vec<Token>,
}

impl Pool {
    pub(crate) fn new(total: u32, size: u32) -> Self {
        let ring = |i: u32| Block {
            prev: if i == 0 { total } else { i - 1 },
            next: if i == total { 0 } else { i + 1 },
            ..Block::default()
        };
        Self {
            blocks: (0..=total).map(ring).collect(),
            size,
            free: total,
            cached: 0,
            shared: 0,
            index: HashMap::default(),
            tokens: Vec::new(),
        }
    }

    pub(crate) fn total(&self) -> u32 {
        self.blocks.len() as u32 - 1
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

    fn unlink(&mut self, block: u32) {
        let Block { prev, next, .. } = self.blocks[block as usize];
        self.blocks[prev as usize].next = next;
        self.blocks[next as usize].prev = prev;
        self.free -= 1;
    }

    /// Links `block` in after `prev`.
    fn link(&mut self, block: u32, prev: u32) {
        let next = self.blocks[prev as usize].next;
        self.blocks[block as usize].prev = prev;
        self.blocks[block as usize].next = next;
        self.blocks[prev as usize].next = block;
        self.blocks[next as usize].prev = block;
        self.free += 1;
    }

    /// The next free block, its old content forgotten. The caller has checked that there is one.
    pub(crate) fn take(&mut self) -> u32 {
        let block = self.blocks[self.total() as usize].next;
        self.take_into(1, &mut Vec::with_capacity(1));
        block
    }

    /// Appends the next `n` free blocks to `table`, their old content forgotten. The caller has checked that there are
    /// as many. The list is cut once, behind the last.
    pub(crate) fn take_into(&mut self, n: u32, table: &mut Vec<u32>) {
        assert!(n <= self.free, "room was checked before taking");
        let head = self.total();
        let mut at = self.blocks[head as usize].next;
        table.reserve(n as usize);
        for _ in 0..n {
            let b = &mut self.blocks[at as usize];
            b.refs = 1;
            let (key, indexed, next) = (b.key, b.indexed, b.next);
            (b.key, b.indexed) = (0, false);
            if indexed {
                self.cached -= 1;
                self.index.remove(&key);
            }
            table.push(at);
            at = next;
        }
        self.free -= n;
        self.blocks[head as usize].next = at;
        self.blocks[at as usize].prev = head;
    }

    /// One more table holds `block`, which has `fill` tokens.
    pub(crate) fn share(&mut self, block: u32, fill: u32) {
        if self.blocks[block as usize].refs == 0 {
            self.unlink(block);
            self.cached -= 1;
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

    /// One table fewer holds each of `blocks`: in this order, those of no use go to the front of the free list, those
    /// that may be hit to its back.
    pub(crate) fn release_all(&mut self, blocks: impl Iterator<Item = u32>) {
        let head = self.total();
        let mut front = self.blocks[head as usize].next;
        for block in blocks {
            let b = &mut self.blocks[block as usize];
            b.refs -= 1;
            if b.refs > 0 {
                self.shared -= b.fill;
            } else if b.indexed {
                // An empty list's front is its end.
                self.cached += 1;
                self.blocks[head as usize].next = front;
                let back = self.blocks[head as usize].prev;
                self.link(block, back);
                front = self.blocks[head as usize].next;
            } else {
                (b.key, b.next) = (0, front);
                self.blocks[front as usize].prev = block;
                front = block;
                self.free += 1;
            }
        }
        self.blocks[head as usize].next = front;
        self.blocks[front as usize].prev = head;
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
        let total = self.total();
        let (mut at, mut free, mut cached) = (self.blocks[total as usize].next, 0, 0);
        while at != total {
            assert_eq!(self.blocks[at as usize].refs, 0, "a free block is held by nobody");
            free += 1;
            let b = &self.blocks[at as usize];
            assert_eq!(b.key != 0, b.indexed, "a free block is cached if it can be found");
            assert!(cached == 0 || b.indexed, "blocks of no use are used first");
            cached += u32::from(b.indexed);
            at = self.blocks[at as usize].next;
        }
        assert_eq!((free, cached), (self.free, self.cached), "the free list is whole");
        for (block, &refs) in held.iter().enumerate() {
            assert_eq!(self.blocks[block].refs, refs, "refs = tables that hold block {block}");
        }
        let shared: u32 =
            self.blocks.iter().filter(|b| b.refs > 1).map(|b| (b.refs - 1) * b.fill).sum();
        assert_eq!(shared, self.shared);
        for (&key, &block) in &self.index {
            assert_eq!(self.blocks[block as usize].key, key, "the index leads to what it says");
        }
    }
}
