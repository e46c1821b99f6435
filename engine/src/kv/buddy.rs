//! A buddy arena: extents whose sizes are powers of two, split and merged with their twins (Knowlton, 1965).
//!
//! The lowest address that fits is taken, so that equal histories give equal layouts.

use std::collections::BTreeSet;

/// Free extents by size.
#[derive(Debug)]
pub(crate) struct Buddy {
    /// `free[k]` holds the addresses of free extents of 2^k slots.
    free: Vec<BTreeSet<u32>>,
    capacity: u32,
    left: u32,
}

/// Slots `[start, start + size)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    pub(crate) start: u32,
    pub(crate) size: u32,
}

impl Buddy {
    /// An arena of any size: it starts as the largest aligned powers of two that fill it.
    pub(crate) fn new(capacity: u32) -> Self {
        let mut arena = Self { free: vec![BTreeSet::new(); 32], capacity, left: capacity };
        let mut start = 0;
        for k in (0..32).rev() {
            while capacity - start >= 1 << k {
                arena.free[k].insert(start);
                start += 1 << k;
            }
        }
        arena
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Slots not taken.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// The largest extent an empty arena has.
    pub(crate) fn largest(&self) -> u32 {
        if self.capacity == 0 { 0 } else { 1 << self.capacity.ilog2() }
    }

    /// An extent of at least `n` slots.
    pub(crate) fn take(&mut self, n: u32) -> Option<Extent> {
        let want = n.max(1).checked_next_power_of_two()?.ilog2() as usize;
        let mut k = (want..self.free.len()).find(|&k| !self.free[k].is_empty())?;
        let start = self.free[k].pop_first()?;
        while k > want {
            k -= 1;
            self.free[k].insert(start + (1 << k));
        }
        self.left -= 1 << want;
        Some(Extent { start, size: 1 << want })
    }

    /// Gives an extent back and merges it with its twin as long as that is free.
    pub(crate) fn give(&mut self, extent: Extent) {
        self.left += extent.size;
        let (mut start, mut k) = (extent.start, extent.size.ilog2() as usize);
        while self.free[k].remove(&(start ^ (1 << k))) {
            start &= !(1 << k);
            k += 1;
        }
        self.free[k].insert(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a bitmap: extents never overlap, and an arena given everything back is whole again.
        #[test]
        fn extents_are_disjoint_and_merge_back(
            capacity in 1u32..5000,
            sizes in prop::collection::vec((1u32..600, any::<prop::sample::Index>()), 1..60),
        ) {
            let mut arena = Buddy::new(capacity);
            let fresh = arena.free.clone();
            let mut taken = vec![false; capacity as usize];
            let mut held: Vec<Extent> = Vec::new();
            for (n, which) in sizes {
                if let Some(e) = arena.take(n) {
                    prop_assert!(e.size >= n && e.size < 2 * n && e.start % e.size == 0);
                    for s in e.start..e.start + e.size {
                        prop_assert!(!std::mem::replace(&mut taken[s as usize], true));
                    }
                    held.push(e);
                } else if !held.is_empty() {
                    let e = held.swap_remove(which.index(held.len()));
                    taken[e.start as usize..(e.start + e.size) as usize].fill(false);
                    arena.give(e);
                }
                prop_assert_eq!(arena.left() as usize, taken.iter().filter(|t| !**t).count());
            }
            for e in held { arena.give(e); }
            prop_assert_eq!(arena.free, fresh);
        }
    }
}
