//! Devices that meet: what they exchange, in which order they do what, and what they refuse.

use half::bf16;
use kernels::cuda::emulator::{self, Fuse, Pretence};
use kernels::cuda::{Buffer, Collective, CudaError, Device};

use super::checks::fetched;
use super::folder;
use super::reference::Random;

fn devices(n: usize) -> Option<Vec<Device>> {
    if let Some(reason) = emulator::absent() {
        println!("skipped: {reason}");
        return None;
    }
    Some(emulator::several(folder(), &vec![Pretence::default(); n]))
}

/// One for each device, of these.
fn placed(devices: &[Device], parts: &[Vec<bf16>]) -> Vec<Buffer<bf16>> {
    devices.iter().zip(parts).map(|(device, part)| device.upload(part).unwrap()).collect()
}

/// Ranks on several devices do to the bit what ranks on one do by kernels and copies.
#[test]
fn ranks_on_several_devices_agree_with_ranks_on_one() {
    for ranks in [2, 3, 8] {
        let Some(apart) = devices(ranks) else { return };
        let one = vec![apart[0].clone(); ranks];
        let len = 264;
        let parts: Vec<_> = (0..ranks).map(|_| Random(ranks as u64).bf16s(len + 8)).collect();
        let results = [&apart, &one].map(|devices| {
            let group = Collective::new(devices).unwrap();
            let mut sums = placed(devices, &parts);
            group.sum(&mut sums.iter_mut().collect::<Vec<_>>(), len).unwrap();
            let sent = placed(devices, &parts);
            let sent: Vec<_> = sent.iter().collect();
            let place = |device: &Device| device.zeros::<bf16>(ranks * len + 8).unwrap();
            let mut shared: Vec<_> = devices.iter().map(place).collect();
            group.share(&sent, &mut shared.iter_mut().collect::<Vec<_>>(), len).unwrap();
            let mut collected = place(&devices[0]);
            group.collect(&sent, &mut collected, len).unwrap();
            let mut handed: Vec<_> = devices.iter().map(place).collect();
            let mut moves: Vec<_> = (0..)
                .zip(handed.iter_mut())
                .map(|(to, place)| ((to + 1) % ranks, to, sent[(to + 1) % ranks], place))
                .collect();
            group.hand_over(&mut moves, len).unwrap();
            let all = sums.iter().chain(&shared).chain([&collected]).chain(&handed);
            all.map(|buffer| fetched(buffer).unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(results[0], results[1], "{ranks} ranks");
        assert_eq!(results[0][0][len..], parts[0][len..], "what lies behind stays as it was");
        assert_eq!(results[0][2 * ranks][..len], parts[0][..len], "the first comes first");
    }
}

/// Each device does its earlier work first, also if another one is waited for, and its later work
/// later.
#[test]
fn they_meet_when_all_have_come() {
    let Some(devices) = devices(3) else { return };
    let group = Collective::new(&devices).unwrap();
    let numbers = |x: f32| vec![bf16::from_f32(x); 8];
    let mut places: Vec<_> = devices.iter().map(|device| device.zeros(8).unwrap()).collect();
    for (x, place) in [1.0, 2.0, 4.0].into_iter().zip(&mut places) {
        place.write(0, &numbers(x)).unwrap();
    }
    group.sum(&mut places.iter_mut().collect::<Vec<_>>(), 8).unwrap();
    // The first two alone go on; what the third writes meanwhile, they do not see.
    places[2].write(0, &numbers(100.0)).unwrap();
    let (first, others) = places.split_at_mut(1);
    group.hand_over(&mut [(0, 1, &first[0], &mut others[0])], 8).unwrap();
    first[0].write(0, &numbers(50.0)).unwrap();
    group.sum(&mut places.iter_mut().collect::<Vec<_>>(), 8).unwrap();
    for place in places.iter().rev() {
        assert_eq!(fetched(place).unwrap(), numbers(50.0 + 7.0 + 100.0));
    }
}

#[test]
fn ranks_that_cannot_meet_are_refused() {
    let Some(devices) = devices(2) else { return };
    let refused = |result: Result<(), CudaError>, why: &str| {
        let said = result.expect_err(why).to_string();
        assert!(said.contains(why), "{said}");
    };
    let twice = [devices[0].clone(), devices[1].clone(), devices[0].clone()];
    refused(Collective::new(&twice).map(|_| ()), "ranks share one device, or each has its own");
    let group = Collective::new(&devices).unwrap();
    let mut parts: Vec<_> = devices.iter().map(|d| d.zeros::<bf16>(8).unwrap()).collect();
    refused(group.sum(&mut parts.iter_mut().collect::<Vec<_>>(), 16), "has 8 elements, not 16");
    parts.swap(0, 1);
    refused(group.sum(&mut parts.iter_mut().collect::<Vec<_>>(), 8), "of another device");
    parts.swap(0, 1);
    refused(group.sum(&mut [&mut parts[0]], 8), "1 parts of 2 ranks");
    // Nothing that passes from device to device is recorded.
    let batch = kernels::cuda::DeviceBatch::new(&devices[0]).unwrap();
    let sum = || group.sum(&mut parts.iter_mut().collect::<Vec<_>>(), 8);
    refused(devices[0].record(&batch, sum).map(|_| ()), "ranks meet while work is recorded");
}

/// A thread that waits for a device learns that the device has failed.
#[test]
fn a_failure_reaches_every_waiting_thread() {
    if let Some(reason) = emulator::absent() {
        return println!("skipped: {reason}");
    }
    let fuse = Fuse::default();
    let failing = Pretence { fuse: fuse.clone(), ..Pretence::default() };
    let devices = emulator::several(folder(), &[Pretence::default(), failing]);
    let group = Collective::new(&devices).unwrap();
    let mut parts: Vec<_> = devices.iter().map(|d| d.zeros::<bf16>(16).unwrap()).collect();
    let mut other = devices[1].zeros::<bf16>(8).unwrap();
    fuse.light(0);
    devices[1].silu_mul(1, 8, &parts[1], &mut other).unwrap();
    group.sum(&mut parts.iter_mut().collect::<Vec<_>>(), 8).unwrap();
    let said = devices[0].synchronise().unwrap_err().to_string();
    assert!(said.contains("an unspecified launch failure"), "{said}");
    assert!(devices[1].synchronise().is_err());
}
