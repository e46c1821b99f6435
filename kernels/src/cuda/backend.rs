//! The seam between kernels and what runs them: a device's operations, and those of several devices that meet. NVIDIA's
//! driver and the emulator offer both alike.

use std::any::Any;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use super::error::CudaError;

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

/// A device that runs kernels. Work is done in the order in which it is asked for.
pub(super) trait Backend: Any + Send + Sync {
    /// New memory, zeroed.
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Gives it back.
    ///
    /// # Safety
    /// It came from `allocate` with the same size, and it is no longer in use.
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
    /// It came from `pin` with the same size, and the host no longer uses it.
    unsafe fn unpin(&self, address: u64, bytes: usize);

    /// Copies from the device to pinned memory without waiting.
    ///
    /// # Safety
    /// So many bytes are allocated at both, and the host does not touch the latter before a later mark is reached.
    unsafe fn fetch(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError>;

    /// Waits for everything.
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
    /// It is one of this device, and it is no longer in use.
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
    /// It is one of this device, and it is no longer in use.
    unsafe fn unmark(&self, mark: u64);

    /// A link between `devices`, rank by rank, of which this is the first.
    ///
    /// # Errors
    /// When some are of another kind, or nothing links them.
    fn connect(&self, devices: Vec<Arc<dyn Backend>>) -> Result<Box<dyn Link>, CudaError>;

    /// Bytes free and in all; none where that means nothing.
    fn memory(&self) -> Result<Option<(usize, usize)>, CudaError>;
}

/// One rank's part where several meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// The bf16 elements there become the sum of all ranks'.
    Sum { at: u64, elements: usize },
    /// Every rank gets what each has, one rank's bytes after the other's.
    Share { from: u64, to: u64, bytes: usize },
    /// Bytes for another rank, which receives as many.
    Send { from: u64, bytes: usize, rank: usize },
    /// Bytes of another rank, which sends as many.
    Receive { to: u64, bytes: usize, rank: usize },
}

/// A link between devices, through which their ranks meet.
pub(super) trait Link: Send + Sync {
    /// Asks for the calls of several ranks at once; each begins when its device has done what it was asked for before.
    ///
    /// # Safety
    /// The ranks' devices have so much memory at the calls' addresses.
    unsafe fn meet(&self, calls: &[(usize, Call)]) -> Result<(), CudaError>;
}

/// `devices` as those of one kind, if all of them are.
pub(super) fn all_of<T: Backend>(devices: Vec<Arc<dyn Backend>>) -> Result<Vec<Arc<T>>, CudaError> {
    let one = |device: Arc<dyn Backend>| {
        let device: Arc<dyn Any + Send + Sync> = device;
        device.downcast::<T>().map_err(|_| {
            CudaError::Sizes("a group is of GPUs or of emulated devices, not of both".to_owned())
        })
    };
    devices.into_iter().map(one).collect()
}
