//! The conformance body over the CPU executor: a small random model in f32 says the same, to the bit of its logits'
//! order, under every scheduler, allocator, chunk size, preemption and prefix cache as it does to a request alone.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::Nth;
use common::SCHEDULERS;
use common::conformance::{Model, run};
use engine::config::{AllocatorKind, Config, Reserve, SchedulerKind};
use engine::exec::Executor;
use engine::exec::cpu::{CpuExecutor, CpuModel, Precision, Team};
use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use engine::request::{Content, Token};
use engine::{Request, wiring};

struct Cpu {
    model: Arc<CpuModel>,
    team: Arc<Team>,
}

impl Cpu {
    fn new() -> Self {
        let config = LlamaConfig {
            name: "small".to_owned(),
            layers: 2,
            hidden: 32,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            ffn: 48,
            vocab: 128,
            ..LlamaConfig::tiny()
        };
        let team = Arc::new(Team::new(1));
        let weights = &mut RandomWeights { config, seed: 3 };
        let model = Arc::new(CpuModel::load(&team, weights, Precision::F32).unwrap());
        Self { model, team }
    }
}

impl Model for Cpu {
    type Worker = CpuExecutor;

    fn vocab(&self) -> u64 {
        128
    }

    fn workers(&self, pools: &[u32]) -> Vec<CpuExecutor> {
        CpuExecutor::workers(&self.model, &self.team, pools, || Box::new(Nth))
    }

    fn alone(&self, prompt: Vec<Token>, output: u32, width: u16) -> Vec<Vec<Token>> {
        let input = prompt.len() as u32;
        let config = Config {
            scheduler: SchedulerKind::Continuous,
            allocator: AllocatorKind::Contiguous,
            reserve: Reserve::Max,
            prefix_cache: false,
            max_seqs: u32::from(width),
            max_batch_tokens: 512,
            max_model_len: 512,
            ..Config::default()
        };
        let slots = 512 * u32::from(width);
        let executor = self.workers(&[slots]).remove(0);
        let mut engine =
            wiring::engine(&config, slots, vec![Box::new(executor) as Box<dyn Executor>]);
        let content = Content::Tokens(prompt.into());
        let request =
            Request { id: 0, input, limit: output, fate: None, width, priority: 0, content };
        engine.submit(request).unwrap();
        let mut said = vec![Vec::new(); width as usize];
        let mut now = Duration::ZERO;
        loop {
            engine.start(now, Duration::MAX);
            let Some(next) = engine.next_event() else { break };
            now = next;
            engine.step(now);
            let iteration = engine.last_iteration();
            said[0].extend(&iteration.tokens);
            for branch in &iteration.branches {
                said[branch.branch as usize].push(branch.token);
            }
        }
        said
    }
}

macro_rules! every_allocator_under {
    ($($test:ident = $scheduler:literal),+ $(,)?) => { $(#[test] fn $test() { run(&Cpu::new(), $scheduler, 8, 0); })+ };
}

every_allocator_under! {
    static_padded = 0,
    static_unpadded = 1,
    continuous = 2,
    continuous_mixed = 3,
    chunked = 4,
    chunked_threshold = 5,
    disagg_one_to_one = 6,
    disagg_two_to_one = 7,
    disagg_one_to_two = 8,
}

#[test]
fn every_scheduler_has_its_test() {
    assert_eq!(SCHEDULERS.len(), 9);
}

/// Had it always the same to say, any order of anything would do.
#[test]
fn the_model_tells_contexts_apart() {
    let cpu = Cpu::new();
    let mut seen = std::collections::HashSet::new();
    for first in 0..100 {
        seen.insert(cpu.alone(vec![first, 5], 12, 1));
    }
    assert!(seen.len() > 60, "different prompts, different answers: {}", seen.len());
}
