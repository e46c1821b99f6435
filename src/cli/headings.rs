//! The headings that flags stand under in `--help`.

/// The load, and what it must hold.
pub(super) const TRAFFIC: &str = "Traffic and targets";
/// The reading of a trace file.
pub(super) const FILES: &str = "Trace files";
/// A run that was recorded elsewhere.
pub(super) const RECORDED: &str = "The recorded run";
/// The model and its machine.
pub(super) const MACHINE: &str = "Model and device";
/// The configurations to try, and the time for that.
pub(super) const SEARCH: &str = "Search";
/// A server that is there.
pub(super) const LIVE: &str = "Measuring a server";
/// Servers that are started.
pub(super) const LAUNCH: &str = "Starting servers to measure";
/// The real engine.
pub(super) const HERE: &str = "The engine on this machine (--device cpu, cuda:N, cuda:0-3)";
/// The demands on a result.
pub(super) const REQUIRED: &str = "Requirements";
/// The places that results go to.
pub(super) const OUTPUT: &str = "Output";
/// The engine's knobs.
pub(crate) const KNOBS: &str = "Knobs";
