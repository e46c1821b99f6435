//! Drafted tokens: they are added to decoding sequences before a plan is made, and settled when it was executed.

use super::State;
use crate::event::{BranchToken, Iteration};
use crate::plan::{Role, WorkerId};
use crate::request::Token;
use crate::sequence::SeqId;
use crate::speculation::Drafter;

impl State {
    /// Lets `drafter` draft for the sequences of `worker` that decode and are free: never beyond their ends.
    pub fn draft(&mut self, worker: WorkerId, drafter: &mut dyn Drafter) {
        let w = &self.workers[worker];
        if w.role == Role::Prefill {
            return;
        }
        for &id in &w.running {
            let seq = &mut self.seqs[id as usize];
            if !seq.free() {
                continue;
            }
            seq.shorten_draft(0);
            let most = self.config.draft_tokens.min(seq.end.saturating_sub(seq.len + 1));
            if most > 0 && seq.decodes() && !seq.together {
                let mut draft = std::mem::take(&mut seq.draft);
                seq.drafted = drafter.draft(seq, most, &mut draft);
                seq.draft = draft;
            }
        }
    }

    /// Leaves `id` the drafted tokens for which it has slots already or can have some without anyone giving way; returns
    /// the tokens it is computed for.
    pub(super) fn fit_draft(&mut self, id: SeqId, n: u32) -> u32 {
        let seq = &self.seqs[id as usize];
        if seq.drafted == 0 || n <= 1 || seq.computed + n <= seq.slots {
            return n;
        }
        let worker = seq.worker as usize;
        match self.workers[worker].kv.grow(id, seq, seq.computed + n) {
            Ok(slots) => {
                self.set_slots(id, slots);
                n
            }
            Err(_) => 1,
        }
    }

    /// The drafted tokens of `id` that the model says too, given those it sampled: all others are no part of it.
    /// `tokens` is left at the one that comes after them.
    pub(super) fn settle_draft(
        &mut self,
        id: SeqId,
        tokens: &mut std::iter::Peekable<impl Iterator<Item = Token>>,
    ) -> u32 {
        let seq = &self.seqs[id as usize];
        let real = seq.draft.tokens.iter();
        let right = match tokens.peek() {
            Some(_) => real.take_while(|&token| tokens.next_if_eq(token).is_some()).count() as u32,
            None => seq.draft.right,
        };
        right.min(seq.drafted)
    }

    /// The first `right` of the drafted tokens of `id` become its own; the slots of the others are given back.
    pub(super) fn keep_drafted(&mut self, id: SeqId, right: u32, out: &mut Iteration) {
        let seq = &mut self.seqs[id as usize];
        let (drafted, mut draft) = (seq.drafted, std::mem::take(&mut seq.draft));
        out.drafted += drafted;
        out.accepted += right;
        let wrong = drafted - right;
        seq.len += right;
        draft.tokens.truncate(right as usize);
        seq.tokens.extend_from_slice(&draft.tokens);
        if !seq.cut {
            let (request, branch) = (seq.request, seq.branch);
            if branch == 0 {
                out.emitted.extend(std::iter::repeat_n(request, right as usize));
                out.tokens.extend_from_slice(&draft.tokens);
            } else {
                out.branch_tokens += right;
                let token = |&token| BranchToken { request, branch, token };
                out.branches.extend(draft.tokens.iter().map(token));
            }
        }
        seq.draft = draft;
        seq.shorten_draft(0);
        if wrong > 0 {
            let seq = &self.seqs[id as usize];
            let w = &mut self.workers[seq.worker as usize];
            w.held -= u64::from(wrong);
            self.load += u64::from(wrong);
            let slots = w.kv.shrink(id, seq);
            self.set_slots(id, slots);
        }
    }
}
