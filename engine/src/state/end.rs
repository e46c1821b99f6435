//! Ends that come from outside: a client that went away, a stop token, a stop string.
//!
//! A sequence that is not being computed ends at once, and its memory is free for the next plan. One whose tokens are
//! in flight, or whose KV is moving, ends when that is over: until then its slots are being written.

use super::State;
use crate::plan::WorkerId;
use crate::request::RequestId;
use crate::sequence::{Place, SeqId};

impl State {
    /// The sequences of `request` that have not ended; of these, only `branch` where one is given.
    #[must_use]
    pub fn living(&self, request: RequestId, branch: Option<u16>) -> Vec<SeqId> {
        let lives = |(_, s): &(SeqId, &crate::sequence::Sequence)| {
            s.request == request && s.place != Place::Ended && branch.is_none_or(|b| b == s.branch)
        };
        (0..).zip(&self.seqs).filter(lives).map(|(id, _)| id).collect()
    }

    /// Ends `id` with the tokens it has, now or as soon as it is neither computed nor moved.
    pub fn end(&mut self, id: SeqId) {
        let seq = &mut self.seqs[id as usize];
        let place = seq.place;
        if place == Place::Ended {
            return;
        }
        if place == Place::Moving || seq.in_flight > 0 {
            seq.cut = true;
            return;
        }
        match place {
            Place::Waiting => {
                self.waiting.remove(id);
                self.unseen.retain(|&other| other != id);
            }
            Place::Bridge => self.bridge.retain(|&other| other != id),
            Place::Running | Place::Parked | Place::Moving | Place::Ended => {}
        }
        let worker = self.seqs[id as usize].worker as WorkerId;
        self.set_end(id);
        self.finish(id);
        self.end_batch(worker);
    }

    /// Sets the length of `id` to the tokens it has.
    fn set_end(&mut self, id: SeqId) {
        let seq = &mut self.seqs[id as usize];
        self.load -= u64::from(seq.end - seq.len);
        seq.end = seq.len;
        if seq.slots > 0 {
            let slots = seq.slots;
            self.set_slots(id, slots);
        }
    }
}
