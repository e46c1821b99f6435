//! One body for every scheduler, allocator and model. Sequences may be preempted, chunked, shared, forked, moved or
//! pipelined: the tokens are those of a request that is alone, and the laws hold after every step.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use engine::config::{AllocatorKind, Config, QueueOrder, Reserve, Speculation, Victim};
use engine::engine::Totals;
use engine::exec::Executor;
use engine::request::{Content, Token, mix};
use engine::sequence::{Draft, Sequence};
use engine::speculation::Drafter;
use engine::state::Rejected;
use engine::{Engine, Event, Iteration, Request, wiring};
use proptest::prelude::*;

use super::{Variant, Watched, allocators, caught, check_memory, is_legal, limit_flights};

/// Something that turns contexts into tokens.
pub(crate) trait Model {
    /// The executor.
    type Worker: Executor + 'static;

    /// Tokens it knows.
    fn vocab(&self) -> u64;

    /// True where it has real pipeline stages, so that none need be made up.
    fn has_stages(&self) -> bool {
        false
    }

    /// Workers with these slots of KV each.
    fn workers(&self, pools: &[u32]) -> Vec<Self::Worker>;

    /// Its answer to `prompt` when nothing else is there, by branch.
    fn alone(&self, prompt: Vec<Token>, output: u32, width: u16) -> Vec<Vec<Token>>;
}

/// A request as it is drawn.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// The index of one of a few texts that its prompt begins with, and the length of that beginning; then so many
    /// tokens of its own.
    pub(crate) text: u8,
    pub(crate) shared: u32,
    pub(crate) own: u32,
    pub(crate) output: u32,
    /// True where the engine knows when it ends.
    pub(crate) fated: bool,
    pub(crate) width: u16,
    pub(crate) priority: i32,
    pub(crate) gap: Duration,
}

impl Spec {
    fn prompt(&self, id: u32, vocab: u64) -> Vec<Token> {
        let word = |source: u64, at: u32| (mix(source, u64::from(at)) % vocab) as Token;
        let shared = (0..self.shared).map(|at| word(u64::from(self.text), at));
        let own = (0..self.own).map(|at| word(u64::from(id) + 100, at));
        let mut tokens: Vec<Token> = shared.chain(own).collect();
        if tokens.is_empty() {
            tokens.push(7);
        }
        tokens
    }

    fn request(&self, id: u32, vocab: u64) -> Request {
        let prompt = self.prompt(id, vocab);
        Request {
            id,
            input: prompt.len() as u32,
            limit: self.output,
            fate: self.fated.then_some(self.output),
            width: self.width,
            priority: self.priority,
            content: Content::Tokens(prompt.into()),
        }
    }
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let lengths = (0u8..3, 0u32..150, 0u32..50, prop_oneof![0u32..6, 0u32..100]);
    let width = prop_oneof![4 => Just(1u16), 1 => 2u16..=4];
    let gap = prop_oneof![Just(0u64), 0u64..30_000];
    let spec = (lengths, any::<bool>(), width, -2i32..3, gap).prop_map(
        |((text, shared, own, output), fated, width, priority, gap)| {
            let gap = Duration::from_micros(gap);
            Spec { text, shared, own, output, fated, width, priority, gap }
        },
    );
    prop::collection::vec(spec, 1..18)
}

/// Knobs that are drawn, beside the scheduler and the allocator.
pub(crate) fn knobs() -> impl Strategy<Value = (Config, u32)> {
    let queue = prop::sample::select(&QueueOrder::ALL);
    let victim = prop::sample::select(&Victim::ALL);
    let sizes = (1u32..=6, 0u32..90, 150u32..=300, prop_oneof![0u32..100, 0u32..500]);
    let draft = prop_oneof![Just(0u32), 1u32..=6];
    (queue, victim, sizes, 1u32..=3, prop_oneof![Just(0.0), 0.0..0.3], draft).prop_map(
        |(queue, victim, (seqs, budget, longest, more), pp, watermark, draft_tokens)| {
            let config = Config {
                queue,
                victim,
                watermark,
                pp,
                speculation: if draft_tokens > 0 {
                    Speculation::PromptLookup
                } else {
                    Speculation::Off
                },
                draft_tokens,
                max_seqs: seqs,
                max_batch_tokens: seqs + budget,
                max_model_len: longest,
                ..Config::default()
            };
            (config, longest + more)
        },
    )
}

