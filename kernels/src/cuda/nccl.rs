//! NCCL: how GPUs of one machine meet. Looked for at run time; of its functions ours are those that every version since
//! 2.7 has.
//!
//! Declared here and not taken from cudarc, which looks for libraries by names that NCCL's is not called by
//! (`libnccl.so.2`), and panics where one is missing. A test calls through to a library that writes down what it is
//! called with; this has not run on several GPUs.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::backend::{Call, Link};
use super::error::CudaError;
use super::nvrtc;

/// The library's name.
const NAME: &str = "libnccl.so.2";
/// `ncclChar`: bytes, which are moved and not computed with.
const BYTES: c_int = 0;
/// `ncclBfloat16`.
const BF16: c_int = 9;
/// `ncclSum`.
const SUM: c_int = 0;

/// A communicator: one rank of a group.
type Comm = *mut c_void;
/// A stream, as the driver and the runtime both call it.
type Stream = *mut c_void;
type Status = c_int;

/// Our part of the library.
struct Functions {
    init_all: unsafe extern "C" fn(*mut Comm, c_int, *const c_int) -> Status,
    destroy: unsafe extern "C" fn(Comm) -> Status,
    group_start: unsafe extern "C" fn() -> Status,
    group_end: unsafe extern "C" fn() -> Status,
    all_reduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        c_int,
        c_int,
        Comm,
        Stream,
    ) -> Status,
    all_gather:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> Status,
    send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, Stream) -> Status,
    receive: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, Stream) -> Status,
    error: unsafe extern "C" fn(Status) -> *const c_char,
}

impl Functions {
    /// From the library at `path`, or by that name.
    fn load(path: &Path) -> Result<Self, CudaError> {
        // SAFETY: NVIDIA's libraries do nothing unsound when they are loaded.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| match path.exists() {
            true => CudaError::Call { call: NAME, reason: error.to_string() },
            false => CudaError::NoNccl,
        })?;
        macro_rules! symbol {
            ($name:literal) => {{
                // SAFETY: the field's type is the function's, as NCCL's header has it.
                let found = unsafe { library.get($name.as_bytes()) };
                let reason = concat!("it has no ", $name).to_owned();
                *found.map_err(|_| CudaError::Call { call: NAME, reason })?
            }};
        }
        let functions = Self {
            init_all: symbol!("ncclCommInitAll"),
            destroy: symbol!("ncclCommDestroy"),
            group_start: symbol!("ncclGroupStart"),
            group_end: symbol!("ncclGroupEnd"),
            all_reduce: symbol!("ncclAllReduce"),
            all_gather: symbol!("ncclAllGather"),
            send: symbol!("ncclSend"),
            receive: symbol!("ncclRecv"),
            error: symbol!("ncclGetErrorString"),
        };
        // It has threads of its own: it stays.
        std::mem::forget(library);
        Ok(functions)
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: it returns a constant text, or nothing.
        let reason = unsafe {
            let text = (self.error)(status);
            if text.is_null() {
                format!("error {status}")
            } else {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
        };
        Err(CudaError::Call { call, reason })
    }
}

/// GPUs that meet.
pub(super) struct Nccl {
    functions: Functions,
    /// By rank. Only one thread at a time may use them.
    ranks: Mutex<Vec<(Comm, Stream)>>,
}

// SAFETY: NCCL's functions may be called by any thread, and communicators by one at a time, which the mutex sees to.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

impl Nccl {
    /// Ranks on these GPUs, each given by its number and the stream that it works on.
    pub(super) fn open(gpus: &[(usize, u64)]) -> Result<Self, CudaError> {
        let place = nvrtc::find(NAME);
        Self::load(place.as_deref().unwrap_or(Path::new(NAME)), gpus)
    }

    fn load(path: &Path, gpus: &[(usize, u64)]) -> Result<Self, CudaError> {
        let functions = Functions::load(path)?;
        let mut comms = vec![std::ptr::null_mut(); gpus.len()];
        let devices: Vec<c_int> = gpus.iter().map(|gpu| gpu.0 as c_int).collect();
        // SAFETY: there are as many places as devices.
        let made = unsafe {
            (functions.init_all)(comms.as_mut_ptr(), comms.len() as c_int, devices.as_ptr())
        };
        functions.check("ncclCommInitAll", made)?;
        let ranks = comms.into_iter().zip(gpus).map(|(comm, gpu)| (comm, gpu.1 as Stream));
        Ok(Self { functions, ranks: Mutex::new(ranks.collect()) })
    }

    /// # Safety
    /// As [`Link::meet`].
    unsafe fn ask(&self, (comm, stream): (Comm, Stream), call: Call) -> Result<(), CudaError> {
        let f = &self.functions;
        match call {
            Call::Sum { at, elements } => {
                let (from, to) = (at as *const c_void, at as *mut c_void);
                let status = (f.all_reduce)(from, to, elements, BF16, SUM, comm, stream);
                f.check("ncclAllReduce", status)
            }
            Call::Share { from, to, bytes } => {
                let (from, to) = (from as *const c_void, to as *mut c_void);
                f.check("ncclAllGather", (f.all_gather)(from, to, bytes, BYTES, comm, stream))
            }
            Call::Send { from, bytes, rank } => {
                let (from, peer) = (from as *const c_void, rank as c_int);
                f.check("ncclSend", (f.send)(from, bytes, BYTES, peer, comm, stream))
            }
            Call::Receive { to, bytes, rank } => {
                let (to, peer) = (to as *mut c_void, rank as c_int);
                f.check("ncclRecv", (f.receive)(to, bytes, BYTES, peer, comm, stream))
            }
        }
    }
}

