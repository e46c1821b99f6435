//! Threads that work on one thing at a time, together with the thread that asks.
//!
//! A model step is some two hundred short parallel sections, so starting one must cost less than a
//! microsecond: members spin for the next section and only go to sleep when none comes for a while.
//! If other programs want the processor too, a member may be held up at any moment: members take
//! the next piece of work as they finish the last, and a section ends without those that did not
//! come in time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::simd::Isa;

/// The time that a member spins for more work before it sleeps.
const SPIN: Duration = Duration::from_micros(200);

/// Looks at a flag between two looks at the clock, and before yielding.
const LOOKS: u32 = 1 << 8;

/// See [`Board::gate`].
const OPEN: usize = 1;
const JOINED: usize = 2;

/// A section: called by each member that joins, with its number.
type Job = *const (dyn Fn(usize) + Sync);

/// Threads that share sections of work; the caller of [`Team::split`] is one of them. Work must not ask its own team.
#[derive(Debug)]
pub struct Team {
    board: Arc<Board>,
    members: Vec<JoinHandle<()>>,
    isa: Isa,
    /// One section at a time.
    turn: Mutex<()>,
}

/// The words that members look at. Each of the hot ones has a cache line of its own.
#[derive(Debug, Default)]
struct Board {
    /// Counts sections; a change is the signal to begin.
    section: Line<AtomicUsize>,
    /// [`OPEN`] while members may join the section, plus [`JOINED`] for each that is in it.
    gate: Line<AtomicUsize>,
    /// The next piece to take.
    next: Line<AtomicUsize>,
    job: Mutex<Option<Posted>>,
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

#[derive(Debug, Clone, Copy)]
struct Posted(Job);
// SAFETY: the job is `Sync`, and the thread that posted it waits until every member is done with
// it.
unsafe impl Send for Posted {}

impl Team {
    /// A team of `size` (at least 1), the caller included, that uses the best instruction set here.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self::with_isa(size, Isa::best())
    }

    /// The same with the instruction set `isa`.
    #[must_use]
    pub fn with_isa(size: usize, isa: Isa) -> Self {
        let others = size.max(1) - 1;
        let asleep = (0..others).map(|_| AtomicBool::new(false)).collect();
        let board = Arc::new(Board { asleep, ..Board::default() });
        let member = |i| {
            let board = Arc::clone(&board);
            std::thread::Builder::new()
                .name(format!("knee-{}", i + 1))
                .spawn(move || board.serve(i))
                .unwrap_or_else(|e| panic!("cannot start a thread: {e}"))
        };
        let members = (0..others).map(member).collect();
        Self { board, members, isa, turn: Mutex::new(()) }
    }

