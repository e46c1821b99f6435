//! A small model on the CUDA device of a test.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use engine::exec::Executor;
use engine::exec::Sample;
use engine::exec::cuda::{CudaExecutor, CudaModel, Device, Layout};
use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use engine::request::Token;
use engine::sequence::Sequence;
use kernels::cuda::emulator::{self, Pretence};

use super::said;

/// The GPUs to test on: those of `KNEE_TEST_DEVICE=cuda:0,1`; none on emulated devices.
pub(crate) fn gpus() -> Vec<usize> {
    let Ok(name) = std::env::var("KNEE_TEST_DEVICE") else { return Vec::new() };
    let index = |n: &str| n.parse().expect("KNEE_TEST_DEVICE is cuda:N, or cuda:N,M");
    name.trim_start_matches("cuda:").split(',').map(index).collect()
}

/// GPU number `index`, which all tests share: a context takes its time to make.
fn gpu(index: usize) -> Device {
    static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let device = || Device::open(index).expect("the device that was asked for");
    open.entry(index).or_insert_with(device).clone()
}

/// A device, unless there can be none here.
pub(crate) fn device() -> Option<Device> {
    if let Some(index) = gpus().first() {
        return Some(gpu(*index));
    }
    if let Some(reason) = emulator::absent() {
        println!("skipped: {reason}");
        return None;
    }
    Some(emulator::device(Path::new(env!("CARGO_TARGET_TMPDIR")), 0))
}

pub(crate) const VOCAB: u32 = 96;

/// With every variation of the family.
pub(crate) fn config() -> LlamaConfig {
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

pub(crate) fn weights(config: LlamaConfig) -> RandomWeights {
    RandomWeights { config, seed: 3 }
}

/// A model whose heads, inner features and tokens two ranks can share, and layers two stages, if not evenly.
pub(crate) fn even() -> LlamaConfig {
    LlamaConfig { layers: 3, heads: 4, kv_heads: 2, ffn: 48, ..config() }
}

/// The model in such a layout, every part on a device of its own, unless there are not so many here.
pub(crate) fn spread(config: LlamaConfig, layout: Layout) -> Option<Arc<CudaModel>> {
    let (gpus, parts) = (gpus(), layout.ranks * layout.stages);
    if gpus.is_empty() {
        return spread_over(&vec![Pretence::default(); parts], config, layout);
    }
    if gpus.len() < parts {
        println!("skipped: {parts} parts need as many GPUs");
        return None;
    }
    let devices: Vec<_> = gpus[..parts].iter().map(|&index| gpu(index)).collect();
    Some(Arc::new(CudaModel::load(&devices, &mut weights(config), layout).unwrap()))
}

/// The same on emulated devices that pretend.
pub(crate) fn spread_over(
    pretences: &[Pretence],
    config: LlamaConfig,
    layout: Layout,
) -> Option<Arc<CudaModel>> {
    if let Some(reason) = emulator::absent() {
        println!("skipped: {reason}");
        return None;
    }
    let devices = emulator::several(Path::new(env!("CARGO_TARGET_TMPDIR")), pretences);
    Some(Arc::new(CudaModel::load(&devices, &mut weights(config), layout).unwrap()))
}

/// A worker that overlaps nothing by itself.
pub(crate) fn worker(model: &Arc<CudaModel>, slots: u32, sampler: Box<dyn Sample>) -> CudaExecutor {
    let mut sampler = Some(sampler);
    let workers = CudaExecutor::workers(model, &[slots], || sampler.take().expect("one worker"));
    workers.unwrap().remove(0)
}

/// One that asks for every kernel by itself.
pub(crate) fn plain(model: &Arc<CudaModel>, sampler: Box<dyn Sample>) -> Box<dyn Executor> {
    Box::new(worker(model, 512, sampler).without_graphs())
}

/// Chooses the tokens it is given, and keeps the logits.
pub(crate) struct Forced {
    tokens: Vec<Token>,
    kept: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl Sample for Forced {
    fn sample(&mut self, seq: &Sequence, _drafted: u32, _branch: u16, logits: &mut [f32]) -> Token {
        self.kept.lock().unwrap().push(logits.to_vec());
        self.tokens[seq.output() as usize]
    }
}

/// Logits after every token of `answer`, whatever the executor would have said.
pub(crate) fn forced(
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

pub(crate) fn top(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b })
}

/// Positions at which the two differ in the most likely token, and by how much that token is ahead in the first; and how
/// far the second's logits are from the first's.
pub(crate) fn compared(reference: &[Vec<f32>], other: &[Vec<f32>]) -> (Vec<f32>, f64) {
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
