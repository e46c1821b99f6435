//! The kernels on a processor, for tests: compiled by the machine's C++ compiler when a test asks for them.
//!
//! Its reach and its limits are told in `kernels/cu/emulator/cuda_emulator.h`. Memory has margins
//! that are checked whenever something is read, so that a kernel that writes beyond its buffers is
//! found out. Work is done when a host waits for it ([`stream`]), so that a host that does not wait
//! is found out too.

mod fabric;
mod fault;
mod library;
mod machine;
mod stream;

use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::backend::{self, Backend, Link, Product, Shape};
use super::device::Device;
use super::error::CudaError;
use super::source::{self, Source};
use fabric::Fabric;
use fault::{failed, locked};
use library::compiler;
use machine::{Emulator, MARGIN, PATTERN};
pub use machine::{Fuse, Pretence};
use stream::{Op, Stream};

/// Orders in which threads may run; see `cuda_emulator.h`.
pub const ORDERS: i32 = 6;

/// The reason why there can be no emulator on this machine; none where there can.
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
    let emulator = Arc::new(Emulator {
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
        // Work that was asked for may use it; work that failed never will.
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

    fn connect(&self, devices: Vec<Arc<dyn Backend>>) -> Result<Box<dyn Link>, CudaError> {
        Ok(Box::new(Fabric::new(backend::all_of(devices)?)))
    }

    fn memory(&self) -> Result<Option<(usize, usize)>, CudaError> {
        let taken: usize = locked(&self.state).buffers.values().sum();
        Ok(self.pretence.memory.map(|all| (all.saturating_sub(taken), all)))
    }
}
