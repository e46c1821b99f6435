//! The thing measured: a serving engine whose core is a pure state machine.
//!
//! Requests and time go in; plans, tokens and events come out. Nothing below owns a clock, a thread, a socket or a
//! source of random numbers, so the same scheduler and allocator code runs in virtual time and live: the configuration
//! that was searched is the one that serves. Two leaves differ: the executor behind [`exec::Executor`], and the owner
//! of the clock.
//!
//! Internal to knee: this interface changes without notice. The crate `knee` is the stable one.

mod alike;
pub mod beam;
mod choice;
pub mod config;
mod contained;
pub mod deployment;
pub mod engine;
pub mod engines;
pub mod event;
pub mod exec;
pub mod fault;
pub mod files;
pub mod fleet;
pub mod format;
pub mod import;
pub mod kv;
pub mod live;
pub mod machine;
pub mod memory;
pub mod model;
pub mod plan;
pub mod profile;
pub mod request;
pub mod router;
pub mod sample;
pub mod sched;
pub mod sequence;
pub mod server;
pub mod shape;
pub mod speculation;
pub mod state;
pub mod waiting;
pub mod wiring;

pub use config::{Config, KNOBS, Knob, KnobError};
pub use deployment::{Bound, DeployError, Deployment};
pub use engine::Engine;
pub use engines::EngineProfile;
pub use event::{Event, Iteration};
pub use fault::Fault;
pub use fleet::{Fleet, Next};
pub use machine::Machine;
pub use model::ModelShape;
pub use profile::DeviceProfile;
pub use request::{BlockIds, Content, Request, RequestId};
pub use shape::Shape;
