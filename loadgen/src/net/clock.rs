//! The one clock of live runs: the system's monotonic clock in nanoseconds, so that the stamps of two processes on a
//! machine can be compared exactly. `Instant` reads the same clock and hides the number.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// Nanoseconds since an origin common to all processes of this machine (on Linux, the boot).
pub(crate) fn now() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// The lead of the wall clock over [`now`]: of some readings the one least disturbed.
pub(crate) fn wall_ahead() -> u64 {
    let (mut least, mut ahead) = (u64::MAX, 0);
    for _ in 0..8 {
        let before = now();
        let wall = nanos(clock_gettime(ClockId::Realtime));
        let took = now() - before;
        if took < least {
            (least, ahead) = (took, wall.wrapping_sub(before + took / 2));
        }
        if least < 500 {
            break;
        }
    }
    ahead
}

/// The smallest difference the clock can show.
pub(crate) fn resolution() -> Duration {
    Duration::from_nanos(nanos(clock_getres(ClockId::Monotonic)))
}

/// Processor time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    Duration::from_nanos(nanos(clock_gettime(ClockId::ThreadCPUTime)))
}

fn nanos(time: Timespec) -> u64 {
    let (s, ns) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    s.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(ns.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_clock_of_instant() {
        let (before, instant) = (now(), std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(5));
        let (ours, theirs) = (now() - before, instant.elapsed());
        let apart = theirs.abs_diff(Duration::from_nanos(ours));
        assert!(ours >= 5_000_000 && apart < theirs, "{ours} ns against {theirs:?}");
        assert!(resolution() <= Duration::from_millis(20));
    }
}
