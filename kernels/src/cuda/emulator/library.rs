//! Kernels made into a library by the machine's C++ compiler, and kept.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::super::error::CudaError;
use super::super::source::{HEADERS, Source};
use super::fault::{failed, locked};

const OWN: [(&str, &str); 2] = [
    ("cuda_emulator.h", include_str!("../../../cu/emulator/cuda_emulator.h")),
    ("ptx_emulator.h", include_str!("../../../cu/emulator/ptx_emulator.h")),
];

/// Two that want the same library need only one to compile it.
static ONE_BUILD: Mutex<()> = Mutex::new(());

pub(super) fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned())
}

/// Compiles `source` into a library below `cache`, unless it is there.
pub(super) fn build(source: &Source, cache: &Path) -> Result<PathBuf, CudaError> {
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
