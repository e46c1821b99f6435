//! A pipeline stage: consecutive layers of a model, or all of them, on the threads of one team or of several
//! tensor-parallel ranks.

use std::sync::Arc;

use kernels::cpu::Team;

use super::collective::{Alone, Collective, SharedMemory};
use super::forward::{Rank, Scratch};
use super::inputs::Inputs;
use super::memory::KvMemory;
use super::weights::CpuModel;

/// A part of a model, and the threads that compute it. Parts wait for each other, so no two share a team.
pub type Share = (Arc<CpuModel>, Arc<Team>);

/// Computes its layers of one batch at a time.
pub(super) struct Stage {
    ranks: Vec<Member>,
    collective: Box<dyn Collective + Send>,
}

/// One rank.
struct Member {
    model: Arc<CpuModel>,
    team: Arc<Team>,
    scratch: Scratch,
}

impl Stage {
    /// Of `ranks`, which are `at`-th of `stages`.
    ///
    /// # Panics
    /// When these are not all ranks of that stage, in order.
    pub(super) fn new(ranks: &[Share], at: usize, stages: usize) -> Self {
        let whole = |(i, (model, _)): (usize, &Share)| {
            let part = model.part;
            (part.rank, part.ranks, part.stage, part.stages) == (i, ranks.len(), at, stages)
        };
        assert!(!ranks.is_empty() && ranks.iter().enumerate().all(whole), "all ranks, in order");
        let member = |(model, team): &Share| Member {
            model: Arc::clone(model),
            team: Arc::clone(team),
            scratch: Scratch::new(model.precision()),
        };
        let collective: Box<dyn Collective + Send> = match ranks.len() {
            1 => Box::new(Alone),
            n => Box::new(SharedMemory::new(n)),
        };
        Self { ranks: ranks.iter().map(member).collect(), collective }
    }

    /// Keys and values of its layers over `slots` slots, by rank.
    pub(super) fn memory(&self, slots: u32) -> Vec<KvMemory> {
        self.ranks.iter().map(|member| KvMemory::new(&member.model, slots)).collect()
    }

    /// Its part of the forward pass, on every rank at once: the caller is one of the first rank's threads. `received` is
    /// the residual stream as the stage before left it, nothing for the first.
    pub(super) fn forward(&mut self, inputs: &Inputs, received: &[f32], memories: &mut [KvMemory]) {
        let collective = &*self.collective;
        let mut ranks = self.ranks.iter_mut().zip(memories);
        let run = |(member, memory): (&mut Member, &mut KvMemory)| {
            let rank = Rank { model: &member.model, team: &member.team, collective };
            member.scratch.forward(rank, inputs, received, memory);
        };
        let Some(first) = ranks.next() else { return };
        if ranks.len() == 0 {
            return run(first);
        }
        std::thread::scope(|scope| {
            ranks.for_each(|rank| {
                scope.spawn(move || run(rank));
            });
            run(first);
        });
    }

    /// The residual stream as the last pass, of `rows` rows, left it: the same on every rank.
    pub(super) fn residual(&self, rows: usize) -> &[f32] {
        let Member { model, scratch, .. } = &self.ranks[0];
        scratch.residual(rows, model)
    }

    /// Logits of the last pass, `vocab` of each row that went through the head, which the last stage has.
    pub(super) fn logits(&mut self) -> &mut Vec<f32> {
        &mut self.ranks[0].scratch.logits
    }

    /// Tokens of the vocabulary.
    pub(super) fn vocab(&self) -> usize {
        self.ranks[0].model.vocab()
    }
}
