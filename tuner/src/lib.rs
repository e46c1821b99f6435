//! Decides what to measure next: the search space, capacity under an SLO, the search, and what it found.

pub mod accuracy;
pub mod calibrate;

pub mod claims;
pub mod compare;
pub mod decide;
pub mod evaluate;
pub mod export;
pub mod fidelity;
pub mod knee;
pub mod launch;
pub mod live;
pub mod observation;
pub mod pace;
pub mod pareto;
pub mod plan;
pub mod progress;
pub mod result;
pub mod search;
pub mod share;
pub mod space;
pub mod study;
pub mod trial;
pub mod tune;
pub mod unfit;
pub mod validate;
pub mod verdict;
pub mod why;

#[cfg(test)]
mod fake;
