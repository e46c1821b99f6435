//! Pages taken as a sequence grows (PagedAttention, SOSP '23), by groups of layers, optionally shared between equal
//! beginnings.
//!
//! Most models are one group of layers that keep every token. In others a window's pages are given back behind it, and
//! linear layers take one page for their state. A page held by several tables is copied by the first to write to it.

mod prefix;
#[cfg(test)]
mod tests;

use super::group::{Group, Reach};
use super::pool::Pool;
use super::{Full, Growing, KvAllocator, KvCopy, Opened, Table, Usage};
use crate::sequence::{SeqId, Sequence};

/// Paged KV.
#[derive(Debug)]
pub struct Paged {
    pool: Pool,
    groups: Vec<Group>,
    /// Slots of a token in each group; of a state, 0.
    weights: Vec<u32>,
    /// Slots of a token in all groups together.
    token: u32,
    growing: Growing,
    /// Groups that grow.
    grow: u32,
    /// True where pages fall behind windows.
    slides: bool,
    /// Most tokens of one sequence that an iteration computes.
    chunk: u32,
    prefix_cache: bool,
    /// By sequence and group.
    tables: Vec<Pages>,
    copies: Vec<KvCopy>,
    /// By group: the pages of a prefix that was found.
    found: Vec<Vec<u32>>,
    /// Slots that sequences have left behind their windows.
    behind: u64,
    /// Slots of states.
    states: u32,
}

/// The page list of a sequence in a group.
#[derive(Debug, Default)]
struct Pages {
    /// Those before `first` are given back.
    list: Vec<u32>,
    first: u32,
}

impl Pages {
    fn len(&self) -> u32 {
        self.list.len() as u32
    }

    fn held(&self) -> &[u32] {
        &self.list[self.first as usize..]
    }
}

/// Stands for a page that is not held.
const NONE: u32 = u32::MAX;

impl Paged {
    /// `capacity` slots in pages of `block` tokens, all layers alike; a remainder is left out.
    #[must_use]
    pub fn new(capacity: u32, block: u32, prefix_cache: bool) -> Self {
        Self::grouped(capacity, &[Group::all(block)], u32::MAX, prefix_cache)
    }

    /// `capacity` slots for `groups`, of which a page has [`super::page_slots`]; an iteration computes at most `chunk`
    /// tokens of a sequence. No prefix is found where layers have a state: none is kept once it has been added to.
    #[must_use]
    pub fn grouped(capacity: u32, groups: &[Group], chunk: u32, prefix_cache: bool) -> Self {
        let size = super::page_slots(groups);
        let weight = |g: &Group| if g.keeps_tokens() { size / g.block } else { 0 };
        let weights: Vec<u32> = groups.iter().map(weight).collect();
        let growing = groups.iter().filter(|g| g.keeps_tokens());
        let slides = growing.clone().any(|g| g.reach != Reach::All);
        let block = growing.clone().map(|g| g.block).min().unwrap_or(size);
        let grow = growing.count() as u32;
        Self {
            pool: Pool::new(capacity / size, size),
            token: weights.iter().sum(),
            weights,
            growing: Growing { block, in_turn: slides || grow != 1 },
            grow: grow.max(1),
            slides,
            chunk,
            prefix_cache: prefix_cache && groups.iter().all(Group::keeps_tokens),
            tables: Vec::new(),
            copies: Vec::new(),
            found: vec![Vec::new(); groups.len()],
            behind: 0,
            states: 0,
            groups: groups.to_vec(),
        }
    }

    fn at(&self, id: SeqId, group: usize) -> usize {
        id as usize * self.groups.len() + group
    }

    /// Makes page lists for `id` exist.
    fn enter(&mut self, id: SeqId) {
        let end = self.at(id + 1, 0);
        if end > self.tables.len() {
            self.tables.resize_with(end, Pages::default);
        }
    }

    /// Takes the pages that `id` lacks in `group` for its first `len` tokens.
    fn extend(&mut self, id: SeqId, group: usize, len: u32) {
        let at = self.at(id, group);
        let list = &mut self.tables[at].list;
        let lacking = self.groups[group].end(len).saturating_sub(list.len() as u32);
        self.pool.take_into(lacking, list);
    }

    /// The page lists of `id` with their groups.
    fn lists(&self, id: SeqId) -> impl Iterator<Item = (&Group, &Pages)> {
        self.groups.iter().zip(&self.tables[self.at(id, 0)..])
    }

    /// Tokens that every group has pages for.
    fn covered(&self, id: SeqId) -> u32 {
        let tokens = self.lists(id).filter(|(group, _)| group.keeps_tokens());
        tokens.map(|(group, pages)| pages.len() * group.block).min().unwrap_or(u32::MAX)
    }

