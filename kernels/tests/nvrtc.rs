//! Every kernel compiled for the GPUs it is for, without one: registers are printed, and a spilled register fails.

use kernels::cuda::cubin::{self, ARCHITECTURES};
use kernels::cuda::nvrtc::{Compiled, compile, version};
use kernels::cuda::source;

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
    // Those that a program carries, and Hopper's own instructions.
    let architectures = ARCHITECTURES.into_iter().chain(["sm_90a"]);
    let compiled = std::thread::scope(|scope| {
        let all = |architecture| (architecture, scope.spawn(move || all(architecture)));
        let all: Vec<_> = architectures.map(all).collect();
        let join = |(architecture, thread): (_, std::thread::ScopedJoinHandle<'_, _>)| {
            (architecture, thread.join().expect("it has compiled"))
        };
        all.into_iter().map(join).collect::<Vec<_>>()
    });
    for (architecture, files) in compiled {
        println!(
            "{architecture}: {:<24} {:>9} {:>6} {:>6}",
            "kernel", "registers", "stack", "shared"
        );
        for (source, compiled) in files {
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

/// Files compiled beforehand are made once, whole, and hold the kernels' code.
#[test]
fn cubins_are_made() {
    if let Err(reason) = version() {
        return println!("skipped: {reason}");
    }
    let name = format!("cubins-{}", std::process::id());
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let sources = source::all();
    let source = sources.iter().find(|s| s.file == "rows.cu").expect("a file of kernels");
    let path = cubin::make(source, "sm_90", &folder).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(path, folder.join(cubin::file_name(source, "sm_90")));
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.starts_with(b"\x7fELF"));
    for kernel in source.kernels {
        let section = format!(".text.{kernel}\0");
        let found = bytes.windows(section.len()).any(|at| at == section.as_bytes());
        assert!(found, "no {kernel} in {}", path.display());
    }
    std::fs::write(&path, "kept").unwrap();
    cubin::make(source, "sm_90", &folder).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"kept", "it was there");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left behind");
    std::fs::remove_dir_all(&folder).unwrap();
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
