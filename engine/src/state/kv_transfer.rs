//! The way from a prefill worker to a decode worker: the verb `pull`, and the arrival that follows.

use super::{Move, Refusal, State};
use crate::plan::{Plan, WorkerId};
use crate::sequence::{Place, SeqId};

impl State {
    /// Starts moving the oldest prefilled sequence's KV to `worker`, if it has a seat and room there.
    pub fn pull(&mut self, worker: WorkerId, plan: &mut Plan) -> Option<SeqId> {
        let &id = self.bridge.front()?;
        if self.workers[worker].seats >= self.config.max_seqs {
            self.workers[worker].refusal = Refusal::Seats;
            return None;
        }
        let spare = self.spare(worker);
        let w = &mut self.workers[worker];
        let Ok(opened) = w.kv.open(id, &self.seqs[id as usize], u32::MAX, spare) else {
            w.refusal = Refusal::Kv;
            return None;
        };
        w.seats += 1;
        w.held += u64::from(opened.hit);
        w.incoming.push_back(Move { seq: id, hit: opened.hit, slots: opened.slots });
        self.bridge.pop_front();
        self.seqs[id as usize].place = Place::Moving;
        plan.pulls.push(id);
        Some(id)
    }

    /// Tokens of KV that the move of `id` to `worker` has to carry: those not found there already.
    #[must_use]
    pub fn moving_tokens(&self, worker: WorkerId, id: SeqId) -> u32 {
        let hit = self.workers[worker].incoming.iter().find(|m| m.seq == id).map_or(0, |m| m.hit);
        self.seq(id).computed.saturating_sub(hit)
    }

    /// The worker that the KV pulled first comes from.
    #[must_use]
    pub fn incoming_from(&self, worker: WorkerId) -> Option<WorkerId> {
        let first = self.workers[worker].incoming.front()?;
        Some(self.seq(first.seq).worker as usize)
    }

    /// The KV pulled first has arrived at `worker`: its sequence runs there, and its old worker is rid of it.
    pub fn arrive(&mut self, worker: WorkerId) {
        let Some(Move { seq: id, slots, hit }) = self.workers[worker].incoming.pop_front() else {
            return;
        };
        let computed = self.seq(id).computed;
        self.leave(id, false);
        self.load -= u64::from(computed);
        let seq = &mut self.seqs[id as usize];
        (seq.place, seq.worker, seq.computed) = (Place::Running, worker as u32, computed);
        self.set_slots(id, slots);
        let w = &mut self.workers[worker];
        w.held += u64::from(computed - hit);
        w.running.push(id);
        w.kv.commit(id, &self.seqs[id as usize], hit);
        if self.seqs[id as usize].cut {
            self.end(id);
        }
    }

    /// Moves the prefilled sequences of `plan` onto the bridge; their KV stays where it is until it is pulled.
    pub(super) fn hand_over(&mut self, worker: WorkerId, plan: &Plan) {
        for chunk in &plan.chunks {
            let seq = &mut self.seqs[chunk.seq as usize];
            if seq.place == Place::Running && seq.decodes() {
                seq.place = Place::Bridge;
                self.workers[worker].running.retain(|&s| s != chunk.seq);
                self.bridge.push_back(chunk.seq);
            }
        }
    }
}
