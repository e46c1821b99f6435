//! A pipeline stage: consecutive layers of a model on tensor-parallel ranks. Each operator is asked of every rank, in
//! turn; the embedding and the vocabulary head are split by tokens.

use half::bf16;
use kernels::cuda::{Buffer, Collective, CudaError, KvPool};

use super::columns::Columns;
use super::forward::{Forward, Task};
use super::weights::CudaModel;
use crate::exec::forward::{Back, Backend, Entry, Meeting, Norm};

/// Memory of a stage's ranks for one batch.
pub(super) struct Stage {
    pub(super) ranks: Vec<Forward>,
}

impl Stage {
    /// Stage `at` of `model`.
    pub(super) fn new(model: &CudaModel, at: usize) -> Result<Self, CudaError> {
        let ranks = model.stage(at).iter().map(|shard| Forward::new(&shard.device));
        Ok(Self { ranks: ranks.collect::<Result<_, _>>()? })
    }
}

/// The stage before, and the way from it to its ranks' successors.
pub(super) struct Before<'a> {
    pub(super) stage: &'a Stage,
    pub(super) between: &'a Collective,
    /// Its index.
    pub(super) at: usize,
}

/// A batch on its way through a stage.
pub(super) struct Turn<'a> {
    pub(super) stage: &'a mut Stage,
    /// One for each rank; at least one.
    pub(super) tasks: &'a [Task<'a>],
    /// One for each rank.
    pub(super) pools: &'a mut [KvPool],
    /// None for the first stage.
    pub(super) before: Option<Before<'a>>,
}

impl Turn<'_> {
    fn each(
        &mut self,
        mut work: impl FnMut(&mut Forward, Task<'_>, &mut KvPool) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let ranks = self.stage.ranks.iter_mut().zip(self.tasks).zip(&mut *self.pools);
        ranks
            .map(|((rank, task), pool)| (rank, task, pool))
            .try_for_each(|(rank, &task, pool)| work(rank, task, pool))
    }

    /// Sums rows of the residual stream's width over ranks.
    fn sum_of(
        &mut self,
        part: impl FnMut(&mut Forward) -> &mut Buffer<bf16>,
    ) -> Result<(), CudaError> {
        let task = self.tasks[0];
        let mut parts: Vec<_> = self.stage.ranks.iter_mut().map(part).collect();
        task.group().sum(&mut parts, task.batch.rows() * task.model.config.hidden as usize)
    }

    /// Gives every rank the columns of all.
    fn gather(
        &mut self,
        columns: usize,
        which: impl Fn(&mut Forward) -> &mut Columns<bf16>,
    ) -> Result<(), CudaError> {
        let task = self.tasks[0];
        let sizes = (self.tasks.len(), task.batch.rows(), columns);
        let both = |rank| {
            let columns: &mut Columns<bf16> = which(rank);
            (&columns.part, &mut columns.arrived)
        };
        let (parts, mut arrived): (Vec<_>, Vec<_>) = self.stage.ranks.iter_mut().map(both).unzip();
        task.group().share(&parts, &mut arrived, sizes.1 * columns)?;
        self.each(|rank, task, _| which(rank).join(&task.shard.device, sizes))
    }

    /// Takes the output of the stage before, rank by rank: the residual stream, and the part that the first norm is yet
    /// to add to it.
    fn receive(&mut self) -> Result<(), CudaError> {
        let Some(Before { stage, between, at }) = &self.before else { return Ok(()) };
        let (ranks, mut moves) = (stage.ranks.len(), Vec::new());
        for (rank, (from, into)) in stage.ranks.iter().zip(&mut self.stage.ranks).enumerate() {
            let (sender, receiver) = (at * ranks + rank, (at + 1) * ranks + rank);
            moves.push((sender, receiver, &from.x, &mut into.x));
            moves.push((sender, receiver, from.added.all(), into.added.all_mut()));
        }
        let task = self.tasks[0];
        between.hand_over(&mut moves, task.batch.rows() * task.model.config.hidden as usize)
    }

    /// Gives the first rank the logits of all.
    fn collect_logits(&mut self) -> Result<(), CudaError> {
        let (task, ranks) = (self.tasks[0], self.tasks.len());
        if task.shard.head.is_none() || ranks == 1 {
            return Ok(());
        }
        let (last, tokens) = (task.batch.last_rows(), task.model.tokens());
        let Some((first, others)) = self.stage.ranks.split_first_mut() else { return Ok(()) };
        let Columns { part, arrived, .. } = &mut first.logits;
        let mut parts = vec![&*part];
        parts.extend(others.iter().map(|rank| &rank.logits.part));
        task.group().collect(&parts, arrived, last * tokens)?;
        first.logits.join(&task.shard.device, (ranks, last, tokens))
    }
}

/// The last stage's first rank has the logits.
impl Backend for Turn<'_> {
    type Error = CudaError;

    fn meeting(&self) -> Meeting {
        self.tasks[0].model.meeting()
    }

    fn begin(&mut self) -> Result<(), CudaError> {
        self.each(|rank, task, _| rank.begin(task))?;
        if self.tasks[0].shard.embedding.is_some() {
            // Each token is some rank's, and zero everywhere else.
            return self.sum_of(|rank| &mut rank.x);
        }
        self.receive()
    }

    fn norm(&mut self, layer: usize, norm: Norm) -> Result<(), CudaError> {
        self.each(|rank, task, _| rank.norm(task, layer, norm))
    }

    fn qkv(&mut self, layer: usize) -> Result<(), CudaError> {
        self.each(|rank, task, _| rank.qkv(task, layer))
    }

    fn rotate(&mut self, layer: usize) -> Result<(), CudaError> {
        self.each(|rank, task, pool| rank.rotate(task, layer, pool))
    }

    fn attend(&mut self, layer: usize) -> Result<(), CudaError> {
        self.each(|rank, task, pool| rank.attend(task, layer, pool))
    }

    /// Models with experts are refused when they are loaded.
    fn route(&mut self, _layer: usize) -> Result<(), CudaError> {
        Ok(())
    }

    fn gate_up(&mut self, layer: usize) -> Result<(), CudaError> {
        self.each(|rank, task, _| rank.gate_up(task, layer))
    }

    fn gate(&mut self) -> Result<(), CudaError> {
        self.each(|rank, task, _| rank.gate(task))
    }

    fn gather_inner(&mut self, back: Back) -> Result<(), CudaError> {
        self.gather(self.tasks[0].model.inner(back), |rank| &mut rank.inner)
    }

    fn lead_back(&mut self, layer: usize, back: Back) -> Result<(), CudaError> {
        self.each(|rank, task, _| rank.lead_back(task, layer, back))
    }

    fn gather_columns(&mut self) -> Result<(), CudaError> {
        let model = self.tasks[0].model;
        self.gather(model.config.hidden as usize / model.ranks(), |rank| &mut rank.added)
    }

    fn sum(&mut self) -> Result<(), CudaError> {
        self.sum_of(|rank| &mut rank.added.part)
    }

    fn head(&mut self) -> Result<(), CudaError> {
        self.each(|rank, task, _| rank.head(task))?;
        self.collect_logits()
    }

    /// Of the first rank.
    fn lap(&mut self, entry: Entry) -> Result<(), CudaError> {
        self.stage.ranks[0].lap(&self.tasks[0].shard.device, entry)
    }
}
