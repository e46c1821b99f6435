//! The found configuration in the words of engines that people run: strings only. A target is a file with its row of
//! [`TARGETS`]; an engine's flag for a knob stands in that engine's file, once.
//!
//! Each target answers for every row of the knob table: a flag, a setting that is the engine's only
//! behaviour anyway, a comment, or that it has no counterpart. Missing rows head the export as a
//! comment, and [`Target::missing`] and [`Target::pins`] say them to reports: a pasted command must
//! not promise more than it can do.

mod dynamo;
mod engine;
mod kserve;
mod llmd;
mod manifest;
mod said;
mod sglang;
mod trtllm;
mod vllm;

pub use self::engine::{Engine, flag};
pub use said::{Found, Missing, quoted};
pub use vllm::ENGINE as VLLM;

use self::engine::Asked;
use ::engine::{Config, Knob};
use said::{Said, Say};

/// A program that serves models, or a platform that runs one.
#[derive(Debug)]
pub struct Target {
    /// Its name for people.
    pub name: &'static str,
    /// The usual name of a file that holds it.
    pub file: &'static str,
    /// The words that start the engine in it, before the model.
    pub starts: &'static str,
    /// The engine that it runs.
    pub engine: &'static Engine,
    /// Its own answer to a knob, where the engine alone would answer otherwise.
    own: fn(&Asked<'_>) -> Option<Say>,
    render: fn(&Found) -> String,
}

/// All of them; of equally faithful ones, the first is shown first.
pub static TARGETS: [&Target; 6] = [
    &vllm::TARGET,
    &sglang::TARGET,
    &trtllm::TARGET,
    &kserve::TARGET,
    &llmd::TARGET,
    &dynamo::TARGET,
];

impl Target {
    /// All of them, the one that honours the most of `config` first: what takes the scheduler, the allocator or the
    /// queue away counts before anything else. Of equals, the order of [`TARGETS`].
    #[must_use]
    pub fn most_faithful(config: &Config) -> Vec<&'static Self> {
        let mut all = TARGETS.to_vec();
        all.sort_by_cached_key(|t| {
            let missing = t.missing(config);
            (missing.iter().filter(|m| m.decides()).count(), missing.len())
        });
        all
    }

    /// The wishes of `config` that this target cannot meet, in the table's order.
    #[must_use]
    pub fn missing(&self, config: &Config) -> Vec<Missing> {
        self.say(config, 1).missing
    }

    /// Knobs and values, as typed, that keep a search to what this target can do of `config`; empty where nothing is
    /// missing.
    #[must_use]
    pub fn pins(&self, config: &Config) -> Vec<(String, String)> {
        let mut pins: Vec<(String, String)> = Vec::new();
        let usual = Config::default();
        for missing in self.missing(config) {
            let pin = match missing.knob.as_str() {
                "scheduler" | "allocator" | "reserve" | "mix" | "padding" | "max-wait" => {
                    ("policy".to_owned(), self.engine.policy.to_owned())
                }
                name => {
                    let value = Knob::named(name).map(|k| usual.value(k));
                    (missing.knob, value.unwrap_or_default())
                }
            };
            if !pins.contains(&pin) {
                pins.push(pin);
            }
        }
        pins
    }

    /// The configuration for this target: a shell script or YAML, with comments.
    #[must_use]
    pub fn render(&self, found: &Found) -> String {
        (self.render)(found)
    }

    /// Its answers to all knobs, for `ranks` engines behind one API server.
    fn say(&self, config: &Config, ranks: u32) -> Said {
        self.engine.say(config, ranks, self.own)
    }
}

/// Targets leave every knob to their engine, most of them.
fn as_the_engine(_: &Asked<'_>) -> Option<Say> {
    None
}

#[cfg(test)]
pub(crate) mod tests;
