//! The kernels on a processor, for tests: compiled by the machine's C++ compiler when a test asks for them.
//!
//! What it shows and what it cannot is said in `kernels/cu/emulator/cuda_emulator.h`. Memory has margins that are
//! checked whenever something is read, so that a kernel that writes beyond its buffers is found out.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use libloading::Library;

use super::CudaError;
use super::device::{Backend, Device, Product, Shape};
use super::source::{self, HEADERS, Source};

const OWN: [(&str, &str); 2] = [
    ("cuda_emulator.h", include_str!("../../cu/emulator/cuda_emulator.h")),
    ("ptx_emulator.h", include_str!("../../cu/emulator/ptx_emulator.h")),
];

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

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned())
}

/// An emulated device that runs threads in one of [`ORDERS`]. Libraries are kept below `cache`.
#[must_use]
pub fn device(cache: &Path, order: i32) -> Device {
    of_sources(source::all(), cache, order)
}

/// The same with these sources, such as ones with a mistake in them.
#[must_use]
pub fn of_sources(sources: Vec<Source>, cache: &Path, order: i32) -> Device {
    let emulator = Emulator { sources, cache: cache.to_owned(), order, state: Mutex::default() };
    Device::emulated(Arc::new(emulator), "an emulated GPU")
}

struct Emulator {
    sources: Vec<Source>,
    cache: PathBuf,
    order: i32,
    state: Mutex<State>,
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
/// Two that want the same library need only one to compile it.
static ONE_BUILD: Mutex<()> = Mutex::new(());

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

/// Compiles `source` into a library below `cache`, unless it is there.
fn build(source: &Source, cache: &Path) -> Result<PathBuf, CudaError> {
    let _one = locked(&ONE_BUILD);
    let mut main = format!("#include \"{}\"\n{MAIN_BEGIN}", source.file);
    for kernel in source.kernels {
        let _ = writeln!(main, "    [](void** p) {{ emulator::run_kernel({kernel}, p); }},");
    }
    main.push_str(MAIN_END);
    let mut files = vec![(source.file, source.text.as_str()), ("main.cpp", &main)];
    files.extend(HEADERS.iter().chain(&OWN));
    let mut hash = DefaultHasher::new();
    (files.as_slice(), FLAGS, compiler()).hash(&mut hash);
    let stem = source.file.trim_end_matches(".cu");
    let library = cache.join(format!("knee-emulator-{stem}-{:016x}.so", hash.finish()));
    if library.exists() {
        return Ok(library);
    }
    let io = |e: std::io::Error| failed(format!("{}: {e}", cache.display()));
    let folder = cache.join(format!("build-{stem}-{:016x}-{}", hash.finish(), std::process::id()));
    std::fs::create_dir_all(&folder).map_err(io)?;
    for (name, text) in files {
        std::fs::write(folder.join(name), text).map_err(io)?;
    }
    let mut command = Command::new(compiler());
    command.args(FLAGS).args(["main.cpp", "-o", "library.so"]).current_dir(&folder);
    let out = command.output().map_err(|e| failed(format!("{}: {e}", compiler())))?;
    if !out.status.success() {
        let log = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(CudaError::Compile { file: source.file, log });
    }
    // Only a whole library takes the name.
    std::fs::rename(folder.join("library.so"), &library).map_err(io)?;
    std::fs::remove_dir_all(&folder).map_err(io)?;
    Ok(library)
}

const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O1",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-ffp-contract=off",
    "-DKNEE_EMULATOR",
    "-w",
];

const MAIN_BEGIN: &str = "static const emulator::Launch KERNELS[] = {\n";
const MAIN_END: &str = r#"};
extern "C" __attribute__((visibility("default"))) const char* knee_run(
    int kernel, const unsigned* sizes, unsigned dynamic, int order, void** parameters) {
  emulator::Machine& m = emulator::machine();
  m.grid = {sizes[0], sizes[1], sizes[2]};
  m.block = {sizes[3], 1, 1};
  m.dynamic.resize(dynamic + 16);
  m.order = order;
  m.error.clear();
  KERNELS[kernel](parameters);
  return m.error.empty() ? nullptr : m.error.c_str();
}
"#;

impl Backend for Emulator {
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
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
        locked(&self.state).buffers.remove(&address);
        if let Ok(layout) = std::alloc::Layout::from_size_align(bytes + 2 * MARGIN, 256) {
            std::alloc::dealloc((address as usize - MARGIN) as *mut u8, layout);
        }
    }

    unsafe fn write(&self, to: u64, from: &[u8]) -> Result<(), CudaError> {
        std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len());
        Ok(())
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes);
        Ok(())
    }

    unsafe fn read(&self, from: u64, to: &mut [u8]) -> Result<(), CudaError> {
        self.check_margins()?;
        std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len());
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        shape: Shape,
        arguments: &mut [*mut c_void],
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
        let _one = locked(&ONE_LAUNCH);
        let error =
            run(index as c_int, sizes.as_ptr(), shape.dynamic, self.order, arguments.as_mut_ptr());
        if error.is_null() {
            return Ok(());
        }
        Err(failed(format!("{kernel}: {}", CStr::from_ptr(error).to_string_lossy())))
    }

    unsafe fn multiply(&self, _product: Product) -> Result<bool, CudaError> {
        Ok(false)
    }

    fn synchronise(&self) -> Result<(), CudaError> {
        self.check_margins()
    }

    fn mark(&self) -> Result<u64, CudaError> {
        static START: OnceLock<Instant> = OnceLock::new();
        Ok(START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
    }

    unsafe fn between(&self, from: u64, to: u64) -> Result<Duration, CudaError> {
        Ok(Duration::from_nanos(to.saturating_sub(from)))
    }

    unsafe fn unmark(&self, _mark: u64) {}

    fn memory(&self) -> Result<Option<(usize, usize)>, CudaError> {
        Ok(None)
    }
}
