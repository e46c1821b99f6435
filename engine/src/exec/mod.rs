//! Who runs a plan.

pub mod cost;
