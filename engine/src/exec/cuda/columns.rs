//! Columns that tensor-parallel ranks have parts of: a rank's own, and all of them put side by side where it needs
//! them.

use kernels::cuda::{Buffer, CudaError, Device, Element};

/// Memory for the columns of one rank. A rank that needs no others' columns has memory for its own part alone.
#[derive(Debug)]
pub(super) struct Columns<T> {
    /// `[rows, columns]`.
    pub(super) part: Buffer<T>,
    /// Those of all ranks as they arrive, `[ranks, rows, columns]`.
    pub(super) arrived: Buffer<T>,
    /// `[rows, ranks * columns]`.
    whole: Buffer<T>,
    /// True where they are put together.
    joined: bool,
}

/// `buffer` with room for `len` elements, made if it is not there; its former content is gone then. Returns 1 if it was
/// made.
pub(super) fn grow<T: Element>(
    device: &Device,
    buffer: &mut Buffer<T>,
    len: usize,
) -> Result<u64, CudaError> {
    if buffer.len() >= len {
        return Ok(0);
    }
    // The old one first: both may not fit.
    *buffer = device.zeros(0)?;
    *buffer = device.zeros(len)?;
    Ok(1)
}

impl<T: Element> Columns<T> {
    pub(super) fn new(device: &Device) -> Result<Self, CudaError> {
        let (part, arrived, whole) = (device.zeros(0)?, device.zeros(0)?, device.zeros(0)?);
        Ok(Self { part, arrived, whole, joined: false })
    }

    /// Makes room for `len` elements of this rank, and for those of `ranks` ranks put together (0 = they never are).
    /// Returns how many buffers were made.
    pub(super) fn make_room(
        &mut self,
        device: &Device,
        len: usize,
        ranks: usize,
    ) -> Result<u64, CudaError> {
        self.joined = ranks > 0;
        let own = grow(device, &mut self.part, len)?;
        let arrived = grow(device, &mut self.arrived, len * ranks)?;
        Ok(own + arrived + grow(device, &mut self.whole, len * ranks)?)
    }

    /// All columns that there are to be.
    pub(super) fn all(&self) -> &Buffer<T> {
        if self.joined { &self.whole } else { &self.part }
    }

    /// The same, to be written from elsewhere.
    pub(super) fn all_mut(&mut self) -> &mut Buffer<T> {
        if self.joined { &mut self.whole } else { &mut self.part }
    }

    /// Puts the parts that have arrived from `ranks` ranks side by side.
    pub(super) fn join(
        &mut self,
        device: &Device,
        sizes: (usize, usize, usize),
    ) -> Result<(), CudaError> {
        device.join_columns(sizes, &self.arrived, &mut self.whole)
    }
}
