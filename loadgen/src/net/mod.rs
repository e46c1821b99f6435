//! What client and mock server share below HTTP: one clock, and waiting for sockets until an instant.

pub(crate) mod clock;
pub(crate) mod wait;
