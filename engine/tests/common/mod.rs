//! Parts that the integration tests share: every scheduler and allocator by name, and executors that watch.
#![allow(dead_code, reason = "each test crate uses its own part")]

pub(crate) mod conformance;
pub(crate) mod cuda;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use engine::config::{AllocatorKind, Config, Domain, Knob, PromptKv, Reserve, SchedulerKind};
use engine::exec::Sample;
use engine::exec::{Batch, Executor, Horizon, Outcome, Ticket, Transfer};
use engine::fault::Fault;
use engine::kv::waste::Classes;
use engine::model::llama::LlamaConfig;
use engine::plan::{Chunk, Plan};
use engine::request::{Content, Token};
use engine::sequence::Sequence;
use engine::state::State;
use engine::{Request, wiring};
use proptest::test_runner::TestCaseError;

/// The result of `work`; a panic of it becomes a failure of `case`.
pub(crate) fn caught<T>(case: &str, work: impl FnOnce() -> T) -> Result<T, TestCaseError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|broken| {
        let said = broken.downcast_ref::<String>().cloned();
        let said = said.or(broken.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        TestCaseError::fail(format!("{case}: {}", said.unwrap_or_default()))
    })
}

/// The answer of `executor` to a prompt when nothing else is there, by branch.
pub(crate) fn said(
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
    engine.add_request(request).unwrap();
    let mut said = vec![Vec::new(); width as usize];
    let mut now = Duration::ZERO;
    loop {
        engine.start(now, Duration::MAX);
        engine.wait(now, Duration::MAX);
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

/// A model that two ranks or two stages can share, quick to compute.
pub(crate) fn small(vocab: u32) -> LlamaConfig {
    LlamaConfig {
        name: "small".to_owned(),
        layers: 2,
        hidden: 32,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        ffn: 48,
        vocab,
        ..LlamaConfig::tiny()
    }
}

/// Branch `b` says the token that is `b`-th likeliest, so that branches differ; logits are fetched for that.
pub(crate) struct Nth;

impl Sample for Nth {
    fn sample(&mut self, _seq: &Sequence, _drafted: u32, branch: u16, logits: &mut [f32]) -> Token {
        let mut best = 0;
        for _ in 0..=branch {
            best = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
            logits[best] = f32::NEG_INFINITY;
        }
        best as Token
    }
}

/// One scheduler or one allocator, with options: knobs and their values.
#[derive(Clone)]
pub(crate) struct Variant(Vec<(&'static str, &'static str)>);

impl Variant {
    /// Sets its knobs.
    pub(crate) fn apply(&self, config: &mut Config) {
        for (knob, value) in &self.0 {
            config.set(knob, value).unwrap();
        }
    }

    /// The scheduler, where it is one of [`schedulers`].
    pub(crate) fn scheduler(&self) -> SchedulerKind {
        let mut config = Config::default();
        self.apply(&mut config);
        config.scheduler
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let knobs: Vec<_> = self.0.iter().map(|(knob, value)| format!("{knob} {value}")).collect();
        f.write_str(&knobs.join(", "))
    }
}

type Options = &'static [(&'static str, &'static str)];

/// Options of schedulers; each is for those that read all of its knobs.
const SCHEDULING: &[Options] = &[
    &[],
    &[("padding", "off"), ("max-wait", "7ms")],
    &[("mix", "on")],
    &[("long-prefill-threshold", "9")],
    &[("prefill-workers", "2")],
    &[("decode-workers", "2")],
];

/// Options of allocators; each is for those that read all of its knobs.
const ALLOCATING: &[Options] = &[
    &[("reserve", "max")],
    &[("reserve", "pow2")],
    &[("reserve", "oracle")],
    &[("reserve", "doubling")],
    &[("block-size", "1")],
    &[("block-size", "16")],
    &[("block-size", "4"), ("prefix-cache", "on")],
    &[("block-size", "16"), ("prefix-cache", "on")],
    &[("block-size", "4"), ("prompt-kv", "chunk")],
    &[("block-size", "4"), ("prefix-cache", "on"), ("prompt-kv", "chunk")],
];

/// Every value of `knob` with every one of `options` that does something there.
fn variants(knob: &'static str, options: &[Options]) -> Vec<Variant> {
    let row = Knob::named(knob).unwrap();
    let Domain::Choice(values) = row.domain else { unreachable!("{knob} is a choice") };
    let mut variants = Vec::new();
    for value in values {
        let mut config = Config::default();
        config.set(knob, value).unwrap();
        let applies = |&(name, _): &(&str, &str)| Knob::named(name).unwrap().applies(&config);
        for options in options.iter().filter(|options| options.iter().all(applies)) {
            variants.push(Variant([&[(knob, *value)], *options].concat()));
        }
    }
    variants
}

/// Every scheduler, with the options that change its choice of sequences.
pub(crate) fn schedulers() -> Vec<Variant> {
    variants("scheduler", SCHEDULING)
}

/// Every allocator, with the options that change its layout. Prefixes are shared only where an option asks for it.
pub(crate) fn allocators() -> Vec<Variant> {
    let mut variants = variants("allocator", ALLOCATING);
    variants.iter_mut().for_each(|variant| variant.0.insert(0, ("prefix-cache", "off")));
    variants
}

/// Tries each of [`schedulers`], all at once.
pub(crate) fn each_scheduler(test: impl Fn(&Variant) + Sync) {
    std::thread::scope(|scope| {
        for scheduler in schedulers() {
            let test = &test;
            let name = scheduler.to_string();
            let thread = std::thread::Builder::new().name(name);
            thread.spawn_scoped(scope, move || test(&scheduler)).unwrap();
        }
    });
}

/// Leaves out what a deployment of the same scheduler would refuse: several iterations in flight.
pub(crate) fn limit_flights(c: &mut Config) {
    if c.scheduler.traits().one_in_flight.is_some() {
        (c.pp, c.async_scheduling) = (1, false);
    }
}

/// True where the knobs of `c` go together (what a deployment would refuse is left out).
pub(crate) fn is_legal(c: &Config) -> bool {
    let traits = c.scheduler.traits();
    (c.prompt_kv == PromptKv::Whole || traits.chunks_prompts)
        && (c.pp == 1 || traits.one_in_flight.is_none())
}

/// An executor that checks every plan it is given, and spreads it over pipeline stages.
pub(crate) struct Watched<E> {
    inner: E,
    stages: u32,
    flights: VecDeque<Option<Duration>>,
    /// When the plan submitted last ends: stages keep the order, however long a plan takes.
    last: Duration,
}

impl<E: Executor> Watched<E> {
    /// Watches `inner`; with more than one stage, a plan ends so many times later than the next may begin.
    pub(crate) fn new(inner: E, stages: u32) -> Self {
        Self { inner, stages, flights: VecDeque::new(), last: Duration::ZERO }
    }
}

impl<E: Executor> Executor for Watched<E> {
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, horizon: Horizon) -> Ticket {
        check_plan(batch.state, batch.plan, batch.worker);
        let ticket = self.inner.submit(batch, now, horizon);
        let late = (self.stages > 1).then(|| {
            let late = ticket.next + (ticket.next - now) * (self.stages - 1);
            self.last = self.last.max(late);
            self.last
        });
        self.flights.push_back(late);
        Ticket { next: ticket.next, done: late.or(ticket.done) }
    }

    fn wait(&mut self, state: &State, now: Duration, until: Duration) -> Option<Duration> {
        self.inner.wait(state, now, until)
    }

    fn fault(&self) -> Option<&Fault> {
        self.inner.fault()
    }

    fn last_begins(&self) -> Option<Duration> {
        self.inner.last_begins()
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        self.inner.complete(outcome);
        if let Some(Some(late)) = self.flights.pop_front() {
            outcome.ends = vec![late];
        }
    }

    fn steps_before(&self, at: Duration) -> u32 {
        self.inner.steps_before(at)
    }

    fn transfer(&mut self, transfer: &Transfer<'_>, now: Duration) -> Duration {
        self.inner.transfer(transfer, now)
    }
}

/// The time for which an iteration of [`Clockwork`] takes.
pub(crate) const STEP: Duration = Duration::from_millis(1);

/// Every iteration, and every transfer, takes the same time; repeats whatever may be repeated.
#[derive(Default)]
pub(crate) struct Clockwork {
    flights: VecDeque<Vec<Duration>>,
}

impl Executor for Clockwork {
    fn submit(&mut self, _: &Batch<'_>, now: Duration, horizon: Horizon) -> Ticket {
        let mut ends = vec![now + STEP];
        let mut at = now + STEP;
        let mut ahead = horizon.ahead;
        while ends.len() < horizon.steps as usize
            && (at < horizon.until || std::mem::take(&mut ahead))
        {
            at += STEP;
            ends.push(at);
        }
        self.flights.push_back(ends);
        Ticket { next: at, done: Some(at) }
    }

    fn last_begins(&self) -> Option<Duration> {
        self.flights.front()?.iter().nth_back(1).copied()
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        outcome.ends = self.flights.pop_front().expect("a batch was submitted");
    }

    fn steps_before(&self, at: Duration) -> u32 {
        self.flights.front().map_or(0, |ends| ends.partition_point(|&end| end < at) as u32)
    }

    fn transfer(&mut self, _: &Transfer<'_>, now: Duration) -> Duration {
        now + STEP
    }
}

/// The laws of one plan and of the state it was made from.
fn check_plan(state: &State, plan: &Plan, worker: usize) {
    let mut seen = HashSet::new();
    let mut decodes = true;
    for chunk in &plan.chunks {
        let seq = state.seq(chunk.seq);
        assert!(seen.insert(chunk.seq), "a sequence is at most once in a plan");
        assert!(chunk.n > 0 && seq.computed + chunk.n <= seq.len + seq.drafted, "n <= todo");
        assert_eq!(seq.in_flight, chunk.n, "in flight in this plan and in no other");
        assert!(seq.computed + chunk.n <= seq.slots, "there are slots for all of it");
        decodes &= seq.decodes();
    }
    assert_eq!(plan.tokens, plan.chunks.iter().map(|c| c.n).sum::<u32>());
    let c = &state.config;
    let traits = c.scheduler.traits();
    let decode_worker = traits.disaggregates && worker >= c.prefill_workers as usize;
    let pieces = traits.chunks_prompts;
    let budgeted = if pieces { !decode_worker } else { !decodes };
    // Mixed iterations are bounded in their prompts.
    let bounded = |k: &&Chunk| !(c.mix && state.seq(k.seq).decodes());
    let tokens: u32 = plan.chunks.iter().filter(bounded).map(|k| k.n).sum();
    let alone = !pieces && plan.chunks.iter().filter(bounded).count() == 1;
    let whole = |k: &Chunk| state.seq(k.seq).samples_after(state.seq(k.seq).computed + k.n);
    assert!(pieces || plan.chunks.iter().all(whole), "whole prompts");
    assert!(!budgeted || alone || tokens <= c.max_batch_tokens, "within the token budget");
    check_memory(state);
}

/// Slots are conserved and classed, references counted, on every worker.
pub(crate) fn check_memory(state: &State) {
    state.check();
    for worker in 0..state.workers.len() {
        let holding = state.holding(worker);
        let classes = Classes::from(holding);
        let sum: u64 = classes.to_array().iter().sum();
        assert_eq!(sum, u64::from(holding.usage.capacity), "classes sum to capacity: {classes:?}");
    }
}
