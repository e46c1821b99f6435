//! Engines as nouns: what each can be told, its defaults, its flags, and its time outside the GPU, by version.
//!
//! An engine is one TOML file (`engines/NAME.toml`), because what `knee calibrate` finds about a user's own engine is
//! such a file as well. Its versions are rows in rising order: what a row does not say is as in the row before. A row
//! is *measured* where it has times of its own; any other version takes those of the measured version before it, or of
//! the one that its row names.
//!
//! A user's own engine is a row over another engine:
//!
//! ```toml
//! like = "vllm@0.15"
//! name = "vllm-here"
//! source = "fitted to last week's requests"
//! [front_end]
//! request_ms = 9.0
//! token_us = 1.5
//! spread = 0.4
//! source = "the same"
//! ```

mod catalogue;
mod outside;
mod profile;
mod row;
mod told;

pub use catalogue::Listed;
pub use outside::{FrontEnd, Host, HostTime, Launch, LaunchTime, Outside, Ranked};
pub use profile::{EngineProfile, VERSION_SIGMA};
pub use told::{ByMemory, Told, Words};

#[cfg(test)]
mod tests;
