//! What an executed plan changes: lengths, branches, ends; and how often a plan may be executed before anything else
//! would.

use super::{Refusal, State};
use crate::config::SchedulerKind;
use crate::event::{BranchToken, Event, Iteration};
use crate::kv::waste::Growth;
use crate::plan::{Plan, WorkerId};
use crate::request::{Content, Token};
use crate::sequence::{ALONE, Place, SeqId, Sequence};

impl State {
    /// Whether nobody who waits for `worker` can start before something changes there.
    fn is_closed(&self, worker: WorkerId) -> bool {
        if !self.workers[worker].incoming.is_empty() {
            return false;
        }
        let admits = match self.config.scheduler {
            SchedulerKind::Static => false,
            SchedulerKind::Disagg if !self.bridge.is_empty() => return false,
            SchedulerKind::Disagg => self.is_prefill_worker(worker),
            SchedulerKind::Continuous | SchedulerKind::Chunked => true,
        };
        !admits
            || self.waiting.is_empty()
            || match self.workers[worker].refusal {
                Refusal::Seats => true,
                Refusal::Kv => !self.config.prefix_cache,
                Refusal::None => false,
            }
    }

    /// How many times `plan` may be repeated without anything but lengths changing: everybody decodes, nobody ends,
    /// nobody can join, and memory suffices.
    #[must_use]
    pub fn repeats(&self, plan: &Plan, worker: WorkerId) -> u32 {
        let w = &self.workers[worker];
        if plan.preempted || self.config.pp > 1 || !self.is_closed(worker) {
            return 1;
        }
        let (mut left, mut room, mut running) = (u32::MAX, u32::MAX, 0);
        for &id in &w.running {
            let seq = self.seq(id);
            if seq.place == Place::Ended {
                continue;
            }
            if seq.in_flight != 1 || !seq.decodes() || !seq.fated {
                return 1;
            }
            // Who publishes a block of equal content first must not depend on how steps are grouped.
            if self.config.prefix_cache && seq.covered > seq.computed {
                return 1;
            }
            running += 1;
            left = left.min(seq.end - seq.len);
            room = room.min(seq.slots - seq.computed);
        }
        // Blocks taken on the way push cached ones out, which a queue ordered by what is cached could see.
        if !self.waiting.wants_cached() {
            let headroom = w.kv.headroom();
            room = room.max(headroom.blocks / running.max(1) * headroom.block);
        }
        left.min(room).max(1)
    }

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
        self.growth.clear();
        self.growth.resize(steps as usize, Growth::default());
        let block = self.workers[worker].kv.headroom().block;
        let mut tokens = tokens.iter().copied();
        let mut ended = std::mem::take(&mut self.ended);
        for chunk in &plan.chunks {
            let id = chunk.seq;
            let seq = &mut self.seqs[id as usize];
            let (before, extra) = (seq.computed, steps - 1);
            seq.in_flight = 0;
            seq.computed += chunk.n + extra;
            seq.reached = seq.reached.max(seq.computed);
            let emits = seq.computed - extra == seq.len;
            if seq.computed > seq.slots {
                self.grow_late(id, before + chunk.n, block);
            }
            self.workers[worker].held += u64::from(extra);
            self.load -= u64::from(chunk.n + extra);
            let seq = &self.seqs[id as usize];
            if block > 0 && seq.computed / block != before / block {
                self.workers[worker].kv.commit(id, seq, before);
            }
            let over = emits && self.emit(id, steps, &mut tokens, out);
            if over || self.seqs[id as usize].cut {
                ended.push(id);
            }
        }
        let before = self.config.async_scheduling.then(|| self.free(worker));
        for id in ended.drain(..) {
            self.finish(id);
        }
        if let Some(before) = before {
            let after = self.free(worker);
            self.workers[worker].late = (before.0 - after.0, after.1.saturating_sub(before.1));
        }
        self.ended = ended;
        self.end_batch(worker);
    }

    /// Seats taken, and slots free.
    fn free(&self, worker: WorkerId) -> (u32, u32) {
        let (w, usage) = (&self.workers[worker], self.workers[worker].kv.usage());
        (w.seats, usage.capacity - usage.taken)
    }

    /// Takes the slots that `id` grew into during a stretch, and notes at which step.
    fn grow_late(&mut self, id: SeqId, first: u32, block: u32) {
        let seq = &self.seqs[id as usize];
        let (mut slots, end, worker) = (seq.slots, seq.end, seq.worker as usize);
        let held = self.workers[worker].kv.grow(id, seq, seq.computed);
        let held = held.expect("a stretch is no longer than memory allows");
        while slots < held {
            let grown = (slots + block).min(held);
            let step = &mut self.growth[(slots + 1 - first) as usize];
            step.slots += grown - slots;
            step.beyond += grown.saturating_sub(end) - slots.saturating_sub(end);
            slots = grown;
        }
        self.set_slots(id, held);
    }

    /// Appends what `id` sampled; returns whether it ends.
    fn emit(
        &mut self,
        id: SeqId,
        steps: u32,
        tokens: &mut impl Iterator<Item = Token>,
        out: &mut Iteration,
    ) -> bool {
        let seq = &mut self.seqs[id as usize];
        if seq.cut && seq.len < seq.end {
            // What was sampled for it belongs to nobody.
            let branches = if seq.forks() { usize::from(seq.width) } else { 1 };
            tokens.take(branches).for_each(drop);
            return true;
        }
        if seq.together && seq.len < seq.end {
            // Which token follows is for the search to say.
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
        self.seq(id).len >= self.seq(id).end
    }

    /// The prompt of a request of several branches is computed: the others start from it.
    fn fork(&mut self, id: SeqId, tokens: &mut impl Iterator<Item = Token>, out: &mut Iteration) {
        self.seqs[id as usize].forked = true;
        let parent = self.seq(id).clone();
        for branch in 1..parent.width {
            let mut seq = Sequence { branch, slots: 0, place: Place::Running, ..parent.clone() };
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

    /// Whoever of `group` writes next must ask, because the last block may be shared now.
    pub(super) fn share(&mut self, group: u32) {
        let members = self.groups[group as usize].members.clone();
        for member in members {
            if self.seq(member).place == Place::Running {
                let computed = self.seq(member).computed;
                self.set_slots(member, computed);
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
            // Who waits holds neither a seat nor memory.
            Place::Waiting | Place::Parked => self.discard(id),
            Place::Running if self.config.scheduler == SchedulerKind::Static => {
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

    /// A static batch whose every member has ended gives its seats and memory back.
    pub(super) fn end_batch(&mut self, worker: WorkerId) {
        let running = &self.workers[worker].running;
        if running.iter().all(|&id| self.seq(id).place == Place::Ended) {
            for id in running.clone() {
                self.forget(id);
            }
        }
    }
}
