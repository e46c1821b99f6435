//! The verbs `admit` and `extend`, by which a policy starts sequences and gives them tokens.
//!
//! `extend` is the only loop that preempts, and the only one that walks the running list while sequences may leave it.

use std::time::Duration;

use super::{Refusal, State};
use crate::config::{PromptKv, Victim};
use crate::event::Event;
use crate::plan::{Plan, WorkerId};
use crate::sequence::{ALONE, Place, SeqId, Sequence};

impl State {
    /// Starts the head of the queue on `worker`, if there is a seat and room, with `n` tokens of the plan at most (0 =
    /// it only takes its seat). Returns the tokens planned.
    pub fn admit(
        &mut self,
        worker: WorkerId,
        plan: &mut Plan,
        n: u32,
        now: Duration,
    ) -> Option<u32> {
        let id = self.waiting.head()?;
        let seq = &self.seqs[id as usize];
        let group = seq.group;
        let seats = match group {
            ALONE => 1,
            g if self.groups[g as usize].seated > 0 => 0,
            _ => u32::from(seq.width),
        };
        let late = self.late(worker);
        if self.workers[worker].seats + late.seats + seats > self.config.max_seqs {
            self.workers[worker].refusal = Refusal::Seats;
            return None;
        }
        let spare = self.spare(worker).saturating_add(late.slots);
        let first = match self.config.prompt_kv {
            PromptKv::Chunk if n > 0 => n,
            PromptKv::Chunk | PromptKv::Whole => u32::MAX,
        };
        let w = &mut self.workers[worker];
        let Ok(opened) = w.kv.open(id, seq, first, spare) else {
            w.refusal = Refusal::Kv;
            return None;
        };
        self.waiting.pop();
        w.running.push(id);
        w.seats += seats;
        w.held += u64::from(opened.hit);
        self.load -= u64::from(opened.hit);
        let seq = &mut self.seqs[id as usize];
        seq.place = Place::Running;
        seq.worker = worker as u32;
        seq.computed = opened.hit;
        let (request, first_time) = (seq.request, seq.reached == 0 && seq.branch == 0);
        self.unstarted -= u32::from(!std::mem::replace(&mut seq.started, true));
        seq.reached = seq.reached.max(opened.hit);
        if group != ALONE {
            self.groups[group as usize].seated += 1;
        }
        self.set_slots(id, opened.slots);
        if first_time {
            self.events.push(Event::Admitted { request, hit: opened.hit, at: now });
        }
        let n = n.min(self.seqs[id as usize].todo());
        if n > 0 {
            self.take(plan, id, n);
        }
        Some(n)
    }

    /// `id` holds slots for its first `slots` tokens.
    pub(super) fn set_slots(&mut self, id: SeqId, slots: u32) {
        let seq = &self.seqs[id as usize];
        let w = &self.workers[seq.worker as usize];
        let beyond = match w.growing.in_turn {
            true => w.kv.beyond(id, seq.end),
            false => slots.saturating_sub(seq.end),
        };
        self.set_slots_to(id, slots, beyond);
    }

    /// The same, where so many of its slots lie beyond its end.
    pub(super) fn set_slots_to(&mut self, id: SeqId, slots: u32, beyond: u32) {
        let seq = &mut self.seqs[id as usize];
        let w = &mut self.workers[seq.worker as usize];
        w.beyond = w.beyond + u64::from(beyond) - u64::from(seq.beyond);
        (seq.slots, seq.beyond) = (slots, beyond);
    }

    fn take(&mut self, plan: &mut Plan, id: SeqId, n: u32) {
        let seq = &mut self.seqs[id as usize];
        seq.in_flight = n;
        if seq.drafted > 0 {
            seq.shorten_draft(n - 1);
        }
        self.workers[seq.worker as usize].held += u64::from(n);
        plan.take(id, n);
    }

    /// Gives every running sequence that is free the tokens it wants, in order and within `budget`, preempting where
    /// KV runs out. With `whole`, a want is met entirely or not at all, unless it is the plan's first.
    pub fn extend(
        &mut self,
        worker: WorkerId,
        plan: &mut Plan,
        budget: u32,
        whole: bool,
        want: impl Fn(&Sequence) -> u32,
    ) {
        // Micro-batches of a pipeline share the running sequences out evenly.
        let pp = self.config.pp as usize;
        let share = self.workers[worker].running.len().div_ceil(pp).max(1);
        // Where all have their tokens, none is left to ask.
        let all = plan.chunks.len() == self.workers[worker].running.len();
        let mut at = if all { plan.chunks.len() } else { 0 };
        while at < self.workers[worker].running.len() && plan.tokens < budget {
            let id = self.workers[worker].running[at];
            at += 1;
            let seq = &self.seqs[id as usize];
            if !seq.free() || (pp > 1 && plan.chunks.len() >= share) {
                continue;
            }
            let room = budget - plan.tokens;
            let mut n = want(seq);
            if n > room {
                n = if !whole || seq.decodes() {
                    room
                } else if plan.is_idle() {
                    n
                } else {
                    0
                };
            }
            if n == 0 {
                continue;
            }
            let n = self.fit_draft(id, n);
            let seq = &self.seqs[id as usize];
            if seq.computed + n > seq.slots {
                let Some(next) = self.secure(worker, id, n, plan, at) else { return };
                at = next;
                if self.seq(id).place != Place::Running {
                    continue;
                }
            }
            self.take(plan, id, n);
        }
    }

