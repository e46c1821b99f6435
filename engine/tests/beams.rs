//! Beam search by fork and close over the CPU executor. Sequences may be preempted, chunked, parked, forked, copied or
//! pipelined: the answers are those of the rules over logits that are computed without any cache, one context at a
//! time; requests beside them get the answers they get alone; and memory comes back.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::conformance::knobs;
use common::{
    Variant, Watched, allocators, caught, check_memory, each_scheduler, is_legal, limit_flights,
    small,
};
use engine::beam::{BeamSearch, Search};
use engine::config::{AllocatorKind, Config, QueueOrder, Reserve, SchedulerKind};
use engine::exec::Executor;
use engine::exec::Sample;
use engine::exec::cpu::{CpuExecutor, CpuModel, Precision, Team};
use engine::model::random::RandomWeights;
use engine::request::{Content, Token, mix};
use engine::sample::{Sampler, SamplingParams};
use engine::sequence::Sequence;
use engine::{Engine, Event, Request, wiring};
use proptest::prelude::*;

const VOCAB: u32 = 64;
/// Longest prompt and output.
const LONGEST: u32 = 80;
/// The tokens that end an answer.
const ENDS: [Token; 2] = [3, 40];

/// A request as it is drawn.
#[derive(Debug, Clone)]
struct Spec {
    input: u32,
    output: u32,
    /// None: it is sampled, greedily.
    beams: Option<BeamSearch>,
    min_tokens: u32,
    gap: Duration,
    /// Iterations after which its client goes away.
    patience: Option<u32>,
}

impl Spec {
    fn prompt(&self) -> Vec<Token> {
        // Some begin like others.
        let word = |at: u32| mix(u64::from(self.input % 3), u64::from(at)) % u64::from(VOCAB);
        (0..self.input).map(|at| word(at) as Token).collect()
    }

    fn width(&self) -> u16 {
        self.beams.map_or(1, |how| how.width)
    }
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let beams = (1u16..=4, -5i32..20)
        .prop_map(|(width, p)| BeamSearch { width, length_penalty: f64::from(p) / 10.0 });
    let lengths = (1u32..=60, 1u32..=20, 0u32..6);
    let patience = prop_oneof![5 => Just(None), 1 => (0u32..30).prop_map(Some)];
    let spec = (lengths, prop::option::weighted(0.75, beams), 0u64..8000, patience);
    let spec = spec.prop_map(|((input, output, min_tokens), beams, gap, patience)| Spec {
        input,
        output,
        beams,
        min_tokens: min_tokens.min(output),
        gap: Duration::from_micros(gap),
        patience,
    });
    prop::collection::vec(spec, 1..6)
}

/// The model, and its answers to contexts so far.
struct Cpu {
    model: Arc<CpuModel>,
    team: Arc<Team>,
    known: Mutex<HashMap<Vec<Token>, Vec<f32>>>,
}

/// Keeps the logits it is shown.
struct Keep(Arc<Mutex<Vec<f32>>>);

impl Sample for Keep {
    fn sample(
        &mut self,
        _seq: &Sequence,
        _drafted: u32,
        _branch: u16,
        logits: &mut [f32],
    ) -> Token {
        *self.0.lock().unwrap() = logits.to_vec();
        0
    }
}

impl Cpu {
    fn new() -> Self {
        let config = small(VOCAB);
        let team = Arc::new(Team::new(1));
        let weights = &mut RandomWeights { config, seed: 5 };
        let model = Arc::new(CpuModel::load(&team, weights, Precision::F32).unwrap());
        Self { model, team, known: Mutex::default() }
    }

