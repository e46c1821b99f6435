//! Bytes that were read from a connection and are not understood yet.

use super::super::failure::Kind;

/// The outcome of one read.
pub(super) struct Piece {
    pub(super) key: usize,
    /// Tells the connection from later ones in its place.
    pub(super) serial: u64,
    /// So many of the buffer, after those of the pieces before.
    pub(super) bytes: usize,
    /// When it arrived; if that is not known, when it was read.
    pub(super) at: u64,
    pub(super) lag: Lag,
    pub(super) end: Option<End>,
}

/// Time between the arrival of bytes and their read, ns.
#[derive(Clone, Copy)]
pub(super) enum Lag {
    Known(u64),
    AtMost(u64),
}

/// Why no more will come.
pub(super) enum End {
    Closed,
    Broken(Kind, String),
}
