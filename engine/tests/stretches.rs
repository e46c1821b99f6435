//! Many identical iterations advanced at once are the same run to the bit: iterations, events, ledger, totals.

mod common;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use common::{
    Clockwork, Variant, Watched, allocators, check_memory, each_scheduler, is_legal, limit_flights,
};
use engine::config::{AllocatorKind, Config, QueueOrder, RouterKind, Victim};
use engine::deployment::Deployment;
use engine::engine::Totals;
use engine::exec::{Executor, SimExecutor};
use engine::kv::{Group, Reach};
use engine::request::{BlockIds, Content, mix};
use engine::router::Router;
use engine::{DeviceProfile, ModelShape};
use engine::{Event, Fleet, Iteration, Next, Request, Shape, wiring};
use proptest::prelude::*;

/// A request as it is drawn.
#[derive(Debug, Clone)]
struct Spec {
    /// The index of one of a few texts that it begins with, and its length in trace blocks; none = private.
    text: Option<(u8, u32)>,
    input: u32,
    output: u32,
    /// Entries that run on into the output.
    further: u32,
    width: u16,
    priority: i32,
    gap: Duration,
    /// In closed-loop load, the pause between its end and the request that follows.
    think: Option<Duration>,
}

/// Tokens per entry of the drawn trace.
const TRACE_BLOCK: u32 = 24;

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let text = prop::option::of((0u8..3, 0u32..8));
    let lengths = (1u32..200, prop_oneof![0u32..5, 0u32..120], 0u32..3);
    let width = prop_oneof![6 => Just(1u16), 1 => 2u16..=3];
    // A few milliseconds are an iteration or two.
    let gap = prop_oneof![Just(0u64), 0u64..20_000_000, 0u64..1_000_000_000];
    let think = prop::option::of(0u64..50_000_000);
    let spec = (text, lengths, width, -2i32..3, gap, think).prop_map(
        |(text, (input, output, further), width, priority, gap, think)| Spec {
            text,
            input,
            output,
            further,
            width,
            priority,
            gap: Duration::from_nanos(gap),
            think: think.map(Duration::from_nanos),
        },
    );
    prop::collection::vec(spec, 1..40)
}

/// Requests over one table of identities.
fn requests(specs: &[Spec]) -> Vec<Request> {
    let mut table = Vec::new();
    let mut spans = Vec::new();
    for (id, spec) in (0u64..).zip(specs) {
        let start = table.len() as u32;
        if let Some((text, shared)) = spec.text {
            let len = spec.input.div_ceil(TRACE_BLOCK) + spec.further;
            let own = |at| if at < shared { u64::from(text) } else { 1000 + id };
            table.extend((0..len).map(|at| mix(own(at), u64::from(at))));
        }
        spans.push((start, table.len() as u32 - start));
    }
    let table: Arc<[u64]> = table.into();
    let ids = |(start, len)| BlockIds {
        table: Arc::clone(&table),
        start,
        len,
        block_tokens: TRACE_BLOCK,
    };
    let request = |((id, spec), span): ((u32, &Spec), (u32, u32))| Request {
        id,
        input: spec.input,
        limit: spec.output,
        fate: Some(spec.output),
        width: spec.width,
        priority: spec.priority,
        content: if span.1 == 0 { Content::Private } else { Content::Blocks(ids(span)) },
    };
    (0u32..).zip(specs).zip(spans).map(request).collect()
}

/// The way in which requests come and iterations go.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Some requests follow the end of those before them.
    loops: bool,
    /// Everything happens on the ticks of one clock, so that much happens at once; otherwise as the cost model says.
    ticks: bool,
}

impl Load {
    /// `t`, on a tick where there are ticks.
    fn time(self, t: Duration) -> Duration {
        if self.ticks { common::STEP * (t.as_millis() as u32 / 4) } else { t }
    }
}

/// One step of one worker.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    worker: usize,
    start: Duration,
    end: Duration,
    emitted: Vec<u32>,
    branch_tokens: u32,
    shape: Shape,
    events: Vec<Event>,
}

/// A run, step by step.
#[derive(Debug, PartialEq)]
struct Run {
    /// By replica and worker.
    steps: Vec<Vec<Vec<Step>>>,
    ledgers: Vec<[u128; 6]>,
    totals: Vec<Totals>,
    refused: Vec<u32>,
}

fn flatten(it: &Iteration, into: &mut Vec<Step>) -> usize {
    let (mut start, mut shape) = (it.start, it.shape);
    let steps = it.ends.len();
    assert_eq!(it.branch_tokens as usize % steps, 0);
    for (i, &end) in it.ends.iter().enumerate() {
        // Arrivals and preemptions are known when a step is planned, ends at the last step.
        let of_step = |event: &&Event| match event {
            Event::Finished { .. } => i + 1 == steps,
            Event::Admitted { .. } | Event::Preempted { .. } => i == 0,
        };
        let events = it.events.iter().filter(of_step).copied().collect();
        into.push(Step {
            worker: it.worker,
            start,
            end,
            emitted: it.emitted.clone(),
            branch_tokens: it.branch_tokens / steps as u32,
            shape,
            events,
        });
        start = end;
        shape.copied_tokens = 0;
        shape.next_decode();
    }
    steps
}

