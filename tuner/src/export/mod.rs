//! The found configuration in the words of engines that people run: strings only, one file per target. An engine's flag
//! for a knob stands in that engine's file, once.
//!
//! Each target answers for every row of the knob table: a flag, a setting that is the engine's only
//! behaviour anyway, a comment, or that it has no counterpart. Missing rows head the export as a
//! comment, and [`Target::missing`] and [`Target::pins`] say them to reports: a pasted command must
//! not promise more than it can do.

pub mod kserve;
pub mod llmd;
mod said;
pub mod sglang;
pub mod trtllm;
pub mod vllm;

pub use said::{Found, Missing, quoted};

use engine::Config;
use said::Said;
use std::str::FromStr;

/// A program that serves models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `vllm serve`.
    Vllm,
    /// SGLang's `launch_server`.
    Sglang,
    /// TensorRT-LLM's `trtllm-serve` and its YAML.
    Trtllm,
    /// A KServe `LLMInferenceService`.
    Kserve,
    /// Values of llm-d's modelservice chart.
    Llmd,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Vllm, Self::Sglang, Self::Trtllm, Self::Kserve, Self::Llmd];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Trtllm => "trtllm",
            Self::Kserve => "kserve",
            Self::Llmd => "llm-d",
        }
    }

    /// The usual name of a file that holds it.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Vllm => "vllm.sh",
            Self::Sglang => "sglang.sh",
            Self::Trtllm => "trtllm.sh",
            Self::Kserve => "kserve.yaml",
            Self::Llmd => "llm-d-values.yaml",
        }
    }

    /// All of them, the one that honours the most of `config` first: what takes the scheduler, the allocator or the
    /// queue away counts before anything else. Of equals, the order of [`Self::ALL`].
    #[must_use]
    pub fn most_faithful(config: &Config) -> [Self; 5] {
        let mut all = Self::ALL;
        all.sort_by_cached_key(|t| {
            let missing = t.missing(config);
            (missing.iter().filter(|m| m.decides()).count(), missing.len())
        });
        all
    }

    /// The wishes of `config` that this target cannot meet, in the table's order.
    #[must_use]
    pub fn missing(self, config: &Config) -> Vec<Missing> {
        self.said(config).missing
    }

    /// Knobs and values, as typed, that keep a search to what this target can do of `config`; empty where nothing is
    /// missing.
    #[must_use]
    pub fn pins(self, config: &Config) -> Vec<(String, String)> {
        let mut pins: Vec<(String, String)> = Vec::new();
        let usual = Config::default();
        for missing in self.missing(config) {
            let pin = match missing.knob.as_str() {
                "scheduler" | "allocator" | "reserve" | "mix" | "padding" | "max-wait" => {
                    ("policy".to_owned(), self.native().to_owned())
                }
                name => {
                    let value = engine::Knob::named(name).map(|k| usual.value(k));
                    (missing.knob, value.unwrap_or_default())
                }
            };
            if !pins.contains(&pin) {
                pins.push(pin);
            }
        }
        pins
    }

    /// The policy that is this target's own way of scheduling.
    fn native(self) -> &'static str {
        match self {
            Self::Sglang => "paged",
            Self::Vllm | Self::Trtllm | Self::Kserve | Self::Llmd => "chunked",
        }
    }

    fn said(self, config: &Config) -> Said {
        match self {
            Self::Vllm | Self::Kserve | Self::Llmd => vllm::say(config, 1),
            Self::Sglang => sglang::say(config),
            Self::Trtllm => trtllm::say(config),
        }
    }

    /// The configuration for this target: a shell script or YAML, with comments.
    #[must_use]
    pub fn render(self, found: &Found) -> String {
        match self {
            Self::Vllm => vllm::render(found),
            Self::Sglang => sglang::render(found),
            Self::Trtllm => trtllm::render(found),
            Self::Kserve => kserve::render(found),
            Self::Llmd => llmd::render(found),
        }
    }
}

impl FromStr for Target {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let known = Self::ALL.into_iter().find(|t| t.name() == s);
        known.ok_or_else(|| format!("unknown export target `{s}`: expected one of {}", names()))
    }
}

#[cfg(test)]
pub(crate) mod tests;
