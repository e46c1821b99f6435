//! A pass over all of a model: its pipeline stages one behind the other, and the hand-over from each to the next.
//!
//! All of it is submitted at once: a device works in the order of submission. So the stages of several batches overlap
//! by themselves where stages have devices of their own, as far as the driver takes a batch's description, which is in
//! pageable memory, without waiting for the device's current work (CUDA promises that for 64 KB at most).

use std::sync::Arc;

use kernels::cuda::{Buffer, CudaError, Device, DeviceBatch, Draw, KvPool};

use super::forward::Task;
use super::stage::{Before, Stage, Turn};
use super::weights::CudaModel;
use crate::exec::forward::{self, Spent};

/// A device, and the data of the batch under way on it.
pub(super) struct Place {
    pub(super) device: Device,
    pub(super) batch: DeviceBatch,
    /// The rotary table.
    pub(super) turns: Arc<Buffer<f32>>,
}

impl Place {
    /// One for each device of `model`, for sequences of up to `longest` tokens.
    pub(super) fn all(model: &CudaModel, longest: u32) -> Result<Vec<Self>, CudaError> {
        let turns = model.turns(longest);
        let place = |device: &Device| {
            let (batch, turns) = (DeviceBatch::new(device)?, Arc::new(device.upload(&turns)?));
            Ok(Self { device: device.clone(), batch, turns })
        };
        model.devices().iter().map(place).collect()
    }

    /// The same for another worker.
    pub(super) fn another(&self) -> Result<Self, CudaError> {
        let (device, turns) = (self.device.clone(), Arc::clone(&self.turns));
        Ok(Self { batch: DeviceBatch::new(&device)?, device, turns })
    }
}

/// Memory for one batch in every stage.
pub(super) struct Pass {
    stages: Vec<Stage>,
}

impl Pass {
    pub(super) fn new(model: &CudaModel) -> Result<Self, CudaError> {
        let stages = (0..model.stages()).map(|at| Stage::new(model, at));
        Ok(Self { stages: stages.collect::<Result<_, _>>()? })
    }

    /// The number of times that memory has been replaced by more of it: recordings made before are of no use then.
    pub(super) fn grown(&self) -> u64 {
        self.stages.iter().flat_map(|stage| &stage.ranks).map(|rank| rank.grown()).sum()
    }

    /// Computes the batch that is on `places`, with the KV pools of all shards; the last stage's first rank has the logits.
    pub(super) fn run(
        &mut self,
        model: &CudaModel,
        places: &[Place],
        pools: &mut [KvPool],
    ) -> Result<(), CudaError> {
        let ranks = model.ranks();
        for (at, pools) in pools.chunks_mut(ranks).enumerate() {
            let shards = model.stage(at).iter().enumerate();
            let tasks: Vec<Task<'_>> = shards
                .map(|(rank, shard)| {
                    let Place { batch, turns, .. } = &places[model.place(at * ranks + rank)];
                    Task { model, shard, batch, turns }
                })
                .collect();
            let (done, ahead) = self.stages.split_at_mut(at);
            let before = done.last().zip(model.between.as_ref());
            let before = before.map(|(stage, between)| Before { stage, between, at: at - 1 });
            let layers = tasks[0].shard.layers.len();
            let mut turn = Turn { stage: &mut ahead[0], tasks: &tasks, pools, before };
            forward::run(&mut turn, layers)?;
        }
        Ok(())
    }

    /// One row for each through the vocabulary head.
    pub(super) fn logits(&self) -> &Buffer<f32> {
        self.stages[self.stages.len() - 1].ranks[0].logits.all()
    }

    /// Chooses tokens for the first of those rows, one for each of `draws`.
    pub(super) fn sample(
        &mut self,
        model: &CudaModel,
        draws: &[Draw],
    ) -> Result<&Buffer<i32>, CudaError> {
        let last = self.stages.len() - 1;
        self.stages[last].ranks[0].sample(model.last_device(), model.vocab(), draws)
    }

    /// From the next batch on, where the time of each stage's first rank goes is noted.
    pub(super) fn start_laps(&mut self) {
        self.stages.iter_mut().for_each(|stage| stage.ranks[0].start_laps());
    }

    /// The time of the pass, operator by operator, in all stages together.
    pub(super) fn end_laps(&mut self) -> Result<Spent, CudaError> {
        let stages = self.stages.iter_mut().map(|stage| stage.ranks[0].end_laps());
        let spent = stages.collect::<Result<Vec<_>, _>>()?;
        Ok(spent.iter().sum())
    }
}
