//! The trust that predictions deserve: against recorded runs, against step logs, and against this
//! machine.

pub mod accuracy;
pub mod calibrate;
pub mod fidelity;
pub mod validate;