    /// The logits after `context`, all of it computed at once.
    fn logits(&self, context: &[Token]) -> Vec<f32> {
        if let Some(known) = self.known.lock().unwrap().get(context) {
            return known.clone();
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keep = || Box::new(Keep(Arc::clone(&seen))) as Box<dyn Sample>;
        let executor = CpuExecutor::workers(&self.model, &self.team, &[128], keep).remove(0);
        let config = Config { max_model_len: 128, prefix_cache: false, ..Config::default() };
        let mut engine = wiring::engine(&config, 128, vec![Box::new(executor)]);
        let content = Content::Tokens(context.into());
        let input = context.len() as u32;
        engine
            .add_request(Request {
                id: 0,
                input,
                limit: 1,
                fate: None,
                width: 1,
                priority: 0,
                content,
            })
            .unwrap();
        engine.start(Duration::ZERO, Duration::MAX);
        let logits = seen.lock().unwrap().clone();
        self.known.lock().unwrap().insert(context.to_vec(), logits.clone());
        logits
    }

    /// The tokens that may follow `context`, best first.
    fn ranked(&self, context: &[Token], may_end: bool) -> Vec<(Token, f64)> {
        let logits = self.logits(context);
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - most).exp()).sum();
        let whole = f64::from(most) + sum.ln();
        let log = |l: f32| f64::from((f64::from(l) - whole) as f32);
        let mut all: Vec<_> = (0..).zip(logits.iter().map(|&l| log(l))).collect();
        all.retain(|(token, _)| may_end || !ENDS.contains(token));
        all.sort_by(|a: &(Token, f64), b| b.1.total_cmp(&a.1));
        all
    }

    /// The answers of `spec` by the rules, to the last step.
    fn answers(&self, spec: &Spec) -> Vec<Vec<Token>> {
        let Some(how) = spec.beams else { return vec![self.greedy(spec)] };
        let (prompt, width) = (spec.prompt(), usize::from(how.width));
        let most = (2 * width).max(width + ENDS.len());
        let (mut live, mut done) = (vec![(Vec::new(), 0.0)], Vec::new());
        for at in 0..spec.output {
            let mut next = Vec::new();
            for (tokens, sum) in &live {
                let context = [prompt.as_slice(), tokens].concat();
                let offers = self.ranked(&context, at >= spec.min_tokens);
                for (token, logprob) in offers.into_iter().take(most) {
                    let grown = ([tokens.as_slice(), &[token]].concat(), sum + logprob);
                    let all = if ENDS.contains(&token) { &mut done } else { &mut next };
                    all.push(grown);
                }
            }
            next.sort_by(|a: &(Vec<Token>, f64), b| b.1.total_cmp(&a.1));
            next.truncate(width);
            live = next;
        }
        done.append(&mut live);
        let score = |(tokens, sum): &(Vec<Token>, f64)| {
            let ended = tokens.last().is_some_and(|last| ENDS.contains(last));
            let length = prompt.len() + tokens.len() - usize::from(ended);
            sum / (length as f64).powf(how.length_penalty)
        };
        done.sort_by(|a, b| score(b).total_cmp(&score(a)));
        done.truncate(width);
        done.into_iter().map(|(tokens, _)| tokens).collect()
    }

    /// The likeliest tokens, ends or not.
    fn greedy(&self, spec: &Spec) -> Vec<Token> {
        let mut context = spec.prompt();
        for _ in 0..spec.output {
            let best = self.ranked(&context, true)[0].0;
            context.push(best);
        }
        context.split_off(spec.input as usize)
    }
}

/// A run of requests under some policy.
struct Play<'a> {
    specs: &'a [Spec],
    engine: Engine,
    sampler: Sampler,
    searches: HashMap<u32, Search>,
    answers: HashMap<u32, Vec<Vec<Token>>>,
    /// Iterations since each came.
    ages: HashMap<u32, u32>,
    preempted: u32,
}

impl<'a> Play<'a> {
    fn new(cpu: &Cpu, config: &Config, slots: u32, specs: &'a [Spec]) -> Self {
        let sampler = Sampler::default();
        let sample = || Box::new(sampler.clone()) as Box<dyn Sample>;
        let executors = CpuExecutor::workers(&cpu.model, &cpu.team, &[slots], sample);
        let watch = |e| Box::new(Watched::new(e, config.pp)) as Box<dyn Executor>;
        let engine = wiring::engine(config, slots, executors.into_iter().map(watch).collect());
        let (searches, answers, ages) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { specs, engine, sampler, searches, answers, ages, preempted: 0 }
    }

