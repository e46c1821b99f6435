//! A machine that is a GPU, its kernels on an emulated device: what `--device cuda:0` does without the command line.

use std::path::Path;

use engine::Machine;
use engine::exec::cpu::Greedy;
use engine::exec::cuda::{Arithmetic, Device};
use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use kernels::cuda::emulator;

fn machine() -> Option<Machine> {
    if let Some(reason) = emulator::absent() {
        println!("skipped: {reason}");
        return None;
    }
    let device = emulator::device(Path::new(env!("CARGO_TARGET_TMPDIR")), 0);
    let config = LlamaConfig {
        layers: 1,
        hidden: 32,
        heads: 2,
        kv_heads: 1,
        ffn: 32,
        ..LlamaConfig::tiny()
    };
    Some(
        Machine::on_gpu(&mut RandomWeights { config, seed: 1 }, &device, Arithmetic::Fast).unwrap(),
    )
}

#[test]
fn its_keys_and_values_are_bf16_in_all_layers() {
    let Some(machine) = machine() else { return };
    assert_eq!(machine.kv_bytes_per_token(), 2 * 32 * 2);
    let workers = machine.executors(2, 64, || Box::<Greedy>::default());
    assert_eq!(workers.len(), 2);
}

/// Times of an emulated device mean nothing; that a profile comes of them does.
#[test]
fn a_profile_is_made_of_its_times() {
    let Some(machine) = machine() else { return };
    let mut seen = (0, 0);
    let timings = machine.time(64, &mut |done, all| seen = (done, all)).unwrap();
    let imported = machine.profile("emulated", &[timings]).unwrap();
    assert!(seen.0 == seen.1 && seen.1 > 10, "{seen:?} batches");
    assert_eq!(imported.profile.name, "emulated");
    let operators = ["gemm", "prefill_attention", "decode_attention", "elementwise", "sampler"];
    let text: toml::Table = imported.toml.parse().unwrap();
    for operator in operators {
        assert!(text.contains_key(operator), "no {operator} in\n{}", imported.toml);
    }
}

/// A machine without a driver says so in one line, and nothing panics.
#[test]
fn no_driver_is_an_error() {
    match Device::open(0) {
        Ok(device) => println!("skipped: there is a GPU here, {}", device.name()),
        Err(error) => {
            let said = error.to_string();
            println!("{said}");
            assert!(!said.contains('\n') && said.len() > 20, "{said}");
        }
    }
}
