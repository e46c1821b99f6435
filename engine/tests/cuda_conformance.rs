//! The conformance body over the CUDA executor, its kernels on an emulated device (or with `KNEE_TEST_DEVICE=cuda:0` on
//! a real one): with invariant arithmetic a small random model gives the same tokens under every scheduler and
//! allocator as to a request alone, in one piece or split over ranks and stages; and these are the tokens of the CPU
//! executor, within rounding.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::conformance::{Model, Spec, conforms, expected};
use common::cuda::{VOCAB, compared, config, device, even, forced, plain, spread, weights, worker};
use common::{Nth, Variant, allocators, is_legal, said, schedulers};
use engine::config::{Config, Speculation};
use engine::exec::Executor;
use engine::exec::cpu::{CpuExecutor, CpuModel, Precision, Team};
use engine::exec::cuda::{Arithmetic, CudaExecutor, CudaModel, Device, Layout};
use engine::exec::{Greedy, Sample};
use engine::model::llama::LlamaConfig;
use engine::request::{Content, Token, mix};
use engine::{Request, wiring};

/// A model, and how its workers compute: the tokens are those of a plain worker that has the model in one piece however
/// they do.
struct Cuda {
    model: Arc<CudaModel>,
    whole: Arc<CudaModel>,
    overlapped: bool,
    graphs: bool,
}

/// The model in such a layout.
fn laid_out(config: LlamaConfig, layout: Layout) -> Option<Arc<CudaModel>> {
    let model = CudaModel::load(&[device()?], &mut weights(config), layout);
    Some(Arc::new(model.unwrap()))
}

/// Over so many ranks and stages, with results that depend on the context alone.
const fn split(ranks: usize, stages: usize) -> Layout {
    Layout { arithmetic: Arithmetic::Invariant, ranks, stages }
}

impl Cuda {
    fn new() -> Option<Self> {
        Self::split(config(), 1, 1)
    }

    fn split(config: LlamaConfig, ranks: usize, stages: usize) -> Option<Self> {
        let whole = laid_out(config.clone(), split(1, 1))?;
        let model = if ranks * stages == 1 {
            whole.clone()
        } else {
            laid_out(config, split(ranks, stages))?
        };
        Some(Self { model, whole, overlapped: false, graphs: false })
    }
}

impl Model for Cuda {
    type Worker = CudaExecutor;

    fn vocab(&self) -> u64 {
        u64::from(VOCAB)
    }

    fn has_stages(&self) -> bool {
        self.model.stages() > 1
    }

    fn workers(&self, pools: &[u32]) -> Vec<CudaExecutor> {
        let sampler = || Box::new(Nth) as Box<dyn Sample>;
        let way = |worker: CudaExecutor| {
            let worker = if self.graphs { worker } else { worker.without_graphs() };
            if self.overlapped { worker.overlapped() } else { worker }
        };
        let workers = CudaExecutor::workers(&self.model, pools, sampler);
        workers.unwrap().into_iter().map(way).collect()
    }

    fn alone(&self, prompt: Vec<Token>, output: u32, width: u16) -> Vec<Vec<Token>> {
        let executor = worker(&self.whole, 512 * u32::from(width), Box::new(Nth)).without_graphs();
        said(Box::new(executor), &prompt, output, width, 512)
    }
}

/// Few and short, because an emulated device takes its time; memory is tight, so that some are preempted.
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

/// Every scheduler with every one of `allocators`; requests that gave way.
fn conforming(model: &Cuda, allocators: &[Variant]) -> u64 {
    let specs = specs();
    let expected = expected(model, &specs);
    let (mut preempted, mut accepted, mut runs) = (0, 0, 0);
    for scheduler in schedulers() {
        for (n, allocator) in (0..).zip(allocators) {
            let mut config = Config {
                pp: model.model.stages() as u32,
                max_seqs: 3,
                max_batch_tokens: 40,
                max_model_len: 128,
                speculation: if n % 3 > 0 { Speculation::PromptLookup } else { Speculation::Off },
                draft_tokens: n % 3 * 2,
                ..Config::default()
            };
            scheduler.apply(&mut config);
            allocator.apply(&mut config);
            if is_legal(&config) {
                let totals = conforms(model, &config, 128, &specs, &expected);
                preempted += totals.preemptions;
                accepted += totals.accepted;
                runs += 1;
            }
        }
    }
    println!("{runs} runs, {preempted} preemptions, {accepted} drafted tokens kept");
    preempted
}

