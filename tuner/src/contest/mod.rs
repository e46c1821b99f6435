//! Contenders, and the three rules by which they meet: in waves on longer and longer parts of a trace, in the same
//! minutes on a real engine, or one after the other where each costs the start of a server.
//!
//! Under each rule, a contender's fate is a [`crate::result::Standing`].

pub mod entry;
pub mod meetings;
pub mod progress;
pub mod turns;
pub mod waves;

#[cfg(test)]
mod tests;
