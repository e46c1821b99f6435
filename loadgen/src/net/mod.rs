//! The parts that client and mock server share below HTTP: one clock, waiting for sockets until an
//! instant, and the arrival times of bytes.

pub(crate) mod arrival;
pub(crate) mod clock;
pub(crate) mod wait;