    /// Gives back the pages that no token of `id` from `computed` on sees.
    fn leave(&mut self, id: SeqId, computed: u32) {
        if !self.slides {
            return;
        }
        for g in 0..self.groups.len() {
            let (gone, at) = (self.groups[g].behind(computed), self.at(id, g));
            let pages = &mut self.tables[at];
            let first = pages.first;
            if gone > first {
                pages.first = gone;
                let left = &mut pages.list[first as usize..gone as usize];
                self.pool.release_all(left.iter().copied());
                left.fill(NONE);
                self.behind += u64::from(gone - first) * u64::from(self.pool.size());
            }
        }
    }

    /// True if the next token, after `computed` ones, goes into a page of `pages` that another table holds as well.
    fn writes_to_shared(&self, group: &Group, pages: &Pages, computed: u32) -> bool {
        computed < pages.len() * group.block
            && group.keeps_tokens()
            && self.pool.refs(pages.list[(computed / group.block) as usize]) > 1
    }

    /// Gives `id` pages of its own where its next token would be written to a shared one.
    fn copy_on_write(&mut self, id: SeqId, computed: u32) {
        for g in 0..self.groups.len() {
            let (group, at) = (self.groups[g], self.at(id, g));
            if !self.writes_to_shared(&group, &self.tables[at], computed) {
                continue;
            }
            let (size, new) = (self.pool.size(), self.pool.take());
            let index = (computed / group.block) as usize;
            let old = std::mem::replace(&mut self.tables[at].list[index], new);
            let len = computed % group.block * self.weights[g];
            self.copies.push(KvCopy { from: old * size, to: new * size, len });
            self.pool.release(old);
        }
    }
}

impl KvAllocator for Paged {
    fn capacity(&self) -> u32 {
        self.pool.total() * self.pool.size()
    }

    fn fits(&self, seq: &Sequence) -> bool {
        let len = seq.end.max(seq.len);
        let most = self.groups.iter().map(|g| u64::from(g.most(len, self.chunk)));
        most.sum::<u64>() <= u64::from(self.pool.total())
    }

    fn open(&mut self, id: SeqId, seq: &Sequence, first: u32, spare: u32) -> Result<Opened, Full> {
        let mut found = std::mem::take(&mut self.found);
        let hit = if self.prefix_cache { self.find_prefix(seq, &mut found) } else { 0 };
        // A window's pages are taken chunk by chunk: those of a whole prompt are never needed at once.
        let chunk = first.min(self.chunk);
        let target = |group: &Group| {
            let first = if group.reach == Reach::All { first } else { chunk };
            seq.len.min(hit.saturating_add(first))
        };
        let mut need = spare.div_ceil(self.pool.size());
        for (group, found) in self.groups.iter().zip(&found) {
            let kept = if hit == 0 { &[] } else { kept_pages(group, hit, found) };
            let revived = kept.iter().filter(|&&page| self.pool.refs(page) == 0).count() as u32;
            need +=
                revived + group.end(target(group)) - if hit == 0 { 0 } else { hit / group.block };
        }
        let room = need <= self.pool.free();
        if room {
            self.enter(id);
            for (g, found) in found.iter().enumerate() {
                let (group, at) = (self.groups[g], self.at(id, g));
                if hit > 0 {
                    let kept = kept_pages(&group, hit, found);
                    kept.iter().for_each(|&page| self.pool.share(page, self.pool.size()));
                    let gone = group.behind(hit);
                    self.tables[at].first = gone;
                    self.behind += u64::from(gone) * u64::from(self.pool.size());
                    self.tables[at].list.resize(gone as usize, NONE);
                    self.tables[at].list.extend_from_slice(kept);
                }
                self.states += if group.keeps_tokens() { 0 } else { self.pool.size() };
                self.extend(id, g, target(&group));
            }
        }
        self.found = found;
        if room { Ok(Opened { hit, slots: self.covered(id) }) } else { Err(Full) }
    }

    fn grow(&mut self, id: SeqId, seq: &Sequence, len: u32) -> Result<u32, Full> {
        self.leave(id, seq.computed);
        let (mut lacking, mut shared) = (0, 0);
        for (group, pages) in self.lists(id) {
            lacking += group.end(len).saturating_sub(pages.len());
            shared += u32::from(self.writes_to_shared(group, pages, seq.computed));
        }
        if lacking + shared > self.pool.free() {
            return Err(Full);
        }
        if shared > 0 {
            self.copy_on_write(id, seq.computed);
        }
        for g in 0..self.groups.len() {
            self.extend(id, g, len);
        }
        Ok(self.covered(id))
    }