impl Link for Nccl {
    unsafe fn meet(&self, calls: &[(usize, Call)]) -> Result<(), CudaError> {
        let ranks = self.ranks.lock().unwrap_or_else(PoisonError::into_inner);
        let f = &self.functions;
        f.check("ncclGroupStart", (f.group_start)())?;
        let asked = calls.iter().try_for_each(|&(rank, call)| self.ask(ranks[rank], call));
        // A group that was begun is ended, whatever happened in it.
        let ended = f.check("ncclGroupEnd", (f.group_end)());
        asked.and(ended)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        for &(comm, _) in self.ranks.get_mut().unwrap_or_else(PoisonError::into_inner).iter() {
            // SAFETY: it is ours and no longer in use. A failure leaves nothing to do.
            let _ = unsafe { (self.functions.destroy)(comm) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A library that writes down what it is called with, compiled where there is a compiler.
    struct Fake {
        folder: std::path::PathBuf,
        file: std::path::PathBuf,
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    impl Fake {
        fn new(name: &str) -> Option<Self> {
            let folder =
                std::env::temp_dir().join(format!("knee-nccl-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("nccl.cpp"), include_str!("../../tests/nccl/fake.cpp"))
                .unwrap();
            let file = folder.join(NAME);
            let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
            let mut command = Command::new(compiler);
            command.args(["-shared", "-fPIC", "-o", NAME, "nccl.cpp"]).current_dir(&folder);
            match command.output() {
                Ok(out) if out.status.success() => Some(Self { folder, file }),
                Ok(out) => panic!("{}", String::from_utf8_lossy(&out.stderr)),
                Err(_) => {
                    println!("skipped: no C++ compiler");
                    let _ = std::fs::remove_dir_all(&folder);
                    None
                }
            }
        }

        /// The calls since this was last asked.
        fn log(&self) -> String {
            type Log = unsafe extern "C" fn() -> *const c_char;
            // SAFETY: it is ours, and loaded already where it was used.
            unsafe {
                let library = Library::open(Some(&self.file), RTLD_NOW).unwrap();
                let log = library.get::<Log>(b"fake_log").unwrap();
                CStr::from_ptr(log()).to_str().unwrap().to_owned()
            }
        }
    }

    #[test]
    fn calls_come_in_groups_with_their_counts_types_and_streams() {
        let Some(fake) = Fake::new("calls") else { return };
        let nccl = Nccl::load(&fake.file, &[(2, 0x51), (5, 0x52)]).unwrap();
        // SAFETY: the library looks at no memory.
        let meet = |calls: &[(usize, Call)]| unsafe { nccl.meet(calls) };
        assert_eq!(fake.log(), "init 2 5\n");
        let sum = |at| Call::Sum { at, elements: 24 };
        meet(&[(0, sum(0xa0)), (1, sum(0xb0))]).unwrap();
        let all = "start\nsum a0 a0 24 bf16 rank 0 on 51\nsum b0 b0 24 bf16 rank 1 on 52\nend\n";
        assert_eq!(fake.log(), all);
        let share = |from, to| Call::Share { from, to, bytes: 64 };
        meet(&[(0, share(0xa0, 0xa1)), (1, share(0xb0, 0xb1))]).unwrap();
        let all =
            "start\nshare a0 a1 64 bytes rank 0 on 51\nshare b0 b1 64 bytes rank 1 on 52\nend\n";
        assert_eq!(fake.log(), all);
        let (send, receive) = (
            Call::Send { from: 0xa0, bytes: 8, rank: 1 },
            Call::Receive { to: 0xb0, bytes: 8, rank: 0 },
        );
        meet(&[(0, send), (1, receive)]).unwrap();
        let all = "start\nsend a0 8 bytes to 1 rank 0 on 51\nreceive b0 8 bytes from 0 rank 1 on 52\nend\n";
        assert_eq!(fake.log(), all);
        // The fake refuses this count: the group ends all the same, and the error says what failed.
        let said = meet(&[(0, Call::Sum { at: 0xa0, elements: 13 })]).unwrap_err().to_string();
        assert_eq!(said, "ncclAllReduce failed: an invalid argument");
        assert_eq!(fake.log(), "start\nend\n");
        drop(nccl);
        assert_eq!(fake.log(), "destroy 0\ndestroy 1\n");
    }

    /// NVIDIA's own, where it is installed: without GPUs there is nothing to connect, and that is an error too.
    #[test]
    fn the_real_library_has_every_function_called() {
        let Some(path) = nvrtc::find(NAME) else {
            return println!("skipped: no {NAME} in KNEE_CUDA_DIR or a toolkit");
        };
        Functions::load(&path).unwrap();
        if !Path::new("/dev/nvidiactl").exists() {
            let said = Nccl::open(&[(0, 0), (1, 0)]).err().unwrap().to_string();
            println!("{said}");
            assert!(said.starts_with("ncclCommInitAll failed: ") && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn a_library_that_is_not_there_is_an_error() {
        let said = Nccl::load(Path::new("/nowhere/libnccl.so.2"), &[(0, 0)]).err().unwrap();
        let said = said.to_string();
        assert!(
            said.starts_with("NCCL (libnccl.so.2), which connects GPUs, was not found"),
            "{said}"
        );
        // The C library is there, and has none of the functions.
        let said = Nccl::load(Path::new("libc.so.6"), &[(0, 0)]).err().unwrap().to_string();
        assert_eq!(said, "libnccl.so.2 failed: it has no ncclCommInitAll");
    }
}
