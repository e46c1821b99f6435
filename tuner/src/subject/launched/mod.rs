//! Servers that are started for a search: processes that never outlive it, and what they said.

mod family;
mod log;
pub mod process;
