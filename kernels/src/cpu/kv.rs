//! The keys and values of one layer, by slot.
//!
//! Slots are tokens, wherever an allocator put them; a head's keys lie transposed in tiles of 16 slots, so that one
//! pass gives the scores of 16 positions without adding across lanes, and its values lie slot after slot. A score's
//! sum runs over the head's elements in the same order whichever lane it is in, so results do not depend on the layout.

use super::buffer::Buffer;
use super::simd::{Element, LANES};

/// Sizes of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key-value heads; `queries` is a multiple.
    pub kv: usize,
    /// Elements per head; even, at most 256.
    pub dim: usize,
}

impl Heads {
    /// Most elements per head.
    pub const MAX_DIM: usize = 256;

    /// Elements per head as stored: whole groups of 32.
    pub(super) fn padded(&self) -> usize {
        self.dim.next_multiple_of(2 * LANES)
    }

    /// Elements of a row of queries, keys and values together.
    #[must_use]
    pub fn width(&self) -> usize {
        (self.queries + 2 * self.kv) * self.dim
    }

    /// Query heads that share a key-value head.
    pub(super) fn group(&self) -> usize {
        self.queries / self.kv
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvLayer {
    pub(super) heads: Heads,
    slots: usize,
    pub(super) data: Data,
}

/// Keys: by head, tile of 16 slots, pair of elements: 16 pairs. Values: by head, slot, 32 elements: 16 pairs.
#[derive(Debug)]
pub(super) enum Data {
    Bf16(Pair<u16>),
    F32(Pair<f32>),
}

#[derive(Debug)]
pub(super) struct Pair<E> {
    pub(super) keys: Buffer<E>,
    pub(super) values: Buffer<E>,
}

impl<E: Element> Pair<E> {
    fn zeroed(elements: usize) -> Self {
        Self { keys: Buffer::zeroed(elements), values: Buffer::zeroed(elements) }
    }

    /// Copies one token's keys and values; heads are `from_plane` and `plane` elements apart.
    fn copy(&mut self, heads: Heads, plane: usize, from: usize, to: usize) {
        let padded = heads.padded();
        for head in 0..heads.kv {
            let base = head * plane;
            for d in 0..heads.dim {
                self.keys[base + key_at::<E>(padded, to, d)] =
                    self.keys[base + key_at::<E>(padded, from, d)];
            }
            let from = base + from * padded;
            self.values.copy_within(from..from + padded, base + to * padded);
        }
    }

    fn receive(&mut self, heads: Heads, plane: usize, to: usize, other: (&Self, usize, usize)) {
        let (other, their_plane, from) = other;
        let padded = heads.padded();
        for head in 0..heads.kv {
            let (base, their_base) = (head * plane, head * their_plane);
            for d in 0..heads.dim {
                self.keys[base + key_at::<E>(padded, to, d)] =
                    other.keys[their_base + key_at::<E>(padded, from, d)];
            }
            let from = their_base + from * padded;
            let to = base + to * padded;
            self.values[to..to + padded].copy_from_slice(&other.values[from..from + padded]);
        }
    }
}

/// The place of element `d` of the key of `slot` in a head's keys.
#[inline(always)]
pub(super) fn key_at<E: Element>(padded: usize, slot: usize, d: usize) -> usize {
    slot / LANES * LANES * padded + d / 2 * 2 * LANES + E::at(slot % LANES, d % 2)
}

/// The place of element `d` of a value from its slot's beginning.
#[inline(always)]
pub(super) fn value_at<E: Element>(d: usize) -> usize {
    d / (2 * LANES) * 2 * LANES + E::at(d % LANES, d / LANES % 2)
}

impl KvLayer {
    /// Room for `slots` tokens, in bf16 or in f32.
    ///
    /// # Panics
    /// When the sizes of `heads` cannot be.
    #[must_use]
    pub fn new(heads: Heads, slots: usize, bf16: bool) -> Self {
        let whole = heads.kv > 0 && heads.queries.is_multiple_of(heads.kv);
        let even = heads.dim.is_multiple_of(2) && (2..=Heads::MAX_DIM).contains(&heads.dim);
        assert!(whole && even, "unsupported sizes of heads: {heads:?}");
        let slots = slots.next_multiple_of(LANES);
        let elements = heads.kv * slots * heads.padded();
        let data = if bf16 {
            Data::Bf16(Pair::zeroed(elements))
        } else {
            Data::F32(Pair::zeroed(elements))
        };
        Self { heads, slots, data }
    }

    /// Slots there are (rounded up to whole tiles).
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes of one token's keys and values.
    #[must_use]
    pub fn bytes_per_slot(heads: Heads, bf16: bool) -> usize {
        2 * heads.kv * heads.padded() * if bf16 { 2 } else { 4 }
    }

    /// Elements of one head.
    pub(super) fn plane(&self) -> usize {
        self.slots * self.heads.padded()
    }

    /// Copies `len` consecutive slots, as if through a buffer where they overlap.
    ///
    /// # Panics
    /// When there are no such slots.
    pub fn copy(&mut self, from: usize, to: usize, len: usize) {
        assert!(
            from.max(to) + len <= self.slots,
            "slots {from} and {to} + {len} of {}",
            self.slots
        );
        let (heads, plane) = (self.heads, self.plane());
        let mut one = |i| match &mut self.data {
            Data::Bf16(data) => data.copy(heads, plane, from + i, to + i),
            Data::F32(data) => data.copy(heads, plane, from + i, to + i),
        };
        if to > from { (0..len).rev().for_each(&mut one) } else { (0..len).for_each(&mut one) }
    }

    /// Copies one slot of another layer's memory here.
    ///
    /// # Panics
    /// When the two differ in kind or a slot does not exist.
    pub fn receive(&mut self, to: usize, other: &Self, from: usize) {
        assert!(to < self.slots && from < other.slots, "there is no slot {to} or no slot {from}");
        assert_eq!(self.heads, other.heads, "the same model's memory");
        let (heads, plane, theirs) = (self.heads, self.plane(), other.plane());
        match (&mut self.data, &other.data) {
            (Data::Bf16(a), Data::Bf16(b)) => a.receive(heads, plane, to, (b, theirs, from)),
            (Data::F32(a), Data::F32(b)) => a.receive(heads, plane, to, (b, theirs, from)),
            _ => panic!("keys and values of the same kind"),
        }
    }
}