/// The reason for which a request can never run, told without the engine's code.
fn refusal(c: &Config, slots: u32, spec: &Spec, input: u32) -> Option<&'static str> {
    let end = input + spec.output;
    let room = |n: u32| n.next_power_of_two() <= (slots + 1).next_power_of_two() / 2;
    let reserved = match c.reserve {
        Reserve::Max => c.max_model_len,
        Reserve::Pow2 => {
            (input + spec.output.max(1).next_power_of_two()).min(c.max_model_len).max(end)
        }
        Reserve::Oracle | Reserve::Doubling => end,
    };
    let fits = match c.allocator {
        AllocatorKind::Contiguous => room(reserved),
        AllocatorKind::Paged => end.div_ceil(c.block_size) <= slots / c.block_size,
    };
    let wide = u32::from(spec.width) > c.max_seqs
        || (spec.width > 1 && c.scheduler.traits().disaggregates);
    if end > c.max_model_len {
        Some("long")
    } else if wide {
        Some("wide")
    } else {
        (!fits).then_some("big")
    }
}

/// The outcome of a run, by request.
#[derive(Default)]
struct Seen {
    tokens: BTreeMap<(u32, u16), Vec<Token>>,
    /// Times and requests as reported: a worker reports when its iteration ends.
    admitted: Vec<(Duration, u32)>,
    finished: HashSet<u32>,
    preempted: u32,
}

impl Seen {
    fn add(&mut self, it: &Iteration) {
        assert_eq!(it.ends.len(), 1, "an executor with real tokens makes single steps");
        assert_eq!(it.emitted.len(), it.tokens.len());
        assert_eq!(it.branch_tokens as usize, it.branches.len());
        let first = it.emitted.iter().zip(&it.tokens).map(|(&r, &t)| (r, 0, t));
        let others = it.branches.iter().map(|b| (b.request, b.branch, b.token));
        for (request, branch, token) in first.chain(others) {
            assert!(!self.finished.contains(&request), "nothing is emitted after the end");
            self.tokens.entry((request, branch)).or_default().push(token);
        }
        for event in &it.events {
            match *event {
                Event::Admitted { request, at, .. } => self.admitted.push((at, request)),
                Event::Preempted { .. } => self.preempted += 1,
                Event::Finished { request } => {
                    assert!(self.finished.insert(request), "it ends once");
                }
            }
        }
    }
}

/// Drafts what is expected, with mistakes here and there.
struct Guesses(HashMap<(u32, u16), Vec<Token>>);

impl Drafter for Guesses {
    fn draft(&mut self, seq: &Sequence, most: u32, draft: &mut Draft) -> u32 {
        let output = seq.tokens.len() - seq.prompt as usize;
        let expected = &self.0[&(seq.request, seq.branch)][output..];
        let guess = |(place, &token): (u64, &Token)| {
            let chance = mix(u64::from(seq.request), (output as u64) << 8 | place);
            if chance.is_multiple_of(4) { token ^ 1 } else { token }
        };
        draft.tokens.extend((0..).zip(expected).map(guess).take(most as usize));
        draft.tokens.len() as u32
    }
}

/// Plays `specs` through; returns the outcome and the accepted requests.
fn play<M: Model>(
    model: &M,
    config: &Config,
    slots: u32,
    specs: &[Spec],
    expected: &HashMap<(u32, u16), Vec<Token>>,
) -> (Engine, Seen, Vec<u32>) {
    let pools = vec![slots; config.workers() as usize];
    let stages = if model.has_stages() { 1 } else { config.pp };
    let watch = |e| Box::new(Watched::new(e, stages)) as Box<dyn Executor>;
    let executors = model.workers(&pools).into_iter().map(watch).collect();
    let drafter = || Box::new(Guesses(expected.clone())) as Box<dyn Drafter>;
    let drafter = config.speculates().then(drafter);
    let mut engine = wiring::engine(config, slots, executors).drafting(drafter);
    let (mut seen, mut accepted) = (Seen::default(), Vec::new());
    let (mut next, mut now, mut due) = (0, Duration::ZERO, Duration::ZERO);
    let mut steps = 0;
    loop {
        let arrival = specs.get(next).map(|s| due + s.gap);
        engine.start(now, arrival.unwrap_or(Duration::MAX));
        engine.wait(now, arrival.unwrap_or(Duration::MAX));
        check_memory(&engine.state);
        let flying: Vec<_> = engine.in_flight().collect();
        assert_eq!(flying.iter().collect::<HashSet<_>>().len(), flying.len());
        match (engine.next_event(), arrival) {
            (None, None) => break,
            (Some(at), arrival) if arrival.is_none_or(|a| at < a) => {
                assert!(at >= now, "time does not run backwards");
                now = at;
                if engine.step(now).is_some() {
                    seen.add(engine.last_iteration());
                }
                check_memory(&engine.state);
            }
            (_, Some(at)) => {
                (now, due) = (at, at);
                let request = specs[next].request(next as u32, model.vocab());
                submit(&mut engine, config, slots, request, &specs[next], &mut accepted);
                next += 1;
            }
            (Some(_), None) => unreachable!("an event before no arrival"),
        }
        steps += 1;
        assert!(steps < 100_000, "everything that fits ends");
    }
    (engine, seen, accepted)
}

