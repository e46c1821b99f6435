//! The speed of the CPU executor, beside the limits of the machine: decode at batch 1, 8 and 32 (context about 128),
//! and a prompt of 512 tokens, through the whole engine.
//!
//!     cargo run --release -p knee-engine --example cpu_speed -- [MODEL] [--threads N] [--precision int8|bf16|f32]
//!         [--isa ISA]
//!
//! MODEL is `tiny`, a folder, a .gguf file or a shape; without one, random weights of SmolLM2-135M's shape. With one
//! thread, times are the processor's own: they hold on a machine that others use too.

use std::error::Error;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use engine::config::{AllocatorKind, Config, SchedulerKind};
use engine::exec::Greedy;
use engine::exec::cpu::{CpuExecutor, CpuModel, Precision, Team};
use engine::model::Model;
use engine::model::llama::{LlamaConfig, RopeScaling};
use engine::model::random::RandomWeights;
use engine::model::weights::Weights;
use engine::request::{Content, Token};
use engine::{Request, wiring};
use kernels::cpu::Isa;
use kernels::cpu::roofline::{self, Roofline};

/// Tokens of context at which a decode is timed: half of the steps before, half after.
const CONTEXT: u32 = 128;
/// Decode steps timed.
const STEPS: u32 = 64;
/// Tokens of the prompt that is timed.
const PROMPT: u32 = 512;

fn smollm2_135m() -> LlamaConfig {
    LlamaConfig {
        name: "smollm2-135m".to_owned(),
        layers: 30,
        hidden: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ffn: 1536,
        mixture: None,
        vocab: 49_152,
        rms_eps: 1e-5,
        rope_theta: 100_000.0,
        rope_scaling: RopeScaling::None,
        tied_embeddings: true,
        qkv_bias: false,
        qk_norm: false,
        sliding_window: None,
        max_position: 8192,
    }
}

/// Says how late it is.
type Clock = fn() -> Duration;

fn wall() -> Duration {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    ORIGIN.elapsed()
}

fn processor() -> Duration {
    ThreadTime::now().as_duration()
}

/// Median seconds of an iteration with `batch` sequences, and of their prompts together.
fn run(executor: CpuExecutor, clock: Clock, batch: u32, prompt: u32, output: u32) -> (f64, f64) {
    let slots = batch * (prompt + output).next_multiple_of(16);
    let config = Config {
        scheduler: SchedulerKind::Continuous,
        allocator: AllocatorKind::Paged,
        max_seqs: batch,
        max_batch_tokens: batch * prompt,
        max_model_len: prompt + output,
        prefix_cache: false,
        ..Config::default()
    };
    let mut engine = wiring::engine(&config, slots, vec![Box::new(executor)]);
    for id in 0..batch {
        let words: Vec<Token> = (0..prompt).map(|i| (id * 31 + i * 7) % 251).collect();
        let content = Content::Tokens(words.into());
        let request = Request {
            id,
            input: prompt,
            limit: output,
            fate: None,
            width: 1,
            priority: 0,
            content,
        };
        engine.add_request(request).expect("there is room");
    }
    let (mut now, mut prompts, mut decodes) = (Duration::ZERO, 0.0, Vec::new());
    loop {
        let start = clock();
        engine.start(now, Duration::MAX);
        let seconds = (clock() - start).as_secs_f64();
        let Some(next) = engine.next_event() else { break };
        now = next;
        engine.step(now);
        let iteration = engine.last_iteration();
        if iteration.shape.decode_seqs > 0 { decodes.push(seconds) } else { prompts += seconds }
    }
    decodes.sort_by(f64::total_cmp);
    (decodes.get(decodes.len() / 2).copied().unwrap_or(0.0), prompts)
}

/// Least seconds for `rows` through the layers and `heads` of them through the vocabulary: for each, the slower of
/// reading the weights once and computing.
fn bound(model: &CpuModel, limits: &Roofline, rows: u32, heads: u32) -> f64 {
    let peak = match model.precision() {
        Precision::Int8 => limits.int8,
        Precision::Bf16 => limits.bf16,
        Precision::F32 => limits.f32,
    };
    let (layers, head) = model.operations();
    let computing = (layers as f64 * f64::from(rows) + head as f64 * f64::from(heads)) / peak;
    computing.max(model.bytes() as f64 / limits.read)
}

fn measure(
    team: &Arc<Team>,
    weights: &mut dyn Weights,
    precision: Precision,
    limits: &Roofline,
) -> Result<(), Box<dyn Error>> {
    let model = Arc::new(CpuModel::load(team, weights, precision)?);
    let clock: Clock = if team.size() == 1 { processor } else { wall };
    println!("{precision:?}: {:.1} MB of weights", model.bytes() as f64 / 1e6);
    let executor = |slots| {
        let mut workers =
            CpuExecutor::workers(&model, team, &[slots], || Box::new(Greedy::default()));
        workers.remove(0)
    };
    for batch in [1, 8, 32] {
        let prompt = CONTEXT - STEPS / 2;
        let slots = batch * (prompt + STEPS).next_multiple_of(16);
        let (step, _) = run(executor(slots), clock, batch, prompt, STEPS);
        let least = bound(&model, limits, batch, batch);
        println!(
            "  decode, batch {batch:2}: {:8.1} tok/s  {:7.2} ms  {:3.0} % of roofline",
            f64::from(batch) / step,
            step * 1e3,
            100.0 * least / step
        );
    }
    let best = (0..5).map(|_| run(executor(PROMPT + 16), clock, 1, PROMPT, 1).1);
    let best = best.fold(f64::INFINITY, f64::min);
    println!(
        "  prompt of {PROMPT}:    {:8.1} tok/s  {:7.2} ms  {:3.0} % of roofline",
        f64::from(PROMPT) / best,
        best * 1e3,
        100.0 * bound(&model, limits, PROMPT, 1) / best
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (mut name, mut threads, mut isa) = (None, 2, Isa::best());
    let mut precisions = vec![Precision::Int8, Precision::Bf16];
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => threads = args.next().ok_or("--threads needs a number")?.parse()?,
            "--precision" => {
                precisions = vec![match args.next().as_deref() {
                    Some("int8") => Precision::Int8,
                    Some("bf16") => Precision::Bf16,
                    Some("f32") => Precision::F32,
                    _ => return Err("--precision is int8, bf16 or f32".into()),
                }];
            }
            "--isa" => {
                let wanted = args.next().ok_or("--isa needs a name")?;
                isa = *Isa::all().iter().find(|isa| isa.name() == wanted).ok_or("not here")?;
            }
            _ => name = Some(arg),
        }
    }
    let mut weights: Box<dyn Weights> = match name {
        Some(name) => Model::open(&name, None)?.weights,
        None => Box::new(RandomWeights { config: smollm2_135m(), seed: 1 }),
    };
    let team = Arc::new(Team::with_isa(threads, isa));
    let limits = roofline::measure(&team);
    println!(
        "{threads} threads, {}: reads {:.1} GB/s, int8 {:.0} GOP/s, bf16 {:.0} and f32 {:.0} GFLOP/s",
        team.isa().name(),
        limits.read / 1e9,
        limits.int8 / 1e9,
        limits.bf16 / 1e9,
        limits.f32 / 1e9
    );
    for precision in precisions {
        measure(&team, weights.as_mut(), precision, &limits)?;
    }
    Ok(())
}
