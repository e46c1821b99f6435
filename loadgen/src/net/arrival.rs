//! When bytes arrived, by the kernel's account.
//!
//! A stamp taken when a read returns is late by as long as the reader was busy or had to wait for a
//! core. If client and server share a machine, this is the largest error of a load generator. Linux
//! notes when each segment arrived and hands that over with the bytes (`SO_TIMESTAMPNS`, socket(7);
//! for TCP it is the last segment's that the read took from). If there is no stamp (another
//! system), or it cannot be right, the read's own time is used.

use std::io;
use std::ops::Range;

use mio::net::TcpStream;

use super::clock;

/// A stamp this long before bytes could have come unseen, or after their read, is the doing of a clock that was set
/// meanwhile, ns.
const PLAUSIBLE: u64 = 1_000_000_000;

/// Reads bytes together with when they arrived.
pub(crate) struct Receiver {
    /// Room for what comes beside the bytes.
    beside: Vec<u8>,
    /// The lead of the stamps' clock over [`clock`], ns.
    ahead: u64,
    /// When the clocks were looked at last, and the time before that, on [`clock`].
    looked: [u64; 2],
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { beside: system::room(), ahead: clock::wall_ahead(), looked: [clock::now(); 2] }
    }

    /// Looks at both clocks again, as is due before each round of reads: the stamps' may be slewed or set at any time.
    pub(crate) fn set_clock(&mut self) {
        self.ahead = clock::wall_ahead();
        self.looked = [clock::now(), self.looked[0]];
    }

    /// Reads what is there, 0 at the end; and when on [`clock`] it had arrived, where that is known.
    pub(crate) fn receive(
        &mut self,
        tcp: &TcpStream,
        buffer: &mut [u8],
    ) -> io::Result<(usize, Option<u64>)> {
        let (bytes, stamp) = system::receive(tcp, buffer, &mut self.beside)?;
        let arrived = stamp.map(|wall| wall.wrapping_sub(self.ahead));
        // Bytes that came before the last round would have been read then. A client that was
        // stopped finds older stamps.
        Ok((bytes, arrived.and_then(|at| plausible(at, self.looked[1]..clock::now()))))
    }
}

/// Asks for the arrivals of what `tcp` receives; without an answer there are none.
pub(crate) fn note(tcp: &TcpStream) {
    system::note(tcp);
}

/// `at`, if what can have come `within` a time, read at its end, can have arrived then.
fn plausible(at: u64, within: Range<u64>) -> Option<u64> {
    let possible = within.start.saturating_sub(PLAUSIBLE)..within.end.saturating_add(PLAUSIBLE);
    // Two readings of two clocks: a hair into the future is now.
    possible.contains(&at).then(|| at.min(within.end))
}

#[cfg(target_os = "linux")]
mod system {
    use std::io::{self, IoSliceMut};
    use std::os::fd::AsRawFd as _;

    use mio::net::TcpStream;
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
    use nix::sys::time::TimeSpec;

    pub(super) fn room() -> Vec<u8> {
        nix::cmsg_space!(TimeSpec)
    }

    pub(super) fn note(tcp: &TcpStream) {
        let _ = setsockopt(tcp, sockopt::ReceiveTimestampns, &true);
    }

    /// Reads; and the last segment's stamp, ns since 1970.
    pub(super) fn receive(
        tcp: &TcpStream,
        buffer: &mut [u8],
        beside: &mut [u8],
    ) -> io::Result<(usize, Option<u64>)> {
        let mut into = [IoSliceMut::new(buffer)];
        let message = recvmsg::<()>(tcp.as_raw_fd(), &mut into, Some(beside), MsgFlags::empty())?;
        // The bytes are taken: whatever is wrong with the stamp, they stay.
        let stamp = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|beside| match beside {
                ControlMessageOwned::ScmTimestampns(at) => {
                    let (s, ns) = (at.tv_sec() as u64, at.tv_nsec() as u64);
                    Some(s.wrapping_mul(1_000_000_000).wrapping_add(ns))
                }
                _ => None,
            })
        });
        Ok((message.bytes, stamp))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io::{self, Read as _};

    use mio::net::TcpStream;

    pub(super) fn room() -> Vec<u8> {
        Vec::new()
    }

    pub(super) fn note(_: &TcpStream) {}

    pub(super) fn receive(
        mut tcp: &TcpStream,
        buffer: &mut [u8],
        _: &mut [u8],
    ) -> io::Result<(usize, Option<u64>)> {
        Ok((tcp.read(buffer)?, None))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn bytes_that_wait_are_told_when_they_came() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_nodelay(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let tcp = TcpStream::from_std(tcp);
        note(&tcp);
        let (mut receiver, mut buffer) = (Receiver::new(), [0; 64]);
        let again = receiver.receive(&tcp, &mut buffer).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
        // The kernel may take a moment to begin with it.
        let mut stamped = 0;
        for _ in 0..5 {
            let before = clock::now();
            peer.write_all(b"token").unwrap();
            let written = clock::now();
            std::thread::sleep(Duration::from_millis(20));
            receiver.set_clock();
            let (bytes, arrived) = receiver.receive(&tcp, &mut buffer).unwrap();
            assert_eq!(&buffer[..bytes], b"token");
            if let Some(at) = arrived {
                stamped += 1;
                // Loopback delivers inside the write; the clocks may differ by a little.
                assert!(at + 1_000_000 > before && at < written + 10_000_000, "{before} {at}");
            }
        }
        assert!(stamped >= 3, "{stamped} of 5 reads had a stamp");
        drop(peer);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(receiver.receive(&tcp, &mut buffer).unwrap().0, 0, "the end");
    }

    #[test]
    fn a_stamp_that_cannot_be_right_is_none() {
        let now = 100 * PLAUSIBLE;
        let within = now - PLAUSIBLE / 2..now;
        assert_eq!(plausible(now - 500, within.clone()), Some(now - 500));
        assert_eq!(plausible(now + 500, within.clone()), Some(now), "a hair into the future");
        assert_eq!(plausible(now - 2 * PLAUSIBLE, within.clone()), None);
        assert_eq!(plausible(now + 2 * PLAUSIBLE, within), None);
        let stopped = now - 20 * PLAUSIBLE..now;
        assert_eq!(plausible(now - 20 * PLAUSIBLE, stopped), Some(now - 20 * PLAUSIBLE));
    }
}
