//! The one place where the engine meets the load: a trace played against a deployment, simulated or on this machine.
//!
//! Everything is in the engine's time and from fixed inputs, so a simulated trial gives the same observation to the
//! bit, wherever and whenever it runs. A computed one gives the same tokens, in the time they took.

mod play;
mod prompts;
mod run;
mod step;
mod testbed;

pub use step::{Step, steps_of};
pub use testbed::Testbed;
