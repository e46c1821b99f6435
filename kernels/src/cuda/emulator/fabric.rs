//! Emulated devices that meet, as GPUs do through NCCL: a device that comes to where several meet waits for the others,
//! each of which first does what it was asked for before. Devices that would wait for each other for ever, or for one
//! that never comes, are an error, where real ones would hang.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use half::bf16;

use super::super::backend::{Call, Link};
use super::super::error::CudaError;
use super::fault::{failed, locked};
use super::machine::Emulator;
use super::stream::{self, Goal, Op};

/// Devices, by rank.
pub(super) struct Fabric(Vec<Arc<Emulator>>);

impl Fabric {
    pub(super) fn new(devices: Vec<Arc<Emulator>>) -> Self {
        Self(devices)
    }

    /// Refuses what would hang, or write beyond what one rank expects of another.
    fn check(&self, calls: &[(usize, Call)]) -> Result<(), CudaError> {
        let size = |call: &Call| match *call {
            Call::Sum { elements, .. } => Some((0, elements)),
            Call::Share { bytes, .. } => Some((1, bytes)),
            Call::Send { .. } | Call::Receive { .. } => None,
        };
        let empty = |call: &Call| match *call {
            Call::Sum { elements, .. } => elements == 0,
            Call::Share { bytes, .. } | Call::Send { bytes, .. } | Call::Receive { bytes, .. } => {
                bytes == 0
            }
        };
        if calls.iter().any(|(_, call)| empty(call)) {
            return Err(failed("ranks meet for nothing"));
        }
        let sizes: Vec<_> = calls.iter().map(|(_, call)| size(call)).collect();
        if sizes.iter().any(Option::is_some) {
            let all = calls.iter().map(|call| call.0).eq(0..self.0.len());
            let alike = sizes.windows(2).all(|pair| pair[0] == pair[1]);
            return if all && alike { Ok(()) } else { Err(failed("ranks do not do the same")) };
        }
        let mut sent = sends(calls);
        let mut expected: Vec<_> = calls.iter().filter_map(receipt).collect();
        sent.sort_unstable();
        expected.sort_unstable();
        let alike = sent.iter().map(|s| s.0).eq(expected.iter().map(|e| e.0));
        if alike { Ok(()) } else { Err(failed("not everything that is sent is received")) }
    }
}

/// From which rank to which, and how many bytes.
type Route = (usize, usize, usize);

/// The bytes that are sent, and their places.
fn sends(calls: &[(usize, Call)]) -> Vec<(Route, u64)> {
    let send = |&(rank, call): &(usize, Call)| match call {
        Call::Send { from, bytes, rank: to } => Some(((rank, to, bytes), from)),
        _ => None,
    };
    calls.iter().filter_map(send).collect()
}

/// The bytes that are received, and their place.
fn receipt(&(rank, call): &(usize, Call)) -> Option<(Route, u64)> {
    match call {
        Call::Receive { to, bytes, rank: from } => Some(((from, rank, bytes), to)),
        _ => None,
    }
}

impl Link for Fabric {
    unsafe fn meet(&self, calls: &[(usize, Call)]) -> Result<(), CudaError> {
        self.check(calls)?;
        let ranks: BTreeSet<usize> = calls.iter().map(|call| call.0).collect();
        // All of them or none.
        for &rank in &ranks {
            self.0[rank].stream.not_recording("ranks meet")?;
        }
        let devices = self.0.clone();
        let (calls, come) = (calls.to_vec(), Mutex::default());
        let meeting: Arc<dyn stream::Meeting> =
            Arc::new(Meeting { calls, ranks: ranks.clone(), devices, come });
        for rank in ranks {
            self.0[rank].stream.ask(Op::Meet { meeting: Arc::clone(&meeting), rank })?;
        }
        Ok(())
    }
}

/// A point where some of the ranks meet.
struct Meeting {
    calls: Vec<(usize, Call)>,
    /// Ranks that come.
    ranks: BTreeSet<usize>,
    devices: Vec<Arc<Emulator>>,
    /// Those that have.
    come: Mutex<BTreeSet<usize>>,
}

impl fmt::Debug for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meeting").field(&self.calls).finish()
    }
}

