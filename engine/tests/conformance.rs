//! The conformance body over a model small enough to reason about: the next token is a hash of the context.

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::conformance::{Model, Spec, conforms, expected, run};
use common::each_scheduler;
use engine::config::{AllocatorKind, Config, QueueOrder, Reserve, SchedulerKind, Victim};
use engine::exec::HashExecutor;
use engine::request::Token;

const STEP: Duration = Duration::from_millis(1);

struct Hash;

impl Model for Hash {
    type Worker = HashExecutor;

    fn vocab(&self) -> u64 {
        50_000
    }

    fn workers(&self, pools: &[u32]) -> Vec<HashExecutor> {
        HashExecutor::workers(pools, STEP)
    }

    /// Without any cache.
    fn alone(&self, prompt: Vec<Token>, output: u32, width: u16) -> Vec<Vec<Token>> {
        let branch = |b| {
            let mut context = prompt.clone();
            for _ in 0..output {
                context.push(HashExecutor::next_token(context.iter().copied(), b));
            }
            context.split_off(prompt.len())
        };
        (0..width).map(branch).collect()
    }
}

#[test]
fn every_scheduler_and_allocator() {
    each_scheduler(|scheduler| run(&Hash, scheduler, 200, 100));
}

/// A reference that could not tell one context from another would accept anything.
#[test]
fn the_model_tells_contexts_apart() {
    let words: Arc<[Token]> = (0..200).collect();
    let mut seen = HashSet::new();
    for n in 1..200 {
        for branch in 0..4 {
            seen.insert(HashExecutor::next_token(words[..n].iter().copied(), branch));
        }
    }
    assert!(seen.len() > 780, "collisions are rare: {}", seen.len());
}

/// Memory that a sequence grew into and gave up again within one plan must not be written to by its copy later: by
/// then a sequence pulled from another worker may live there.
#[test]
fn a_preempted_sequence_is_not_copied() {
    let lengths =
        [(0, 32, 15), (1, 17, 16), (18, 14, 0), (103, 13, 14), (0, 0, 0), (0, 0, 0), (1, 31, 2)];
    let spec = |(at, (shared, own, output)): (usize, (u32, u32, u32))| Spec {
        text: 0,
        shared,
        own,
        output,
        fated: false,
        width: 1,
        priority: 0,
        gap: Duration::from_micros(if at == 4 { 1001 } else { 0 }),
    };
    let specs: Vec<Spec> = lengths.into_iter().enumerate().map(spec).collect();
    let config = Config {
        queue: QueueOrder::ShortestPrefill,
        victim: Victim::LeastComputed,
        watermark: 0.0,
        max_seqs: 3,
        max_batch_tokens: 75,
        max_model_len: 175,
        scheduler: SchedulerKind::Disagg,
        prefill_workers: 2,
        allocator: AllocatorKind::Contiguous,
        reserve: Reserve::Doubling,
        prefix_cache: false,
        ..Config::default()
    };
    conforms(&Hash, &config, 288, &specs, &expected(&Hash, &specs));
}
