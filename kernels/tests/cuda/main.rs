//! Every CUDA kernel against a reference in f64, on an emulated device in all orders of threads, or with
//! `KNEE_TEST_DEVICE=cuda:0` on a real one; and that the checks can fail: kernels with a mistake in them are found out.

mod cache;
mod checks;
mod devices;
mod mutants;
mod real;
mod reference;
mod stream;

use std::path::Path;
use std::sync::OnceLock;

use half::bf16;
use kernels::cuda::{Batch, CudaError, Device, DeviceBatch, Limits, Seq, emulator};

/// Devices to test on, or why there are none.
fn devices() -> Result<Vec<(String, Device)>, String> {
    if let Ok(name) = std::env::var("KNEE_TEST_DEVICE") {
        // The first, where several are named.
        let index = name.strip_prefix("cuda:").and_then(|n| n.split(',').next()?.parse().ok());
        // One context for all tests.
        static GPU: OnceLock<Device> = OnceLock::new();
        let open = || {
            let device = Device::open(index.expect("KNEE_TEST_DEVICE is cuda:N"));
            device.expect("the device that was asked for")
        };
        return Ok(vec![(name, GPU.get_or_init(open).clone())]);
    }
    if let Some(reason) = emulator::absent() {
        return Err(reason.to_owned());
    }
    let one = |order| (format!("order {order}"), emulator::device(folder(), order));
    Ok((0..emulator::ORDERS).map(one).collect())
}

/// The folder of compiled kernels.
fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Runs `check` on every device.
fn everywhere(check: &checks::Check) {
    let devices = match devices() {
        Ok(devices) => devices,
        Err(reason) => return println!("skipped: {reason}"),
    };
    for (name, device) in devices {
        let error = (check.run)(&device).unwrap_or_else(|e| panic!("{}, {name}: {e}", check.name));
        println!(
            "{:<24} {name}: relative error {error:.1e}, at most {:.1e}",
            check.name, check.most
        );
        assert!(error <= check.most, "{}, {name}: {error:e}", check.name);
    }
}

macro_rules! checks {
    ($from:ident: $($check:ident),+ $(,)?) => { $(#[test] fn $check() { everywhere(&$from::$check()); })+ };
}

checks! { checks: fill, embedding, add_rmsnorm, silu_mul, all_reduce, join_columns }
checks! { checks: small_products, large_products, products_are_invariant, sample }
checks! { cache: rope_kv_write, decode_attention, prefill_attention, attention_is_invariant, copy_slots }

/// The sizes, indices and owners of memory that launching relies on are checked.
#[test]
fn arguments_that_do_not_fit_are_refused() {
    let Ok(devices) = devices() else { return println!("skipped: there is no device") };
    let device = &devices[0].1;
    let refused = |result: Result<(), CudaError>, why: &str| {
        let said = result.expect_err(why).to_string();
        assert!(said.contains(why), "{said}");
    };
    let (short, mut y) = (device.zeros::<bf16>(8).unwrap(), device.zeros::<bf16>(64).unwrap());
    refused(device.silu_mul(1, 8, &short, &mut y), "gates has 8 elements, not 16");
    refused(device.silu_mul(1, 7, &short, &mut y), "inner width = 7 must be a multiple of 8");
    if let Some((_, other)) = devices.get(1) {
        let foreign = other.zeros::<bf16>(64).unwrap();
        refused(device.silu_mul(1, 8, &foreign, &mut y), "of another device");
    }
    let limits = Limits { vocab: 10, positions: 4, slots: 32, rows: 2 };
    let seq = Seq { row: 0, out: 0, rows: 1, context: 17, table: 0, shift: 4 };
    let batch = Batch {
        ids: vec![9],
        positions: vec![3],
        slots: vec![31],
        decodes: vec![seq],
        chunks: Vec::new(),
        tables: vec![16, 0],
        last: vec![0],
        reach: 0,
    };
    let mut on_device = DeviceBatch::new(device).unwrap();
    on_device.set(device, &batch, limits).expect("it is sound");
    let bad = [
        (Batch { ids: vec![10], ..batch.clone() }, "token 10 is not below 10"),
        (Batch { positions: vec![-1], ..batch.clone() }, "position -1 is not below 4"),
        (Batch { slots: vec![32], ..batch.clone() }, "slot 32 is not below 32"),
        (Batch { last: vec![1], ..batch.clone() }, "row 1 is not below 1"),
        (Batch { tables: vec![16], ..batch.clone() }, "has no table of 2 blocks"),
        (Batch { tables: vec![17, 0], ..batch.clone() }, "lies beyond 32 slots"),
        (Batch { decodes: vec![Seq { rows: 2, ..seq }], ..batch.clone() }, "one row"),
        (Batch { decodes: vec![Seq { out: 2, ..seq }], ..batch.clone() }, "does not fit a batch"),
        (Batch { decodes: vec![Seq { shift: 31, ..seq }], ..batch }, "does not fit a batch"),
    ];
    for (batch, why) in bad {
        refused(on_device.set(device, &batch, limits), why);
    }
}
