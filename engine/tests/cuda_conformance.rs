//! The conformance body over the CUDA executor, its kernels on an emulated device (or with `KNEE_TEST_DEVICE=cuda:0` on a
//! real one): with invariant arithmetic a small random model says the same under every scheduler and allocator as it
//! does to a request alone; and what it says is what the CPU executor says, within rounding.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::conformance::{Model, Spec, conforms, expected};
use common::cuda::{VOCAB, compared, config, device, forced, said, weights};
use common::{ALLOCATORS, Nth, SCHEDULERS, Variant, is_legal};
use engine::config::Config;
use engine::exec::Executor;
use engine::exec::cpu::{CpuExecutor, CpuModel, Greedy, Precision, Sample, Team};
use engine::exec::cuda::{Arithmetic, CudaExecutor, CudaModel};
use engine::model::llama::LlamaConfig;
use engine::request::{Token, mix};

/// A model, and how its workers compute: the tokens are those of a plain worker however they do.
struct Cuda {
    model: Arc<CudaModel>,
    overlapped: bool,
    graphs: bool,
}

impl Cuda {
    fn new() -> Option<Self> {
        Self::split(config(), 1)
    }

    fn split(config: LlamaConfig, ranks: usize) -> Option<Self> {
        let model = CudaModel::load_split(&device()?, &mut weights(config), ranks).unwrap();
        Some(Self { model: Arc::new(model), overlapped: false, graphs: false })
    }

    fn way(&self, worker: CudaExecutor) -> CudaExecutor {
        let worker = if self.graphs { worker } else { worker.without_graphs() };
        if self.overlapped { worker.overlapped() } else { worker }
    }

    fn worker(
        &self,
        arithmetic: Arithmetic,
        slots: u32,
        sampler: Box<dyn Sample>,
    ) -> Box<dyn Executor> {
        let mut sampler = Some(sampler);
        let workers = CudaExecutor::workers(&self.model, &[slots], arithmetic, || {
            sampler.take().expect("one worker")
        });
        Box::new(self.way(workers.unwrap().remove(0)))
    }
}

impl Model for Cuda {
    type Worker = CudaExecutor;

    fn vocab(&self) -> u64 {
        u64::from(VOCAB)
    }

    fn workers(&self, pools: &[u32]) -> Vec<CudaExecutor> {
        let sampler = || Box::new(Nth) as Box<dyn Sample>;
        let workers = CudaExecutor::workers(&self.model, pools, Arithmetic::Invariant, sampler);
        workers.unwrap().into_iter().map(|worker| self.way(worker)).collect()
    }

    /// Always plain.
    fn alone(&self, prompt: Vec<Token>, output: u32, width: u16) -> Vec<Vec<Token>> {
        let plain = Self { model: Arc::clone(&self.model), overlapped: false, graphs: false };
        let slots = 512 * u32::from(width);
        let executor = plain.worker(Arithmetic::Invariant, slots, Box::new(Nth));
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

/// Every one of `schedulers` with every one of `allocators`; requests that gave way.
fn conforming(model: &Cuda, schedulers: &[Variant], allocators: &[Variant]) -> u32 {
    let specs = specs();
    let expected = expected(model, &specs);
    let (mut preempted, mut runs) = (0, 0);
    for (_, schedule) in schedulers {
        for (_, allocate) in allocators {
            let mut config = Config {
                max_seqs: 3,
                max_batch_tokens: 40,
                max_model_len: 128,
                ..Config::default()
            };
            schedule(&mut config);
            allocate(&mut config);
            if is_legal(&config) {
                preempted += conforms(model, &config, 128, &specs, &expected);
                runs += 1;
            }
        }
    }
    println!("{runs} runs, {preempted} preemptions");
    preempted
}

#[test]
fn the_same_tokens_under_every_scheduler_and_allocator() {
    let Some(model) = Cuda::new() else { return };
    let preempted = conforming(&model, SCHEDULERS, ALLOCATORS);
    assert!(preempted > 10, "memory was tight: {preempted} preemptions");
}

/// Allocators that copy, share and move.
fn few_allocators() -> Vec<Variant> {
    let few = ["doubling", "paged 4, prefix"];
    ALLOCATORS.iter().filter(|(name, _)| few.contains(name)).copied().collect()
}

/// Decodes filled up with padding and done as recorded, while prompts make memory grow in between.
#[test]
fn the_same_tokens_from_graphs() {
    let Some(model) = Cuda::new() else { return };
    conforming(&Cuda { graphs: true, ..model }, SCHEDULERS, &few_allocators());
}

#[test]
fn the_same_tokens_while_the_engine_goes_on() {
    let Some(model) = Cuda::new() else { return };
    let model = Cuda { graphs: true, overlapped: true, ..model };
    conforming(&model, SCHEDULERS, &few_allocators());
}

/// A model whose heads and inner features two ranks can share.
fn even() -> LlamaConfig {
    LlamaConfig { heads: 4, kv_heads: 2, ffn: 48, ..config() }
}

#[test]
fn the_same_tokens_from_several_ranks() {
    let Some(model) = Cuda::split(even(), 2) else { return };
    conforming(&Cuda { graphs: true, ..model }, SCHEDULERS, &few_allocators());
}

/// Split over ranks, the model is the same one: sums in another order, and rounded once more.
#[test]
fn ranks_say_what_the_whole_says() {
    let (Some(whole), Some(split)) = (Cuda::split(even(), 1), Cuda::split(even(), 2)) else {
        return;
    };
    let prompt: Vec<Token> = (0..70).map(|i| (mix(4, i) % u64::from(VOCAB)) as Token).collect();
    for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
        let greedy = Box::<Greedy>::default();
        let answer = said(whole.worker(arithmetic, 512, greedy), &prompt, 25, 1, 512).remove(0);
        let logits =
            |model: &Cuda| forced(|s| model.worker(arithmetic, 512, s), &prompt, &answer, 32);
        let (gaps, error) = compared(&logits(&whole), &logits(&split));
        println!("{arithmetic:?}: logits of two ranks {error:.1e} off, gaps {gaps:?}");
        assert!(error > 0.0, "they add up in another order");
        assert!(error < 0.02 && gaps.iter().all(|&gap| gap < 0.1), "{error:e}, {gaps:?}");
        assert!(gaps.len() <= 1, "{gaps:?}");
    }
}

/// Had it always the same to say, any order of anything would do.
#[test]
fn the_model_tells_contexts_apart() {
    let Some(model) = Cuda::new() else { return };
    let seen: std::collections::HashSet<_> =
        (0..20).map(|first| model.alone(vec![first, 5], 6, 1)).collect();
    assert!(seen.len() > 12, "different prompts, different answers: {}", seen.len());
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
    let model = Cuda { graphs: true, ..model };
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
    let uneven = CudaModel::load_split(&device, &mut weights(config()), 2).unwrap_err();
    let uneven = uneven.to_string();
    assert!(uneven.contains("kv_heads = 1 and ffn = 40 must be multiples of 2 ranks"), "{uneven}");
    let odd = refused(LlamaConfig { ffn: 44, ..config() });
    assert!(odd.contains("ffn size = 44: the CUDA kernels need a multiple of 8"), "{odd}");
}
