//! Decides what to measure next: the search space, capacity under an SLO, the search, and what it found.
//!
//! The way from a question to its answer: a [`tune::Question`] asks; a [`subject`] is what can be asked (a simulation,
//! this machine, a server, a study that remembers); a [`subject::Trial`] is one configuration at one rate, and an
//! [`subject::observation::Observation`] what it showed; a [`knee::verdict::Verdict`] says whether the rate held; the
//! [`knee`] is the highest that did; a [`contest`] decides which configuration to try next; a [`result::Answer`] says who
//! carries how much, and is [`explain`]ed.
//!
//! Internal to knee: this interface changes without notice. The crate `knee` is the stable one.

pub mod claims;
pub mod compare;
pub mod contest;
pub mod evidence;
pub mod explain;
pub mod export;
pub mod knee;
pub mod plan;
pub mod result;
pub mod share;
pub mod space;
pub mod subject;
pub mod tune;
