//! Every kernel compiled for the GPUs it is for, without one: registers are printed, and a spilled register fails.

use kernels::cuda::nvrtc::{Compiled, compile, version};
use kernels::cuda::source;

/// Ampere, Ada and Hopper.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_89", "sm_90"];

fn all(architecture: &str) -> Vec<(source::Source, Compiled)> {
    let compiled = |source: source::Source| {
        let compiled = compile(&source, architecture).unwrap_or_else(|e| panic!("{e}"));
        (source, compiled)
    };
    source::all().into_iter().map(compiled).collect()
}

#[test]
fn every_kernel_compiles_and_spills_nothing() {
    match version() {
        Ok((major, minor)) => println!("NVRTC {major}.{minor}"),
        Err(reason) => return println!("skipped: {reason}"),
    }
    for architecture in ARCHITECTURES {
        println!(
            "{architecture}: {:<24} {:>9} {:>6} {:>6}",
            "kernel", "registers", "stack", "shared"
        );
        for (source, compiled) in all(architecture) {
            let mut named: Vec<_> = compiled.kernels.iter().map(|k| k.kernel.as_str()).collect();
            let mut listed = source.kernels.to_vec();
            named.sort_unstable();
            listed.sort_unstable();
            assert_eq!(named, listed, "{} has the kernels it is said to have", source.file);
            for kernel in &compiled.kernels {
                println!(
                    "{architecture}: {:<24} {:>9} {:>6} {:>6}",
                    kernel.kernel, kernel.registers, kernel.stack, kernel.shared
                );
                let spilled = kernel.stack + kernel.spill_stores + kernel.spill_loads;
                assert_eq!(spilled, 0, "{} spills on {architecture}: {kernel:?}", kernel.kernel);
                assert!((1..=255).contains(&kernel.registers), "{kernel:?} was reported on");
            }
        }
    }
}

/// A report that is not understood would find no spills anywhere.
#[test]
fn a_kernel_that_spills_is_found_out() {
    if let Err(reason) = version() {
        return println!("skipped: {reason}");
    }
    let mut sources = source::all();
    let decode = sources.iter_mut().find(|s| s.file == "decode.cu").expect("a file of kernels");
    // Room for so many blocks per multiprocessor leaves 32 registers.
    decode.text = decode
        .text
        .replace("__launch_bounds__(128) decode_att", "__launch_bounds__(128, 16) decode_att");
    let compiled = compile(decode, "sm_90").unwrap_or_else(|e| panic!("{e}"));
    assert!(compiled.kernels.iter().any(|k| k.spill_stores > 0 && k.spill_loads > 0));
}
