//! Faults of the emulator, and locks that a thread which panicked does not keep.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::error::CudaError;

/// A refusal of the emulator, as a driver would give it.
pub(super) fn failed(what: impl Into<String>) -> CudaError {
    CudaError::Call { call: "the emulator", reason: what.into() }
}

/// Takes the lock, also after a panic of an earlier holder.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
