//! Stretches: one plan executed many times, where only lengths change from step to step.
//!
//! Most of a simulation is decoding. [`State::repeats`] gives the times that a plan may be executed before anything
//! else would change, and [`State::growth`] the memory taken on the way, so that the result is the same to the bit as
//! step by step.

use std::cmp::Reverse;

use super::{Refusal, State};
use crate::kv::Usage;
use crate::kv::waste::Growth;
use crate::plan::{Plan, Role, WorkerId};
use crate::sequence::{Place, SeqId};

/// The reason for which slots can be taken late.
const ROOM: &str = "a stretch is no longer than memory allows";

impl State {
    /// True if no sequence can join `worker`'s running ones before something changes there. Where the plan is `behind`,
    /// one that waits may.
    fn is_closed(&self, worker: WorkerId, behind: bool) -> bool {
        let w = &self.workers[worker];
        if !w.incoming.is_empty() || !self.bridge.is_empty() {
            return false;
        }
        let admits = !self.closed_batches && w.role != Role::Decode;
        !admits
            || self.waiting.is_empty()
            || (!behind
                && match w.refusal {
                    Refusal::Seats => true,
                    Refusal::Kv => !self.config.prefix_cache,
                    Refusal::None => false,
                })
    }

    /// The times that `plan` may be executed before anything but lengths changes: all decode, none ends, none can join,
    /// and memory suffices.
    #[must_use]
    pub fn repeats(&self, plan: &Plan, worker: WorkerId) -> u32 {
        let w = &self.workers[worker];
        if plan.preempted || self.config.pp > 1 || !self.is_closed(worker, plan.behind) {
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
            // The first to publish a block of equal content must not depend on how steps are grouped.
            if self.config.prefix_cache && seq.covered > seq.computed {
                return 1;
            }
            running += 1;
            left = left.min(seq.end - seq.len);
            room = room.min(seq.slots - seq.computed);
        }
        // Blocks taken on the way push cached ones out, and a queue ordered by cached prefixes could see that.
        if !self.waiting.wants_cached() {
            room = room.max(w.kv.headroom() / running.max(1) * w.growing.block);
        }
        left.min(room).max(1)
    }

    /// Slots taken at each step of the stretch committed last.
    #[must_use]
    pub fn growth(&self) -> &[Growth] {
        &self.growth
    }

    /// No slots are taken yet at any of the `steps` of the stretch that is being committed.
    pub(super) fn begin_growth(&mut self, steps: u32) {
        self.growth.clear();
        self.growth.resize(steps as usize, Growth::default());
    }

    /// Takes the slots that `id` grew into during a stretch, all at once, and notes at which step.
    pub(super) fn grow_late(&mut self, id: SeqId, first: u32, block: u32) {
        let seq = &self.seqs[id as usize];
        let (mut slots, end, worker) = (seq.slots, seq.end, seq.worker as usize);
        let held = self.workers[worker].kv.grow(id, seq, seq.computed);
        let held = held.expect(ROOM);
        while slots < held {
            let grown = (slots + block).min(held);
            let step = &mut self.growth[(slots + 1 - first) as usize];
            step.slots += (grown - slots) as i32;
            step.beyond += (grown.saturating_sub(end) - slots.saturating_sub(end)) as i32;
            slots = grown;
        }
        self.set_slots(id, held);
    }

    /// The same for all of `plan`, before it is committed, step by step: those who grow give slots back.
    pub(super) fn grow_in_turn(&mut self, worker: WorkerId, plan: &Plan, steps: u32) {
        // A sequence asks at the step that begins with all its slots filled; who asks first is told by step and order.
        let due = |state: &Self, order: usize, before: u32| {
            let step = state.seq(plan.chunks[order].seq).slots - before;
            (step < steps).then_some(Reverse(u64::from(step) << 32 | order as u64))
        };
        let computed: Vec<u32> = plan.chunks.iter().map(|c| self.seq(c.seq).computed).collect();
        let mut asks = std::mem::take(&mut self.asks);
        asks.extend(computed.iter().enumerate().filter_map(|(i, &before)| due(self, i, before)));
        let mut before = self.workers[worker].kv.usage();
        while let Some(Reverse(ask)) = asks.pop() {
            let (step, order) = ((ask >> 32) as u32, ask as u32 as usize);
            let id = plan.chunks[order].seq;
            let (seq, w) = (&mut self.seqs[id as usize], &mut self.workers[worker]);
            seq.computed = computed[order] + step;
            let beyond = w.beyond;
            let slots = w.kv.grow(id, seq, seq.computed + 1).expect(ROOM);
            self.set_slots(id, slots);
            let (w, growth) = (&self.workers[worker], &mut self.growth[step as usize]);
            let after = w.kv.usage();
            growth.slots += after.taken.wrapping_sub(before.taken) as i32;
            growth.beyond += w.beyond.wrapping_sub(beyond) as i32;
            let behind = |usage: Usage| usage.behind + u64::from(usage.shared);
            growth.behind += behind(after).wrapping_sub(behind(before)) as i32;
            growth.cached += after.cached.wrapping_sub(before.cached) as i32;
            before = after;
            asks.extend(due(self, order, computed[order]));
        }
        self.asks = asks;
        for (chunk, before) in plan.chunks.iter().zip(computed) {
            self.seqs[chunk.seq as usize].computed = before;
        }
    }
}
