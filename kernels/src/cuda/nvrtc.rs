//! Compiling kernels with NVRTC, which needs neither a GPU nor a driver, and finding NVIDIA's libraries.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::PathBuf;

use cudarc::nvrtc::sys;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::error::CudaError;
use super::source::{HEADERS, Source};

/// A compiled file.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Machine code, for `cuModuleLoadData`.
    pub cubin: Vec<u8>,
    /// The assembler's report on each kernel, in its order.
    pub kernels: Vec<Resources>,
}

/// A kernel's needs of a multiprocessor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// The kernel.
    pub kernel: String,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes per thread in local memory: arrays and spilled registers.
    pub stack: u32,
    /// Bytes per thread written because there were too few registers.
    pub spill_stores: u32,
    /// Bytes per thread read back.
    pub spill_loads: u32,
    /// Bytes of shared memory per block that the kernel declares.
    pub shared: u32,
}

/// Folders that may hold NVIDIA's libraries: those of `KNEE_CUDA_DIR` (a toolkit, or what pip installs), then the
/// toolkit's usual places.
fn folders() -> Vec<PathBuf> {
    let roots = ["KNEE_CUDA_DIR", "CUDA_HOME", "CUDA_PATH"];
    let mut roots: Vec<PathBuf> = roots
        .iter()
        .filter_map(std::env::var_os)
        .flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>())
        .collect();
    roots.push("/usr/local/cuda".into());
    roots.iter().flat_map(|root| [root.join("lib64"), root.join("lib"), root.clone()]).collect()
}

/// The path of a library, if it is in one of the folders.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    folders().into_iter().map(|folder| folder.join(name)).find(|path| path.exists())
}

/// Loads a library from one of the folders for good, so that later requests for its name get it.
pub(super) fn preload(name: &str) {
    let Some(path) = find(name) else { return };
    // SAFETY: NVIDIA's libraries do nothing unsound when they are loaded.
    if let Ok(library) = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
        std::mem::forget(library);
    }
}

/// The version of NVRTC, with which kernels can be compiled here.
///
/// # Errors
/// When there is no NVRTC.
pub fn version() -> Result<(i32, i32), CudaError> {
    static FOUND: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let found = FOUND.get_or_init(|| {
        // NVRTC looks for its built-ins by name only: they must be there before.
        (0..10).for_each(|minor| preload(&format!("libnvrtc-builtins.so.13.{minor}")));
        preload("libnvrtc.so.13");
        // SAFETY: it only opens the library.
        unsafe { sys::is_culib_present() }
    });
    if !found {
        return Err(CudaError::NoCompiler);
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two places to write to.
    let result = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    checked("nvrtcVersion", result)?;
    Ok((major, minor))
}

fn checked(call: &'static str, result: sys::nvrtcResult) -> Result<(), CudaError> {
    result.result().map_err(|e| CudaError::Call { call, reason: format!("{e:?}") })
}

fn c_string(text: &str) -> Result<CString, CudaError> {
    let reason = || "a kernel's text has a zero byte".to_owned();
    CString::new(text).map_err(|_| CudaError::Call { call: "nvrtcCreateProgram", reason: reason() })
}

/// A program that is destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was created and is not used any more.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

impl Program {
    fn new(source: &Source) -> Result<Self, CudaError> {
        let (text, name) = (c_string(&source.text)?, c_string(source.file)?);
        let names = HEADERS.iter().map(|h| c_string(h.0)).collect::<Result<Vec<_>, _>>()?;
        let texts = HEADERS.iter().map(|h| c_string(h.1)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<*const c_char> = names.iter().map(|h| h.as_ptr()).collect();
        let texts: Vec<*const c_char> = texts.iter().map(|h| h.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: all strings outlive the call, which copies them.
        let result = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                text.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        checked("nvrtcCreateProgram", result)?;
        Ok(Self(program))
    }

    fn log(&self) -> Result<String, CudaError> {
        let mut size = 0;
        // SAFETY: a place to write to.
        checked("nvrtcGetProgramLogSize", unsafe {
            sys::nvrtcGetProgramLogSize(self.0, &raw mut size)
        })?;
        let mut log = vec![0u8; size.max(1)];
        // SAFETY: as many bytes as were asked for.
        checked("nvrtcGetProgramLog", unsafe {
            sys::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast())
        })?;
        let text = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy);
        Ok(text.map(String::from).unwrap_or_default())
    }

    fn cubin(&self) -> Result<Vec<u8>, CudaError> {
        let mut size = 0;
        // SAFETY: a place to write to.
        checked("nvrtcGetCUBINSize", unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut size) })?;
        let mut cubin = vec![0u8; size];
        // SAFETY: as many bytes as were asked for.
        checked("nvrtcGetCUBIN", unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()) })?;
        Ok(cubin)
    }
}

/// Its options beside the architecture.
pub(super) const OPTIONS: [&str; 3] = ["-std=c++17", "-default-device", "--ptxas-options=-v"];

/// Compiles `source` for an architecture such as `sm_90`.
///
/// # Errors
/// When there is no NVRTC, or the source has errors.
pub fn compile(source: &Source, architecture: &str) -> Result<Compiled, CudaError> {
    version()?;
    let program = Program::new(source)?;
    let architecture = format!("--gpu-architecture={architecture}");
    let options = std::iter::once(architecture.as_str()).chain(OPTIONS);
    let options = options.map(c_string).collect::<Result<Vec<_>, _>>()?;
    let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    // SAFETY: the options outlive the call.
    let result =
        unsafe { sys::nvrtcCompileProgram(program.0, pointers.len() as c_int, pointers.as_ptr()) };
    let log = program.log()?;
    if result.result().is_err() {
        return Err(CudaError::Compile { file: source.file, log });
    }
    Ok(Compiled { cubin: program.cubin()?, kernels: resources(&log) })
}

/// Reads the assembler's report.
fn resources(log: &str) -> Vec<Resources> {
    let mut found: Vec<Resources> = Vec::new();
    for line in log.lines() {
        let before = |unit: &str| -> u32 {
            let end = line.find(unit).unwrap_or(0);
            let words = line[..end].trim_end().rsplit(|c: char| !c.is_ascii_digit());
            words.into_iter().next().and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            let none = Resources {
                kernel,
                registers: 0,
                stack: 0,
                spill_stores: 0,
                spill_loads: 0,
                shared: 0,
            };
            found.push(none);
        } else if let Some(last) = found.last_mut() {
            if line.contains("bytes stack frame") {
                last.stack = before(" bytes stack frame");
                last.spill_stores = before(" bytes spill stores");
                last.spill_loads = before(" bytes spill loads");
            } else if line.contains(" registers") {
                last.registers = before(" registers");
                last.shared = before(" bytes smem");
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assemblers_report_is_read() {
        let log = "\
ptxas info    : Compiling entry function 'silu_mul' for 'sm_90'
ptxas info    : Function properties for silu_mul
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 34 registers, used 1 barriers, 2048 bytes smem
ptxas info    : Compile time = 5.000 ms
";
        let kernel = "silu_mul".to_owned();
        let [stack, spill_stores, spill_loads, registers, shared] = [8, 4, 12, 34, 2048];
        let said = Resources { kernel, registers, stack, spill_stores, spill_loads, shared };
        assert_eq!(resources(log), [said]);
    }
}
