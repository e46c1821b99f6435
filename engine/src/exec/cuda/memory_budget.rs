//! The memory of a device that is left for keys and values: the engine's share, less weights, other users of the
//! device, and batches.

use kernels::cuda::{CudaError, KvPool};

use super::weights::{CudaModel, Shard};
use crate::config::Config;
use crate::exec::forward::{Meeting, PADDING};

/// Metadata of batches, graphs, and what libraries take when they are first used.
const SLACK: u64 = 128 << 20;
/// Fewer tokens than this are no memory.
const LEAST_SLOTS: u64 = 16;

/// The use of a device's memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All of it.
    pub all: u64,
    /// Weights, and everything else that is there already.
    pub taken: u64,
    /// Needed by workers for their largest batches.
    pub batches: u64,
    /// Allowed to the engine: `kv_fraction`.
    pub limit: u64,
    /// Keys and values of a token.
    pub slot: u64,
    /// Workers.
    pub workers: u64,
}

/// The reasons for which memory does not suffice.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The driver does not say.
    #[error(transparent)]
    Device(#[from] CudaError),
    /// The weights alone are too large.
    #[error(
        "{model} needs {} of weights, but {device} has {} free: {} short",
        size(*weights), size(*free), size(weights - free)
    )]
    Weights {
        /// The model.
        model: String,
        /// The device.
        device: String,
        /// Bytes of weights.
        weights: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Nothing is left for keys and values.
    #[error(
        "{device} has no room for keys and values: weights and what else is there take {} and batches {} of the {} that \
         are kv-fraction {fraction}, {} short; raise kv-fraction, or lower max-batch-tokens or max-seqs",
        size(room.taken), size(room.batches), size(room.limit), size(*short)
    )]
    None {
        /// The device.
        device: String,
        /// The use of its memory.
        room: Room,
        /// The fraction asked for.
        fraction: f64,
        /// Missing, bytes.
        short: u64,
    },
    /// Less is left than was asked for.
    #[error(
        "{} of keys and values were asked for, but beside weights, batches ({}) and what else is there {device} has \
         {}: {} short",
        size(*asked), size(room.batches), size(*left), size(asked - left)
    )]
    Less {
        /// The device.
        device: String,
        /// The use of its memory.
        room: Room,
        /// Bytes that all workers were to have.
        asked: u64,
        /// Bytes that are left for them.
        left: u64,
    },
}

/// Bytes in people's units.
fn size(bytes: u64) -> String {
    let (scaled, unit) =
        if bytes < 1_000_000_000 { (bytes as f64 / 1e6, "MB") } else { (bytes as f64 / 1e9, "GB") };
    format!("{scaled:.1} {unit}")
}

impl Room {
    /// Bytes of keys and values for each worker within the limit.
    fn within(&self) -> u64 {
        self.limit.saturating_sub(self.taken + self.batches) / self.workers
    }
}

impl CudaModel {
    /// Bytes of keys and values, of all shards together, for each worker of `config`: those that are `asked` for, or as
    /// many as its `kv_fraction` leaves on the device that has least to spare. None where the device does not report
    /// its memory (an emulated one) and nothing is asked for.
    ///
    /// # Errors
    /// When there is no room for so many, or hardly any.
    pub fn kv_memory(&self, config: &Config, asked: Option<u64>) -> Result<Option<u64>, RoomError> {
        let places = 0..self.devices().len();
        let whole: u64 = places.clone().map(|place| self.slot_bytes(place)).sum();
        let mut least = asked;
        for place in places {
            let share = self.slot_bytes(place);
            let asked = asked.map(|bytes| bytes / whole * share + bytes % whole * share / whole);
            let here = self.kv_memory_at(place, config, asked)?;
            let all = here.map(|bytes| bytes / share * whole + bytes % share * whole / share);
            least = [least, all].into_iter().flatten().min();
        }
        Ok(least)
    }

