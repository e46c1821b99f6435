//! The engine's own cost per iteration: proportional to the batch, and not to the queue.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::config::{Config, KvDtype};
use engine::exec::cost::CostModel;
use engine::exec::{Batch, Executor, Horizon, Outcome, Ticket, Transfer};
use engine::request::Content;
use engine::{DeviceProfile, Engine, ModelShape, Request, Shape, wiring};

const STEP: Duration = Duration::from_millis(1);
const PROMPT: u32 = 64;
const OUTPUT: u32 = 4096;
/// Iterations measured before memory is nearly full and the engine is built anew.
const BATCH: u64 = 2000;

/// Every iteration takes the same time and is made one by one.
#[derive(Default)]
struct Clockwork {
    end: Duration,
}

impl Executor for Clockwork {
    fn submit(&mut self, _: &Batch<'_>, now: Duration, _: Horizon) -> Ticket {
        self.end = now + STEP;
        Ticket { next: self.end, done: Some(self.end) }
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        outcome.ends.push(self.end);
    }

    fn transfer(&mut self, _: &Transfer<'_>, _: Duration) -> Duration {
        unreachable!("one worker")
    }
}

fn request(id: u32) -> Request {
    let (fate, content) = (Some(OUTPUT), Content::Private);
    Request { id, input: PROMPT, limit: OUTPUT, fate, width: 1, priority: 0, content }
}

/// One iteration at `now`; returns its end.
fn iterate(engine: &mut Engine, now: Duration) -> Duration {
    engine.start(now, Duration::MAX);
    let end = engine.next_event().expect("a sequence runs");
    engine.step(end);
    end
}

/// An engine in which `running` sequences decode and `waiting` are refused: for want of a seat, or of memory.
fn busy(running: u32, waiting: u32, by_memory: bool) -> (Engine, Duration) {
    let slots = running * (PROMPT + OUTPUT);
    let config = Config {
        max_seqs: if by_memory { 8192 } else { running },
        max_batch_tokens: 131_072,
        max_model_len: PROMPT + OUTPUT,
        ..Config::default()
    };
    let mut engine = wiring::engine(&config, slots, vec![Box::new(Clockwork::default())]);
    engine.disable_stretches();
    let mut now = Duration::ZERO;
    for id in 0..running {
        engine.add_request(request(id)).expect("it fits");
    }
    while engine.state.workers[0].running.len() < running as usize {
        now = iterate(&mut engine, now);
    }
    // So much must stay free that no request can join.
    engine.state.config.watermark = if by_memory { 1.0 } else { 0.0 };
    for id in 0..waiting {
        engine.add_request(request(running + id)).expect("it fits");
    }
    now = iterate(&mut engine, now);
    (engine, now)
}

fn iterations(c: &mut Criterion) {
    let mut group = c.benchmark_group("iteration");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    for running in [16, 128, 1024] {
        for (waiting, by_memory) in [(0, false), (100_000, false), (100_000, true)] {
            let why = if by_memory { "no memory" } else { "no seat" };
            let name = BenchmarkId::new(format!("{waiting} waiting, {why}"), running);
            group.throughput(Throughput::Elements(u64::from(running)));
            group.bench_function(name, |b| {
                b.iter_custom(|mut left| {
                    let mut spent = Duration::ZERO;
                    while left > 0 {
                        let (mut engine, mut now) = busy(running, waiting, by_memory);
                        let n = left.min(BATCH);
                        let start = Instant::now();
                        for _ in 0..n {
                            now = iterate(&mut engine, now);
                        }
                        spent += start.elapsed();
                        assert_eq!(engine.state.workers[0].running.len(), running as usize);
                        assert_eq!(engine.state.waiting.len(), waiting as usize);
                        left -= n;
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

/// The cost of predicting: a step of 256 sequences, with and without a prompt chunk, and a cost model.
fn predictions(c: &mut Criterion) {
    let model = ModelShape::load("llama-3.1-70b").expect("embedded");
    let mut group = c.benchmark_group("predict");
    for name in ["h100-sxm", "rtx-pro-6000"] {
        let device = DeviceProfile::load(name).expect("embedded");
        let cost = CostModel::new(&model, &device, 4, 1, KvDtype::Bf16, 8192);
        let mut decodes = Shape::default();
        (0..256).for_each(|i| decodes.add(500 + 13 * i, 1, true, true));
        let mut mixed = decodes;
        mixed.add(4000, 512, false, false);
        for (what, shape) in [("decodes", decodes), ("mixed", mixed)] {
            group.bench_function(BenchmarkId::new(what, name), |b| {
                b.iter(|| cost.stage_ns(black_box(&shape)));
            });
        }
        group.bench_function(BenchmarkId::new("new model", name), |b| {
            b.iter(|| CostModel::new(black_box(&model), &device, 4, 1, KvDtype::Bf16, 8192));
        });
    }
    group.finish();
}

criterion_group!(benches, iterations, predictions);
criterion_main!(benches);
