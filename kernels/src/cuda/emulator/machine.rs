//! One emulated device: its kernels, its memory with margins, and the work that it is at.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use libloading::Library;

use super::super::backend::Shape;
use super::super::error::CudaError;
use super::super::source::Source;
use super::fault::{failed, locked};
use super::library::build;
use super::stream::{Op, Stream};

/// Bytes before and after each buffer, of a pattern that is not a number.
pub(super) const MARGIN: usize = 4096;
pub(super) const PATTERN: u8 = 0xff;

/// The entry of a library of kernels: index of the kernel, grid and block, dynamic shared memory, order,
/// parameters; an error, or nothing.
type Run =
    unsafe extern "C" fn(c_int, *const c_uint, c_uint, c_int, *mut *mut c_void) -> *const c_char;

/// A device as it is pretended to be.
#[derive(Debug, Clone, Default)]
pub struct Pretence {
    /// Bytes of its memory; none = as many as are asked for.
    pub memory: Option<usize>,
    /// The moment of its failure.
    pub fuse: Fuse,
    /// Recordings that it has replayed.
    pub replays: Arc<AtomicU64>,
}

/// The moment from which an emulated device fails for good; set at any time.
#[derive(Debug, Clone)]
pub struct Fuse(Arc<AtomicI64>);

impl Default for Fuse {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)))
    }
}

impl Fuse {
    /// After so many more kernels.
    pub fn light(&self, kernels: u32) {
        self.0.store(i64::from(kernels), Ordering::Relaxed);
    }

    fn burn(&self) -> Result<(), CudaError> {
        let left = self.0.fetch_sub(1, Ordering::Relaxed);
        if left > 0 { Ok(()) } else { Err(failed("an unspecified launch failure")) }
    }
}

/// One emulated device.
pub(super) struct Emulator {
    pub(super) sources: Vec<Source>,
    pub(super) cache: PathBuf,
    pub(super) order: i32,
    pub(super) pretence: Pretence,
    pub(super) state: Mutex<State>,
    pub(super) stream: Stream,
    /// True while it waits where several meet, and they have not come.
    pub(super) waits: Mutex<bool>,
}

/// Its libraries and its memory.
#[derive(Default)]
pub(super) struct State {
    libraries: HashMap<&'static str, Library>,
    /// Bytes of each buffer, by address.
    pub(super) buffers: HashMap<u64, usize>,
}

/// Compiled libraries keep state of their own (threads, shared memory): one launch at a time.
static ONE_LAUNCH: Mutex<()> = Mutex::new(());

impl Emulator {
    /// The library of the file that `kernel` is in.
    fn compiled<'a>(
        &self,
        state: &'a mut State,
        source: &Source,
    ) -> Result<&'a Library, CudaError> {
        if !state.libraries.contains_key(source.file) {
            let path = build(source, &self.cache)?;
            // SAFETY: it is ours, just compiled, and does nothing when loaded.
            let library = unsafe { Library::new(&path) };
            let library = library.map_err(|e| failed(format!("{}: {e}", path.display())))?;
            state.libraries.insert(source.file, library);
        }
        Ok(&state.libraries[source.file])
    }

    /// Does one thing that was asked for.
    pub(super) fn work(&self, op: Op) -> Result<(), CudaError> {
        match op {
            // SAFETY: the caller promised that the memory is there, and it is not given back before
            // this is done.
            Op::Write { to, bytes } => unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len());
            },
            // SAFETY: as above.
            Op::Copy { from, to, bytes } => unsafe {
                std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes);
            },
            Op::Launch { kernel, shape, mut words } => {
                self.pretence.fuse.burn()?;
                // SAFETY: as above, and the words are the kernel's parameters.
                unsafe { self.run(kernel, shape, &mut words)? }
            }
            Op::Meet { meeting, rank } => meeting.come(rank)?,
            Op::Mark(_) => {}
        }
        Ok(())
    }

    /// # Safety
    /// As [`Backend::launch`](super::super::backend::Backend::launch).
    unsafe fn run(
        &self,
        kernel: &'static str,
        shape: Shape,
        words: &mut [u64],
    ) -> Result<(), CudaError> {
        let place = |s: &Source| s.kernels.iter().position(|k| *k == kernel);
        let found = self.sources.iter().find_map(|s| Some((s, place(s)?)));
        let (source, index) = found.ok_or_else(|| failed(format!("no kernel {kernel}")))?;
        let run = {
            let mut state = locked(&self.state);
            let library = self.compiled(&mut state, source)?;
            *library.get::<Run>(b"knee_run").map_err(|e| failed(e.to_string()))?
        };
        let [x, y, z] = shape.grid;
        let sizes = [x, y, z, shape.block];
        let mut arguments: Vec<*mut c_void> =
            words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let _one = locked(&ONE_LAUNCH);
        let error =
            run(index as c_int, sizes.as_ptr(), shape.dynamic, self.order, arguments.as_mut_ptr());
        if error.is_null() {
            return Ok(());
        }
        Err(failed(format!("{kernel}: {}", CStr::from_ptr(error).to_string_lossy())))
    }

    /// Everything that was asked for.
    pub(super) fn finish(&self) -> Result<(), CudaError> {
        self.stream.not_recording("something was waited for")?;
        self.stream.work_off(None, |op| self.work(op))?;
        self.check_margins()
    }

    pub(super) fn check_margins(&self) -> Result<(), CudaError> {
        for (&address, &bytes) in &locked(&self.state).buffers {
            // SAFETY: allocated with margins on both sides.
            let margins = unsafe {
                [(address as usize - MARGIN), (address as usize + bytes)]
                    .map(|at| std::slice::from_raw_parts(at as *const u8, MARGIN))
            };
            if margins.iter().any(|m| m.iter().any(|&byte| byte != PATTERN)) {
                return Err(failed(format!("a kernel wrote beyond a buffer of {bytes} bytes")));
            }
        }
        Ok(())
    }
}