impl stream::Meeting for Meeting {
    fn come(&self, rank: usize) -> Result<(), CudaError> {
        let all = {
            let mut come = locked(&self.come);
            come.insert(rank);
            come.len() == self.ranks.len()
        };
        if all {
            self.happen();
            return Ok(());
        }
        let waits = &self.devices[rank].waits;
        *locked(waits) = true;
        for &other in &self.ranks {
            let (device, here) = (&self.devices[other], || locked(&self.come).contains(&other));
            if here() {
                continue;
            }
            if *locked(&device.waits) {
                return Err(failed(format!("ranks {rank} and {other} wait for each other")));
            }
            device.stream.work_until(Goal::Met(&here), |op| device.work(op))?;
            if !here() {
                return Err(failed(format!("rank {other} never comes to where {rank} waits")));
            }
        }
        *locked(waits) = false;
        Ok(())
    }
}

impl Meeting {
    fn happen(&self) {
        let mut received: Vec<_> = self.calls.iter().filter_map(receipt).collect();
        for (route, from) in sends(&self.calls) {
            if let Some(at) = received.iter().position(|r| r.0 == route) {
                copy(from, received.remove(at).1, route.2);
            }
        }
        let places: Vec<(u64, u64, usize)> = self
            .calls
            .iter()
            .filter_map(|(_, call)| match *call {
                Call::Share { from, to, bytes } => Some((from, to, bytes)),
                _ => None,
            })
            .collect();
        for (_, to, bytes) in &places {
            for (i, (from, ..)) in places.iter().enumerate() {
                copy(*from, to + (i * bytes) as u64, *bytes);
            }
        }
        let part = |(_, call): &(usize, Call)| match *call {
            // SAFETY: the caller promised that so many are there, apart from each other.
            Call::Sum { at, elements } => unsafe {
                Some(std::slice::from_raw_parts_mut(at as *mut bf16, elements))
            },
            _ => None,
        };
        let mut parts: Vec<&mut [bf16]> = self.calls.iter().filter_map(part).collect();
        for i in 0..parts.first().map_or(0, |part| part.len()) {
            let sum = bf16::from_f32(parts.iter().map(|part| part[i].to_f32()).sum());
            parts.iter_mut().for_each(|part| part[i] = sum);
        }
    }
}

fn copy(from: u64, to: u64, bytes: usize) {
    // SAFETY: the caller promised that so many bytes are at both; a rank may send to where it is.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) }
}

#[cfg(test)]
mod tests {
    use super::super::super::backend::{self, Backend};
    use super::*;
    use crate::cuda::emulator::{Pretence, several};

    /// A fresh pair of devices, of which each comes to the given ones of two meetings of both, in that order; what the first
    /// says.
    fn said(orders: [&[usize]; 2]) -> Result<(), String> {
        let devices = several(&std::env::temp_dir(), &[Pretence::default(), Pretence::default()]);
        let devices = devices.iter().map(|device| Arc::clone(device.backend())).collect();
        let devices: Vec<Arc<Emulator>> = backend::all_of(devices).unwrap();
        let meeting = |_| {
            let (ranks, devices) = (BTreeSet::from([0, 1]), devices.clone());
            let meeting = Meeting { calls: Vec::new(), ranks, devices, come: Mutex::default() };
            Arc::new(meeting) as Arc<dyn stream::Meeting>
        };
        let meetings: Vec<_> = (0..2).map(meeting).collect();
        for (rank, order) in orders.into_iter().enumerate() {
            for &which in order {
                let meeting = Arc::clone(&meetings[which]);
                devices[rank].stream.ask(Op::Meet { meeting, rank }).unwrap();
            }
        }
        devices[0].synchronise().map_err(|error| error.to_string())
    }

    #[test]
    fn meetings_that_would_hang_are_errors() {
        assert_eq!(said([&[0, 1], &[0, 1]]), Ok(()));
        let crossed = said([&[0, 1], &[1, 0]]).unwrap_err();
        assert!(crossed.contains("ranks 1 and 0 wait for each other"), "{crossed}");
        let alone = said([&[0, 1], &[0]]).unwrap_err();
        assert!(alone.contains("rank 1 never comes to where 0 waits"), "{alone}");
    }

    #[test]
    fn ranks_that_disagree_are_refused() {
        let fabric = Fabric::new(Vec::new());
        let refused = |calls: &[(usize, Call)]| fabric.check(calls).is_err();
        let send = |bytes| (0, Call::Send { from: 0, bytes, rank: 1 });
        let receive = |bytes| (1, Call::Receive { to: 0, bytes, rank: 0 });
        assert!(!refused(&[send(8), receive(8)]));
        assert!(refused(&[send(8), receive(16)]) && refused(&[send(8)]) && refused(&[receive(8)]));
        let sum = |rank, elements| (rank, Call::Sum { at: 0, elements });
        assert!(refused(&[sum(0, 8), sum(1, 8)]), "of no ranks");
        assert!(refused(&[send(0), receive(0)]));
    }
}
