//! The kernels on a processor, for tests: compiled by the machine's C++ compiler when a test asks for them.
//!
//! What it shows and what it cannot is said in `kernels/cu/emulator/cuda_emulator.h`. Memory has margins that are
//! checked whenever something is read, so that a kernel that writes beyond its buffers is found out. Work is done when
//! somebody waits for it ([`stream`]), so that a host that does not wait is found out too.

mod fabric;
mod library;
mod stream;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use libloading::Library;

use super::CudaError;
use super::collective::Endpoint;
use super::device::{Backend, Device, Product, Shape};
use super::source::{self, Source};
pub(super) use fabric::Fabric;
use library::{build, compiler};
use stream::{Op, Stream};

/// Orders in which threads may run; see `cuda_emulator.h`.
pub const ORDERS: i32 = 6;

/// Bytes before and after each buffer, of a pattern that is not a number.
const MARGIN: usize = 4096;
const PATTERN: u8 = 0xff;

/// What a library of kernels is called by: index of the kernel, grid and block, dynamic shared memory, order,
/// parameters; an error, or nothing.
type Run =
    unsafe extern "C" fn(c_int, *const c_uint, c_uint, c_int, *mut *mut c_void) -> *const c_char;

/// Why there can be no emulator on this machine; none where there can.
#[must_use]
pub fn absent() -> Option<&'static str> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Some("the emulator switches stacks in x86-64 assembly on Linux");
    }
    let compiles = Command::new(compiler()).arg("--version").output();
    let works = compiles.is_ok_and(|out| out.status.success());
    (!works).then_some("no C++ compiler (g++, or what CXX names) on this machine")
}

/// An emulated device that runs threads in one of [`ORDERS`]. Libraries are kept below `cache`.
#[must_use]
pub fn device(cache: &Path, order: i32) -> Device {
    of_sources(source::all(), cache, order)
}

/// The same with these sources, such as ones with a mistake in them.
#[must_use]
pub fn of_sources(sources: Vec<Source>, cache: &Path, order: i32) -> Device {
    build_device(sources, cache, order, Pretence::default())
}

/// The same that is as small, and fails when, it is told to.
#[must_use]
pub fn pretending(cache: &Path, pretence: Pretence) -> Device {
    build_device(source::all(), cache, 0, pretence)
}

/// Several that meet, one for each of `pretences`.
#[must_use]
pub fn several(cache: &Path, pretences: &[Pretence]) -> Vec<Device> {
    let turn = Arc::default();
    let device = |pretence: &Pretence| {
        let stream = Stream::taking_turns(&turn);
        on_stream(source::all(), cache, (0, pretence.clone()), stream)
    };
    pretences.iter().map(device).collect()
}

fn build_device(sources: Vec<Source>, cache: &Path, order: i32, pretence: Pretence) -> Device {
    on_stream(sources, cache, (order, pretence), Stream::default())
}

fn on_stream(
    sources: Vec<Source>,
    cache: &Path,
    (order, pretence): (i32, Pretence),
    stream: Stream,
) -> Device {
    let emulator = Arc::new_cyclic(|me| Emulator {
        me: Weak::clone(me),
        sources,
        cache: cache.to_owned(),
        order,
        pretence,
        state: Mutex::default(),
        stream,
        waits: Mutex::default(),
    });
    Device::emulated(emulator, "an emulated GPU")
}

/// What a device is pretended to be.
#[derive(Debug, Clone, Default)]
pub struct Pretence {
    /// Bytes of its memory; none = as many as are asked for.
    pub memory: Option<usize>,
    /// When it fails.
    pub fuse: Fuse,
    /// How often it has done what was recorded.
    pub replays: Arc<AtomicU64>,
}

/// When an emulated device fails, for good: told at any time.
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

pub(super) struct Emulator {
    me: Weak<Self>,
    sources: Vec<Source>,
    cache: PathBuf,
    order: i32,
    pretence: Pretence,
    state: Mutex<State>,
    stream: Stream,
    /// Whether it has come to where several meet, and they have not.
    waits: Mutex<bool>,
}

#[derive(Default)]
struct State {
    libraries: HashMap<&'static str, Library>,
    /// Bytes of each buffer, by address.
    buffers: HashMap<u64, usize>,
}

fn failed(what: impl Into<String>) -> CudaError {
    CudaError::Call { call: "the emulator", reason: what.into() }
}

