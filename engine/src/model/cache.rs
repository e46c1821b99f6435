//! Bytes of cached keys and values.

use crate::config::KvDtype;

/// Bytes of one cached element.
#[must_use]
pub fn kv_element_bytes(kv_dtype: KvDtype) -> u64 {
    match kv_dtype {
        KvDtype::Bf16 => 2,
        KvDtype::Fp8 => 1,
    }
}
