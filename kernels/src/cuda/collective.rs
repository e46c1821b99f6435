//! The parts of a split model at work together: sums and exchanges between tensor-parallel ranks, and the rows that one
//! pipeline stage hands to the next.
//!
//! Parts that share a device share its stream too: one kernel sums, everything else is copies, and nothing has to wait
//! for anything. Parts with a device each meet through NCCL (`nccl`): every call here is one group of theirs, asked for by
//! one thread, which needs groups lest the first device's call wait for the second's. Such groups are not recorded in
//! graphs: NVIDIA warns that graphs which meet may deadlock where one thread launches them for several devices.
//!
//! Several devices are emulated in tests; this has not run on several GPUs. When one of several GPUs fails, the others may
//! wait for it for ever in what NCCL has launched: nothing aborts that yet, and the process has to be killed. (Emulated
//! devices that would wait say so.)

use std::fmt;

use half::bf16;

use super::backend::{Call, Link};
use super::device::{Arg, Device};
use super::error::{CudaError, ensure};
use super::memory::{Buffer, Element};
use super::ops::{eights, line};

/// Most ranks whose parts are summed.
pub const MOST_RANKS: usize = 8;

/// Ranks that work together, in order.
pub struct Collective {
    /// None where all share a device. First, so that it is gone before the streams that it knows.
    link: Option<Box<dyn Link>>,
    devices: Vec<Device>,
}

impl fmt::Debug for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collective").field("devices", &self.devices).finish_non_exhaustive()
    }
}

impl Collective {
    /// One rank for each of `devices`, which are all the same, or all different.
    ///
    /// # Errors
    /// When some are the same, or there is no way from one to the other.
    pub fn new(devices: &[Device]) -> Result<Self, CudaError> {
        let all_same = devices.windows(2).all(|pair| pair[0].is(&pair[1]));
        let link = if all_same {
            None
        } else {
            let twice =
                devices.iter().enumerate().any(|(i, a)| devices[..i].iter().any(|b| a.is(b)));
            ensure(!twice, || "ranks share one device, or each has its own".to_owned())?;
            Some(devices[0].connect(devices)?)
        };
        Ok(Self { devices: devices.to_vec(), link })
    }

