//! Equal beginnings: the pages of a sequence that are in the pool already, and those of its own that may be found
//! later.
//!
//! A full page becomes shareable when its tokens have been computed, never before, under a key chained over everything
//! in front of it and of its group alone. A beginning is found where every group has the pages that the next token
//! sees: layers that keep all tokens every page of it, layers with a window the last ones. Pages whose key is the
//! sequence's own are published only when it is preempted: no other sequence could meet them.

use super::{NONE, Paged};
use crate::kv::group::Reach;
use crate::request::{BlockKey, ROOT, Token};
use crate::sequence::{SeqId, Sequence};

/// The tokens of page `index` of `block`, when they are known.
fn tokens_of(seq: &Sequence, index: u32, block: u32) -> &[Token] {
    if seq.tokens.is_empty() {
        return &[];
    }
    &seq.tokens[(index * block) as usize..((index + 1) * block) as usize]
}

/// Tells the keys of groups apart; nothing for the first.
fn tag(group: usize) -> BlockKey {
    (group as BlockKey).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Paged {
    /// The tokens of the longest beginning of `seq` that is cached, up to its last token but one; `found` are its
    /// pages by group.
    pub(super) fn find_prefix(&self, seq: &Sequence, found: &mut [Vec<u32>]) -> u32 {
        let own = seq.reached > 0;
        let mut end = seq.len - 1;
        for (g, (group, found)) in self.groups.iter().zip(found.iter_mut()).enumerate() {
            found.clear();
            let mut parent = ROOT;
            for index in 0..end / group.block {
                if !(own || seq.is_shared_block(index, group.block)) {
                    break;
                }
                let key = seq.block_key(parent, index, group.block);
                match self.pool.find(key ^ tag(g), tokens_of(seq, index, group.block)) {
                    Some(page) => found.push(page),
                    None if group.reach == Reach::All => break,
                    None => found.push(NONE),
                }
                parent = key;
            }
            end = found.len() as u32 * group.block;
        }
        self.last_complete(end, found)
    }

    /// The most tokens, `end` at most, before which no group misses a page that the next token sees.
    fn last_complete(&self, mut end: u32, found: &[Vec<u32>]) -> u32 {
        let whole = |end: u32| end - end % self.pool.size();
        if self.groups.len() == 1 && self.groups[0].reach == Reach::All {
            return end;
        }
        end = whole(end);
        'shorter: while end > 0 {
            for (group, found) in self.groups.iter().zip(found) {
                let seen = group.behind(end)..end / group.block;
                if let Some(missing) = seen.rev().find(|&i| found[i as usize] == NONE) {
                    end = whole(missing * group.block);
                    continue 'shorter;
                }
            }
            break;
        }
        end
    }

    /// Gives page `index` of `id` in `group`, which is full, its key.
    fn hash(&mut self, id: SeqId, seq: &Sequence, group: usize, index: u32) -> u32 {
        let (pages, block) = (&self.tables[self.at(id, group)], self.groups[group].block);
        let page = pages.list[index as usize];
        if self.pool.key(page) == 0 {
            // The page before is held, or no key depends on it: the sequence's own, or of a window of one token.
            let parent = match index.checked_sub(1) {
                Some(before) if before >= pages.first => {
                    self.pool.key(pages.list[before as usize]) ^ tag(group)
                }
                _ => ROOT,
            };
            let key = seq.block_key(parent, index, block);
            self.pool.fill(page, key ^ tag(group), tokens_of(seq, index, block));
        }
        page
    }

    /// Lets others find the pages that were filled since `before` tokens were computed.
    pub(super) fn publish(&mut self, id: SeqId, seq: &Sequence, before: u32) {
        for g in 0..self.groups.len() {
            let block = self.groups[g].block;
            let filled = before / block..seq.computed / block;
            for index in filled.take_while(|&index| seq.is_shared_block(index, block)) {
                let page = self.hash(id, seq, g, index);
                self.pool.publish(page);
            }
        }
    }

    /// `id` ends: lets itself find its full pages if it comes `again`; otherwise withdraws those that will not be asked
    /// for.
    pub(super) fn keep_or_withdraw(&mut self, id: SeqId, seq: &Sequence, again: bool) {
        for g in 0..self.groups.len() {
            let (block, at) = (self.groups[g].block, self.at(id, g));
            let first = self.tables[at].first;
            if again {
                for index in first..seq.computed / block {
                    let page = self.hash(id, seq, g, index);
                    self.pool.publish(page);
                }
                continue;
            }
            for (index, &page) in (first..).zip(self.tables[at].held()) {
                if !seq.may_be_met(index, block) {
                    self.pool.withdraw(page);
                }
            }
        }
    }
}
