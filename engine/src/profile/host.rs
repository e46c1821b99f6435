//! Host time of engines other than the one a profile was made with.
//!
//! The CPU's share of an iteration belongs to the engine's software, not to the GPU: the profiles' own is that of a
//! vLLM of the V1 kind. No operator table holds it, so each figure here names the measurement it comes from.

use super::{DeviceProfile, Host};

/// Name, µs per iteration and per sequence, source.
const HOSTS: [(&str, f64, f64, &str); 2] = [
    (
        "vllm-v0",
        790.0,
        42.6,
        "an engine that schedules, prepares inputs and processes outputs between iterations: Vidur's table of its CPU \
         times (A100, Llama-2-7B; microsoft/vidur, MIT), a line fitted to the sum of schedule, prepare, sample and \
         process outputs",
    ),
    ("none", 0.0, 0.0, "asked for: a planner or engine that counts no host time"),
];

impl DeviceProfile {
    /// The engines whose host time is known apart from a profile.
    pub fn hosts() -> impl Iterator<Item = &'static str> {
        HOSTS.iter().map(|(name, ..)| *name)
    }

    /// This device under the host time of `engine`, which its name then says; nothing if it is not among
    /// [`DeviceProfile::hosts`].
    #[must_use]
    pub fn under(&self, engine: &str) -> Option<Self> {
        let (_, step_us, seq_us, source) = HOSTS.iter().find(|(name, ..)| *name == engine)?;
        let host = Host { step_us: *step_us, seq_us: *seq_us, source: (*source).to_owned() };
        let name = format!("{} (host time: {engine})", self.name);
        Some(Self { name, host, ..self.clone() })
    }
}
