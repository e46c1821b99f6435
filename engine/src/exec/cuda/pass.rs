//! A pass over all ranks of a model: what each does by itself, and where they meet.

use half::bf16;
use kernels::cuda::{Buffer, CudaError, DeviceBatch, Draw, KvPool};

use super::Arithmetic;
use super::collective::{Alone, Collective, OneDevice};
use super::forward::Forward;
use super::weights::CudaModel;
use crate::exec::cpu::Spent;

/// Memory for one batch on every rank, and the way from rank to rank.
pub(super) struct Pass {
    ranks: Vec<Forward>,
    collective: Box<dyn Collective>,
}

impl Pass {
    pub(super) fn new(model: &CudaModel) -> Result<Self, CudaError> {
        let ranks = model.ranks.iter().map(|_| Forward::new(&model.device));
        let collective: Box<dyn Collective> = match model.ranks.len() {
            1 => Box::new(Alone),
            _ => Box::new(OneDevice(model.device.clone())),
        };
        Ok(Self { ranks: ranks.collect::<Result<_, _>>()?, collective })
    }

    /// How often memory has been replaced by more of it: what was recorded before is of no use then.
    pub(super) fn grown(&self) -> u64 {
        self.ranks.iter().map(Forward::grown).sum()
    }

    /// Computes `batch`: each rank writes keys and values to its own of `pools`, the first the logits.
    pub(super) fn run(
        &mut self,
        model: &CudaModel,
        arithmetic: Arithmetic,
        batch: &DeviceBatch,
        turns: &Buffer<f32>,
        pools: &mut [KvPool],
    ) -> Result<(), CudaError> {
        for rank in &mut self.ranks {
            rank.begin(model, batch)?;
        }
        let products = arithmetic.products();
        for i in 0..model.config.layers as usize {
            for ((rank, layers), pool) in self.ranks.iter_mut().zip(&model.ranks).zip(&mut *pools) {
                rank.attend(model, products, (i, &layers[i]), batch, turns, pool)?;
            }
            self.sum(model, batch)?;
            for (rank, layers) in self.ranks.iter_mut().zip(&model.ranks) {
                rank.feed_forward(model, products, &layers[i], batch.rows())?;
            }
            self.sum(model, batch)?;
        }
        self.ranks[0].head(model, products, batch)
    }

    /// What the ranks add to the residual stream.
    fn sum(&mut self, model: &CudaModel, batch: &DeviceBatch) -> Result<(), CudaError> {
        let mut parts: Vec<&mut Buffer<bf16>> =
            self.ranks.iter_mut().map(|rank| &mut rank.added).collect();
        self.collective.sum(&mut parts, batch.rows() * model.config.hidden as usize)
    }

    /// One row for each through the vocabulary head.
    pub(super) fn logits(&self) -> &Buffer<f32> {
        &self.ranks[0].logits
    }

    /// Chooses tokens for the first of those rows, one for each of `draws`.
    pub(super) fn sample(
        &mut self,
        model: &CudaModel,
        draws: &[Draw],
    ) -> Result<&Buffer<i32>, CudaError> {
        self.ranks[0].sample(model, draws)
    }

    /// From here on, where the first rank's time goes is noted.
    pub(super) fn start_laps(&mut self, model: &CudaModel) -> Result<(), CudaError> {
        self.ranks[0].start_laps(&model.device)
    }

    /// Where it went, operator by operator.
    pub(super) fn end_laps(&mut self) -> Result<Spent, CudaError> {
        self.ranks[0].end_laps()
    }
}
