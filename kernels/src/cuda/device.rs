//! A device: memory on it, and launches of named kernels, whatever runs them.

use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::backend::{Backend, Link, Product, Shape};
use super::driver;
use super::error::{CudaError, ensure};
use super::memory::{Buffer, Element, Fetched, Mark, Memory};

/// A GPU, or an emulated one.
#[derive(Clone)]
pub struct Device {
    backend: Arc<dyn Backend>,
    name: Arc<str>,
    processors: u32,
    /// The memory that a recording under way uses.
    pub(super) recorded: Arc<Mutex<Option<Vec<Arc<Memory>>>>>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A kernel's argument.
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    /// An address in some memory, or none.
    Pointer(u64, Option<&'a Arc<Memory>>),
    Int(i32),
    Long(u64),
    Float(f32),
}

impl<'a> Arg<'a> {
    pub(super) fn within<T: Element>(buffer: &'a Buffer<T>, at: usize) -> Self {
        Self::Pointer(buffer.address(at), Some(&buffer.memory))
    }
}

impl From<i32> for Arg<'_> {
    fn from(x: i32) -> Self {
        Self::Int(x)
    }
}

impl From<f32> for Arg<'_> {
    fn from(x: f32) -> Self {
        Self::Float(x)
    }
}

impl<'a, T: Element> From<&'a Buffer<T>> for Arg<'a> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        Self::within(buffer, 0)
    }
}

impl<'a, T: Element> From<Option<&'a Buffer<T>>> for Arg<'a> {
    fn from(buffer: Option<&'a Buffer<T>>) -> Self {
        buffer.map_or(Self::Pointer(0, None), Self::from)
    }
}

impl Device {
    /// GPU number `index`, its kernels compiled (some seconds).
    ///
    /// # Errors
    /// When there is no driver, no such GPU, no NVRTC, or one of them is too old.
    pub fn open(index: usize) -> Result<Self, CudaError> {
        let gpu = driver::Gpu::open(index)?;
        let (name, processors) = (gpu.name.as_str().into(), gpu.processors);
        Ok(Self { backend: Arc::new(gpu), name, processors, recorded: Arc::default() })
    }

    #[cfg(feature = "emulator")]
    pub(super) fn emulated(backend: Arc<dyn Backend>, name: &str) -> Self {
        Self { backend, name: name.into(), processors: 4, recorded: Arc::default() }
    }

    pub(super) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Multiprocessors.
    #[must_use]
    pub fn processors(&self) -> u32 {
        self.processors
    }

    /// Bytes free and in all; none where that means nothing (an emulated device).
    ///
    /// # Errors
    /// When the driver fails.
    pub fn memory(&self) -> Result<Option<(usize, usize)>, CudaError> {
        self.backend.memory()
    }

    /// Memory for `len` elements, zeroed.
    ///
    /// # Errors
    /// When there is not so much.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>, CudaError> {
        Buffer::new(&self.backend, len)
    }

    /// Memory that holds `data`.
    ///
    /// # Errors
    /// When there is not so much.
    pub fn upload<T: Element>(&self, data: &[T]) -> Result<Buffer<T>, CudaError> {
        let mut buffer = self.zeros(data.len())?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    /// Copies a buffer to one that is at least as long.
    ///
    /// # Errors
    /// When it is not, or the driver fails.
    pub fn copy<T: Element>(&self, from: &Buffer<T>, to: &mut Buffer<T>) -> Result<(), CudaError> {
        self.copy_part((from, 0), (to, 0), from.len())
    }

    /// Copies `len` elements, from one place to another.
    pub(super) fn copy_part<T: Element>(
        &self,
        (from, at): (&Buffer<T>, usize),
        (to, start): (&mut Buffer<T>, usize),
        len: usize,
    ) -> Result<(), CudaError> {
        self.holds("what is copied", from, at + len)?;
        self.holds("the target of the copy", to, start + len)?;
        if len == 0 {
            return Ok(());
        }
        self.note([&from.memory, &to.memory].into_iter());
        let bytes = len * size_of::<T>();
        // SAFETY: two buffers, and the sizes were checked.
        unsafe { self.backend.copy(from.address(at), to.address(start), bytes) }
    }

    /// True of the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.backend, &other.backend)
    }

    /// Waits until everything is done.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn synchronise(&self) -> Result<(), CudaError> {
        self.backend.synchronise()
    }

    /// A note of when everything asked for before it is done, by the device's own clock.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn mark(&self) -> Result<Mark, CudaError> {
        Mark::new(&self.backend)
    }

    /// Results on their way from this device to the host; none yet.
    #[must_use]
    pub fn fetched<T: Element>(&self) -> Fetched<T> {
        Fetched::new(&self.backend)
    }

    /// A link between `devices`, of which this is the first.
    pub(super) fn connect(&self, devices: &[Self]) -> Result<Box<dyn Link>, CudaError> {
        self.backend.connect(devices.iter().map(|device| Arc::clone(&device.backend)).collect())
    }

    /// Refuses a buffer of another device, or one that is shorter than `len`.
    pub(super) fn holds<T>(
        &self,
        what: &str,
        buffer: &Buffer<T>,
        len: usize,
    ) -> Result<(), CudaError> {
        ensure(Arc::ptr_eq(&self.backend, &buffer.memory.backend), || {
            format!("{what}: of another device than {}", self.name)
        })?;
        ensure(buffer.len() >= len, || format!("{what} has {} elements, not {len}", buffer.len()))
    }

    /// Keeps `memory` for as long as a recording under way is kept.
    fn note<'a>(&self, memory: impl Iterator<Item = &'a Arc<Memory>>) {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recorded) = &mut *recorded {
            recorded.extend(memory.cloned());
        }
    }

    /// # Safety
    /// As [`Backend::launch`].
    pub(super) unsafe fn launch<const N: usize>(
        &self,
        kernel: &'static str,
        shape: Shape,
        arguments: [Arg<'_>; N],
    ) -> Result<(), CudaError> {
        self.note(arguments.iter().filter_map(|argument| match argument {
            Arg::Pointer(_, memory) => *memory,
            Arg::Int(_) | Arg::Long(_) | Arg::Float(_) => None,
        }));
        // On a little-endian machine an argument of four bytes is the beginning of eight.
        let mut words = arguments.map(|argument| match argument {
            Arg::Pointer(address, _) => address,
            Arg::Long(x) => x,
            Arg::Int(x) => u64::from(x as u32),
            Arg::Float(x) => u64::from(x.to_bits()),
        });
        let mut pointers = words.each_mut().map(|word| std::ptr::from_mut(word).cast::<c_void>());
        self.backend.launch(kernel, shape, &mut pointers)
    }

    /// # Safety
    /// As [`Backend::multiply`]; these are the memories of its matrices.
    pub(super) unsafe fn multiply(
        &self,
        product: Product,
        memories: [&Arc<Memory>; 3],
    ) -> Result<bool, CudaError> {
        self.note(memories.into_iter());
        self.backend.multiply(product)
    }
}
