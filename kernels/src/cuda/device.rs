//! The device seam: memory on a device and launches of named kernels, whoever runs them.

use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::collective::Endpoint;
use super::memory::{Buffer, Element, Mark, Memory};
use super::{CudaError, driver, ensure};

/// A launch: threads in three dimensions, and shared memory beyond what the kernel declares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) grid: [u32; 3],
    pub(super) block: u32,
    /// Bytes.
    pub(super) dynamic: u32,
}

/// A matrix product for a library: `y = x * weight^T`, `x` and `weight` in bf16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) y: u64,
    pub(super) y_is_f32: bool,
    pub(super) rows: usize,
    pub(super) features: usize,
    pub(super) outputs: usize,
}

/// Who runs kernels. Work is done in the order in which it is asked for.
pub(super) trait Backend: Send + Sync {
    /// New memory, zeroed.
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Gives it back.
    ///
    /// # Safety
    /// It came from `allocate` with the same size, and nobody uses it any more.
    unsafe fn free(&self, address: u64, bytes: usize);

    /// # Safety
    /// So many bytes are allocated there.
    unsafe fn write(&self, to: u64, from: &[u8]) -> Result<(), CudaError>;

    /// # Safety
    /// So many bytes are allocated at both, apart from each other.
    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError>;

    /// Waits for everything before it.
    ///
    /// # Safety
    /// So many bytes are allocated there.
    unsafe fn read(&self, from: u64, to: &mut [u8]) -> Result<(), CudaError>;

    /// # Safety
    /// `arguments` point to the kernel's parameters, of their types, and pointers among them to memory as large as the
    /// kernel uses.
    unsafe fn launch(
        &self,
        kernel: &'static str,
        shape: Shape,
        arguments: &mut [*mut c_void],
    ) -> Result<(), CudaError>;

    /// Multiplies with the vendor's library; false where there is none.
    ///
    /// # Safety
    /// The addresses are those of matrices of these sizes.
    unsafe fn multiply(&self, product: Product) -> Result<bool, CudaError>;

    /// New memory on the host that the device can write to by itself.
    fn pin(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Gives it back.
    ///
    /// # Safety
    /// It came from `pin` with the same size, and nobody on the host uses it any more.
    unsafe fn unpin(&self, address: u64, bytes: usize);

    /// Copies from the device to pinned memory without waiting.
    ///
    /// # Safety
    /// So many bytes are allocated at both, and the host does not touch the latter before a later mark is reached.
    unsafe fn fetch(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError>;

    fn synchronise(&self) -> Result<(), CudaError>;

    /// From here on, what is asked for is recorded and not done.
    fn begin_recording(&self) -> Result<(), CudaError>;

    /// Up to here; something to be done again and again.
    fn end_recording(&self) -> Result<u64, CudaError>;

    /// Does what was recorded.
    ///
    /// # Safety
    /// It is a recording of this device, and all memory that it uses is still allocated.
    unsafe fn replay(&self, recording: u64) -> Result<(), CudaError>;

    /// Gives a recording back.
    ///
    /// # Safety
    /// It is one of this device, and nobody uses it any more.
    unsafe fn forget(&self, recording: u64);

    /// Notes when everything before it is done.
    fn mark(&self) -> Result<u64, CudaError>;

    /// Waits for a mark.
    ///
    /// # Safety
    /// It is one of this device.
    unsafe fn wait(&self, mark: u64) -> Result<(), CudaError>;

    /// From one mark to a later one; waits for that.
    ///
    /// # Safety
    /// Both are marks of this device.
    unsafe fn between(&self, from: u64, to: u64) -> Result<Duration, CudaError>;

    /// Gives a mark back.
    ///
    /// # Safety
    /// It is one of this device, and nobody uses it any more.
    unsafe fn unmark(&self, mark: u64);

    /// Where ways to other devices begin.
    fn endpoint(&self) -> Result<Endpoint, CudaError>;

    /// Bytes free and in all; none where that means nothing.
    fn memory(&self) -> Result<Option<(usize, usize)>, CudaError>;
}

/// A GPU, or an emulated one.
#[derive(Clone)]
pub struct Device {
    backend: Arc<dyn Backend>,
    name: Arc<str>,
    processors: u32,
    /// What a recording under way uses.
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
    /// Element `at` of a buffer.
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

    /// What it is called.
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
        self.holds("where it is copied to", to, start + len)?;
        if len == 0 {
            return Ok(());
        }
        self.note([&from.memory, &to.memory].into_iter());
        let bytes = len * size_of::<T>();
        // SAFETY: two buffers, and the sizes were checked.
        unsafe { self.backend.copy(from.address(at), to.address(start), bytes) }
    }

    /// Whether it is the same one.
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
