//! Block identities made from what is known of prompts: that they begin alike, or their very tokens.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Tokens per block of identities made here, unless told otherwise: fine enough for any engine's block.
pub(crate) const BLOCK_TOKENS: u32 = 16;

/// Tokens per hash id of Mooncake's traces, and of others unless a line says otherwise.
pub(crate) const MOONCAKE_BLOCK: u32 = 512;

/// Blocks met so far.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// The next identity of a block that no other request shares.
    next: u64,
    groups: HashMap<String, u64>,
    /// Blocks by their tokens and all before them.
    chains: HashMap<u64, u64>,
}

impl Identities {
    /// Blocks of a prompt of `input` tokens whose first `shared` are those of its group.
    pub(crate) fn of_group(&mut self, group: &str, shared: u32, input: u32, size: u32) -> Vec<u64> {
        let number = 1 + self.groups.len() as u64;
        let number = *self.groups.entry(group.to_owned()).or_insert(number);
        let shared = u64::from(shared / size);
        let own = u64::from(input.div_ceil(size)) - shared;
        let first = self.next;
        self.next += own;
        // Own blocks count up from 0, those of a group from 2^40 times its number.
        (0..shared).map(|block| (number << 40) + block).chain(first..first + own).collect()
    }

    /// Blocks of a sequence of `tokens`, the same for the same beginning.
    pub(crate) fn of_tokens(&mut self, tokens: impl Iterator<Item = u64>, size: u32) -> Vec<u64> {
        let (mut chain, mut ids, mut filled) = (DefaultHasher::new(), Vec::new(), 0);
        let mut close = |chain: &DefaultHasher| {
            let fresh = self.chains.len() as u64;
            *self.chains.entry(chain.finish()).or_insert(fresh)
        };
        for token in tokens {
            token.hash(&mut chain);
            filled += 1;
            if filled == size {
                ids.push(close(&chain));
                filled = 0;
            }
        }
        if filled > 0 {
            ids.push(close(&chain));
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_shared_and_ends_are_not() {
        let mut made = Identities::default();
        let [a, b, c] = [("x", 40), ("x", 40), ("y", 40)].map(|(g, n)| made.of_group(g, 33, n, 16));
        assert_eq!((a.len(), &a[..2]), (3, &b[..2]));
        assert!(a[2] != b[2] && a.iter().all(|id| !c.contains(id)));
        let [a, b, c] = [40, 48, 100].map(|n| made.of_tokens(0..n, 16));
        assert_eq!((a.len(), b.len(), c.len()), (3, 3, 7));
        assert_eq!((&a[..2], &b[..]), (&b[..2], &c[..3]));
        assert_ne!(a[2], b[2]);
    }
}
