//! A machine that is a GPU, its kernels on an emulated device: what `--device cuda:0` does without the command line.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::exec::Greedy;
use engine::exec::cuda::{Arithmetic, Device, Layout};
use engine::machine::Clock;
use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use engine::request::Content;
use engine::{Config, Machine, Request};
use kernels::cuda::emulator::{self, Pretence};

const WHOLE: Layout = Layout::whole(Arithmetic::Fast);

fn machine(layout: Layout) -> Option<Machine> {
    if let Some(reason) = emulator::absent() {
        println!("skipped: {reason}");
        return None;
    }
    let device = emulator::device(Path::new(env!("CARGO_TARGET_TMPDIR")), 0);
    let config = LlamaConfig {
        layers: layout.stages as u32,
        hidden: 32,
        heads: 2 * layout.ranks as u32,
        kv_heads: layout.ranks as u32,
        ffn: 32,
        ..LlamaConfig::tiny()
    };
    Some(Machine::on_gpus(&mut RandomWeights { config, seed: 1 }, &[device], layout).unwrap())
}

#[test]
fn its_keys_and_values_are_bf16_in_all_layers() {
    for (ranks, stages) in [(1, 1), (2, 3)] {
        let Some(machine) = machine(Layout { ranks, stages, ..WHOLE }) else { return };
        assert_eq!(machine.kv_bytes_per_token(), (ranks * stages * 2 * 32 * 2) as u64);
        assert_eq!(machine.split(), (ranks as u32, stages as u32));
        let workers = machine.executors(2, 64, Clock::Virtual, || Box::<Greedy>::default());
        assert_eq!(workers.unwrap().len(), 2);
    }
}

/// Times of an emulated device mean nothing; that a profile comes of them does.
#[test]
fn a_profile_is_made_of_its_times() {
    for (ranks, stages) in [(1, 1), (2, 2)] {
        let Some(machine) = machine(Layout { ranks, stages, ..WHOLE }) else { return };
        profile(&machine);
    }
}

fn profile(machine: &Machine) {
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
    // Chunks beside decodes were timed, and decodes of unequal lengths.
    assert!(!imported.toml.contains("taken as the sum of both kinds"), "{}", imported.toml);
    assert!(imported.profile.fit.contains_key("mixed_attention"), "{:?}", imported.profile.fit);
    assert!(imported.notes.iter().any(|note| note.starts_with("unequal decode lengths")));
}