    /// Members, the caller included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len() + 1
    }

    /// The instruction set it uses.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Does pieces `0..pieces`, each once: members call `work(member, piece)` for the next piece
    /// until none is left. A single piece, or a team of one, is done by the caller without waking a
    /// member.
    ///
    /// # Panics
    /// When `work` does, on whichever thread.
    pub fn split(&self, pieces: usize, work: impl Fn(usize, usize) + Sync) {
        if pieces <= 1 || self.members.is_empty() {
            return (0..pieces).for_each(|piece| work(0, piece));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let board = &*self.board;
        let section = |member: usize| {
            loop {
                let piece = board.next.0.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces {
                    break;
                }
                work(member, piece);
            }
        };
        board.next.0.store(0, Ordering::Relaxed);
        let job: &(dyn Fn(usize) + Sync) = &section;
        // SAFETY: only the lifetime changes; `finish` below does not return before every member that joined has left.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        *board.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(Posted(job));
        board.gate.0.store(OPEN, Ordering::Release);
        board.section.0.fetch_add(1, Ordering::SeqCst);
        for (asleep, member) in board.asleep.iter().zip(&self.members) {
            if asleep.load(Ordering::SeqCst) {
                Thread::unpark(member.thread());
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| section(0)));
        board.finish();
        let theirs = board.panicked.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Board {
    /// Closes the section to new members and waits until all that did have left.
    fn finish(&self) {
        let mut looks = 0u32;
        self.gate.0.fetch_sub(OPEN, Ordering::AcqRel);
        while self.gate.0.load(Ordering::Acquire) > 0 {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS * 16) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    /// The life of member `i + 1`.
    fn serve(&self, i: usize) {
        let mut done = 0;
        loop {
            self.wait(i, done);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            done = self.section.0.load(Ordering::Acquire);
            let open = |gate| (gate & OPEN != 0).then_some(gate + JOINED);
            // A later section than the one seen may be open by now, which is just as well.
            if self.gate.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, open).is_err() {
                continue;
            }
            let posted = *self.job.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Posted(job)) = posted {
                // SAFETY: the poster keeps the job alive until the gate is closed and all that joined have left.
                let work = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(i + 1) }));
                if let Err(panic) = work {
                    *self.panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                }
            }
            self.gate.0.fetch_sub(JOINED, Ordering::Release);
        }
    }

    /// Returns when a section other than `done` is on the board: spins a while, then sleeps.
    fn wait(&self, i: usize, done: usize) {
        let since = Instant::now();
        let mut looks = 0u32;
        while self.section.0.load(Ordering::Acquire) == done {
            looks = looks.wrapping_add(1);
            std::hint::spin_loop();
            if looks.is_multiple_of(LOOKS) && since.elapsed() > SPIN {
                // The poster changes the section before it looks for sleepers, so one of the two
                // sees the other.
                self.asleep[i].store(true, Ordering::SeqCst);
                while self.section.0.load(Ordering::SeqCst) == done {
                    std::thread::park();
                }
                self.asleep[i].store(false, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.board.stop.store(true, Ordering::Release);
        self.board.section.0.fetch_add(1, Ordering::SeqCst);
        for member in self.members.drain(..) {
            member.thread().unpark();
            // Its panics were handed to the caller that asked for the work.
            let _ = member.join();
        }
    }
}

/// A slice that members of a team write to in different places.
#[derive(Clone, Copy)]
pub(super) struct Scattered<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: a pointer into a slice of `T`; `part` asks its caller for disjointness.
unsafe impl<T: Send> Send for Scattered<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Scattered<T> {}

impl<T> Scattered<T> {
    pub(super) fn new(slice: &mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// `len` elements from `at` on.
    ///
    /// # Safety
    /// The slice is still borrowed by the maker of this value, and no two parts that overlap are
    /// alive at once.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "callers promise disjoint parts; see Safety")]
    pub(super) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at + len <= self.len, "{at} + {len} is beyond {}", self.len);
        // SAFETY: within the slice, and disjoint from other parts by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_piece_is_done_once() {
        for size in 1..=4 {
            let team = Team::new(size);
            assert_eq!(team.size(), size);
            for pieces in [0, 1, 2, 3, 7, 100] {
                let done: Vec<AtomicU32> = (0..pieces).map(|_| AtomicU32::new(0)).collect();
                team.split(pieces, |member, piece| {
                    assert!(member < size);
                    done[piece].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1));
            }
        }
    }

    /// The first member waits for the others, asleep or not: each has a piece.
    #[test]
    fn members_that_fell_asleep_wake_up() {
        let team = Team::new(3);
        for _ in 0..20 {
            std::thread::sleep(SPIN * 3);
            let met = std::sync::Barrier::new(3);
            team.split(3, |_, _| {
                met.wait();
            });
        }
    }

    #[test]
    fn a_panic_comes_back_and_the_team_goes_on() {
        let team = Team::new(2);
        for bad in 0..8 {
            let broken = catch_unwind(AssertUnwindSafe(|| {
                team.split(8, |_, piece| assert_ne!(piece, bad, "broken piece"));
            }));
            assert!(broken.is_err());
            let sum = AtomicUsize::new(0);
            team.split(8, |_, piece| {
                sum.fetch_add(piece, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 28);
        }
    }
}
