//! Waiting for sockets and for an instant at once, to the microsecond.
//!
//! `epoll_wait` counts milliseconds and ordinary sleeps are rounded by the kernel's timer slack (50
//! µs). A timer descriptor is subject to neither, so the instant waited for is one more descriptor
//! in the poll. Outside Linux there is no such descriptor: the wait ends up to a millisecond early
//! and is finished by polling.

use std::io;
use std::time::Duration;

use mio::{Events, Poll, Registry, Token};

use super::clock;

/// The poll's own descriptor for the timer; connections must use other tokens.
const TIMER: Token = Token(usize::MAX);
/// Events taken per call.
const EVENTS: usize = 1024;

/// A poll that also wakes at an instant.
pub(crate) struct Wait {
    poll: Poll,
    events: Events,
    alarm: Alarm,
}

impl Wait {
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let alarm = Alarm::new(&poll)?;
        Ok(Self { poll, events: Events::with_capacity(EVENTS), alarm })
    }

    pub(crate) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Waits until something happens or, on [`clock`], `until`; with `until` in the past it only looks.
    pub(crate) fn wait(&mut self, until: u64) -> io::Result<()> {
        let timeout = match until.saturating_sub(clock::now()) {
            0 => Some(Duration::ZERO),
            left => self.alarm.arm(until, left)?,
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    /// The sockets that are ready.
    pub(crate) fn ready(&self) -> impl Iterator<Item = Ready> + '_ {
        self.events.iter().filter(|e| e.token() != TIMER).map(|e| Ready {
            token: e.token().0,
            writable: e.is_writable(),
            closed: e.is_read_closed() || e.is_error(),
        })
    }
}

/// One socket that can go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: usize,
    pub(crate) writable: bool,
    /// The peer has ended its side: read until the end even if a read came back short.
    pub(crate) closed: bool,
}

#[cfg(target_os = "linux")]
struct Alarm {
    timer: std::os::fd::OwnedFd,
    armed: u64,
}

#[cfg(target_os = "linux")]
impl Alarm {
    fn new(poll: &Poll) -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        use std::os::fd::AsRawFd as _;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let source = timer.as_raw_fd();
        poll.registry().register(
            &mut mio::unix::SourceFd(&source),
            TIMER,
            mio::Interest::READABLE,
        )?;
        Ok(Self { timer, armed: 0 })
    }

    /// Sets the timer, unless it is set already; arming again is what makes it fire anew, so it is never read.
    fn arm(&mut self, until: u64, _left: u64) -> io::Result<Option<Duration>> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        if self.armed != until {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let (s, ns) = ((until / 1_000_000_000) as i64, (until % 1_000_000_000) as i64);
            let it_value = Timespec { tv_sec: s, tv_nsec: ns };
            let timer = Itimerspec { it_interval: zero, it_value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer)?;
            self.armed = until;
        }
        Ok(None)
    }
}

#[cfg(not(target_os = "linux"))]
struct Alarm;

#[cfg(not(target_os = "linux"))]
impl Alarm {
    fn new(_: &Poll) -> io::Result<Self> {
        Ok(Self)
    }

    fn arm(&mut self, _until: u64, left: u64) -> io::Result<Option<Duration>> {
        // Rounded down: the caller waits again for the rest.
        Ok(Some(Duration::from_millis(left / 1_000_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_wakes_at_the_instant_and_not_before() {
        let mut wait = Wait::new().unwrap();
        for ms in [0, 1, 3, 3] {
            let until = clock::now() + ms * 1_000_000;
            while clock::now() < until {
                wait.wait(until).unwrap();
            }
            assert_eq!(wait.ready().count(), 0);
        }
        // An armed instant that has passed does not block the next wait.
        wait.wait(clock::now() + 500_000).unwrap();
        wait.wait(clock::now() + 500_000).unwrap();
    }
}
