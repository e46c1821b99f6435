//! Decides what to measure next: the search space, capacity under an SLO, the search, and what it found.

pub mod capacity;
pub mod evaluate;
pub mod observation;
pub mod progress;
pub mod search;
pub mod space;
pub mod verdict;

#[cfg(test)]
mod fake;