    fn submit(&mut self, id: u32) {
        let spec = &self.specs[id as usize];
        let content = Content::Tokens(spec.prompt().into());
        let (input, limit, width) = (spec.input, spec.output, spec.width());
        let request = Request { id, input, limit, fate: None, width, priority: 0, content };
        let mut params = SamplingParams::default();
        if let Some(how) = spec.beams {
            let search = Search::new(how, input, limit, Arc::new(ENDS), None);
            params.offers = Some(search.offers());
            (params.forbidden, params.min_tokens) = (Arc::new(ENDS), spec.min_tokens);
            self.searches.insert(id, search);
            self.engine.add_together(request).unwrap();
        } else {
            self.engine.add_request(request).unwrap();
        }
        self.sampler.insert(id, params);
        self.ages.insert(id, 0);
    }

    /// The client's work when an iteration is over.
    fn look(&mut self, now: Duration) {
        let iteration = self.engine.last_iteration();
        assert!(iteration.branches.is_empty(), "beams are not told of one by one");
        let said: Vec<_> =
            iteration.emitted.iter().copied().zip(iteration.tokens.clone()).collect();
        let gave_way = |e: &&Event| matches!(e, Event::Preempted { .. });
        self.preempted += iteration.events.iter().filter(gave_way).count() as u32;
        let settled = iteration.settled.clone();
        for (id, token) in said {
            assert!(self.specs[id as usize].beams.is_none());
            self.answers.entry(id).or_insert_with(|| vec![Vec::new()])[0].push(token);
        }
        for id in settled {
            let Some(search) = self.searches.get_mut(&id) else { continue };
            let next = search.advance(|branch| self.sampler.take_offers(id, branch));
            if next.is_empty() {
                self.engine.end(id, None, now);
                let answers = self.searches.remove(&id).unwrap().answers();
                self.answers.insert(id, answers.into_iter().map(|beam| beam.tokens).collect());
            } else {
                self.engine.choose(id, &next, now);
            }
        }
        for (&id, age) in &mut self.ages {
            *age += 1;
            if self.specs[id as usize].patience == Some(*age) {
                self.engine.end(id, None, now);
                self.searches.remove(&id);
                self.answers.remove(&id);
            }
        }
    }

    fn run(&mut self) {
        let (mut next, mut now, mut due, mut steps) = (0, Duration::ZERO, Duration::ZERO, 0);
        loop {
            let arrival = self.specs.get(next).map(|s| due + s.gap);
            self.engine.start(now, arrival.unwrap_or(Duration::MAX));
            check_memory(&self.engine.state);
            match (self.engine.next_event(), arrival) {
                (None, None) => break,
                (Some(at), arrival) if arrival.is_none_or(|a| at < a) => {
                    now = at;
                    if self.engine.step(now).is_some() {
                        self.look(now);
                    }
                    check_memory(&self.engine.state);
                }
                (_, arrival) => {
                    (now, due) = (arrival.unwrap(), arrival.unwrap());
                    self.submit(next as u32);
                    next += 1;
                }
            }
            steps += 1;
            assert!(steps < 20_000, "everything that fits ends");
        }
    }
}

fn conforms(
    cpu: &Cpu,
    config: &Config,
    slots: u32,
    specs: &[Spec],
    expected: &[Vec<Vec<Token>>],
) -> u32 {
    let mut play = Play::new(cpu, config, slots, specs);
    play.run();
    assert!(play.engine.state.is_empty(), "none is left behind");
    let usage = play.engine.state.workers[0].kv.usage();
    assert_eq!(usage.taken, 0, "all memory came back: {usage:?}");
    for (id, (spec, expected)) in (0u32..).zip(specs.iter().zip(expected)) {
        match play.answers.get(&id) {
            Some(answers) => assert!(
                spec.patience.is_some() && spec.beams.is_none() || answers == expected,
                "request {id}: {answers:?} instead of {expected:?}"
            ),
            None => assert!(spec.patience.is_some(), "request {id} is answered"),
        }
    }
    play.preempted
}