#[test]
fn the_same_tokens_under_every_scheduler_and_allocator() {
    let Some(model) = Cuda::new() else { return };
    let preempted = conforming(&model, &allocators());
    assert!(preempted > 10, "memory was tight: {preempted} preemptions");
}

/// Allocators that copy, share and move.
fn few_allocators() -> Vec<Variant> {
    let few = ["reserve doubling", "block-size 4, prefix-cache on"];
    let mut all = allocators();
    all.retain(|variant| few.iter().any(|end| variant.to_string().ends_with(end)));
    assert_eq!(all.len(), few.len());
    all
}

/// Decodes filled up with padding and done as recorded, while prompts make memory grow in between.
#[test]
fn the_same_tokens_from_graphs() {
    let Some(model) = Cuda::new() else { return };
    conforming(&Cuda { graphs: true, ..model }, &few_allocators());
}

#[test]
fn the_same_tokens_while_the_engine_goes_on() {
    let Some(model) = Cuda::new() else { return };
    let model = Cuda { graphs: true, overlapped: true, ..model };
    conforming(&model, &few_allocators());
}

#[test]
fn the_same_tokens_from_several_ranks() {
    let Some(model) = Cuda::split(even(), 2, 1) else { return };
    conforming(&Cuda { graphs: true, ..model }, &few_allocators());
}

#[test]
fn the_same_tokens_from_several_stages() {
    let Some(model) = Cuda::split(even(), 1, 3) else { return };
    conforming(&Cuda { graphs: true, ..model }, &few_allocators());
}

#[test]
fn the_same_tokens_from_ranks_in_stages() {
    let Some(model) = Cuda::split(even(), 2, 2) else { return };
    conforming(&model, &few_allocators());
}

/// Ranks and stages with a device each, which exchange their results.
#[test]
fn the_same_tokens_from_several_devices() {
    let Some(whole) = laid_out(even(), split(1, 1)) else { return };
    let Some(model) = spread(even(), split(2, 2)) else { return };
    let model = Cuda { model, whole, overlapped: false, graphs: true };
    conforming(&model, &few_allocators());
}

/// Split over ranks and stages, the model is the same one: to the bit of its logits where no sum is split, else within
/// rounding, and stages alone change nothing at all.
#[test]
fn parts_say_what_the_whole_says() {
    let four = LlamaConfig { kv_heads: 4, ffn: 64, ..even() };
    let tied = LlamaConfig { tied_embeddings: true, ..even() };
    let splits = [(even(), 2, 1), (even(), 1, 2), (four, 4, 1), (tied.clone(), 2, 1), (tied, 2, 3)];
    let prompt: Vec<Token> = (0..70).map(|i| (mix(4, i) % u64::from(VOCAB)) as Token).collect();
    for (config, ranks, stages) in splits {
        for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
            let layout = |ranks, stages| Layout { arithmetic, ranks, stages };
            let Some(whole) = laid_out(config.clone(), layout(1, 1)) else { return };
            let Some(parts) = laid_out(config.clone(), layout(ranks, stages)) else { return };
            let greedy = |model| plain(model, Box::<Greedy>::default());
            let answer = said(greedy(&whole), &prompt, 25, 1, 512).remove(0);
            let logits = |model: &Arc<CudaModel>| forced(|s| plain(model, s), &prompt, &answer, 32);
            let (of_whole, of_parts) = (logits(&whole), logits(&parts));
            let (gaps, error) = compared(&of_whole, &of_parts);
            println!("{arithmetic:?}, {ranks} x {stages}: {error:.1e} off, gaps {gaps:?}");
            if arithmetic == Arithmetic::Invariant || ranks == 1 {
                assert_eq!(of_whole, of_parts, "to the bit");
                // The same, chosen where logits are put together.
                assert_eq!(said(greedy(&parts), &prompt, 25, 1, 512)[0], answer);
                continue;
            }
            assert!(error > 0.0, "they add up in another order");
            assert!(error < 0.02 && gaps.iter().all(|&gap| gap < 0.1), "{error:e}, {gaps:?}");
            assert!(gaps.len() <= 1, "{gaps:?}");
        }
    }
}

