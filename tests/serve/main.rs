//! `knee serve` from outside, over sockets: what clients get, and that nothing is left behind when they go.
//!
//! The built-in model is real (four layers, random weights), so its answers are checked against each other.

mod answers;
mod beams;
mod client;
mod framing;
mod leaving;
mod long;
mod mistakes;
#[cfg(target_os = "linux")]
mod soak;
mod split;
mod templates;