    fn shrink(&mut self, id: SeqId, seq: &Sequence) -> u32 {
        for g in 0..self.groups.len() {
            let (end, at) = (self.groups[g].end(seq.computed), self.at(id, g));
            let pages = &mut self.tables[at].list;
            while pages.len() as u32 > end {
                self.pool.release_all(pages.pop().into_iter());
            }
        }
        self.covered(id)
    }

    fn fork(
        &mut self,
        parent: SeqId,
        child: SeqId,
        seq: &Sequence,
        spare: u32,
    ) -> Result<u32, Full> {
        let size = self.pool.size();
        let states = self.groups.iter().filter(|g| !g.keeps_tokens()).count() as u32;
        if states > 0 && states + spare.div_ceil(size) > self.pool.free() {
            return Err(Full);
        }
        self.enter(child);
        for g in 0..self.groups.len() {
            let (group, from, to) = (self.groups[g], self.at(parent, g), self.at(child, g));
            if !group.keeps_tokens() {
                let (old, new) = (self.tables[from].list[0], self.pool.take());
                self.copies.push(KvCopy { from: old * size, to: new * size, len: size });
                self.tables[to].list.push(new);
                self.states += size;
                continue;
            }
            let (first, whole) = (self.tables[from].first, group.end(seq.computed));
            let mut list = std::mem::take(&mut self.tables[to].list);
            list.extend_from_slice(&self.tables[from].list[..whole as usize]);
            for (index, &page) in (first..).zip(&list[first as usize..]) {
                let tokens = (seq.computed - index * group.block).min(group.block);
                self.pool.share(page, tokens * self.weights[g]);
            }
            self.behind += u64::from(first) * u64::from(size);
            self.tables[to] = Pages { list, first };
        }
        Ok(self.covered(child))
    }

    fn commit(&mut self, id: SeqId, seq: &Sequence, before: u32) {
        if self.prefix_cache {
            self.publish(id, seq, before);
        }
        // After a piece of a prompt, all of it but the window; otherwise when the next page is taken, so that no other
        // sequence takes its place.
        if seq.computed > before + 1 {
            self.leave(id, seq.computed);
        }
    }

    fn close(&mut self, id: SeqId, seq: &Sequence, again: bool) {
        let size = self.pool.size();
        if self.prefix_cache {
            self.keep_or_withdraw(id, seq, again);
        }
        for g in 0..self.groups.len() {
            let at = self.at(id, g);
            let mut pages = std::mem::take(&mut self.tables[at]);
            if !self.copies.is_empty() {
                // The next holder of a page must not find a copy in it that was meant for this one.
                let held = pages.held();
                let gone =
                    |c: &KvCopy| held.contains(&(c.to / size)) && self.pool.refs(c.to / size) == 1;
                self.copies.retain(|c| !gone(c));
            }
            // From the end, so that of a cached prefix the tail is given up first.
            self.pool.release_all(pages.held().iter().rev().copied());
            self.behind -= u64::from(pages.first) * u64::from(size);
            self.states -= if self.groups[g].keeps_tokens() { 0 } else { size };
            pages.list.clear();
            pages.first = 0;
            self.tables[at] = pages;
        }
    }

    fn beyond(&self, id: SeqId, end: u32) -> u32 {
        let beyond = |((group, pages), weight): ((&Group, &Pages), &u32)| {
            weight * (pages.len() * group.block).saturating_sub(end)
        };
        self.lists(id).zip(&self.weights).map(beyond).sum()
    }

    fn table(&self, id: SeqId) -> Table<'_> {
        Table::Blocks(&self.tables[self.at(id, 0)].list, self.groups[0].block)
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
            token: self.token,
            states: self.states,
            behind: self.behind,
        }
    }

    fn growing(&self) -> Growing {
        self.growing
    }

    fn headroom(&self) -> u32 {
        self.pool.free() / self.grow
    }

    fn lookup(&self, seq: &Sequence) -> u32 {
        let mut found = vec![Vec::new(); self.groups.len()];
        if self.prefix_cache { self.find_prefix(seq, &mut found) } else { 0 }
    }

    fn check(&self) {
        let mut held = vec![0; self.pool.total() as usize];
        for &page in self.tables.iter().flat_map(Pages::held) {
            held[page as usize] += 1;
        }
        self.pool.check(&held);
        let behind: u64 = self.tables.iter().map(|pages| u64::from(pages.first)).sum();
        assert_eq!(behind * u64::from(self.pool.size()), self.behind, "slots behind windows");
    }
}

/// The pages of a prefix of `hit` tokens that its next token may see.
fn kept_pages<'a>(group: &Group, hit: u32, found: &'a [u32]) -> &'a [u32] {
    &found[group.behind(hit) as usize..(hit / group.block) as usize]
}
