//! Putting a model's weights on a device: tensors that are read go through the host, those that are made up are made
//! where they are wanted.

use half::bf16;
use kernels::cuda::{Buffer, Collective, CudaError, Device, MOST_RANKS, Window};

use super::layout::{Layout, joins};
use super::memory_budget::RoomError;
use super::weights::{CudaModel, Head, Matrix, Shard};
use crate::exec::forward::{Layer, Part, Store, impossible, unsplittable};
use crate::model::llama::LlamaConfig;
use crate::model::weights::{MadeUp, ModelError, Weights};

/// A model that cannot be put on a device.
#[derive(Debug, thiserror::Error)]
pub enum CudaModelError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device.
    #[error(transparent)]
    Device(#[from] CudaError),
    /// There is too little memory.
    #[error(transparent)]
    Room(#[from] RoomError),
}

impl CudaModel {
    /// Reads `weights`, one tensor after the other, and puts each part on its device: all of them on one, or stage by
    /// stage and in each rank by rank on as many.
    ///
    /// # Errors
    /// When a tensor is missing or cannot be read, there are no kernels for its sizes, these do not divide evenly,
    /// layers do not fill the stages, devices are too few or too many, or memory is short.
    pub fn load(
        devices: &[Device],
        weights: &mut dyn Weights,
        layout: Layout,
    ) -> Result<Self, CudaModelError> {
        let config = weights.config().clone();
        check(&config, layout, devices.len())?;
        let Layout { ranks, stages, .. } = layout;
        room_for_weights(&config, layout, devices)?;
        let shard = |at: usize| {
            let part = Part { rank: at % ranks, ranks, stage: at / ranks, stages };
            Loader { device: &devices[at % devices.len()], weights, layout, part }.shard()
        };
        let shards = (0..ranks * stages).map(shard).collect::<Result<Vec<_>, CudaModelError>>()?;
        let places: Vec<_> = shards.iter().map(|shard| shard.device.clone()).collect();
        let groups = places.chunks(ranks).map(Collective::new).collect::<Result<_, _>>()?;
        let between = (stages > 1).then(|| Collective::new(&places)).transpose()?;
        Ok(Self { config, layout, devices: devices.to_vec(), shards, groups, between })
    }
}

/// Refuses a `config` for which there are no kernels in such a layout on so many devices.
fn check(config: &LlamaConfig, layout: Layout, devices: usize) -> Result<(), ModelError> {
    let Layout { ranks, stages, .. } = layout;
    let split = ranks.max(1) as u32;
    let columns = if joins(layout) { split } else { 1 };
    let eights = [("hidden size", config.hidden / columns), ("ffn size", config.ffn / split)];
    let uneven = eights.iter().find(|(_, n)| !n.is_multiple_of(8));
    let reason = if config.mixture.is_some() {
        "a mixture of experts: the CUDA kernels have none yet".to_owned()
    } else if !matches!(config.head_dim, 32 | 64 | 128) {
        format!("head_dim = {}: the CUDA kernels have 32, 64 and 128", config.head_dim)
    } else if !(1..=MOST_RANKS).contains(&ranks) {
        format!("{ranks} ranks: a model takes 1 to {MOST_RANKS}")
    } else if let Some(reason) = unsplittable(config, ranks, stages, ("vocab", config.vocab)) {
        reason
    } else if let Some((what, n)) = uneven {
        format!("{what} = {n} of a rank: the CUDA kernels need a multiple of 8")
    } else if devices != 1 && devices != ranks * stages {
        format!(
            "tp {ranks} x pp {stages} on {devices} GPUs: name one, which takes all parts, or {}",
            ranks * stages
        )
    } else {
        return Ok(());
    };
    Err(impossible(config, reason))
}

/// Refuses weights that do not fit. The check is made for all at once: the first tensor that does not fit does not show
/// how much is missing.
fn room_for_weights(
    config: &LlamaConfig,
    Layout { ranks, stages, .. }: Layout,
    devices: &[Device],
) -> Result<(), CudaModelError> {
    let shape = config.shape();
    for (at, device) in devices.iter().enumerate() {
        let here = (at..ranks * stages).step_by(devices.len());
        let (tp, pp) = (ranks as u32, stages as u32);
        let bytes = |shard: usize| shape.rank_weight_bytes(tp, pp, (shard / ranks) as u32);
        let needed: u64 = here.map(bytes).sum();
        if let Some((free, _)) = device.memory()?.filter(|(free, _)| (*free as u64) < needed) {
            let (model, device) = (config.name.clone(), device.name().to_owned());
            return Err(
                RoomError::Weights { model, device, weights: needed, free: free as u64 }.into()
            );
        }
    }
    Ok(())
}

/// A rank's share of a tensor.
#[derive(Clone, Copy)]
enum Share {
    Whole,
    /// Its output features, or its part of a vector.
    Rows,
    /// Its input features.
    Columns,
}

impl Share {
    /// Its elements.
    fn window(self, part: Part, &MadeUp { rows, cols, .. }: &MadeUp) -> Window {
        let (mut of_rows, mut of_cols) = (0..rows, 0..cols);
        match self {
            Self::Whole => {}
            Self::Rows if rows == 1 => of_cols = part.range(cols),
            Self::Rows => of_rows = part.range(rows),
            Self::Columns => of_cols = part.range(cols),
        }
        Window {
            first: (of_rows.start * cols + of_cols.start) as u64,
            rows: of_rows.len(),
            cols: of_cols.len(),
            stride: cols as u64,
        }
    }
}

/// Reads tensors and puts what one shard has of them on its device.
struct Loader<'a> {
    device: &'a Device,
    weights: &'a mut dyn Weights,
    layout: Layout,
    part: Part,
}

