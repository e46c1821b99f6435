//! The conformance body over the CPU executor: a small random model in f32 says the same, to the bit of its logits'
//! order, under every scheduler, allocator, chunk size, preemption and prefix cache as it does to a request alone; split
//! over pipeline stages it says the same as whole.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::Nth;
use common::conformance::{Model, run};
use common::{each_scheduler, said, small};
use engine::config::Config;
use engine::exec::Part;
use engine::exec::cpu::{CpuExecutor, CpuModel, CpuPipeline, Precision, Share, Team};
use engine::model::llama::{LlamaConfig, Mixture};
use engine::model::random::RandomWeights;
use engine::request::{Content, Token};
use engine::{Engine, Request, wiring};

struct Cpu {
    ranks: Vec<Share>,
}

/// The model in so many stages of so many tensor-parallel ranks.
fn parts(ranks: usize, stages: usize) -> Vec<Vec<Share>> {
    parts_of(&small(128), ranks, stages)
}

fn parts_of(config: &LlamaConfig, ranks: usize, stages: usize) -> Vec<Vec<Share>> {
    let share = |stage, rank| {
        let (team, part) = (Arc::new(Team::new(1)), Part { rank, ranks, stage, stages });
        let weights = &mut RandomWeights { config: config.clone(), seed: 3 };
        (Arc::new(CpuModel::load_part(&team, weights, Precision::F32, part).unwrap()), team)
    };
    let stage = |stage| (0..ranks).map(|rank| share(stage, rank)).collect();
    (0..stages).map(stage).collect()
}

impl Cpu {
    fn new() -> Self {
        Self::on_ranks(1)
    }

    /// Every token goes through two of five experts.
    fn of_experts(ranks: usize) -> Self {
        let mixture = Some(Mixture { experts: 5, top_k: 2, normalised: true });
        let config = LlamaConfig { ffn: 16, mixture, ..small(128) };
        Self { ranks: parts_of(&config, ranks, 1).remove(0) }
    }

    fn on_ranks(ranks: usize) -> Self {
        Self { ranks: parts(ranks, 1).remove(0) }
    }
}

impl Model for Cpu {
    type Worker = CpuExecutor;

    fn vocab(&self) -> u64 {
        128
    }

    fn workers(&self, pools: &[u32]) -> Vec<CpuExecutor> {
        CpuExecutor::tensor_parallel(&self.ranks, pools, || Box::new(Nth))
    }

    fn alone(&self, prompt: Vec<Token>, output: u32, width: u16) -> Vec<Vec<Token>> {
        let executor = self.workers(&[512 * u32::from(width)]).remove(0);
        said(Box::new(executor), &prompt, output, width, 512)
    }
}

/// The same in stages.
struct Staged {
    parts: Vec<Vec<Share>>,
    whole: Cpu,
}

impl Staged {
    fn new(ranks: usize) -> Self {
        Self { parts: parts(ranks, 2), whole: Cpu::on_ranks(ranks) }
    }

    fn worker(&self, slots: u32) -> CpuPipeline {
        CpuPipeline::new(&self.parts, slots, Box::new(Nth))
    }
}

impl Model for Staged {
    type Worker = CpuPipeline;

    fn vocab(&self) -> u64 {
        self.whole.vocab()
    }

    fn has_stages(&self) -> bool {
        true
    }

    fn workers(&self, pools: &[u32]) -> Vec<CpuPipeline> {
        pools.iter().map(|&slots| self.worker(slots)).collect()
    }

    /// The answer of one stage.
    fn alone(&self, prompt: Vec<Token>, output: u32, width: u16) -> Vec<Vec<Token>> {
        self.whole.alone(prompt, output, width)
    }
}

#[test]
fn every_scheduler_and_allocator() {
    each_scheduler(|scheduler| run(&Cpu::new(), scheduler, 8, 0));
}

#[test]
fn every_scheduler_and_allocator_with_experts() {
    each_scheduler(|scheduler| run(&Cpu::of_experts(1), scheduler, 4, 0));
}

#[test]
fn every_scheduler_and_allocator_with_experts_on_two_ranks() {
    each_scheduler(|scheduler| run(&Cpu::of_experts(2), scheduler, 2, 0));
}

/// Those that a pipeline can be filled with.
fn each_in_stages(ranks: usize) {
    each_scheduler(|scheduler| {
        if scheduler.scheduler().traits().one_in_flight.is_none() {
            run(&Staged::new(ranks), scheduler, 8, 0);
        }
    });
}

#[test]
fn every_scheduler_and_allocator_in_stages() {
    each_in_stages(1);
}

#[test]
fn every_scheduler_and_allocator_in_stages_of_two_ranks() {
    each_in_stages(2);
}

/// An engine with that many requests of `input` tokens.
fn engine_of_stages(executor: CpuPipeline, requests: u32, input: u32) -> Engine {
    let config = Config {
        pp: 2,
        max_seqs: 8,
        max_batch_tokens: 1500,
        max_model_len: 2048,
        ..Config::default()
    };
    let mut engine = wiring::engine(&config, 4096, vec![Box::new(executor)]);
    for id in 0..requests {
        let content = Content::Tokens(vec![5; input as usize].into());
        let request = Request { id, input, limit: 3, fate: None, width: 1, priority: 0, content };
        engine.add_request(request).unwrap();
    }
    engine
}

/// The engine goes on while a batch is computed; it learns the end when there is one, and not before.
#[test]
fn several_batches_are_in_flight() {
    let mut engine = engine_of_stages(Staged::new(1).worker(4096), 2, 1500);
    let begin = Duration::from_secs(100);
    engine.start(begin, Duration::MAX);
    assert_eq!(engine.in_flight().count(), 2, "a batch has room for one of the prompts");
    assert_eq!(engine.next_event(), None, "its time is not known beforehand");
    engine.wait(begin, Duration::MAX);
    let first = engine.next_event().unwrap();
    assert!(first > begin && engine.step(first).is_some());
    engine.start(first, Duration::MAX);
    engine.wait(first, Duration::MAX);
    assert!(engine.next_event().unwrap() >= first, "in order");
}

/// A stage that panics does not leave the engine waiting: here its keys and values are beyond its memory.
#[test]
#[should_panic(expected = "slots that exist")]
fn a_broken_stage_is_the_end() {
    let mut engine = engine_of_stages(Staged::new(1).worker(0), 1, 1500);
    engine.start(Duration::ZERO, Duration::MAX);
    engine.wait(Duration::ZERO, Duration::MAX);
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