/// Plays `specs` through. Returns the longest stretch too.
fn play(deployment: &Deployment, specs: &[Spec], load: Load, stretches: bool) -> (Run, usize) {
    let (c, loops) = (&deployment.config, load.loops);
    let executor = || -> Box<dyn Executor> {
        if load.ticks {
            return Box::new(Watched::new(Clockwork::default(), c.pp));
        }
        Box::new(SimExecutor::new(Arc::clone(&deployment.cost), c.pp))
    };
    let replica = |_| {
        let executors = (0..c.workers()).map(|_| executor()).collect();
        let groups = &deployment.layout.groups;
        let mut engine = wiring::grouped(c, deployment.kv_slots, groups, executors);
        if !stretches {
            engine.disable_stretches();
        }
        engine
    };
    let mut fleet = if c.dp > 1 {
        let mut fleet = wiring::simulated(deployment, loops);
        if !stretches {
            fleet.disable_stretches();
        }
        fleet
    } else {
        let replicas: Vec<_> = (0..c.replicas).map(replica).collect();
        Fleet::new(replicas, Router::new(c.router), loops)
    };
    let requests = requests(specs);
    let mut steps = vec![vec![Vec::new(); c.workers() as usize]; c.engines() as usize];
    let (mut refused, mut longest) = (Vec::new(), 0);
    let mut follows = (0..specs.len()).map(|i| i > 0 && loops && specs[i - 1].think.is_some());
    let mut due = BinaryHeap::new();
    let mut at = Duration::ZERO;
    for (id, spec) in specs.iter().enumerate() {
        at += load.time(spec.gap);
        if follows.next() == Some(false) {
            due.push(Reverse((at, id)));
        }
    }
    let follow = |id: usize, at: Duration, due: &mut BinaryHeap<_>| {
        if let Some(think) = specs[id].think.filter(|_| loops && id + 1 < specs.len()) {
            due.push(Reverse((at + load.time(think), id + 1)));
        }
    };
    loop {
        let arrival = due.peek().map(|&Reverse((at, _))| at);
        match fleet.advance(arrival) {
            Next::Idle | Next::Broken => break,
            Next::Arrival => {
                let Some(Reverse((at, id))) = due.pop() else { unreachable!("one was announced") };
                if fleet.add_request(requests[id].clone(), at).is_err() {
                    refused.push(id as u32);
                    follow(id, at, &mut due);
                }
            }
            Next::Iteration(i) => {
                let it = fleet.iteration(i);
                longest = longest.max(flatten(it, &mut steps[i][it.worker]));
                let end = it.ends[it.ends.len() - 1];
                for event in &it.events {
                    if let Event::Finished { request } = *event {
                        follow(request as usize, end, &mut due);
                    }
                }
                check_memory(&fleet.replicas()[i].state);
            }
        }
    }
    assert!(fleet.replicas().iter().all(|e| e.state.is_empty()), "none is left behind");
    let ledgers = fleet.replicas().iter().flat_map(|e| e.ledgers().map(|l| l.sums()));
    let totals = fleet.replicas().iter().map(engine::Engine::totals);
    (Run { ledgers: ledgers.collect(), totals: totals.collect(), steps, refused }, longest)
}

fn knobs() -> impl Strategy<Value = (Config, u32)> {
    let queue = prop::sample::select(&QueueOrder::ALL);
    let victim = prop::sample::select(&Victim::ALL);
    let router = prop::sample::select(&RouterKind::ALL);
    let sizes = (1u32..=12, 0u32..300, 200u32..=400, prop_oneof![0u32..200, 0u32..3000]);
    let watermark = prop_oneof![Just(0.0), 0.0..0.3];
    (queue, victim, router, sizes, 1u32..=3, 1u32..=2, watermark, any::<bool>()).prop_map(
        |(queue, victim, router, (seqs, budget, longest, more), replicas, pp, watermark, ahead)| {
            let config = Config {
                async_scheduling: ahead,
                queue,
                victim,
                router,
                replicas,
                pp,
                watermark,
                max_seqs: seqs,
                max_batch_tokens: seqs + budget,
                max_model_len: longest,
                ..Config::default()
            };
            (config, longest + more)
        },
    )
}

/// Layers that are kept alike, and others: windows within a block and over several, pages of different lengths, states.
fn layouts() -> Vec<Vec<Group>> {
    let all = Group::all(16);
    let window = |window, block| Group { reach: Reach::Window(window), block };
    let state = Group { reach: Reach::State, block: 16 };
    vec![
        vec![all],
        vec![all, window(20, 16)],
        vec![window(37, 4)],
        vec![Group::all(8), window(33, 8), window(1, 16), window(90, 24)],
        vec![all, state, window(16, 16), state],
    ]
}

