//! The changes that an executed plan makes: lengths, branches, ends.

use super::State;
use crate::event::{BranchToken, Event, Iteration};
use crate::kv::Growing;
use crate::plan::{Plan, Role, WorkerId};
use crate::request::{Content, Token};
use crate::sequence::{ALONE, Place, SeqId, Sequence};

impl State {
    /// The plan was executed `steps` times; `tokens` are the sampled ones, when they are real, in the order of its
    /// chunks (`width` of them where a prompt with several branches ends).
    pub fn commit(
        &mut self,
        worker: WorkerId,
        plan: &Plan,
        steps: u32,
        tokens: &[Token],
        out: &mut Iteration,
    ) {
        self.begin_growth(steps);
        let Growing { block, in_turn } = self.workers[worker].growing;
        if in_turn && steps > 1 {
            self.grow_in_turn(worker, plan, steps);
        }
        let (extra, sequences) = (steps - 1, plan.chunks.len() as u64);
        self.workers[worker].held += u64::from(extra) * sequences;
        self.load -= u64::from(plan.tokens) + u64::from(extra) * sequences;
        let mut tokens = tokens.iter().copied().peekable();
        let mut ended = std::mem::take(&mut self.ended);
        for chunk in &plan.chunks {
            let id = chunk.seq;
            let seq = &self.seqs[id as usize];
            let before = seq.computed;
            let emits = seq.samples_after(before + chunk.n);
            let drafted = seq.drafted;
            let right = if drafted > 0 { self.settle_draft(id, &mut tokens) } else { 0 };
            let n = chunk.n - (drafted - right);
            let seq = &mut self.seqs[id as usize];
            seq.in_flight = 0;
            seq.computed += n + extra;
            seq.reached = seq.reached.max(seq.computed);
            if seq.computed > seq.slots {
                self.grow_late(id, before + n, block);
            }
            if drafted > 0 {
                self.keep_drafted(id, right, out);
            }
            let seq = &self.seqs[id as usize];
            // Only the last step of a stretch: blocks that the others fill could not be met.
            let last = seq.computed - n;
            if block > 0 && last % block + n >= block {
                self.workers[worker].kv.commit(id, seq, last);
            }
            let over = emits && self.emit(id, steps, &mut tokens, out);
            if over || self.seqs[id as usize].cut {
                ended.push(id);
            }
        }
        if !ended.is_empty() {
            self.give_back_late(worker, |state| ended.drain(..).for_each(|id| state.finish(id)));
        }
        self.ended = ended;
        self.end_batch(worker);
        if self.workers[worker].role == Role::Prefill {
            self.hand_over(worker, plan);
        }
    }

    /// Appends the token that `id` sampled; returns true if it ends.
    #[inline]
    fn emit(
        &mut self,
        id: SeqId,
        steps: u32,
        tokens: &mut impl Iterator<Item = Token>,
        out: &mut Iteration,
    ) -> bool {
        let seq = &mut self.seqs[id as usize];
        if seq.cut && seq.len < seq.end {
            // The tokens sampled for it are dropped.
            let branches = if seq.forks() { usize::from(seq.width) } else { 1 };
            tokens.take(branches).for_each(drop);
            return true;
        }
        if seq.together && seq.len < seq.end {
            // The search says which token follows.
            tokens.next();
            self.hold(id, out);
            return false;
        }
        if seq.len < seq.end {
            if seq.branch == 0 {
                out.emitted.push(seq.request);
            } else {
                out.branch_tokens += steps;
            }
            seq.len += steps;
            if let Some(token) = tokens.next() {
                seq.tokens.push(token);
                if seq.branch == 0 {
                    out.tokens.push(token);
                } else {
                    let (request, branch) = (seq.request, seq.branch);
                    out.branches.push(BranchToken { request, branch, token });
                }
            }
            if seq.forks() {
                self.fork(id, tokens, out);
            }
        }
        let seq = &self.seqs[id as usize];
        seq.len >= seq.end
    }

