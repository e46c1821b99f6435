//! This machine as a device: a model in memory, and the threads that compute it.
//!
//! The other leaf than the cost model: the same engine over executors that compute. Time is the engine's own: an
//! iteration takes as long as it was measured to take, and where nothing runs the clock jumps to the next arrival, so
//! that a run at a low rate does not have to be waited for.

use std::sync::Arc;

use kernels::cpu::roofline;

use crate::exec::Executor;
use crate::exec::cpu::{CpuExecutor, CpuModel, Greedy, Precision, Team};
use crate::model::llama::LlamaConfig;
use crate::model::weights::{ModelError, Weights};
use crate::profile::DeviceProfile;

/// A model on this machine's processor.
#[derive(Debug)]
pub struct Machine {
    config: LlamaConfig,
    model: Arc<CpuModel>,
    team: Arc<Team>,
}

impl Machine {
    /// Reads `weights` and packs them in `precision`, for `threads` threads.
    ///
    /// # Errors
    /// When a tensor is missing or cannot be read.
    pub fn load(
        weights: &mut dyn Weights,
        precision: Precision,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let config = weights.config().clone();
        let team = Arc::new(Team::new(threads));
        let model = Arc::new(CpuModel::load(&team, weights, precision)?);
        Ok(Self { config, model, team })
    }

    /// What the model is.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<CpuModel> {
        &self.model
    }

    /// The threads.
    #[must_use]
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }

    /// Keys and values of one token in all layers, bytes.
    #[must_use]
    pub fn kv_bytes_per_token(&self) -> u64 {
        let element = if self.model.precision() == Precision::F32 { 4 } else { 2 };
        let c = &self.config;
        2 * element * u64::from(c.layers) * u64::from(c.kv_heads) * u64::from(c.head_dim)
    }

    /// `workers` workers with `slots` of KV each, which take turns at the machine and always say the likeliest token.
    #[must_use]
    pub fn executors(&self, workers: u32, slots: u32) -> Vec<Box<dyn Executor>> {
        let slots = vec![slots; workers as usize];
        let greedy = || Box::new(Greedy::default()) as _;
        let workers = CpuExecutor::workers(&self.model, &self.team, &slots, greedy);
        workers.into_iter().map(|w| Box::new(w) as Box<dyn Executor>).collect()
    }

    /// The machine as a device called `name` that reaches its limits in everything: no iteration takes less. Takes
    /// about a second.
    #[must_use]
    pub fn limits(&self, name: &str) -> DeviceProfile {
        let limits = roofline::measure(&self.team);
        // Operators are counted in bf16: an 8-bit weight is half of the bytes.
        let (flops, width) = match self.model.precision() {
            Precision::Int8 => (limits.int8, 1.0),
            Precision::Bf16 => (limits.f32, 2.0),
            Precision::F32 => (limits.f32, 4.0),
        };
        let text = include_str!("../profiles/cpu.toml");
        let profile: DeviceProfile = toml::from_str(text).expect("it is tested");
        DeviceProfile {
            name: name.to_owned(),
            memory_bytes: memory_bytes().unwrap_or(profile.memory_bytes),
            peak_flops: flops,
            memory_bandwidth: limits.read * 2.0 / width,
            ..profile
        }
    }
}

/// Memory of this machine, where it says so.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().split(' ').next());
    Some(kib?.parse::<u64>().ok()? * 1024)
}
