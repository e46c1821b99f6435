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
mod target;
mod trtllm;
mod vllm;

pub use self::engine::{Engine, flag};
pub use said::{Found, Missing, quoted};
pub use target::Target;

use ::engine::{Config, EngineProfile};

/// All of them; of equally faithful ones, the first is shown first.
pub static TARGETS: [&Target; 6] = [
    &vllm::TARGET,
    &sglang::TARGET,
    &trtllm::TARGET,
    &kserve::TARGET,
    &llmd::TARGET,
    &dynamo::TARGET,
];

/// All of them, the one that honours the most of `config` first: what takes the scheduler, the allocator or the
/// queue away counts before anything else. Of equals, the order of [`TARGETS`].
#[must_use]
pub fn most_faithful(config: &Config) -> Vec<&'static Target> {
    let mut all = TARGETS.to_vec();
    all.sort_by_cached_key(|t| {
        let missing = t.missing(config);
        (missing.iter().filter(|m| m.decides()).count(), missing.len())
    });
    all
}

/// The wishes of `config` that `engine` cannot be told, in the table's order; none of an engine that every policy is
/// known to.
#[must_use]
pub fn lacks(engine: &EngineProfile, config: &Config) -> Vec<Missing> {
    let target = TARGETS.iter().find(|target| target.engine.name == engine.name);
    target.map_or_else(Vec::new, |target| target.lacks(engine, config))
}

#[cfg(test)]
pub(crate) mod tests;
