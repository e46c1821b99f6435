//! What client and mock server share below HTTP: one clock, waiting for sockets until an instant, and when bytes
//! arrived.

pub(crate) mod arrival;
pub(crate) mod clock;
pub(crate) mod wait;
