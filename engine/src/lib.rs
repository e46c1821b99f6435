//! The thing measured: a serving engine whose core is a pure state machine.

pub mod config;
pub mod exec;
pub mod memory;
pub mod model;
pub mod profile;
pub mod shape;

pub use config::{Config, KNOBS, Knob, KnobError};
pub use shape::Shape;
