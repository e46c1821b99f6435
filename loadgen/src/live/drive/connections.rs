//! Connections made before they are needed, so that a request rarely waits for one.

use std::io;

use super::super::conn::Conn;
use super::{Drive, GLANCE};
use crate::net::clock;

/// Connections kept open and idle, so that a request rarely waits for one to be made.
const SPARE: usize = 8;
/// Connections under way at once before the first send: about what servers queue.
const BACKLOG: usize = 64;
/// The time for which the next of them may take, ns.
const PATIENCE: u64 = 2_000_000_000;

impl Drive<'_> {
    /// Connects before the first send, a backlog of a server's at a time.
    pub(in crate::live) fn warm(&mut self, connections: usize) -> io::Result<()> {
        let wanted = connections.min(self.most_conns);
        let mut give_up = clock::now() + PATIENCE;
        while self.conns.len() < wanted || !self.connecting.is_empty() {
            let room = wanted.saturating_sub(self.conns.len());
            for _ in 0..room.min(BACKLOG.saturating_sub(self.connecting.len())) {
                self.spare();
            }
            let before = self.connecting.len();
            self.wait.wait(give_up)?;
            self.take_events();
            let now = clock::now();
            // A server that does not listen is found out by the requests, one by one.
            if now >= give_up || now < self.no_spare_before {
                break;
            }
            if self.connecting.len() < before {
                give_up = now + PATIENCE;
            }
        }
        Ok(())
    }

    /// Opens connections ahead of need.
    pub(super) fn top_up(&mut self, now: u64) {
        let room = self.conns.len() < self.most_conns && now >= self.no_spare_before;
        if self.idle.len() + self.connecting.len() < SPARE && room {
            self.spare();
        }
    }

    /// Opens a connection for no request yet.
    fn spare(&mut self) {
        match self.open() {
            Ok(key) => self.connecting.push(key),
            Err(_) => self.no_spare_before = clock::now() + 10 * GLANCE,
        }
    }

    pub(super) fn open(&mut self) -> io::Result<usize> {
        let to = (self.endpoint.addresses[0], &self.endpoint.place);
        let entry = self.conns.vacant_entry();
        let key = entry.key();
        let serial = self.meter.connections;
        entry.insert(Conn::open(to, self.wait.registry(), (key, serial))?);
        self.meter.connections += 1;
        Ok(key)
    }
}
