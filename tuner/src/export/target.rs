//! A target: its row, and what it answers for a configuration.

use super::engine::{Asked, Engine};
use super::said::{Found, Missing, Said, Say};
use engine::{Config, EngineProfile, Knob};

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
    pub(super) own: fn(&Asked<'_>) -> Option<Say>,
    pub(super) render: fn(&Found) -> String,
}

impl Target {
    /// The wishes of `config` that this target cannot meet, in the table's order.
    #[must_use]
    pub fn missing(&self, config: &Config) -> Vec<Missing> {
        self.lacks(&self.engine.profile(None), config)
    }

    /// The same of a version of its engine.
    pub(super) fn lacks(&self, engine: &EngineProfile, config: &Config) -> Vec<Missing> {
        self.engine.say(engine, config, 1, self.own).missing
    }

    /// Knobs and values, as typed, that keep a search to what this target can do of `config`; empty where nothing is
    /// missing.
    #[must_use]
    pub fn pins(&self, config: &Config) -> Vec<(String, String)> {
        let mut pins: Vec<(String, String)> = Vec::new();
        let (usual, policy) = (Config::default(), self.engine.profile(None).policy);
        for missing in self.missing(config) {
            let pin = match missing.knob.as_str() {
                "scheduler" | "allocator" | "reserve" | "mix" | "padding" | "max-wait" => {
                    ("policy".to_owned(), policy.name().to_owned())
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
    pub(super) fn say(&self, found: &Found, ranks: u32) -> Said {
        let engine = self.engine.profile(found.engine.as_ref());
        self.engine.say(&engine, &found.config, ranks, self.own)
    }
}

/// Targets leave every knob to their engine, most of them.
pub(super) fn as_the_engine(_: &Asked<'_>) -> Option<Say> {
    None
}