fn submit(
    engine: &mut Engine,
    config: &Config,
    slots: u32,
    request: Request,
    spec: &Spec,
    accepted: &mut Vec<u32>,
) {
    let (id, input) = (request.id, request.input);
    let got = engine.add_request(request).err().map(|r| match r {
        Rejected::TooLong { .. } => "long",
        Rejected::TooBig { .. } => "big",
        Rejected::TooWide { .. } => "wide",
        Rejected::Full { .. } => "full",
    });
    assert_eq!(
        got,
        refusal(config, slots, spec, input),
        "refused at once if and only if it can never run"
    );
    if got.is_none() {
        accepted.push(id);
    }
}

pub(crate) fn conforms<M: Model>(
    model: &M,
    config: &Config,
    slots: u32,
    specs: &[Spec],
    expected: &HashMap<(u32, u16), Vec<Token>>,
) -> Totals {
    let (engine, seen, accepted) = play(model, config, slots, specs, expected);
    assert!(engine.state.is_empty(), "none is left behind");
    for &id in &accepted {
        assert!(seen.finished.contains(&id), "request {id} ends");
        for branch in 0..specs[id as usize].width {
            let got = seen.tokens.get(&(id, branch)).cloned().unwrap_or_default();
            let want = expected.get(&(id, branch)).cloned().unwrap_or_default();
            assert_eq!(got, want, "tokens of request {id}, branch {branch}");
        }
    }
    assert_eq!(seen.finished.len(), accepted.len());
    assert_eq!(seen.admitted.len(), accepted.len());
    if config.queue == QueueOrder::Fcfs {
        let mut admitted = seen.admitted;
        if config.scheduler.traits().disaggregates && config.prefill_workers > 1 {
            // Two workers admit at the same instant and report in either order: only times can be told apart.
            admitted.sort_by_key(|a| a.1);
            assert!(admitted.is_sorted_by_key(|a| a.0), "first come, first admitted");
        }
        assert!(
            admitted.iter().map(|a| a.1).eq(accepted.iter().copied()),
            "first come, first admitted"
        );
    }
    let totals = engine.totals();
    let plain = accepted.iter().all(|&id| specs[id as usize].width == 1);
    if plain && !config.prefix_cache {
        let need = |&id: &u32| {
            let s = &specs[id as usize];
            u64::from(s.prompt(id, model.vocab()).len() as u32 + s.output.saturating_sub(1))
        };
        let need: u64 = accepted.iter().map(need).sum();
        let wrong = totals.drafted - totals.accepted;
        let needed = totals.executed - totals.padded - wrong;
        assert_eq!(needed, need + totals.recomputed, "work is counted");
    }
    assert_eq!(totals.preemptions, u64::from(seen.preempted));
    totals
}

/// The model's answers to each of `specs` when nothing else is there.
pub(crate) fn expected<M: Model>(model: &M, specs: &[Spec]) -> HashMap<(u32, u16), Vec<Token>> {
    let one = |(id, spec): (u32, &Spec)| {
        let width = if spec.output == 0 { 1 } else { spec.width };
        let branches = model.alone(spec.prompt(id, model.vocab()), spec.output, width);
        (0u16..).zip(branches).map(move |(branch, tokens)| ((id, branch), tokens))
    };
    (0u32..).zip(specs).flat_map(one).collect()
}

/// All allocators under `scheduler`, `cases` times; preempts at least `least` times, and keeps some drafted tokens.
pub(crate) fn run<M: Model>(model: &M, scheduler: &Variant, cases: u32, least: u64) {
    let (preempted, accepted, drafted) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let body = |((config, slots), specs): ((Config, u32), Vec<Spec>)| {
        let expected = expected(model, &specs);
        for allocator in allocators() {
            let mut config = config.clone();
            scheduler.apply(&mut config);
            allocator.apply(&mut config);
            limit_flights(&mut config);
            if is_legal(&config) {
                let case = format!("{scheduler}, {allocator}");
                let work = || conforms(model, &config, slots, &specs, &expected);
                let totals = caught(&case, work)?;
                preempted.set(preempted.get() + totals.preemptions);
                accepted.set(accepted.get() + totals.accepted);
                drafted.set(drafted.get() + totals.drafted);
            }
        }
        Ok(())
    };
    if let Err(error) = runner.run(&(knobs(), specs()), body) {
        panic!("{error}");
    }
    let (accepted, drafted) = (accepted.get(), drafted.get());
    let some = 0 < accepted && accepted < drafted;
    assert!(cases < 8 || some, "{scheduler}: {accepted} of {drafted} drafted tokens kept");
    let preempted = preempted.get();
    assert!(preempted >= least, "{scheduler}: memory was tight enough to preempt: {preempted}");
}
