//! Work recorded once and done again and again: a CUDA graph. A decode of few rows is hundreds of launches of some
//! microseconds each, which the host cannot ask for one by one as fast as a device does them.
//!
//! A graph has its launches' sizes and addresses in it. The sizes are those of the batch that it was recorded with, so it
//! is done for a batch of the same sizes only, put into the same memory; what else it uses it keeps alive.

use std::fmt;
use std::sync::{Arc, PoisonError};

use super::backend::Backend;
use super::batch::{DeviceBatch, Sizes};
use super::device::Device;
use super::error::{CudaError, ensure};
use super::memory::Memory;

/// Recorded work on a device.
pub struct Graph {
    id: u64,
    backend: Arc<dyn Backend>,
    memories: Vec<Arc<Memory>>,
    sizes: Sizes,
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph for {:?}", self.sizes)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: this was its only owner; what is under way is waited for.
        unsafe { self.backend.forget(self.id) }
    }
}

impl Graph {
    /// True if it can be done for `batch`: one of the sizes it was recorded with, in the same memory.
    #[must_use]
    pub fn fits(&self, batch: &DeviceBatch) -> bool {
        let kept = |memory: &Arc<Memory>| self.memories.iter().any(|m| Arc::ptr_eq(m, memory));
        batch.sizes() == self.sizes && batch.memories().into_iter().all(kept)
    }
}

impl Device {
    /// Records what `work` asks for, which is not done. All memory must be there already: nothing can be allocated
    /// meanwhile, nor waited for.
    ///
    /// # Errors
    /// When `work` fails, or the driver does.
    pub fn record(
        &self,
        batch: &DeviceBatch,
        work: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<Graph, CudaError> {
        let recorded = || self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        self.backend().begin_recording()?;
        *recorded() = Some(batch.memories().into_iter().cloned().collect());
        let done = work();
        let mut memories = recorded().take().unwrap_or_default();
        let id = self.backend().end_recording();
        done?;
        memories.sort_by_key(|memory| memory.address);
        memories.dedup_by(|a, b| Arc::ptr_eq(a, b));
        Ok(Graph { id: id?, backend: Arc::clone(self.backend()), memories, sizes: batch.sizes() })
    }

    /// Does what was recorded, for `batch`.
    ///
    /// # Errors
    /// When it does not fit the batch, is another device's, or the driver fails.
    pub fn replay(&self, graph: &Graph, batch: &DeviceBatch) -> Result<(), CudaError> {
        ensure(Arc::ptr_eq(self.backend(), &graph.backend), || {
            "a graph of this device".to_owned()
        })?;
        ensure(graph.fits(batch), || format!("{graph:?} is not for {:?}", batch.sizes()))?;
        // SAFETY: it holds its memory, and the batch's numbers are below the limits that its launches rely on.
        unsafe { self.backend().replay(graph.id) }
    }
}