impl Loader<'_> {
    fn shard(mut self) -> Result<Shard, CudaModelError> {
        let (part, config) = (self.part, self.weights.config().clone());
        let (first, last) = (part.is_first(), part.is_last());
        let table = "model.embed_tokens.weight";
        let embedding = first.then(|| self.joined(&[table.to_owned()], Share::Rows)).transpose()?;
        let name = if config.tied_embeddings { table } else { "lm_head.weight" };
        let own = last && !(config.tied_embeddings && first);
        let weight = own.then(|| self.joined(&[name.to_owned()], Share::Rows)).transpose()?;
        let layers = part.layers(config.layers).map(|i| Layer::load(&mut self, &config, i));
        let layers = layers.collect::<Result<_, _>>()?;
        let norm = last.then(|| self.vector("model.norm.weight")).transpose()?;
        let head = norm.map(|norm| Head { norm, weight });
        Ok(Shard { device: self.device.clone(), part, embedding, layers, head })
    }

    /// Its share of tensors, one below the other.
    fn joined(&mut self, names: &[String], share: Share) -> Result<Buffer<bf16>, CudaModelError> {
        let made_up: Option<Vec<_>> = names.iter().map(|name| self.weights.made_up(name)).collect();
        if let Some(tensors) = made_up {
            return Ok(self.filled(&tensors, share)?);
        }
        let (part, mut rows) = (self.part, Vec::new());
        for name in names {
            let tensor = self.weights.tensor(name)?;
            let taken = match share {
                _ if part.ranks == 1 => tensor.data,
                Share::Whole => tensor.data,
                Share::Rows => part.rows(&tensor).to_vec(),
                Share::Columns => part.columns(&tensor),
            };
            rows.extend(taken.iter().map(|&x| bf16::from_f32(x)));
        }
        Ok(self.device.upload(&rows)?)
    }

    /// The same of tensors that the device makes up by itself.
    fn filled(&self, tensors: &[MadeUp], share: Share) -> Result<Buffer<bf16>, CudaError> {
        let window = |tensor: &MadeUp| share.window(self.part, tensor);
        let mut buffer = self.device.zeros(tensors.iter().map(|t| window(t).len()).sum())?;
        let mut at = 0;
        for tensor in tensors {
            self.device.fill(&mut buffer, at, tensor.numbers, window(tensor))?;
            at += window(tensor).len();
        }
        Ok(buffer)
    }
}

impl Store for Loader<'_> {
    type Matrix = Matrix;
    type Vector = Buffer<bf16>;
    type Error = CudaModelError;

    fn vector(&mut self, name: &str) -> Result<Buffer<bf16>, CudaModelError> {
        self.joined(&[name.to_owned()], Share::Whole)
    }

    fn rows(&mut self, weights: &[String], biases: &[String]) -> Result<Matrix, CudaModelError> {
        let weight = self.joined(weights, Share::Rows)?;
        let bias = match biases {
            [] => None,
            biases => Some(self.joined(biases, Share::Rows)?),
        };
        Ok(Matrix { weight, bias })
    }

    fn gated(&mut self, gate: String, up: String) -> Result<Matrix, CudaModelError> {
        self.rows(&[gate, up], &[])
    }

    fn router(&mut self, weight: String) -> Result<Matrix, CudaModelError> {
        Ok(Matrix { weight: self.joined(&[weight], Share::Whole)?, bias: None })
    }

    /// Input features, or, where ranks exchange these, output features.
    fn back(&mut self, weight: String) -> Result<Matrix, CudaModelError> {
        let share = if joins(self.layout) { Share::Rows } else { Share::Columns };
        Ok(Matrix { weight: self.joined(&[weight], share)?, bias: None })
    }
}