    /// Makes room for `n` more tokens of `id`, preempting others and at last itself. Returns where `extend` goes on in
    /// the running list, or nothing when all have to wait for memory that is about to be given back.
    fn secure(
        &mut self,
        worker: WorkerId,
        id: SeqId,
        n: u32,
        plan: &mut Plan,
        mut next: usize,
    ) -> Option<usize> {
        loop {
            let seq = &self.seqs[id as usize];
            if let Ok(slots) = self.workers[worker].kv.grow(id, seq, seq.computed + n) {
                self.set_slots(id, slots);
                return Some(next);
            }
            plan.full = true;
            let victim = self.victim(worker)?;
            let alone = victim == id && self.workers[worker].running.len() == 1;
            if self.is_flying(victim, plan) || (alone && self.others_hold(worker)) {
                return None;
            }
            let before = self.workers[worker].running[..next].to_vec();
            self.preempt(victim, plan);
            next = before.iter().filter(|&&s| self.seq(s).place == Place::Running).count();
            if self.seq(id).place != Place::Running {
                return Some(next);
            }
        }
    }

    /// True if memory of `worker` is held by sequences that are not in its running list.
    fn others_hold(&self, worker: WorkerId) -> bool {
        !self.workers[worker].incoming.is_empty()
            || self.seqs.iter().any(|s| {
                s.worker as usize == worker && matches!(s.place, Place::Bridge | Place::Moving)
            })
    }

    /// True if a plan submitted before this one is computing tokens of `id`.
    fn is_flying(&self, id: SeqId, plan: &Plan) -> bool {
        self.seq(id).in_flight > 0 && !plan.chunks.iter().any(|c| c.seq == id)
    }

    /// The sequence that gives way on `worker`. Sequences in flight are not passed over: the next best might be the one
    /// that got furthest, and two that take turns at giving way would never end.
    fn victim(&self, worker: WorkerId) -> Option<SeqId> {
        let running = self.workers[worker].running.iter().copied().rev();
        let mut candidates = running.filter(|&id| self.seq(id).place == Place::Running);
        match self.config.victim {
            Victim::Last => candidates.next(),
            Victim::Priority => candidates.min_by_key(|&id| self.seq(id).priority),
            Victim::LeastComputed => candidates.min_by_key(|&id| self.seq(id).computed),
        }
    }

    /// Takes a sequence off its worker and back into the queue. Other branches of its request stay: they keep the
    /// blocks they share with it.
    fn preempt(&mut self, id: SeqId, plan: &mut Plan) {
        (plan.preempted, plan.full) = (true, true);
        plan.drop_seq(id);
        let (request, worker) = (self.seq(id).request, self.seq(id).worker as usize);
        if self.seq(id).held {
            self.park(id);
        } else {
            self.leave(id, true);
            self.wait(id);
            self.events.push(Event::Preempted { request });
            self.park_held(id);
        }
        self.end_batch(worker);
    }

    /// Frees a running sequence's KV and its seat.
    pub(super) fn leave(&mut self, id: SeqId, again: bool) {
        let seq = &mut self.seqs[id as usize];
        let w = &mut self.workers[seq.worker as usize];
        w.held -= u64::from(seq.computed + seq.in_flight);
        self.load += u64::from(seq.computed);
        seq.in_flight = 0;
        seq.shorten_draft(0);
        w.kv.close(id, seq, again);
        if let Some(at) = w.running.iter().position(|&s| s == id) {
            w.running.remove(at);
        }
        self.set_slots_to(id, 0, 0);
        self.give_seat(id);
        self.seqs[id as usize].computed = 0;
    }

    fn give_seat(&mut self, id: SeqId) {
        let seq = &self.seqs[id as usize];
        let seats = match seq.group {
            ALONE => 1,
            g => {
                let group = &mut self.groups[g as usize];
                group.seated -= 1;
                if group.seated == 0 { u32::from(seq.width) } else { 0 }
            }
        };
        self.workers[seq.worker as usize].seats -= seats;
    }
}
