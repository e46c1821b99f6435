//! Work that is asked for, and the time it is done: results that are fetched without waiting, work that is recorded and
//! done again, and a device that fails.

use half::bf16;
use kernels::cuda::emulator::{self, Fuse, Pretence};
use kernels::cuda::{Batch, CudaError, Device, DeviceBatch, Limits};

use super::{devices, folder};

/// A batch of rows with these tokens.
fn batch(ids: &[i32]) -> Batch {
    let none = vec![0; ids.len()];
    let last = (0..ids.len() as i32).collect();
    Batch { ids: ids.to_vec(), positions: none.clone(), slots: none, last, ..Batch::default() }
}

fn limits(rows: usize) -> Limits {
    Limits { vocab: 8, positions: 1, slots: 1, rows }
}

/// Eight rows of eight, whose elements are their row's number.
fn table(device: &Device) -> kernels::cuda::Buffer<bf16> {
    let rows = (0..8).flat_map(|row| [bf16::from_f32(row as f32); 8]);
    device.upload(&rows.collect::<Vec<_>>()).unwrap()
}

fn first_of_rows(values: &[bf16]) -> Vec<f32> {
    values.iter().step_by(8).map(|x| x.to_f32()).collect()
}

/// A fetch gives the values of the moment it was asked for, whatever came after.
#[test]
fn results_arrive_as_they_were() {
    let Ok(devices) = devices() else { return println!("skipped: there is no device") };
    let device = &devices[0].1;
    let (table, mut out) = (table(device), device.zeros::<bf16>(24).unwrap());
    let mut on_device = DeviceBatch::new(device).unwrap();
    let [mut first, mut second] = [device.fetched(), device.fetched()];
    for (ids, fetched) in [(&[3, 1, 4], &mut first), (&[1, 5, 2], &mut second)] {
        on_device.set(device, &batch(ids), limits(3)).unwrap();
        device.embed(&on_device, (&table, 0), &mut out, 8).unwrap();
        fetched.ask(&out, 24).unwrap();
    }
    out.write(0, &[bf16::ZERO; 24]).unwrap();
    assert_eq!(first_of_rows(second.get().unwrap()), [1.0, 5.0, 2.0]);
    assert_eq!(first_of_rows(first.get().unwrap()), [3.0, 1.0, 4.0]);
    first.ask(&out, 8).unwrap();
    assert_eq!(first.get().unwrap(), [bf16::ZERO; 8]);
    assert!(first.ask(&out, 25).is_err());
}

/// A graph does the same work on what its memory holds now, and refuses another batch.
#[test]
fn recorded_work_is_done_again() {
    let Ok(devices) = devices() else { return println!("skipped: there is no device") };
    let device = &devices[0].1;
    let (table, mut out) = (table(device), device.zeros::<bf16>(24).unwrap());
    let mut on_device = DeviceBatch::new(device).unwrap();
    on_device.set(device, &batch(&[7, 6, 5]), limits(3)).unwrap();
    let graph = device.record(&on_device, || device.embed(&on_device, (&table, 0), &mut out, 8));
    let graph = graph.unwrap();
    drop(table);
    let rows = |out: &kernels::cuda::Buffer<bf16>| {
        let mut rows = vec![bf16::NAN; 24];
        out.read(0, &mut rows).unwrap();
        first_of_rows(&rows)
    };
    assert_eq!(rows(&out), [0.0; 3], "it is recorded and not done");
    for ids in [[7, 6, 5], [0, 2, 1]] {
        on_device.set(device, &batch(&ids), limits(3)).unwrap();
        device.replay(&graph, &on_device).unwrap();
        assert_eq!(rows(&out), ids.map(|id| id as f32), "the table is kept by the graph");
    }
    on_device.set(device, &batch(&[0, 2]), limits(2)).unwrap();
    let said = device.replay(&graph, &on_device).unwrap_err().to_string();
    assert!(!graph.fits(&on_device) && said.contains("is not for"), "{said}");
    // More rows than there was room for: the batch is elsewhere.
    on_device.set(device, &batch(&[1; 40]), limits(40)).unwrap();
    on_device.set(device, &batch(&[7, 6, 5]), limits(3)).unwrap();
    assert!(!graph.fits(&on_device));
    // A wait while work is recorded is an error, and the device goes on.
    let waits = device.record(&on_device, || device.synchronise());
    assert!(waits.is_err());
    assert_eq!(rows(&out), [0.0, 2.0, 1.0]);
}

fn pretending(memory: Option<usize>, fuse: &Fuse) -> Option<Device> {
    if let Some(reason) = emulator::absent() {
        println!("skipped: {reason}");
        return None;
    }
    let pretence = Pretence { memory, fuse: fuse.clone(), ..Pretence::default() };
    Some(emulator::pretending(folder(), pretence))
}

/// A kernel that fails is told of when something is waited for, and then for ever.
#[test]
fn a_device_fails_for_good() {
    let fuse = Fuse::default();
    let Some(device) = pretending(None, &fuse) else { return };
    let (table, mut out) = (table(&device), device.zeros::<bf16>(24).unwrap());
    let mut on_device = DeviceBatch::new(&device).unwrap();
    on_device.set(&device, &batch(&[3, 1, 4]), limits(3)).unwrap();
    let mut fetched = device.fetched();
    fuse.light(1);
    for _ in 0..2 {
        device.embed(&on_device, (&table, 0), &mut out, 8).expect("nobody knows yet");
    }
    fetched.ask(&out, 24).unwrap();
    let said = |error: CudaError| error.to_string();
    assert!(said(fetched.get().unwrap_err()).contains("an unspecified launch failure"));
    assert!(said(device.synchronise().unwrap_err()).contains("an unspecified launch failure"));
    assert!(device.embed(&on_device, (&table, 0), &mut out, 8).is_err());
}

/// Memory ends, and says by how much.
#[test]
fn a_small_device_names_the_missing_memory() {
    let Some(device) = pretending(Some(3_000_000), &Fuse::default()) else { return };
    let held = device.zeros::<f32>(500_000).unwrap();
    assert_eq!(device.memory().unwrap(), Some((1_000_000, 3_000_000)));
    let said = device.zeros::<f32>(500_000).unwrap_err().to_string();
    assert_eq!(
        said,
        "out of device memory: 2.0 MB more were asked for, 1.0 MB are free: 1.0 MB short"
    );
    drop(held);
    assert!(device.zeros::<f32>(500_000).is_ok());
}