    /// The same on one device: bytes of its shards.
    fn kv_memory_at(
        &self,
        place: usize,
        config: &Config,
        asked: Option<u64>,
    ) -> Result<Option<u64>, RoomError> {
        let Some(room) = self.room(place, config)? else { return Ok(asked) };
        let device = self.devices()[place].name().to_owned();
        // Rows of padding are kept beside what the allocator gives out.
        let padding = u64::from(PADDING) * room.slot;
        if let Some(each) = asked {
            let asked = (each + padding) * room.workers;
            let left = room.all.saturating_sub(room.taken + room.batches);
            if asked > left {
                return Err(RoomError::Less { device, room, asked, left });
            }
            return Ok(Some(each));
        }
        let least = (LEAST_SLOTS * room.slot + padding) * room.workers;
        let kv = room.within().saturating_sub(padding);
        if kv < LEAST_SLOTS * room.slot {
            let short = room.taken + room.batches + least - room.limit;
            return Err(RoomError::None { device, room, fraction: config.kv_fraction, short });
        }
        Ok(Some(kv))
    }

    /// The shards on one of the devices.
    fn here(&self, place: usize) -> impl Iterator<Item = &Shard> {
        self.shards.iter().skip(place).step_by(self.devices().len())
    }

    /// Bytes of a token's keys and values on one of the devices.
    pub(super) fn slot_bytes(&self, place: usize) -> u64 {
        let bytes = |shard: &Shard| KvPool::bytes_per_slot(self.heads(), shard.layers.len()) as u64;
        self.here(place).map(bytes).sum()
    }

    /// The use of a device's memory now that the weights are there, if the device reports it.
    fn room(&self, place: usize, config: &Config) -> Result<Option<Room>, RoomError> {
        let Some((free, all)) = self.devices()[place].memory()? else { return Ok(None) };
        let workers = u64::from(config.workers() * config.replicas);
        let batch: u64 = self.here(place).map(|shard| self.batch_bytes(shard, place, config)).sum();
        Ok(Some(Room {
            all: all as u64,
            taken: (all - free) as u64,
            batches: workers * (batch + self.turns_bytes()) + SLACK,
            limit: (all as f64 * config.kv_fraction) as u64,
            slot: self.slot_bytes(place),
            workers,
        }))
    }

    /// Most positions that the rotary table has.
    fn turns_bytes(&self) -> u64 {
        u64::from(self.most_positions()) * u64::from(self.config.head_dim) * 4
    }

    /// Bytes of a shard's buffers for the largest batch of `config`: what `Forward::make_room` and split attention ask
    /// for.
    fn batch_bytes(&self, shard: &Shard, place: usize, config: &Config) -> u64 {
        let (heads, ranks) = (self.heads(), self.ranks() as u64);
        let (hidden, ffn) = (u64::from(self.config.hidden), self.ffn() as u64);
        let width = (heads.queries * heads.dim) as u64;
        let (rows, seqs) = (u64::from(config.max_batch_tokens), u64::from(config.max_seqs));
        // A prompt above an unchunked budget runs alone.
        let rows = rows.max(u64::from(config.max_model_len));
        let inner = width.max(ffn);
        // Exchanged features are kept as they arrive, and put together.
        let joined =
            if self.meeting() == Meeting::Gather { 2 * (ranks * inner + hidden) } else { 0 };
        let row = 3 * hidden + heads.width() as u64 + width + 2 * ffn + inner + joined;
        let tokens = self.tokens() as u64;
        let logits = match (&shard.head, shard.part.rank) {
            (None, _) => 0,
            (Some(_), 0) if ranks > 1 => (2 * ranks + 1) * tokens,
            (Some(_), _) => tokens,
        };
        let last = seqs * (2 * hidden * 2 + logits * 4);
        let group = 8;
        let processors = u64::from(self.devices()[place].processors());
        let partials = group * 4 * processors + seqs * heads.queries as u64;
        // Buffers of partial results are powers of two.
        let split = 2 * partials * (heads.dim as u64 + 2) * 4;
        rows * row * 2 + last + split
    }
}
