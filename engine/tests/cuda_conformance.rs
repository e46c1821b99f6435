//! The conformance body over the CUDA executor, its kernels on an emulated device (or with `KNEE_TEST_DEVICE=cuda:0` on a
//! real one): with invariant arithmetic a small random model says the same under every scheduler and allocator as it
//! does to a request alone; and what it says is what the CPU executor says, within rounding.

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::conformance::{Model, Spec, conforms, expected};
use common::{ALLOCATORS, Nth, SCHEDULERS, is_legal};
use engine::config::{AllocatorKind, Config, Reserve, SchedulerKind};
use engine::exec::Executor;
use engine::exec::cpu::{CpuExecutor, CpuModel, Greedy, Precision, Sample, Team};
use engine::exec::cuda::{Arithmetic, CudaExecutor, CudaModel, Device};
use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use engine::request::{Content, Token, mix};
use engine::sequence::Sequence;
use engine::{Request, wiring};
use kernels::cuda::emulator;

/// A device, unless there can be none here.
fn device() -> Option<Device> {
    if let Ok(name) = std::env::var("KNEE_TEST_DEVICE") {
        let index = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        let device = Device::open(index.expect("KNEE_TEST_DEVICE is cuda:N"));
        return Some(device.expect("the device that was asked for"));
    }
    if let Some(reason) = emulator::absent() {
        println!("skipped: {reason}");
        return None;
    }
    Some(emulator::device(Path::new(env!("CARGO_TARGET_TMPDIR")), 0))
}

const VOCAB: u32 = 96;

/// With every variation of the family.
fn config() -> LlamaConfig {
    LlamaConfig {
        name: "small".to_owned(),
        layers: 2,
        hidden: 32,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        ffn: 40,
        vocab: VOCAB,
        qkv_bias: true,
        qk_norm: true,
        tied_embeddings: false,
        ..LlamaConfig::tiny()
    }
}

fn weights(config: LlamaConfig) -> RandomWeights {
    RandomWeights { config, seed: 3 }
}

/// What `executor` says to a prompt when nothing else is there, by branch.
fn said(
    executor: Box<dyn Executor>,
    prompt: &[Token],
    limit: u32,
    width: u16,
    budget: u32,
) -> Vec<Vec<Token>> {
    let config = Config {
        scheduler: if budget < 512 { SchedulerKind::Chunked } else { SchedulerKind::Continuous },
        allocator: AllocatorKind::Contiguous,
        reserve: Reserve::Max,
        prefix_cache: false,
        max_seqs: u32::from(width),
        max_batch_tokens: budget,
        max_model_len: 512,
        ..Config::default()
    };
    let mut engine = wiring::engine(&config, 512 * u32::from(width), vec![executor]);
    let (input, content) = (prompt.len() as u32, Content::Tokens(prompt.into()));
    let request = Request { id: 0, input, limit, fate: None, width, priority: 0, content };
    engine.submit(request).unwrap();
    let mut said = vec![Vec::new(); width as usize];
    let mut now = Duration::ZERO;
    loop {
        engine.start(now, Duration::MAX);
        let Some(next) = engine.next_event() else { return said };
        now = next;
        engine.step(now);
        let iteration = engine.last_iteration();
        said[0].extend(&iteration.tokens);
        for branch in &iteration.branches {
            said[branch.branch as usize].push(branch.token);
        }
    }
}

struct Cuda(Arc<CudaModel>);

impl Cuda {
    fn new() -> Option<Self> {
        let model = CudaModel::load(&device()?, &mut weights(config())).unwrap();
        Some(Self(Arc::new(model)))
    }

    fn worker(
        &self,
        arithmetic: Arithmetic,
        slots: u32,
        sampler: Box<dyn Sample>,
    ) -> Box<dyn Executor> {
        let mut sampler = Some(sampler);
        let workers = CudaExecutor::workers(&self.0, &[slots], arithmetic, || {
            sampler.take().expect("one worker")
        });
        Box::new(workers.unwrap().remove(0))
    }
}