/// The engine goes on while stages compute: as many batches are under way as there are stages.
#[test]
fn several_batches_are_in_flight() {
    let Some(model) = laid_out(even(), split(1, 2)) else { return };
    let config = Config {
        pp: 2,
        max_seqs: 4,
        max_batch_tokens: 40,
        max_model_len: 128,
        ..Config::default()
    };
    let executor = Box::new(worker(&model, 512, Box::<Greedy>::default()));
    let mut engine = wiring::engine(&config, 512, vec![executor]);
    for id in 0..3 {
        let content = Content::Tokens(vec![5; 40].into());
        let request =
            Request { id, input: 40, limit: 3, fate: None, width: 1, priority: 0, content };
        engine.add_request(request).unwrap();
    }
    let begin = Duration::from_secs(100);
    engine.start(begin, Duration::MAX);
    assert_eq!(engine.in_flight().count(), 2, "a batch has room for one of the prompts");
    assert_eq!(engine.next_event(), None, "its time is not known beforehand");
    engine.wait(begin, Duration::MAX);
    let first = engine.next_event().unwrap();
    assert!(first > begin && engine.step(first).is_some());
    assert_eq!(engine.last_iteration().emitted, [0], "in order");
    engine.start(first, Duration::MAX);
    assert!(engine.in_flight().count() > 1, "another, beside the second");
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
        // The error that bf16 weights and activations make alone.
        let (_, rounding) =
            compared(&want, &forced(|s| of_cpu(&cpu_bf16, s), &prompt, &answer, 512));
        for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
            let Some(model) = laid_out(config(), Layout::whole(arithmetic)) else { return };
            let (gaps, error) =
                compared(&want, &forced(|s| plain(&model, s), &prompt, &answer, budget));
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

/// The same of real weights: those of the `.gguf` file that `KNEE_TEST_MODEL` names.
#[test]
fn a_real_model_says_what_the_cpu_says() {
    let Ok(path) = std::env::var("KNEE_TEST_MODEL") else {
        return println!("skipped: KNEE_TEST_MODEL names no .gguf file");
    };
    let Some(device) = device() else { return };
    let open = || engine::model::Model::open(&path, None).unwrap_or_else(|e| panic!("{e}"));
    let text = "The museum opens at ten, and a ticket for the whole day costs twelve euros. The";
    let prompt = open().tokenizer.encode(text, false).unwrap();
    let team = Arc::new(Team::new(1));
    let cpu = CpuModel::load(&team, open().weights.as_mut(), Precision::F32).unwrap();
    let cpu = Arc::new(cpu);
    let on_cpu = |sampler: Box<dyn Sample>| {
        let mut sampler = Some(sampler);
        let mut workers =
            CpuExecutor::workers(&cpu, &team, &[512], || sampler.take().expect("one worker"));
        Box::new(workers.remove(0)) as Box<dyn Executor>
    };
    let answer = said(on_cpu(Box::<Greedy>::default()), &prompt, 12, 1, 512).remove(0);
    let want = forced(on_cpu, &prompt, &answer, 512);
    for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
        let (devices, layout) = ([device.clone()], Layout::whole(arithmetic));
        let model = CudaModel::load(&devices, open().weights.as_mut(), layout).unwrap();
        let model = Arc::new(model);
        let (gaps, error) = compared(&want, &forced(|s| plain(&model, s), &prompt, &answer, 512));
        println!("{arithmetic:?}: logits {error:.1e} off, gaps {gaps:?}");
        assert!(error < 0.03, "{arithmetic:?}: logits are {error:e} off");
        assert!(gaps.len() <= 2, "{arithmetic:?}: {gaps:?}");
    }
}

