//! Contenders, and the three rules by which they meet: in waves on longer and longer parts of a trace, in the same
//! minutes on a real engine, or one after the other where each costs the start of a server.
//!
//! Under each rule, a contender's fate is a [`crate::result::Standing`]. The first two are programs over one `Race`: it
//! owns contenders, standings, evidence, leader, progress and the end, and asks contenders apart or together. They are
//! not rows that one loop reads. Screening starts over where a head proves too short, and a decision where the machine's
//! pace surprises; one loop would hide that course in states. A server is up only while it is searched, and its
//! contenders are flags in its own words: for these, turns keep an account of their own.

pub mod entry;
pub mod meetings;
pub mod progress;
mod race;
pub mod turns;
pub mod waves;

#[cfg(test)]
mod tests;