impl Model for Cuda {
    type Worker = CudaExecutor;

    fn vocab(&self) -> u64 {
        u64::from(VOCAB)
    }

    fn workers(&self, pools: &[u32]) -> Vec<CudaExecutor> {
        CudaExecutor::workers(&self.0, pools, Arithmetic::Invariant, || Box::new(Nth)).unwrap()
    }

    fn alone(&self, prompt: Vec<Token>, output: u32, width: u16) -> Vec<Vec<Token>> {
        let slots = 512 * u32::from(width);
        let executor = self.worker(Arithmetic::Invariant, slots, Box::new(Nth));
        said(executor, &prompt, output, width, 512)
    }
}

/// Few and short, because an emulated device takes its time; memory is tight, so that somebody is preempted.
fn specs() -> Vec<Spec> {
    let spec = |(text, shared, own, output, width)| Spec {
        text,
        shared,
        own,
        output,
        fated: output % 2 == 0,
        width,
        priority: 0,
        gap: Duration::from_millis(1),
    };
    [(0, 20, 16, 12, 1), (0, 20, 15, 13, 1), (1, 0, 36, 12, 1), (0, 33, 5, 5, 2), (0, 20, 70, 4, 1)]
        .map(spec)
        .to_vec()
}

#[test]
fn the_same_tokens_under_every_scheduler_and_allocator() {
    let Some(model) = Cuda::new() else { return };
    let specs = specs();
    let expected = expected(&model, &specs);
    let (mut preempted, mut runs) = (0, 0);
    for (_, schedule) in SCHEDULERS {
        for (_, allocate) in ALLOCATORS {
            let mut config = Config {
                max_seqs: 3,
                max_batch_tokens: 40,
                max_model_len: 128,
                ..Config::default()
            };
            schedule(&mut config);
            allocate(&mut config);
            if is_legal(&config) {
                preempted += conforms(&model, &config, 128, &specs, &expected);
                runs += 1;
            }
        }
    }
    println!("{runs} runs, {preempted} preemptions");
    assert!(preempted > 10, "memory was tight: {preempted} preemptions");
}

/// Had it always the same to say, any order of anything would do.
#[test]
fn the_model_tells_contexts_apart() {
    let Some(model) = Cuda::new() else { return };
    let seen: std::collections::HashSet<_> =
        (0..20).map(|first| model.alone(vec![first, 5], 6, 1)).collect();
    assert!(seen.len() > 12, "different prompts, different answers: {}", seen.len());
}

/// Says what it is told to, and keeps the logits.
struct Forced {
    tokens: Vec<Token>,
    kept: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl Sample for Forced {
    fn sample(&mut self, seq: &Sequence, _branch: u16, logits: &mut [f32]) -> Token {
        self.kept.lock().unwrap().push(logits.to_vec());
        self.tokens[seq.output() as usize]
    }
}

/// Logits after every token of `answer`, whatever the executor would have said.
fn forced(
    worker: impl FnOnce(Box<dyn Sample>) -> Box<dyn Executor>,
    prompt: &[Token],
    answer: &[Token],
    budget: u32,
) -> Vec<Vec<f32>> {
    let kept = Arc::default();
    let sampler = Forced { tokens: answer.to_vec(), kept: Arc::clone(&kept) };
    let said = said(worker(Box::new(sampler)), prompt, answer.len() as u32, 1, budget);
    assert_eq!(said[0], answer, "it says what it is told to");
    let kept = kept.lock().unwrap();
    assert_eq!(kept.len(), answer.len());
    kept.clone()
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b })
}

