//! The kernels' text, and which kernels are in which file.

/// A file of kernels.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub file: &'static str,
    /// Its text.
    pub text: String,
    /// The kernels in it.
    pub kernels: &'static [&'static str],
}

/// The headers that the files include, by name.
pub const HEADERS: [(&str, &str); 2] = [
    ("common.cuh", include_str!("../../cu/common.cuh")),
    ("ptx.cuh", include_str!("../../cu/ptx.cuh")),
];

/// Kernels of decode attention: by elements of a head (32, 64, 128) and then query heads per KV head (1, 2, 4, 8); and
/// what puts their parts together.
pub(super) const DECODE: [&str; 13] = [
    "decode_attention_d32_g1",
    "decode_attention_d32_g2",
    "decode_attention_d32_g4",
    "decode_attention_d32_g8",
    "decode_attention_d64_g1",
    "decode_attention_d64_g2",
    "decode_attention_d64_g4",
    "decode_attention_d64_g8",
    "decode_attention_d128_g1",
    "decode_attention_d128_g2",
    "decode_attention_d128_g4",
    "decode_attention_d128_g8",
    "decode_combine",
];

const FILES: [(&str, &str, &[&str]); 7] = [
    (
        "rows.cu",
        include_str!("../../cu/rows.cu"),
        &["gather_rows", "add_rmsnorm", "silu_mul", "copy_slots", "all_reduce", "join_columns"],
    ),
    ("rope.cu", include_str!("../../cu/rope.cu"), &["rope_kv_write"]),
    ("decode.cu", include_str!("../../cu/decode.cu"), &DECODE),
    (
        "prefill.cu",
        include_str!("../../cu/prefill.cu"),
        &["prefill_attention_d32", "prefill_attention_d64", "prefill_attention_d128"],
    ),
    (
        "linear.cu",
        include_str!("../../cu/linear.cu"),
        &[
            "gemv_bf16_m1",
            "gemv_bf16_m2",
            "gemv_bf16_m4",
            "gemv_bf16_m8",
            "gemv_f32_m1",
            "gemv_f32_m2",
            "gemv_f32_m4",
            "gemv_f32_m8",
            "gemm_bf16",
            "gemm_f32",
        ],
    ),
    ("sample.cu", include_str!("../../cu/sample.cu"), &["sample"]),
    ("random.cu", include_str!("../../cu/random.cu"), &["fill_uniform"]),
];

/// All files of kernels.
#[must_use]
pub fn all() -> Vec<Source> {
    let source = |&(file, text, kernels): &(&'static str, &str, _)| Source {
        file,
        text: text.to_owned(),
        kernels,
    };
    FILES.iter().map(source).collect()
}
