//! A real GPU through NVIDIA's driver, which is looked for at run time. Never run on a device yet.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{result, sys};

use super::backend::{self, Backend, Link, Product, Shape};
use super::error::CudaError;
use super::lt::Lt;
use super::nccl::Nccl;
use super::{cubin, nvrtc, source};

/// Dynamic shared memory up to which a kernel needs no permission.
const PLAIN_SHARED: i32 = 48 << 10;

/// One GPU, with a stream on which everything is done in order.
pub(super) struct Gpu {
    pub(super) name: String,
    pub(super) processors: u32,
    index: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    kernels: HashMap<&'static str, sys::CUfunction>,
    lt: Option<Lt>,
}

// SAFETY: the driver's handles may be used by any thread; each call makes the context current first.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

fn call(call: &'static str) -> impl Fn(result::DriverError) -> CudaError {
    move |error| CudaError::Call { call, reason: error.to_string() }
}

impl Gpu {
    pub(super) fn open(index: usize) -> Result<Self, CudaError> {
        // SAFETY: it only opens the library. Everything below would panic without it.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        result::init().map_err(call("cuInit"))?;
        let mut version = 0;
        // SAFETY: a place to write to.
        let known = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        known.result().map_err(call("cuDriverGetVersion"))?;
        if version < 13_000 {
            return Err(CudaError::OldDriver { major: version / 1000, minor: version % 1000 / 10 });
        }
        let count = result::device::get_count().map_err(call("cuDeviceGetCount"))? as usize;
        if index >= count {
            return Err(CudaError::NoDevice { index, count });
        }
        let device = result::device::get(index as i32).map_err(call("cuDeviceGet"))?;
        let name = result::device::get_name(device).map_err(call("cuDeviceGetName"))?;
        let attribute = |which| {
            // SAFETY: the device is one.
            unsafe { result::device::get_attribute(device, which) }
                .map_err(call("cuDeviceGetAttribute"))
        };
        use sys::CUdevice_attribute as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < 8 {
            return Err(CudaError::OldDevice { name, major, minor });
        }
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        // SAFETY: the device is one.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = context.map_err(call("cuDevicePrimaryCtxRetain"))?;
        let mut gpu = Self {
            name,
            processors,
            index,
            device,
            context,
            stream: std::ptr::null_mut(),
            modules: Vec::new(),
            kernels: HashMap::new(),
            lt: None,
        };
        gpu.enter()?;
        let kind = result::stream::StreamKind::NonBlocking;
        gpu.stream = result::stream::create(kind).map_err(call("cuStreamCreate"))?;
        gpu.load(major, minor)?;
        gpu.lt = Lt::open()?;
        Ok(gpu)
    }

    /// Loads all kernels: those compiled beforehand, else what NVRTC makes of them now.
    fn load(&mut self, major: i32, minor: i32) -> Result<(), CudaError> {
        for source in source::all() {
            let cubin = match cubin::find(&source, major, minor) {
                // In memory of its own, which is aligned.
                Some(cubin) => cubin.into_owned(),
                None => nvrtc::compile(&source, &format!("sm_{major}{minor}"))?.cubin,
            };
            // SAFETY: it is a whole cubin.
            let module = unsafe { result::module::load_data(cubin.as_ptr().cast()) };
            let module = module.map_err(call("cuModuleLoadData"))?;
            self.modules.push(module);
            for &kernel in source.kernels {
                let name = CString::new(kernel).unwrap_or_default();
                // SAFETY: the module is loaded.
                let function = unsafe { result::module::get_function(module, name) };
                self.kernels.insert(kernel, function.map_err(call("cuModuleGetFunction"))?);
            }
        }
        Ok(())
    }

    fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained as long as this lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(call("cuCtxSetCurrent"))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.lt = None;
        if self.enter().is_err() {
            return;
        }
        // SAFETY: all of these are ours, and buffers, which hold this alive, are gone. A failure leaves nothing to do.
        unsafe {
            for &module in &self.modules {
                let _ = result::module::unload(module);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl Backend for Gpu {
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.enter()?;
        // SAFETY: the memory is zeroed before it is handed out.
        unsafe {
            let address = result::malloc_sync(bytes).map_err(|error| {
                if error.0 != sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                    return call("cuMemAlloc")(error);
                }
                let (free, _) = result::mem_get_info().unwrap_or_default();
                CudaError::OutOfMemory { wanted: bytes, free }
            })?;
            result::memset_d8_async(address, 0, bytes, self.stream)
                .map_err(call("cuMemsetD8Async"))?;
            Ok(address)
        }
    }

    unsafe fn free(&self, address: u64, _bytes: usize) {
        if self.enter().is_ok() {
            // Work under way may use it. A failure leaves nothing to do.
            let _ = result::stream::synchronize(self.stream);
            let _ = result::free_sync(address);
        }
    }

    unsafe fn write(&self, to: u64, from: &[u8]) -> Result<(), CudaError> {
        self.enter()?;
        // From pageable memory: the driver has its own copy when the call returns.
        result::memcpy_htod_async(to, from, self.stream).map_err(call("cuMemcpyHtoDAsync"))
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        self.enter()?;
        result::memcpy_dtod_async(to, from, bytes, self.stream).map_err(call("cuMemcpyDtoDAsync"))
    }

    unsafe fn read(&self, from: u64, to: &mut [u8]) -> Result<(), CudaError> {
        self.enter()?;
        result::memcpy_dtoh_async(to, from, self.stream).map_err(call("cuMemcpyDtoHAsync"))?;
        self.synchronise()
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        shape: Shape,
        arguments: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        self.enter()?;
        let unknown = || CudaError::Call { call: "cuLaunchKernel", reason: format!("no {kernel}") };
        let &function = self.kernels.get(kernel).ok_or_else(unknown)?;
        let [x, y, z] = shape.grid;
        let dynamic = shape.dynamic as i32;
        if dynamic > PLAIN_SHARED {
            let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(function, most, dynamic)
                .map_err(call("cuFuncSetAttribute"))?;
        }
        let block = (shape.block, 1, 1);
        result::launch_kernel(function, (x, y, z), block, shape.dynamic, self.stream, arguments)
            .map_err(call("cuLaunchKernel"))
    }

    unsafe fn multiply(&self, product: Product) -> Result<bool, CudaError> {
        let Some(lt) = &self.lt else { return Ok(false) };
        self.enter()?;
        lt.multiply(product, self.stream)?;
        Ok(true)
    }

    fn pin(&self, bytes: usize) -> Result<u64, CudaError> {
        self.enter()?;
        // SAFETY: the context is current.
        let place = unsafe { result::malloc_host(bytes, 0) }.map_err(call("cuMemHostAlloc"))?;
        Ok(place as u64)
    }

    unsafe fn unpin(&self, address: u64, _bytes: usize) {
        if self.enter().is_ok() {
            // Work under way may write there. A failure leaves nothing to do.
            let _ = result::stream::synchronize(self.stream);
            let _ = result::free_host(address as *mut c_void);
        }
    }

    unsafe fn fetch(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        self.enter()?;
        let to = std::slice::from_raw_parts_mut(to as *mut u8, bytes);
        result::memcpy_dtoh_async(to, from, self.stream).map_err(call("cuMemcpyDtoHAsync"))
    }

    fn begin_recording(&self) -> Result<(), CudaError> {
        self.enter()?;
        // The waits of other threads meanwhile are not to end the recording.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours.
        unsafe { result::stream::begin_capture(self.stream, mode) }
            .map_err(call("cuStreamBeginCapture"))
    }

    fn end_recording(&self) -> Result<u64, CudaError> {
        self.enter()?;
        // SAFETY: the stream is ours; the graph is whole, and needed no more once it is executable.
        unsafe {
            let graph =
                result::stream::end_capture(self.stream).map_err(call("cuStreamEndCapture"))?;
            if graph.is_null() {
                let reason = "the recording was broken off".to_owned();
                return Err(CudaError::Call { call: "cuStreamEndCapture", reason });
            }
            let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            Ok(made.map_err(call("cuGraphInstantiate"))? as u64)
        }
    }

    unsafe fn replay(&self, recording: u64) -> Result<(), CudaError> {
        self.enter()?;
        result::graph::launch(recording as sys::CUgraphExec, self.stream)
            .map_err(call("cuGraphLaunch"))
    }

    unsafe fn forget(&self, recording: u64) {
        if self.enter().is_ok() {
            // It may be under way. A failure leaves nothing to do.
            let _ = result::stream::synchronize(self.stream);
            let _ = result::graph::exec_destroy(recording as sys::CUgraphExec);
        }
    }

    fn synchronise(&self) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the stream is ours.
        unsafe { result::stream::synchronize(self.stream) }.map_err(call("cuStreamSynchronize"))
    }

    fn mark(&self) -> Result<u64, CudaError> {
        self.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
            .map_err(call("cuEventCreate"))?;
        // SAFETY: the event was just created, and the stream is ours.
        unsafe { result::event::record(event, self.stream) }.map_err(call("cuEventRecord"))?;
        Ok(event as u64)
    }

    unsafe fn wait(&self, mark: u64) -> Result<(), CudaError> {
        self.enter()?;
        result::event::synchronize(mark as sys::CUevent).map_err(call("cuEventSynchronize"))
    }

    unsafe fn between(&self, from: u64, to: u64) -> Result<Duration, CudaError> {
        self.enter()?;
        let (from, to) = (from as sys::CUevent, to as sys::CUevent);
        result::event::synchronize(to).map_err(call("cuEventSynchronize"))?;
        let milliseconds = result::event::elapsed(from, to).map_err(call("cuEventElapsedTime"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }

    unsafe fn unmark(&self, mark: u64) {
        if self.enter().is_ok() {
            // A failure leaves nothing to do.
            let _ = result::event::destroy(mark as sys::CUevent);
        }
    }

    fn connect(&self, devices: Vec<Arc<dyn Backend>>) -> Result<Box<dyn Link>, CudaError> {
        let gpus = backend::all_of::<Self>(devices)?;
        let gpus: Vec<_> = gpus.iter().map(|gpu| (gpu.index, gpu.stream as u64)).collect();
        Ok(Box::new(Nccl::open(&gpus)?))
    }

    fn memory(&self) -> Result<Option<(usize, usize)>, CudaError> {
        self.enter()?;
        result::mem_get_info().map(Some).map_err(call("cuMemGetInfo"))
    }
}
