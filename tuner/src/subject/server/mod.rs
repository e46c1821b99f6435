//! A server as the subject of a search: what of a rate it held, with as little load as possible.
//!
//! A second of a real server is a second, so a rate is given up as soon as it cannot hold any more: when more
//! requests have missed their targets than the whole run may. A failing rate costs a glimpse, a passing one the whole
//! of a probe, because a rate that overloads a server by a share e is late by e times the time it has lasted: only a
//! probe that lasts slack / e tells. One whose requests outlast it tells nothing at all: the server has not yet got
//! what it would be given for ever. [`crate::knee`] chooses the rates.
//!
//! A capacity found so is bounded by what the server completes per second, and needs no run with everything offered at
//! once: a rate beyond it leaves work overdue, and a probe of which more than 3 % is overdue fails
//! ([`loadgen::Sustain`]).

mod driven;
mod held;
mod idle;
mod memory;
mod range;
mod search;

pub use held::Held;
pub use memory::{LiveStudy, Measured, Memory, Offered, Ready};
pub use range::{Range, lengthened};
pub use search::{Aim, Searched};