    /// The prompt of a request of several branches is computed: the others start from it.
    fn fork(&mut self, id: SeqId, tokens: &mut impl Iterator<Item = Token>, out: &mut Iteration) {
        self.seqs[id as usize].forked = true;
        let parent = self.seq(id).clone();
        for branch in 1..parent.width {
            let mut seq =
                Sequence { branch, slots: 0, beyond: 0, place: Place::Running, ..parent.clone() };
            out.branch_tokens += 1;
            if let (Some(token), Some(last)) = (tokens.next(), seq.tokens.last_mut()) {
                *last = token;
                out.branches.push(BranchToken { request: parent.request, branch, token });
            }
            if seq.len < seq.end {
                self.branch_off(id, seq);
            }
        }
        self.share(parent.group);
    }

    /// A new branch, as `child` is, from `parent`, whose computed tokens it begins with.
    pub(super) fn branch_off(&mut self, parent: SeqId, child: Sequence) {
        let (group, worker, computed) =
            (child.group as usize, child.worker as usize, child.computed);
        let runs = child.place == Place::Running;
        self.load += u64::from(child.end);
        let id = self.insert(child);
        self.groups[group].members.push(id);
        self.groups[group].live += 1;
        let spare = self.spare(worker);
        let w = &mut self.workers[worker];
        let forked = runs.then(|| w.kv.fork(parent, id, &self.seqs[parent as usize], spare));
        match forked {
            Some(Ok(slots)) => {
                w.held += u64::from(computed);
                self.load -= u64::from(computed);
                w.running.push(id);
                self.groups[group].seated += 1;
                self.set_slots(id, slots);
            }
            _ => {
                self.seqs[id as usize].computed = 0;
                self.wait(id);
            }
        }
    }

    /// The last block of `group` may be shared now: each member must ask before it writes.
    pub(super) fn share(&mut self, group: u32) {
        let members = self.groups[group as usize].members.clone();
        for member in members {
            if self.seq(member).place == Place::Running {
                let computed = self.seq(member).computed;
                self.set_slots_to(member, computed, 0);
            }
        }
    }

    pub(super) fn finish(&mut self, id: SeqId) {
        let (request, group) = (self.seq(id).request, self.seq(id).group);
        let last = match group {
            ALONE => true,
            g => {
                self.groups[g as usize].live -= 1;
                self.groups[g as usize].live == 0
            }
        };
        if last {
            self.events.push(Event::Finished { request });
        }
        match self.seq(id).place {
            // A waiting sequence holds neither a seat nor memory.
            Place::Waiting | Place::Parked => self.discard(id),
            Place::Running if self.closed_batches => {
                self.seqs[id as usize].place = Place::Ended;
            }
            _ => self.forget(id),
        }
    }

    pub(super) fn forget(&mut self, id: SeqId) {
        self.leave(id, false);
        self.discard(id);
    }

    pub(super) fn discard(&mut self, id: SeqId) {
        let seq = &mut self.seqs[id as usize];
        self.load -= u64::from(seq.end);
        self.unstarted -= u32::from(!seq.started);
        seq.place = Place::Ended;
        (seq.content, seq.tokens) = (Content::Private, Vec::new());
        (seq.end, seq.len) = (0, 0);
        let group = seq.group;
        self.unused.push(id);
        if group != ALONE {
            let members = &mut self.groups[group as usize].members;
            members.retain(|&m| m != id);
            if members.is_empty() {
                self.unused_groups.push(group);
            }
        }
    }

    /// A closed batch whose every member has ended gives its seats and memory back.
    pub(super) fn end_batch(&mut self, worker: WorkerId) {
        let running = &self.workers[worker].running;
        if running.iter().all(|&id| self.seq(id).place == Place::Ended) {
            for id in running.clone() {
                self.forget(id);
            }
        }
    }
}
