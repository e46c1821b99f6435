//! A pipeline stage: consecutive layers of a model on tensor-parallel ranks, the work of each rank and the points where
//! they meet.
//!
//! The embedding and the vocabulary head are split by tokens, attention by heads, the feed-forward layer by its inner
//! features. On the way back to the residual stream, fast ranks multiply their own features and sum the results
//! (Megatron-LM, Shoeybi et al. 2019), which rounds otherwise than one rank would. Exact ranks exchange the features
//! first, and each multiplies all of them for its own columns: no sum is ever split, so tokens are those of one rank to
//! the bit, for two exchanges where there was a sum.

use half::bf16;
use kernels::cuda::{Buffer, CudaError, KvPool};

use super::columns::Columns;
use super::forward::{Back, Forward, Task};
use super::weights::CudaModel;

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

    fn each<'a>(
        &mut self,
        tasks: &[Task<'a>],
        mut work: impl FnMut(&mut Forward, Task<'a>) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        self.ranks.iter_mut().zip(tasks).try_for_each(|(rank, &task)| work(rank, task))
    }

    /// Makes room for a batch; the first stage reads its embeddings.
    pub(super) fn begin(&mut self, tasks: &[Task<'_>]) -> Result<(), CudaError> {
        self.each(tasks, Forward::begin)?;
        if tasks[0].shard.embedding.is_none() {
            return Ok(());
        }
        // Each token is some rank's, and zero everywhere else.
        self.sum(tasks[0], |rank| &mut rank.x)
    }

    /// Computes a batch that has begun: each rank writes keys and values to its own of `pools`; the last stage's first
    /// rank has the logits.
    pub(super) fn run(
        &mut self,
        tasks: &[Task<'_>],
        pools: &mut [KvPool],
    ) -> Result<(), CudaError> {
        for i in 0..tasks[0].shard.layers.len() {
            let mut pools = pools.iter_mut();
            self.each(tasks, |rank, task| {
                pools.next().map_or(Ok(()), |pool| rank.attend(task, i, pool))
            })?;
            self.lead_back(tasks, i, Back::Out)?;
            self.each(tasks, |rank, task| rank.feed_forward(task, i))?;
            self.lead_back(tasks, i, Back::Down)?;
        }
        self.each(tasks, Forward::head)?;
        self.collect_logits(tasks[0])
    }

    fn lead_back(&mut self, tasks: &[Task<'_>], i: usize, back: Back) -> Result<(), CudaError> {
        let model = tasks[0].model;
        if !model.joins() {
            self.each(tasks, |rank, task| rank.project(task, i, back))?;
            return self.sum(tasks[0], |rank| &mut rank.added.part);
        }
        self.join(tasks, back.features(model), |rank| &mut rank.inner)?;
        self.each(tasks, |rank, task| rank.project(task, i, back))?;
        let columns = model.config.hidden as usize / model.ranks();
        self.join(tasks, columns, |rank| &mut rank.added)
    }

    /// Sums rows of the residual stream's width over ranks.
    fn sum(
        &mut self,
        task: Task<'_>,
        part: impl FnMut(&mut Forward) -> &mut Buffer<bf16>,
    ) -> Result<(), CudaError> {
        let mut parts: Vec<_> = self.ranks.iter_mut().map(part).collect();
        task.group().sum(&mut parts, task.batch.rows() * task.model.config.hidden as usize)
    }

    /// Gives every rank the columns of all.
    fn join(
        &mut self,
        tasks: &[Task<'_>],
        columns: usize,
        which: impl Fn(&mut Forward) -> &mut Columns<bf16>,
    ) -> Result<(), CudaError> {
        let sizes = (self.ranks.len(), tasks[0].batch.rows(), columns);
        let both = |rank| {
            let columns: &mut Columns<bf16> = which(rank);
            (&columns.part, &mut columns.arrived)
        };
        let (parts, mut arrived): (Vec<_>, Vec<_>) = self.ranks.iter_mut().map(both).unzip();
        tasks[0].group().share(&parts, &mut arrived, sizes.1 * columns)?;
        self.each(tasks, |rank, task| which(rank).join(&task.shard.device, sizes))
    }

    /// Gives the first rank the logits of all.
    fn collect_logits(&mut self, task: Task<'_>) -> Result<(), CudaError> {
        let (ranks, tokens) = (self.ranks.len(), task.model.tokens());
        if task.shard.head.is_none() || ranks == 1 {
            return Ok(());
        }
        let last = task.batch.last_rows();
        let Some((first, others)) = self.ranks.split_first_mut() else { return Ok(()) };
        let Columns { part, arrived, .. } = &mut first.logits;
        let mut parts = vec![&*part];
        parts.extend(others.iter().map(|rank| &rank.logits.part));
        task.group().collect(&parts, arrived, last * tokens)?;
        first.logits.join(&task.shard.device, (ranks, last, tokens))
    }
}
