//! Large matrix products by cuBLASLt, where it is there. Never run on a device yet.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::{result, sys};
use cudarc::driver;

use super::backend::Product;
use super::error::CudaError;
use super::nvrtc;

/// Memory that algorithms may use.
const WORKSPACE: usize = 32 << 20;

/// The library, and the algorithm for each shape met so far.
pub(super) struct Lt {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    plans: Mutex<HashMap<(usize, usize, usize, bool), Plan>>,
}

/// The plan by which one shape is multiplied.
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

fn call(call: &'static str) -> impl Fn(result::CublasError) -> CudaError {
    move |error| CudaError::Call { call, reason: error.to_string() }
}

impl Lt {
    /// The library in the current context; none where it is not installed.
    pub(super) fn open() -> Result<Option<Self>, CudaError> {
        for name in ["libcublas.so.13", "libcublasLt.so.13"] {
            nvrtc::preload(name);
        }
        // SAFETY: it only opens the library.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let handle = result::create_handle().map_err(call("cublasLtCreate"))?;
        // SAFETY: algorithms alone write there.
        let workspace = unsafe { driver::result::malloc_sync(WORKSPACE) };
        let workspace = workspace
            .map_err(|error| CudaError::Call { call: "cuMemAlloc", reason: error.to_string() })?;
        Ok(Some(Self { handle, workspace, plans: Mutex::default() }))
    }

    fn plan(&self, p: &Product) -> Result<Plan, CudaError> {
        use sys::cudaDataType::{CUDA_R_16BF, CUDA_R_32F};
        // Column-major, y^T = weight * x^T: the weight's rows are contiguous, so it is the transposed one.
        let (m, n, k) = (p.outputs as u64, p.rows as u64, p.features as u64);
        let layout = |kind, rows, cols, stride| {
            result::create_matrix_layout(kind, rows, cols, stride as i64)
                .map_err(call("cublasLtMatrixLayoutCreate"))
        };
        let y_kind = if p.y_is_f32 { CUDA_R_32F } else { CUDA_R_16BF };
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let product = result::create_matmul_desc(compute, CUDA_R_32F)
            .map_err(call("cublasLtMatmulDescCreate"))?;
        // CUBLAS_OP_T of cublasOperation_t.
        let transposed = 1i32;
        let workspace = WORKSPACE;
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        let weight = layout(CUDA_R_16BF, k, m, k)?;
        let x = layout(CUDA_R_16BF, k, n, k)?;
        let y = layout(y_kind, m, n, m)?;
        let preference =
            result::create_matmul_pref().map_err(call("cublasLtMatmulPreferenceCreate"))?;
        // SAFETY: attributes are given by address and size; descriptors live until the plan is destroyed.
        let found = unsafe {
            let value = (&raw const transposed).cast::<c_void>();
            result::set_matmul_desc_attribute(product, attribute, value, size_of_val(&transposed))
                .map_err(call("cublasLtMatmulDescSetAttribute"))?;
            let most =
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let value = (&raw const workspace).cast::<c_void>();
            result::set_matmul_pref_attribute(preference, most, value, size_of::<usize>())
                .map_err(call("cublasLtMatmulPreferenceSetAttribute"))?;
            let found = result::get_matmul_algo_heuristic(
                self.handle,
                product,
                weight,
                x,
                y,
                y,
                preference,
            );
            let _ = result::destroy_matmul_pref(preference);
            found.map_err(call("cublasLtMatmulAlgoGetHeuristic"))?
        };
        Ok(Plan { product, weight, x, y, algorithm: found.algo })
    }

    /// # Safety
    /// The addresses are those of matrices of these sizes, and the context is current.
    pub(super) unsafe fn multiply(
        &self,
        p: Product,
        stream: driver::sys::CUstream,
    ) -> Result<(), CudaError> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (p.rows, p.features, p.outputs, p.y_is_f32);
        if !plans.contains_key(&key) {
            // Prompt chunks come in any length: the oldest shapes need not be kept for ever.
            if plans.len() >= 4096 {
                plans.drain().for_each(|(_, plan)| plan.destroy());
            }
            plans.insert(key, self.plan(&p)?);
        }
        let plan = &plans[&key];
        let (one, zero) = (1.0f32, 0.0f32);
        result::matmul(
            self.handle,
            plan.product,
            (&raw const one).cast(),
            (&raw const zero).cast(),
            p.weight as *const c_void,
            plan.weight,
            p.x as *const c_void,
            plan.x,
            p.y as *const c_void,
            plan.y,
            p.y as *mut c_void,
            plan.y,
            &raw const plan.algorithm,
            self.workspace as *mut c_void,
            WORKSPACE,
            stream.cast(),
        )
        .map_err(call("cublasLtMatmul"))
    }
}

impl Plan {
    fn destroy(self) {
        // SAFETY: they are the plan's own. A failure leaves nothing to do.
        unsafe {
            let _ = result::destroy_matmul_desc(self.product);
            for layout in [self.weight, self.x, self.y] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        let plans = self.plans.get_mut().unwrap_or_else(PoisonError::into_inner);
        plans.drain().for_each(|(_, plan)| plan.destroy());
        // SAFETY: they are ours, and no product is under way: buffers are freed first, which waits.
        unsafe {
            let _ = driver::result::free_sync(self.workspace);
            let _ = result::destroy_handle(self.handle);
        }
    }
}