/// All allocators under `scheduler`; gives way at least `least` times.
fn run(scheduler: &Variant, least: u32) {
    let (cpu, preempted) = (Cpu::new(), std::cell::Cell::new(0));
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let slots = prop_oneof![128u32..=140, 128u32..400];
    let body = |((drawn, _), slots, specs): ((Config, u32), u32, Vec<Spec>)| {
        let expected: Vec<_> = specs.iter().map(|spec| cpu.answers(spec)).collect();
        for allocator in allocators() {
            let mut config = drawn.clone();
            scheduler.apply(&mut config);
            allocator.apply(&mut config);
            config.max_seqs = config.max_seqs.max(4);
            config.max_batch_tokens = config.max_batch_tokens.max(4);
            config.max_model_len = LONGEST;
            limit_flights(&mut config);
            if !is_legal(&config) {
                continue;
            }
            let case = format!("{scheduler}, {allocator}");
            let work = || conforms(&cpu, &config, slots, &specs, &expected);
            preempted.set(preempted.get() + caught(&case, work)?);
        }
        Ok(())
    };
    if let Err(error) = runner.run(&(knobs(), slots, specs()), body) {
        panic!("{error}");
    }
    assert!(preempted.get() >= least, "{scheduler}: memory was tight: {}", preempted.get());
}

#[test]
fn every_scheduler_and_allocator() {
    each_scheduler(|scheduler| {
        // Disaggregated workers refuse requests of several branches.
        if !scheduler.scheduler().traits().disaggregates {
            run(scheduler, 8);
        }
    });
}

/// A static batch whose other member has ended, while the branches that go on are parked and the last that runs is given
/// up: the batch is over.
#[test]
fn a_batch_ends_with_a_branch_that_is_given_up() {
    let cpu = Cpu::new();
    let spec = |input, output, width: Option<u16>, gap| Spec {
        input,
        output,
        beams: width.map(|width| BeamSearch { width, length_penalty: 0.0 }),
        min_tokens: 0,
        gap: Duration::from_micros(gap),
        patience: None,
    };
    let specs = [spec(27, 3, Some(3), 0), spec(25, 5, None, 2534), spec(1, 1, None, 4467)];
    let config = Config {
        queue: QueueOrder::ShortestPrefill,
        watermark: 0.0,
        max_seqs: 4,
        max_batch_tokens: 4,
        max_model_len: LONGEST,
        scheduler: SchedulerKind::Static,
        padding: false,
        max_wait: Duration::from_millis(7),
        allocator: AllocatorKind::Contiguous,
        reserve: Reserve::Pow2,
        prefix_cache: false,
        ..Config::default()
    };
    let expected: Vec<_> = specs.iter().map(|spec| cpu.answers(spec)).collect();
    assert!(conforms(&cpu, &config, 128, &specs, &expected) > 0, "memory was tight");
}

/// Beams share what they have in common: ten of them, on a prompt of five blocks, take little more memory than one.
#[test]
fn beams_share_their_memory() {
    let (cpu, beams) = (Cpu::new(), BeamSearch { width: 10, length_penalty: 1.0 });
    let (gap, patience) = (Duration::ZERO, None);
    let spec = Spec { input: 40, output: 8, beams: Some(beams), min_tokens: 8, gap, patience };
    let config = Config {
        block_size: 8,
        max_seqs: 10,
        max_model_len: LONGEST,
        prefix_cache: false,
        ..Config::default()
    };
    let specs = [spec];
    let mut play = Play::new(&cpu, &config, 800, &specs);
    play.submit(0);
    let (mut now, mut most) = (Duration::ZERO, 0);
    loop {
        play.engine.start(now, Duration::MAX);
        let Some(next) = play.engine.next_event() else { break };
        now = next;
        most = most.max(play.engine.state.workers[0].kv.usage().taken);
        play.engine.step(now);
        play.look(now);
    }
    assert_eq!(play.answers[&0], cpu.answers(&specs[0]));
    assert_eq!(most, 40 + 10 * 8, "the prompt once, and a block for each beam");
}

#[test]
fn disaggregated_workers_refuse_beams() {
    let cpu = Cpu::new();
    let (scheduler, max_model_len) = (SchedulerKind::Disagg, LONGEST);
    let config = Config { scheduler, max_model_len, ..Config::default() };
    let executors =
        CpuExecutor::workers(&cpu.model, &cpu.team, &[128, 128], || Box::new(common::Nth));
    let executors = executors.into_iter().map(|e| Box::new(e) as Box<dyn Executor>).collect();
    let mut engine = wiring::engine(&config, 128, executors);
    let content = Content::Tokens([1, 2, 3].into());
    let request = Request { id: 0, input: 3, limit: 4, fate: None, width: 1, priority: 0, content };
    assert!(engine.add_together(request.clone()).is_err());
    assert!(engine.add_request(request).is_ok());
}
