//! Branches that go on together, by tokens chosen from outside: the effect of a beam search on sequences.
//!
//! A branch is held once it is computed; when all are, the search says how each goes on. A held branch keeps its memory
//! while the others are being computed, but not while one of them waits for memory: then it is parked, and is computed
//! again when the group goes on. So no group waits for memory that it holds itself.

use super::State;
use crate::event::{Event, Iteration};
use crate::plan::WorkerId;
use crate::request::{RequestId, Token};
use crate::sequence::{ALONE, Place, SeqId, Sequence};

impl State {
    /// `id` is computed. Tells when all of its group are.
    pub(super) fn hold(&mut self, id: SeqId, out: &mut Iteration) {
        self.seqs[id as usize].held = true;
        let seq = self.seq(id);
        let others = || self.groups[seq.group as usize].members.iter().map(|&m| self.seq(m));
        if others().all(|other| other.held) {
            out.settled.push(seq.request);
        } else if others().any(|other| other.place == Place::Waiting) {
            self.park(id);
        }
    }

    /// Takes the memory and the seat of a held sequence, which stays out of the queue.
    pub(super) fn park(&mut self, id: SeqId) {
        self.leave(id, true);
        self.seqs[id as usize].place = Place::Parked;
        let request = self.seq(id).request;
        self.events.push(Event::Preempted { request });
    }

    /// Parks those of the group of `id`, which waits now, that are held.
    pub(super) fn park_held(&mut self, id: SeqId) {
        let group = self.seq(id).group;
        if group == ALONE || !self.seq(id).together {
            return;
        }
        for other in self.groups[group as usize].members.clone() {
            if self.seq(other).held && self.seq(other).place == Place::Running {
                self.park(other);
            }
        }
    }

    /// The branches of `request`, all of them held, go on: branch `n` becomes a copy of branch `next[n].0` with the
    /// token `next[n].1` after it. Branches that `next` does not name end.
    pub fn choose(&mut self, request: RequestId, next: &[(u16, Token)]) {
        let living = self.living(request, None);
        let held = living.iter().all(|&id| self.seq(id).held);
        assert!(held && !next.is_empty(), "request {request} is settled, and goes on");
        let parents: Vec<(u16, SeqId)> =
            living.iter().map(|&id| (self.seq(id).branch, id)).collect();
        for &(branch, id) in &parents {
            if next.iter().all(|n| n.0 != branch) {
                self.drop_branch(id);
            }
        }
        let mut heirs: Vec<(SeqId, u16, Token)> = Vec::new();
        for (branch, &(from, token)) in (0u16..).zip(next) {
            let Some(&(_, parent)) = parents.iter().find(|p| p.0 == from) else { continue };
            if heirs.iter().all(|&(id, ..)| id != parent) {
                heirs.push((parent, branch, token));
                continue;
            }
            let mut child = Sequence { slots: 0, beyond: 0, ..self.seq(parent).clone() };
            go_on(&mut child, branch, token);
            self.branch_off(parent, child);
        }
        // Only now, because the others begin as copies of these.
        for &(id, branch, token) in &heirs {
            go_on(&mut self.seqs[id as usize], branch, token);
            if self.seq(id).place == Place::Parked {
                self.wait(id);
            }
        }
        self.share(self.seq(heirs[0].0).group);
    }

    /// Ends a branch that the search gave up, under every scheduler: it is no member of a batch that waits for others.
    fn drop_branch(&mut self, id: SeqId) {
        let group = self.seq(id).group as usize;
        self.groups[group].live -= 1;
        if self.seq(id).place != Place::Running {
            self.discard(id);
            return;
        }
        let worker = self.seq(id).worker as WorkerId;
        self.forget(id);
        // It may have been the batch's last, if its heirs are parked.
        self.end_batch(worker);
    }
}

fn go_on(seq: &mut Sequence, branch: u16, token: Token) {
    (seq.branch, seq.held) = (branch, false);
    seq.len += 1;
    seq.tokens.push(token);
}