fn deployed(config: &Config, slots: u32, layout: usize) -> Deployment {
    let name = if config.dp > 1 { "openai/gpt-oss-20b" } else { "llama-3.1-8b" };
    let model = Arc::new(ModelShape::load(name).unwrap());
    let device = Arc::new(DeviceProfile::load("h100-sxm").unwrap());
    let longest = config.max_model_len;
    let mut deployment = Deployment::new(config.canonical(), model, device, longest).unwrap();
    deployment.kv_slots = slots;
    if config.allocator == AllocatorKind::Paged && !config.scheduler.traits().disaggregates {
        deployment.layout.groups = layouts()[layout].clone();
        deployment.kv_slots *= deployment.layout.groups.len() as u32;
    }
    deployment
}

fn same(scheduler: &Variant) {
    let longest = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    type Drawn = ((Config, u32), Vec<Spec>, bool, bool, usize);
    let body = |((config, slots), specs, loops, ticks, layout): Drawn| {
        let load = Load { loops, ticks };
        for allocator in allocators() {
            let mut config = config.clone();
            scheduler.apply(&mut config);
            allocator.apply(&mut config);
            limit_flights(&mut config);
            config.async_scheduling &= config.pp == 1;
            if !is_legal(&config) {
                continue;
            }
            let deployment = deployed(&config, slots, layout);
            let (plain, single) = play(&deployment, &specs, load, false);
            prop_assert!(single <= 1);
            let (stretched, steps) = play(&deployment, &specs, load, true);
            longest.set(longest.get().max(steps));
            prop_assert_eq!(&plain.refused, &stretched.refused);
            for (p, s) in plain.steps.iter().flatten().zip(stretched.steps.iter().flatten()) {
                for (p, s) in p.iter().zip(s) {
                    prop_assert_eq!(p, s, "{} x {}", scheduler, allocator);
                }
                prop_assert_eq!(p.len(), s.len(), "{} x {}", scheduler, allocator);
            }
            prop_assert_eq!(&plain.ledgers, &stretched.ledgers, "{} x {}", scheduler, allocator);
            prop_assert_eq!(&plain.totals, &stretched.totals, "{} x {}", scheduler, allocator);
        }
        Ok(())
    };
    let drawn = (knobs(), specs(), any::<bool>(), any::<bool>(), 0..layouts().len());
    if let Err(error) = runner.run(&drawn, body) {
        panic!("{error}");
    }
    assert!(longest.get() > 20, "stretches were made: {}", longest.get());
}

/// Ranks of a replica begin and end their steps together, and no step is shorter than what a rank and its experts take.
fn meet(deployment: &Deployment, run: &Run) -> Result<(), TestCaseError> {
    let cost = &deployment.cost;
    for ranks in run.steps.chunks(deployment.config.dp as usize) {
        let mut steps: Vec<&Step> = ranks.iter().flatten().flatten().collect();
        steps.sort_by_key(|step| step.start);
        let mut steps = steps.iter().peekable();
        while let Some(step) = steps.next() {
            let own = cost.stage_ns(&step.shape) + cost.shared_ns(u64::from(step.shape.tokens()));
            prop_assert!((step.end - step.start).as_nanos() >= u128::from(own), "{step:?}");
            if let Some(next) = steps.peek() {
                let together = (next.start, next.end) == (step.start, step.end);
                prop_assert!(together || next.start >= step.end, "{step:?} {next:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn ranks_of_attention_meet_however_steps_are_grouped() {
    let longest = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let body = |((mut config, slots), specs, loops, dp): ((Config, u32), Vec<Spec>, bool, u32)| {
        let load = Load { loops, ticks: false };
        (config.dp, config.pp) = (dp, 1);
        config.replicas = config.replicas.min(2);
        let deployment = deployed(&config, slots, 1);
        let (plain, _) = play(&deployment, &specs, load, false);
        let (stretched, steps) = play(&deployment, &specs, load, true);
        longest.set(longest.get().max(steps));
        prop_assert_eq!(&plain, &stretched);
        meet(&deployment, &plain)?;
        let tokens = |run: &Run| -> usize {
            run.steps.iter().flatten().flatten().map(|step| step.emitted.len()).sum()
        };
        let asked = specs.iter().zip(0u32..).filter(|(_, id)| !plain.refused.contains(id));
        let asked: u32 = asked.map(|(spec, _)| spec.output).sum();
        prop_assert!(loops || tokens(&plain) as u32 == asked, "every token comes out once");
        Ok(())
    };
    if let Err(error) = runner.run(&(knobs(), specs(), any::<bool>(), 2u32..=4), body) {
        panic!("{error}");
    }
    assert!(longest.get() > 20, "stretches were made: {}", longest.get());
}

#[test]
fn stretches_change_nothing() {
    each_scheduler(same);
}
