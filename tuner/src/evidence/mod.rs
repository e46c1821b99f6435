//! How far predictions may be believed: against recorded runs, against step logs, and against this machine.

pub mod accuracy;
pub mod calibrate;
pub mod fidelity;
pub mod validate;
