//! Every CUDA kernel against a reference in f64, on an emulated device in all orders of threads, or with
//! `KNEE_TEST_DEVICE=cuda:0` on a real one; and that the checks can fail: kernels with a mistake in them are found out.

mod cache;
mod checks;
mod mutants;
mod reference;

use std::path::Path;

use kernels::cuda::{Device, emulator};

/// Devices to test on, or why there are none.
fn devices() -> Result<Vec<(String, Device)>, String> {
    if let Ok(name) = std::env::var("KNEE_TEST_DEVICE") {
        let index = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        let device = Device::open(index.expect("KNEE_TEST_DEVICE is cuda:N"));
        return Ok(vec![(name, device.expect("the device that was asked for"))]);
    }
    if let Some(reason) = emulator::absent() {
        return Err(reason.to_owned());
    }
    let one = |order| (format!("order {order}"), emulator::device(folder(), order));
    Ok((0..emulator::ORDERS).map(one).collect())
}

/// Where compiled kernels are kept.
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

checks! { checks: embedding, add_rmsnorm, silu_mul, small_products, large_products, products_are_invariant, sample }
checks! { cache: rope_kv_write, decode_attention, prefill_attention, attention_is_invariant, copy_slots }
