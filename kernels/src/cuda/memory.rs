//! Memory on a device and what waits for it: buffers, results on their way to the host, and moments in a device's work.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use half::bf16;

use super::backend::Backend;
use super::error::{CudaError, ensure};

/// An element of a buffer: plain bytes, without padding.
///
/// # Safety
/// Every pattern of bits is a value.
pub unsafe trait Element: Copy + Send + Sync + 'static {}
// SAFETY: a number.
unsafe impl Element for bf16 {}
// SAFETY: as above.
unsafe impl Element for f32 {}
// SAFETY: as above.
unsafe impl Element for i32 {}

/// Bytes on a device. A graph shares those it was recorded over, so that they outlive it.
pub(super) struct Memory {
    pub(super) address: u64,
    bytes: usize,
    pub(super) backend: Arc<dyn Backend>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this size, and this was its only owner; freeing waits for kernels under way.
        unsafe { self.backend.free(self.address, self.bytes) }
    }
}

/// Elements on a device.
pub struct Buffer<T> {
    pub(super) memory: Arc<Memory>,
    len: usize,
    of: PhantomData<T>,
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer of {}", self.len)
    }
}

impl<T> Buffer<T> {
    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of element `at`.
    pub(super) fn address(&self, at: usize) -> u64 {
        self.memory.address + (at * size_of::<T>()) as u64
    }
}

impl<T: Element> Buffer<T> {
    pub(super) fn new(backend: &Arc<dyn Backend>, len: usize) -> Result<Self, CudaError> {
        let bytes = (len * size_of::<T>()).max(16);
        let address = backend.allocate(bytes)?;
        let memory = Arc::new(Memory { address, bytes, backend: Arc::clone(backend) });
        Ok(Self { memory, len, of: PhantomData })
    }

    /// Replaces elements from `at` on.
    ///
    /// # Errors
    /// When it is not so long, or the driver fails.
    pub fn write(&mut self, at: usize, data: &[T]) -> Result<(), CudaError> {
        self.reaches(at, data.len())?;
        // SAFETY: elements are plain bytes, and the range was checked.
        unsafe {
            let bytes = std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data));
            self.memory.backend.write(self.address(at), bytes)
        }
    }

    /// Fetches `to.len()` elements from `at` on, when everything before is done.
    ///
    /// # Errors
    /// When it is not so long, or the driver or a kernel failed.
    pub fn read(&self, at: usize, to: &mut [T]) -> Result<(), CudaError> {
        self.reaches(at, to.len())?;
        // SAFETY: elements are plain bytes of which every pattern is a value, and the range was checked.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), size_of_val(to));
            self.memory.backend.read(self.address(at), bytes)
        }
    }

    fn reaches(&self, at: usize, len: usize) -> Result<(), CudaError> {
        ensure(at + len <= self.len, || {
            format!("{len} elements at {at} of a buffer of {}", self.len)
        })
    }
}

/// Elements on their way from a device to the host, into memory that the device can write to by itself. Kept and filled
/// again.
pub struct Fetched<T> {
    /// The place at which they arrive, and the number that it has room for.
    place: u64,
    room: usize,
    len: usize,
    arrival: Option<Mark>,
    backend: Arc<dyn Backend>,
    of: PhantomData<T>,
}

impl<T> fmt::Debug for Fetched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fetched {}", self.len)
    }
}

impl<T> Drop for Fetched<T> {
    fn drop(&mut self) {
        if self.room > 0 {
            // SAFETY: it was made with this size; freeing waits for copies under way.
            unsafe { self.backend.unpin(self.place, self.room * size_of::<T>()) }
        }
    }
}

impl<T: Element> Fetched<T> {
    /// Nothing yet.
    pub(super) fn new(backend: &Arc<dyn Backend>) -> Self {
        let backend = Arc::clone(backend);
        Self { place: 0, room: 0, len: 0, arrival: None, backend, of: PhantomData }
    }

    /// Asks for the first `len` elements of `from`, as they are when everything asked for before is done; does not wait.
    ///
    /// # Errors
    /// When there are not so many, it is another device's, or the driver fails.
    pub fn ask(&mut self, from: &Buffer<T>, len: usize) -> Result<(), CudaError> {
        from.reaches(0, len)?;
        ensure(Arc::ptr_eq(&self.backend, &from.memory.backend), || {
            "results of one device are not fetched from another".to_owned()
        })?;
        self.len = 0;
        if self.room < len {
            if self.room > 0 {
                // SAFETY: as when it is dropped.
                unsafe { self.backend.unpin(self.place, self.room * size_of::<T>()) }
                self.room = 0;
            }
            let room = len.next_power_of_two();
            self.place = self.backend.pin(room * size_of::<T>())?;
            self.room = room;
        }
        if len > 0 {
            // SAFETY: both have so many elements.
            unsafe { self.backend.fetch(from.address(0), self.place, len * size_of::<T>())? }
        }
        self.arrival = Some(Mark::new(&self.backend)?);
        self.len = len;
        Ok(())
    }

    /// Waits for those that were asked for last, and gives them.
    ///
    /// # Errors
    /// When a kernel before them failed.
    pub fn get(&mut self) -> Result<&mut [T], CudaError> {
        self.arrival.as_ref().map_or(Ok(()), Mark::wait)?;
        if self.len == 0 {
            return Ok(&mut []);
        }
        // SAFETY: so many have arrived, every pattern of bits is one, and no other owner has this
        // memory.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.place as *mut T, self.len) })
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
    pub(super) fn new(backend: &Arc<dyn Backend>) -> Result<Self, CudaError> {
        Ok(Self { id: backend.mark()?, backend: Arc::clone(backend) })
    }

    /// Waits until it is reached.
    ///
    /// # Errors
    /// When a kernel before it failed.
    pub fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: it is this device's and not given back.
        unsafe { self.backend.wait(self.id) }
    }

    /// The time since `earlier`, a mark of the same device; waits until this one is reached.
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
