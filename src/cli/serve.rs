//! `knee serve`: what can be typed.

use clap::{Args, ValueEnum};

use super::{MOST_THREADS, above_zero, whole};
use crate::knobs::Knobs;

/// `knee serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// A Hugging Face folder, a .gguf file, tiny (built in), or a model shape (with --weights random)
    #[arg(long, value_name = "PATH|tiny")]
    pub(crate) model: String,
    /// Where weights come from: the model's files, or made up from the seed
    #[arg(long, value_enum, default_value_t = Weights::Files)]
    pub(crate) weights: Weights,
    /// Seed of made-up weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// What it runs on
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub(crate) device: Device,
    /// What weights are kept in
    #[arg(long, value_enum, default_value_t = Precision::Int8)]
    pub(crate) precision: Precision,
    /// Threads that compute (default: all)
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, MOST_THREADS>, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
    /// Memory for keys and values
    #[arg(long, value_name = "GIB", default_value_t = 2.0, value_parser = above_zero, allow_negative_numbers = true)]
    pub(crate) kv_memory: f64,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 = any that is free
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
    /// Name that clients call the model by (default: that of its folder or file)
    #[arg(long, value_name = "NAME")]
    pub(crate) served_model_name: Option<String>,
    /// Key that clients must know (also from the environment: KNEE_API_KEY, which other users do not see)
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Requests that may wait to be started; more are turned away with 429
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole::<usize, 1, { u64::MAX }>, allow_negative_numbers = true)]
    pub(crate) max_queue: usize,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}

/// Where weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// The model's files.
    Files,
    /// The seed.
    Random,
}

/// What a model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// This machine's processor.
    Cpu,
}

/// What weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// 8-bit integers in blocks: the fastest.
    Int8,
    /// bf16: closer to the model as published.
    Bf16,
    /// f32: the reference.
    F32,
}