/// Positions at which the two differ in the most likely token, and by how much that token is ahead in the first; and how
/// far the second's logits are from the first's.
fn compared(reference: &[Vec<f32>], other: &[Vec<f32>]) -> (Vec<f32>, f64) {
    let (mut gaps, mut error, mut size) = (Vec::new(), 0.0, 0.0);
    for (a, b) in reference.iter().zip(other) {
        let (best, chosen) = (top(a), top(b));
        if best != chosen {
            gaps.push(a[best] - a[chosen]);
        }
        for (a, b) in a.iter().zip(b) {
            error += f64::from(a - b).powi(2);
            size += f64::from(*a).powi(2);
        }
    }
    (gaps, (error / size).sqrt())
}

/// The teacher-forced law: where the most likely tokens differ, they were nearly as likely.
#[test]
fn it_says_what_the_cpu_says() {
    let Some(model) = Cuda::new() else { return };
    let team = Arc::new(Team::new(1));
    let cpu = |precision| {
        let model = CpuModel::load(&team, &mut weights(config()), precision).unwrap();
        Arc::new(model)
    };
    let (cpu_f32, cpu_bf16) = (cpu(Precision::F32), cpu(Precision::Bf16));
    let of_cpu = |model: &Arc<CpuModel>, sampler| {
        let mut sampler = Some(sampler);
        let mut workers =
            CpuExecutor::workers(model, &team, &[512], || sampler.take().expect("one worker"));
        Box::new(workers.remove(0)) as Box<dyn Executor>
    };
    let (mut positions, mut differ) = (0, 0);
    for (seed, len, budget) in [(1u64, 5u64, 512), (2, 90, 512), (3, 150, 32)] {
        let prompt: Vec<Token> =
            (0..len).map(|i| (mix(seed, i) % u64::from(VOCAB)) as Token).collect();
        let answer =
            said(of_cpu(&cpu_f32, Box::<Greedy>::default()), &prompt, 25, 1, 512).remove(0);
        let want = forced(|s| of_cpu(&cpu_f32, s), &prompt, &answer, 512);
        // What bf16 weights and activations alone do.
        let (_, rounding) =
            compared(&want, &forced(|s| of_cpu(&cpu_bf16, s), &prompt, &answer, 512));
        for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
            let worker = |s| model.worker(arithmetic, 512, s);
            let (gaps, error) = compared(&want, &forced(worker, &prompt, &answer, budget));
            println!(
                "{arithmetic:?}: logits {error:.1e} off (CPU bf16: {rounding:.1e}), gaps {gaps:?}"
            );
            assert!(error < 0.02, "{arithmetic:?}: logits are {error:e} off");
            assert!(gaps.iter().all(|&gap| gap < 0.1), "{arithmetic:?}: {gaps:?}");
            (positions, differ) = (positions + answer.len(), differ + gaps.len());
        }
    }
    assert!(differ * 50 <= positions, "{differ} of {positions} tokens differ");
}

/// Ids that the device chose are those of its logits.
#[test]
fn tokens_chosen_on_the_device_are_the_likeliest() {
    let Some(model) = Cuda::new() else { return };
    let prompt: Vec<Token> = (0..40).map(|i| (mix(9, i) % u64::from(VOCAB)) as Token).collect();
    for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
        let says = |sampler: Box<dyn Sample>| {
            said(model.worker(arithmetic, 512, sampler), &prompt, 20, 1, 512)
        };
        assert_eq!(says(Box::<Greedy>::default()), says(Box::new(Nth)));
    }
}

/// What cannot be run is refused with the reason.
#[test]
fn models_without_kernels_are_refused() {
    let Some(device) = device() else { return };
    let refused = |config| {
        CudaModel::load(&device, &mut weights(config)).map(|_| ()).unwrap_err().to_string()
    };
    let odd = refused(LlamaConfig { head_dim: 80, ..config() });
    assert!(odd.contains("head_dim = 80: the CUDA kernels have 32, 64 and 128"), "{odd}");
    let odd = refused(LlamaConfig { ffn: 44, ..config() });
    assert!(odd.contains("ffn size = 44: the CUDA kernels need a multiple of 8"), "{odd}");
}