    /// Their number.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.devices.len()
    }

    /// Replaces the first `len` elements of each rank's part by the sum of all: the same bits on each.
    ///
    /// # Errors
    /// When sizes disagree or a driver fails; so in all of these.
    pub fn sum(&self, parts: &mut [&mut Buffer<bf16>], len: usize) -> Result<(), CudaError> {
        self.one_each(parts.len())?;
        for (device, part) in self.devices.iter().zip(&*parts) {
            device.holds("a rank's part", part, len)?;
        }
        if self.ranks() < 2 || len == 0 {
            return Ok(());
        }
        if let Some(link) = &self.link {
            let call = |part: &&mut Buffer<bf16>| Call::Sum { at: part.address(0), elements: len };
            let calls: Vec<_> = parts.iter().map(call).enumerate().collect();
            // SAFETY: sizes were checked.
            return unsafe { link.meet(&calls) };
        }
        eights("elements to sum", len)?;
        ensure(parts.len() <= MOST_RANKS, || {
            format!("{} ranks: the sum over ranks takes 1 to {MOST_RANKS}", parts.len())
        })?;
        let part = |rank: usize| Arg::from(parts.get(rank).map(|part| &**part));
        let [p0, p1, p2, p3] = [0, 1, 2, 3].map(part);
        let [p4, p5, p6, p7] = [4, 5, 6, 7].map(part);
        let (ranks, count) = ((self.ranks() as i32).into(), ((len / 8) as i32).into());
        let arguments = [p0, p1, p2, p3, p4, p5, p6, p7, ranks, count];
        let shape = line((len / 8).div_ceil(256), 256);
        // SAFETY: sizes were checked, and these buffers have no other user.
        unsafe { self.devices[0].launch("all_reduce", shape, arguments) }
    }

    /// Gives each rank the first `len` elements of every rank's part, one part after the other.
    ///
    /// # Errors
    /// See [`Collective::sum`].
    pub fn share<T: Element>(
        &self,
        parts: &[&Buffer<T>],
        all: &mut [&mut Buffer<T>],
        len: usize,
    ) -> Result<(), CudaError> {
        self.one_each(parts.len())?;
        self.one_each(all.len())?;
        if len == 0 {
            return Ok(());
        }
        let Some(link) = &self.link else {
            for all in all {
                self.copy_all(parts, all, len)?;
            }
            return Ok(());
        };
        for ((device, part), all) in self.devices.iter().zip(parts).zip(&*all) {
            device.holds("the part of a rank", part, len)?;
            device.holds("the buffer shared with a rank", all, len * parts.len())?;
        }
        let bytes = len * size_of::<T>();
        let both = parts.iter().zip(&*all);
        let call = both.map(|(p, a)| Call::Share { from: p.address(0), to: a.address(0), bytes });
        let calls: Vec<_> = call.enumerate().collect();
        // SAFETY: sizes were checked.
        unsafe { link.meet(&calls) }
    }

    /// Gives the first rank the first `len` elements of every rank's part, one part after the other.
    ///
    /// # Errors
    /// See [`Collective::sum`].
    pub fn collect<T: Element>(
        &self,
        parts: &[&Buffer<T>],
        all: &mut Buffer<T>,
        len: usize,
    ) -> Result<(), CudaError> {
        self.one_each(parts.len())?;
        if len == 0 {
            return Ok(());
        }
        let Some(link) = &self.link else { return self.copy_all(parts, all, len) };
        self.devices[0].holds("what is collected", all, len * parts.len())?;
        for (device, part) in self.devices.iter().zip(parts) {
            device.holds("what is collected", part, len)?;
        }
        let bytes = len * size_of::<T>();
        let calls = (0..).zip(parts).flat_map(|(rank, part)| {
            let send = Call::Send { from: part.address(0), bytes, rank: 0 };
            let receive = Call::Receive { to: all.address(rank * len), bytes, rank };
            [(rank, send), (0, receive)]
        });
        // SAFETY: sizes were checked.
        unsafe { link.meet(&calls.collect::<Vec<_>>()) }
    }

    /// For each of `moves`, gives a rank the first `len` elements of what another has: from which rank, to which, from
    /// where, to where.
    ///
    /// # Errors
    /// See [`Collective::sum`].
    pub fn hand_over<T: Element>(
        &self,
        moves: &mut [(usize, usize, &Buffer<T>, &mut Buffer<T>)],
        len: usize,
    ) -> Result<(), CudaError> {
        for (from, to, part, place) in &*moves {
            let known = (*from).max(*to) < self.ranks();
            ensure(known, || format!("ranks {from} and {to} of {}", self.ranks()))?;
            self.devices[*from].holds("what is handed over", part, len)?;
            self.devices[*to].holds("where it goes", place, len)?;
        }
        if len == 0 {
            return Ok(());
        }
        let Some(link) = &self.link else {
            let mut moves = moves.iter_mut();
            return moves.try_for_each(|(from, _, part, place)| {
                self.devices[*from].copy_part((part, 0), (place, 0), len)
            });
        };
        let bytes = len * size_of::<T>();
        let calls = moves.iter().flat_map(|(from, to, part, place)| {
            let send = Call::Send { from: part.address(0), bytes, rank: *to };
            let receive = Call::Receive { to: place.address(0), bytes, rank: *from };
            [(*from, send), (*to, receive)]
        });
        // SAFETY: sizes were checked.
        unsafe { link.meet(&calls.collect::<Vec<_>>()) }
    }

    /// One part after the other, on the one device.
    fn copy_all<T: Element>(
        &self,
        parts: &[&Buffer<T>],
        all: &mut Buffer<T>,
        len: usize,
    ) -> Result<(), CudaError> {
        let mut parts = self.devices.iter().zip(parts).enumerate();
        parts.try_for_each(|(rank, (device, part))| {
            device.copy_part((part, 0), (all, rank * len), len)
        })
    }

    fn one_each(&self, parts: usize) -> Result<(), CudaError> {
        ensure(parts == self.ranks(), || format!("{parts} parts of {} ranks", self.ranks()))
    }
}
