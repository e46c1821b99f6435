//! The forward pass of the in-tree engine, written once for every backend.
//!
//! A [`Backend`] has the weights and offers the operators; [`run`] puts them in order, and says where tensor-parallel
//! ranks meet and what the time of each operator counts as. The parts around it that no backend has of its own are
//! here too: a plan as rows (`rows`), the split of a model (`part`) and of its tensors (`weights`), and the choice of
//! tokens (`sample`).

mod part;
mod rows;
mod sample;
mod spent;
mod weights;
mod work;

pub use part::Part;
pub(super) use part::{impossible, unsplittable};
pub(super) use rows::{Context, PADDING, Rows};
pub(super) use sample::Chooser;
pub use sample::{Greedy, Sample};
pub use spent::Spent;
pub(super) use spent::{Entry, entry};
pub(super) use weights::{FeedForward, Gated, Layer, Store};
pub(super) use work::BLOCK;
pub use work::{Measured, Work};

/// Products that lead back to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Back {
    /// From attention.
    Out,
    /// From the feed-forward layer.
    Down,
}

/// The norms of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norm {
    /// Before attention.
    Attention,
    /// Before the feed-forward layer.
    FeedForward,
}

/// The way in which tensor-parallel ranks come to one result. Each has the attention of its heads and its inner features
/// of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meeting {
    /// There is one rank.
    Alone,
    /// Each leads its own features back, and the results are summed (Megatron-LM, Shoeybi et al. 2019). That rounds
    /// otherwise than one rank would.
    Sum,
    /// Each is given all features, leads them back for its own columns, and is given all columns. No sum is ever split,
    /// so results are those of one rank to the bit, for two exchanges where there was a sum.
    Gather,
}

/// The operators of a pipeline stage for one batch: those of one rank, which meets the others by itself, or of all ranks
/// one after the other. Layers count from the stage's first.
pub(super) trait Backend {
    /// The failure of a device.
    type Error;

    /// The way in which its ranks meet.
    fn meeting(&self) -> Meeting;

    /// Fills the residual stream: with embeddings in the first stage, elsewhere with what the stage before has left.
    fn begin(&mut self) -> Result<(), Self::Error>;

    /// Normalises the residual stream.
    fn norm(&mut self, layer: usize, norm: Norm) -> Result<(), Self::Error>;

    /// Queries, keys and values.
    fn qkv(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// Norms of single heads and rotary embedding; keys and values go to their slots.
    fn rotate(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// Attention: queries become inner features.
    fn attend(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// Chooses the experts of each row; nothing where the layer has none.
    fn route(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// The products into the feed-forward layer, or into the experts.
    fn gate_up(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// Its gate, where that is no part of [`Backend::gate_up`]: what comes out are inner features.
    fn gate(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Gives every rank the inner features of all.
    fn gather_inner(&mut self, back: Back) -> Result<(), Self::Error>;

    /// Brings inner features into the format that products take.
    fn prepare(&mut self, _back: Back) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The product that leads from inner features back to the residual stream, which one rank alone adds there (at the
    /// latest with the next norm).
    fn lead_back(&mut self, layer: usize, back: Back) -> Result<(), Self::Error>;

    /// Gives every rank the columns of all that were led back, to be added likewise.
    fn gather_columns(&mut self) -> Result<(), Self::Error>;

    /// Gives every rank the sum of what all have led back, to be added likewise.
    fn sum(&mut self) -> Result<(), Self::Error>;

    /// In the last stage, the logits of the rows that are wanted.
    fn head(&mut self) -> Result<(), Self::Error>;

    /// Counts the time since the last lap as that of `entry`, where times are kept.
    fn lap(&mut self, entry: Entry) -> Result<(), Self::Error>;
}

/// Computes a batch through the first `layers` layers of a stage: keys and values are in their slots then, and the last
/// stage has logits.
pub(super) fn run<B: Backend>(backend: &mut B, layers: usize) -> Result<(), B::Error> {
    backend.begin()?;
    backend.lap(entry::ONCE)?;
    for layer in 0..layers {
        backend.norm(layer, Norm::Attention)?;
        backend.lap(entry::REST)?;
        backend.qkv(layer)?;
        backend.lap(entry::QKV)?;
        backend.rotate(layer)?;
        backend.lap(entry::REST)?;
        backend.attend(layer)?;
        backend.lap(entry::ATTENTION)?;
        back(backend, layer, Back::Out)?;
        backend.norm(layer, Norm::FeedForward)?;
        backend.route(layer)?;
        backend.lap(entry::REST)?;
        backend.gate_up(layer)?;
        backend.lap(entry::GATE_UP)?;
        backend.gate()?;
        back(backend, layer, Back::Down)?;
    }
    backend.head()?;
    backend.lap(entry::HEAD)
}

/// From inner features to the residual stream, over all ranks.
fn back<B: Backend>(backend: &mut B, layer: usize, back: Back) -> Result<(), B::Error> {
    let meeting = backend.meeting();
    if meeting == Meeting::Gather {
        backend.gather_inner(back)?;
    }
    backend.prepare(back)?;
    backend.lap(entry::REST)?;
    backend.lead_back(layer, back)?;
    backend.lap(if back == Back::Out { entry::OUT } else { entry::DOWN })?;
    match meeting {
        Meeting::Alone => Ok(()),
        Meeting::Sum => backend.sum(),
        Meeting::Gather => backend.gather_columns(),
    }
}