/// Decodes that the engine replays are timed as they are replayed, and where it does not, they are not.
#[test]
fn a_profile_is_of_the_engine_with_its_graphs() {
    if let Some(reason) = emulator::absent() {
        return println!("skipped: {reason}");
    }
    let pretence = Pretence::default();
    let replays = Arc::clone(&pretence.replays);
    let device = emulator::pretending(Path::new(env!("CARGO_TARGET_TMPDIR")), pretence);
    let (hidden, heads, kv_heads) = (32, 2, 1);
    let config = LlamaConfig { layers: 1, hidden, heads, kv_heads, ffn: 32, ..LlamaConfig::tiny() };
    let machine =
        Machine::on_gpus(&mut RandomWeights { config, seed: 1 }, &[device], WHOLE).unwrap();
    machine.time(16, &mut |_, _| ()).unwrap();
    let with = replays.load(Ordering::Relaxed);
    machine.without_graphs().time(16, &mut |_, _| ()).unwrap();
    // Batches of 1 to 64 decodes of 16 tokens, four times each.
    assert_eq!((with, replays.load(Ordering::Relaxed) - with), (28, 0));
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

/// A machine with so much memory, of a model whose weights are some megabytes.
fn small(bytes: usize) -> Option<Result<Machine, String>> {
    if let Some(reason) = emulator::absent() {
        println!("skipped: {reason}");
        return None;
    }
    let pretence = Pretence { memory: Some(bytes), ..Pretence::default() };
    let device = emulator::pretending(Path::new(env!("CARGO_TARGET_TMPDIR")), pretence);
    let config = LlamaConfig {
        layers: 2,
        hidden: 256,
        heads: 8,
        kv_heads: 1,
        head_dim: 32,
        ffn: 512,
        vocab: 4096,
        max_position: 512,
        ..LlamaConfig::tiny()
    };
    let mut weights = RandomWeights { config, seed: 1 };
    let machine = Machine::on_gpus(&mut weights, &[device], Layout::whole(Arithmetic::Fast));
    Some(machine.map_err(|e| e.to_string()))
}

fn knobs(fraction: f64) -> Config {
    let (max_seqs, max_batch_tokens) = (16, 256);
    Config { max_seqs, max_batch_tokens, kv_fraction: fraction, ..Config::default() }
}

/// Nearly all of the remaining memory goes to keys and values: workers with so much of it, and their largest batches,
/// find room.
#[test]
fn keys_and_values_get_what_is_left() {
    let Some(machine) = small(250 << 20) else { return };
    let machine = machine.unwrap();
    let config = knobs(0.95);
    let kv = machine.kv_memory(&config, None).unwrap().expect("a GPU that says how much it has");
    let less = machine.kv_memory(&knobs(0.9), None).unwrap().unwrap();
    // A twentieth of the memory, to the byte that is rounded.
    assert!((kv - less).abs_diff((250 << 20) / 20) < 2, "{kv} and {less}");
    assert!(((80 << 20)..(130 << 20)).contains(&kv), "{kv} beside 128 MiB of slack");
    // Two workers have half each, less what another batch takes.
    let two = machine.kv_memory(&Config { replicas: 2, ..knobs(0.95) }, None).unwrap().unwrap();
    assert!(two < kv / 2 && two > kv / 2 - (8 << 20), "{two} of {kv}");
    let slots = (kv / machine.kv_bytes_per_token()) as u32;
    let clock = Clock::Virtual;
    let workers = machine.executors(1, slots, clock, || Box::<Greedy>::default()).unwrap();
    let config = Config { max_model_len: 512, ..config };
    let mut engine = engine::wiring::engine(&config, slots, workers);
    for id in 0..16 {
        let prompt = (0..40).map(|at| id * 40 + at).collect();
        let content = Content::Tokens(prompt);
        let request =
            Request { id, input: 40, limit: 2, fate: None, width: 1, priority: 0, content };
        engine.add_request(request).unwrap();
    }
    let mut now = std::time::Duration::ZERO;
    loop {
        engine.start(now, std::time::Duration::MAX);
        let Some(next) = engine.next_event() else { break };
        now = next;
        engine.step(now);
    }
    assert_eq!(engine.fault(), None);
    assert!(engine.state.is_empty());
}

#[test]
fn too_little_memory_is_said_with_what_is_missing() {
    let Some(machine) = small(3 << 20) else { return };
    assert_eq!(
        machine.unwrap_err(),
        "tiny needs 4.3 MB of weights, but an emulated GPU has 3.1 MB free: 1.1 MB short"
    );
    let machine = small(250 << 20).unwrap().unwrap();
    let said =
        |fraction, asked| machine.kv_memory(&knobs(fraction), asked).unwrap_err().to_string();
    assert_eq!(
        said(0.3, None),
        "an emulated GPU has no room for keys and values: weights and what else is there take 4.3 MB and batches 136.2 MB \
         of the 78.6 MB that are kv-fraction 0.3, 62.1 MB short; raise kv-fraction, or lower max-batch-tokens or max-seqs"
    );
    assert_eq!(
        said(0.9, Some(200 << 20)),
        "210.0 MB of keys and values were asked for, but beside weights, batches (136.2 MB) and what else is there an \
         emulated GPU has 121.6 MB: 88.3 MB short"
    );
    assert_eq!(machine.kv_memory(&knobs(0.3), Some(50 << 20)).unwrap(), Some(50 << 20));
}