/// With fast kernels, decodes that are replayed agree within rounding with decodes launched kernel by kernel: on a GPU
/// with the heads, widths and vocabulary of real models.
#[test]
fn graphs_say_what_single_kernels_say() {
    let Some(device) = device() else { return };
    let real = device.memory().unwrap().is_some();
    for group in [4, 8] {
        let (heads, hidden, ffn, vocab) =
            if real { (32, 4096, 14_336, 128_256) } else { (8, 64, 64, 300) };
        let kv_heads = heads / group;
        let tiny = LlamaConfig::tiny();
        let config = LlamaConfig { layers: 2, hidden, heads, kv_heads, ffn, vocab, ..tiny };
        let config = LlamaConfig { head_dim: 128, tied_embeddings: false, ..config };
        let layout = Layout::whole(Arithmetic::Fast);
        let devices = std::slice::from_ref(&device);
        let model = CudaModel::load(devices, &mut weights(config), layout).unwrap();
        let model = Arc::new(model);
        let tokens = |seed, n: u64| (0..n).map(move |i| (mix(seed, i) % u64::from(vocab)) as Token);
        let prompt: Vec<Token> = tokens(1, if real { 450 } else { 60 }).collect();
        let answer: Vec<Token> = tokens(2, if real { 40 } else { 12 }).collect();
        let one_by_one = forced(|s| plain(&model, s), &prompt, &answer, 512);
        let replayed = forced(|s| Box::new(worker(&model, 512, s)), &prompt, &answer, 512);
        let (gaps, error) = compared(&one_by_one, &replayed);
        println!("groups of {group}: {error:.1e} off, gaps {gaps:?}");
        assert!(error < 0.01 && gaps.iter().all(|&gap| gap < 0.1), "{error:e}, {gaps:?}");
        assert!(one_by_one[0] != one_by_one[1], "contexts are told apart");
    }
}

/// Ids that the device chose are those of its logits.
#[test]
fn tokens_chosen_on_the_device_are_the_likeliest() {
    let prompt: Vec<Token> = (0..40).map(|i| (mix(9, i) % u64::from(VOCAB)) as Token).collect();
    for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
        let Some(model) = laid_out(config(), Layout::whole(arithmetic)) else { return };
        let says = |sampler: Box<dyn Sample>| {
            said(Box::new(worker(&model, 512, sampler)), &prompt, 20, 1, 512)
        };
        assert_eq!(says(Box::<Greedy>::default()), says(Box::new(Nth)));
    }
}

/// A model that cannot be run is refused with the reason.
#[test]
fn models_without_kernels_are_refused() {
    let Some(device) = device() else { return };
    let devices = [device.clone(), device.clone(), device];
    let refused = |config, devices: &[Device], layout, why: &str| {
        let model = CudaModel::load(devices, &mut weights(config), layout);
        let said = model.map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(why) && !said.contains('\n'), "{said}");
    };
    let (one, whole, fast) =
        (&devices[..1], split(1, 1), Layout { arithmetic: Arithmetic::Fast, ..split(2, 1) });
    let wide = LlamaConfig { head_dim: 80, ..config() };
    refused(wide, one, whole, "head_dim = 80: the CUDA kernels have 32, 64 and 128");
    let odd = LlamaConfig { ffn: 44, ..config() };
    refused(odd, one, whole, "ffn size = 44 of a rank: the CUDA kernels need a multiple of 8");
    refused(config(), one, fast, "kv_heads = 1 must be a multiple of 2 ranks");
    let words = LlamaConfig { vocab: 97, ..even() };
    refused(words, one, fast, "vocab = 97 must be a multiple of 2 ranks");
    let narrow = LlamaConfig { hidden: 24, ..even() };
    refused(narrow, one, split(2, 1), "hidden size = 12 of a rank");
    refused(even(), one, split(1, 4), "layers = 3 do not fill 4 pipeline stages");
    refused(even(), one, split(9, 1), "9 ranks: a model takes 1 to 8");
    refused(
        even(),
        &devices,
        split(2, 1),
        "tp 2 x pp 1 on 3 GPUs: name one, which takes all parts, or 2",
    );
}
