//! The device seam: memory on a device and launches of named kernels, whoever runs them.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use half::bf16;

use super::batch::Seq;
use super::ops::Draw;
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

    fn synchronise(&self) -> Result<(), CudaError>;

    /// Notes when everything before it is done.
    fn mark(&self) -> Result<u64, CudaError>;

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

    /// Bytes free and in all; none where that means nothing.
    fn memory(&self) -> Result<Option<(usize, usize)>, CudaError>;
}

/// A GPU, or an emulated one.
#[derive(Clone)]
pub struct Device {
    backend: Arc<dyn Backend>,
    name: Arc<str>,
    processors: u32,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A kernel's argument.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    Pointer(u64),
    Int(i32),
    Float(f32),
}

impl From<i32> for Arg {
    fn from(x: i32) -> Self {
        Self::Int(x)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Self::Float(x)
    }
}

impl<T: Element> From<&Buffer<T>> for Arg {
    fn from(buffer: &Buffer<T>) -> Self {
        Self::Pointer(buffer.address)
    }
}

impl<T: Element> From<Option<&Buffer<T>>> for Arg {
    fn from(buffer: Option<&Buffer<T>>) -> Self {
        Self::Pointer(buffer.map_or(0, |b| b.address))
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
        Ok(Self { backend: Arc::new(gpu), name, processors })
    }

    #[cfg(feature = "emulator")]
    pub(super) fn emulated(backend: Arc<dyn Backend>, name: &str) -> Self {
        Self { backend, name: name.into(), processors: 4 }
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
        let bytes = (len * size_of::<T>()).max(16);
        let address = self.backend.allocate(bytes)?;
        Ok(Buffer { address, len, bytes, backend: Arc::clone(&self.backend), of: PhantomData })
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
        self.holds("what is copied", from, 0)?;
        self.holds("where it is copied to", to, from.len)?;
        // SAFETY: two buffers, and the sizes were checked.
        unsafe { self.backend.copy(from.address, to.address, from.len * size_of::<T>()) }
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
        Ok(Mark { id: self.backend.mark()?, backend: Arc::clone(&self.backend) })
    }

    /// Refuses a buffer of another device, or one that is shorter than `len`.
    pub(super) fn holds<T>(
        &self,
        what: &str,
        buffer: &Buffer<T>,
        len: usize,
    ) -> Result<(), CudaError> {
        ensure(Arc::ptr_eq(&self.backend, &buffer.backend), || {
            format!("{what}: of another device than {}", self.name)
        })?;
        ensure(buffer.len >= len, || format!("{what} has {} elements, not {len}", buffer.len))
    }

    /// # Safety
    /// As [`Backend::launch`].
    pub(super) unsafe fn launch<const N: usize>(
        &self,
        kernel: &'static str,
        shape: Shape,
        arguments: [Arg; N],
    ) -> Result<(), CudaError> {
        // On a little-endian machine an argument of four bytes is the beginning of eight.
        let mut words = arguments.map(|argument| match argument {
            Arg::Pointer(address) => address,
            Arg::Int(x) => u64::from(x as u32),
            Arg::Float(x) => u64::from(x.to_bits()),
        });
        let mut pointers = words.each_mut().map(|word| std::ptr::from_mut(word).cast::<c_void>());
        self.backend.launch(kernel, shape, &mut pointers)
    }

    /// # Safety
    /// As [`Backend::multiply`].
    pub(super) unsafe fn multiply(&self, product: Product) -> Result<bool, CudaError> {
        self.backend.multiply(product)
    }
}

/// A moment in a device's work.
pub struct Mark {
    id: u64,
    backend: Arc<dyn Backend>,
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

impl Mark {
    /// What passed since `earlier`, a mark of the same device; waits until this one is reached.
    ///
    /// # Errors
    /// When a kernel failed, or the marks are those of two devices.
    pub fn since(&self, earlier: &Self) -> Result<Duration, CudaError> {
        ensure(Arc::ptr_eq(&self.backend, &earlier.backend), || {
            "two marks of one device".to_owned()
        })?;
        // SAFETY: both are this device's and not given back.
        unsafe { self.backend.between(earlier.id, self.id) }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: this was its only owner.
        unsafe { self.backend.unmark(self.id) }
    }
}

/// What buffers may hold: plain bytes, without padding.
///
/// # Safety
/// Every pattern of bits is a value.
pub unsafe trait Element: Copy + Send + Sync + 'static {}
// SAFETY: numbers, and structures of four-byte numbers.
unsafe impl Element for bf16 {}
// SAFETY: as above.
unsafe impl Element for f32 {}
// SAFETY: as above.
unsafe impl Element for i32 {}
// SAFETY: as above.
unsafe impl Element for Seq {}
// SAFETY: as above.
unsafe impl Element for Draw {}

/// Elements on a device.
pub struct Buffer<T> {
    pub(super) address: u64,
    len: usize,
    bytes: usize,
    backend: Arc<dyn Backend>,
    of: PhantomData<T>,
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer of {}", self.len)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated with this size, and this was its only owner; freeing waits for kernels under way.
        unsafe { self.backend.free(self.address, self.bytes) }
    }
}

impl<T: Element> Buffer<T> {
    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Replaces elements from `at` on.
    ///
    /// # Errors
    /// When it is not so long, or the driver fails.
    pub fn write(&mut self, at: usize, data: &[T]) -> Result<(), CudaError> {
        ensure(at + data.len() <= self.len, || {
            format!("{} elements at {at} of a buffer of {}", data.len(), self.len)
        })?;
        // SAFETY: elements are plain bytes, and the range was checked.
        unsafe {
            let bytes = std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data));
            self.backend.write(self.address + (at * size_of::<T>()) as u64, bytes)
        }
    }

    /// Fetches `to.len()` elements from `at` on, when everything before is done.
    ///
    /// # Errors
    /// When it is not so long, or the driver or a kernel failed.
    pub fn read(&self, at: usize, to: &mut [T]) -> Result<(), CudaError> {
        ensure(at + to.len() <= self.len, || {
            format!("{} elements at {at} of a buffer of {}", to.len(), self.len)
        })?;
        // SAFETY: elements are plain bytes of which every pattern is a value, and the range was checked.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), size_of_val(to));
            self.backend.read(self.address + (at * size_of::<T>()) as u64, bytes)
        }
    }
}
