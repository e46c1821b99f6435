//! Plans made ahead (`async-scheduling`): an iteration is planned while the one before it runs.
//!
//! Requests that come in the meantime, and seats and slots that are given back, count one plan later. Without the knob
//! nothing here ever holds anything.

use super::{Rejected, Room, State};
use crate::plan::WorkerId;
use crate::request::Request;

impl State {
    /// The same as [`State::enqueue`] for a request that the next plan does not see, because it has been made already.
    pub fn enqueue_unseen(&mut self, request: Request, together: bool) -> Result<(), Rejected> {
        let id = self.take_in(request, together)?;
        self.unseen.push(id);
        Ok(())
    }

    /// A plan for `worker` has been made: requests that came meanwhile join the queue, and room that was given back
    /// counts from now on. Returns true if there was any of it, so that the plan was made without.
    pub fn catch_up(&mut self, worker: WorkerId) -> bool {
        let late = std::mem::take(&mut self.workers[worker].late);
        let unseen = std::mem::take(&mut self.unseen);
        unseen.iter().for_each(|&id| self.wait(id));
        !unseen.is_empty() || late != Room::default()
    }

    /// Free room of `worker` that was not free yet when the plan was made. Nothing is late on a worker where nothing
    /// runs, because there the plan is made when it is needed.
    pub(super) fn late(&self, worker: WorkerId) -> Room {
        let w = &self.workers[worker];
        if w.running.is_empty() { Room::default() } else { w.late }
    }

    /// Does `change`, which gives room of `worker` back. The room is late if plans are made ahead.
    pub(super) fn give_back_late(&mut self, worker: WorkerId, change: impl FnOnce(&mut Self)) {
        if !self.config.plans_ahead() {
            return change(self);
        }
        let before = self.free(worker);
        change(self);
        let after = self.free(worker);
        let seats = after.seats - before.seats;
        let slots = after.slots.saturating_sub(before.slots);
        self.workers[worker].late = Room { seats, slots };
    }

    fn free(&self, worker: WorkerId) -> Room {
        let (w, usage) = (&self.workers[worker], self.workers[worker].kv.usage());
        Room { seats: self.config.max_seqs - w.seats, slots: usage.capacity - usage.taken }
    }
}
