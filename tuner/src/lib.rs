//! Decides what to measure next: the search space, capacity under an SLO, the search, and what it found.

pub mod evaluate;
pub mod observation;
pub mod space;