/// Compiled libraries keep state of their own (threads, shared memory): one launch at a time.
static ONE_LAUNCH: Mutex<()> = Mutex::new(());
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    fn work(&self, op: Op) -> Result<(), CudaError> {
        match op {
            // SAFETY: whoever asked said that the memory is there, and it is not given back before this is done.
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
    /// As [`Backend::launch`].
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
    fn finish(&self) -> Result<(), CudaError> {
        self.stream.not_recording("something was waited for")?;
        self.stream.work_off(None, |op| self.work(op))?;
        self.check_margins()
    }

    fn check_margins(&self) -> Result<(), CudaError> {
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

impl Backend for Emulator {
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.stream.not_recording("memory was asked for")?;
        if let Some((free, _)) = self.memory()?.filter(|(free, _)| *free < bytes) {
            return Err(CudaError::OutOfMemory { wanted: bytes, free });
        }
        let whole = bytes + 2 * MARGIN;
        let layout =
            std::alloc::Layout::from_size_align(whole, 256).map_err(|_| failed("layout"))?;
        // SAFETY: the layout is not empty, and all of it is written.
        let address = unsafe {
            let start = std::alloc::alloc(layout);
            if start.is_null() {
                return Err(CudaError::OutOfMemory { wanted: bytes, free: 0 });
            }
            start.write_bytes(PATTERN, whole);
            start.add(MARGIN).write_bytes(0, bytes);
            start as u64 + MARGIN as u64
        };
        locked(&self.state).buffers.insert(address, bytes);
        Ok(address)
    }

    unsafe fn free(&self, address: u64, bytes: usize) {
        // What was asked for may use it; what failed never will.
        let _ = self.stream.work_off(None, |op| self.work(op));
        locked(&self.state).buffers.remove(&address);
        if let Ok(layout) = std::alloc::Layout::from_size_align(bytes + 2 * MARGIN, 256) {
            std::alloc::dealloc((address as usize - MARGIN) as *mut u8, layout);
        }
    }

    unsafe fn write(&self, to: u64, from: &[u8]) -> Result<(), CudaError> {
        self.stream.ask(Op::Write { to, bytes: from.to_vec() })
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        self.stream.ask(Op::Copy { from, to, bytes })
    }

    unsafe fn read(&self, from: u64, to: &mut [u8]) -> Result<(), CudaError> {
        self.finish()?;
        std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len());
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        shape: Shape,
        arguments: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        let words = arguments.iter().map(|&at| *at.cast::<u64>()).collect();
        self.stream.ask(Op::Launch { kernel, shape, words })
    }

    unsafe fn multiply(&self, _product: Product) -> Result<bool, CudaError> {
        Ok(false)
    }

    fn pin(&self, bytes: usize) -> Result<u64, CudaError> {
        self.stream.not_recording("memory was asked for")?;
        let layout =
            std::alloc::Layout::from_size_align(bytes.max(1), 256).map_err(|_| failed("layout"))?;
        // SAFETY: the layout is not empty, and all of it is written.
        unsafe {
            let start = std::alloc::alloc(layout);
            if start.is_null() {
                return Err(failed("no memory on the host"));
            }
            start.write_bytes(PATTERN, bytes);
            Ok(start as u64)
        }
    }

    unsafe fn unpin(&self, address: u64, bytes: usize) {
        let _ = self.stream.work_off(None, |op| self.work(op));
        if let Ok(layout) = std::alloc::Layout::from_size_align(bytes.max(1), 256) {
            std::alloc::dealloc(address as *mut u8, layout);
        }
    }

    unsafe fn fetch(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        self.stream.ask(Op::Copy { from, to, bytes })
    }

    fn synchronise(&self) -> Result<(), CudaError> {
        self.finish()
    }

    fn begin_recording(&self) -> Result<(), CudaError> {
        self.stream.begin_recording()
    }

    fn end_recording(&self) -> Result<u64, CudaError> {
        self.stream.end_recording()
    }

    unsafe fn replay(&self, recording: u64) -> Result<(), CudaError> {
        self.pretence.replays.fetch_add(1, Ordering::Relaxed);
        self.stream.replay(recording)
    }

    unsafe fn forget(&self, recording: u64) {
        self.stream.forget(recording);
    }

    fn mark(&self) -> Result<u64, CudaError> {
        self.stream.mark()
    }

    unsafe fn wait(&self, mark: u64) -> Result<(), CudaError> {
        self.stream.work_off(Some(mark), |op| self.work(op))?;
        self.check_margins()
    }

    unsafe fn between(&self, from: u64, to: u64) -> Result<Duration, CudaError> {
        let reached = |mark| self.stream.work_off(Some(mark), |op| self.work(op));
        let (from, to) = (reached(from)?, reached(to)?);
        Ok(from.zip(to).map_or(Duration::ZERO, |(from, to)| to.saturating_duration_since(from)))
    }

    unsafe fn unmark(&self, mark: u64) {
        self.stream.unmark(mark);
    }

    fn endpoint(&self) -> Result<Endpoint, CudaError> {
        self.me.upgrade().map(Endpoint::Emulated).ok_or_else(|| failed("it is gone"))
    }

    fn memory(&self) -> Result<Option<(usize, usize)>, CudaError> {
        let taken: usize = locked(&self.state).buffers.values().sum();
        Ok(self.pretence.memory.map(|all| (all.saturating_sub(taken), all)))
    }
}
