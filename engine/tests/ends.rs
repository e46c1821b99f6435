//! Ends from outside, at any moment, under every scheduler and allocator: nothing of the sequence is left, and the others
//! get the tokens they would have got without it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{STEP, Watched, allocators, check_memory, is_legal, limit_flights, schedulers};
use engine::config::Config;
use engine::exec::{Executor, HashExecutor};
use engine::request::{Content, Token, mix};
use engine::{Engine, Event, Iteration, Request, wiring};
use proptest::prelude::*;

/// A request, and the time at which it is ended from outside.
#[derive(Debug, Clone)]
struct Spec {
    input: u32,
    output: u32,
    width: u16,
    gap: u64,
    /// Microseconds after it was sent, and which branch; none = all of it.
    end: Option<(u64, Option<u16>)>,
}

impl Spec {
    fn prompt(&self, id: u32) -> Vec<Token> {
        // Every other prompt begins as its neighbour does.
        (0..self.input)
            .map(|at| (mix(u64::from(id / 2), u64::from(at)) % 50_000) as Token)
            .collect()
    }

    fn request(&self, id: u32) -> Request {
        let prompt = self.prompt(id);
        Request {
            id,
            input: self.input,
            limit: self.output,
            fate: None,
            width: self.width,
            priority: 0,
            content: Content::Tokens(prompt.into()),
        }
    }
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let end = prop_oneof![
        1 => Just(None),
        2 => (0u64..60_000, prop::option::of(0u16..3)).prop_map(Some),
    ];
    let width = prop_oneof![3 => Just(1u16), 1 => 2u16..=3];
    let spec = (1u32..120, 1u32..60, width, 0u64..8_000, end)
        .prop_map(|(input, output, width, gap, end)| Spec { input, output, width, gap, end });
    prop::collection::vec(spec, 1..14)
}

/// Something due at a time: a request is sent, or (a branch of) one is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Send(u32),
    End(u32, Option<u16>),
}

fn agenda(specs: &[Spec]) -> BTreeSet<(Duration, Due)> {
    let mut sent = Duration::ZERO;
    let mut agenda = BTreeSet::new();
    for (id, spec) in (0..).zip(specs) {
        sent += Duration::from_micros(spec.gap);
        agenda.insert((sent, Due::Send(id)));
        if let Some((after, branch)) = spec.end {
            agenda.insert((sent + Duration::from_micros(after), Due::End(id, branch)));
        }
    }
    agenda
}

#[derive(Default)]
struct Seen {
    tokens: BTreeMap<(u32, u16), Vec<Token>>,
    finished: BTreeSet<u32>,
}

impl Seen {
    fn add(&mut self, it: &Iteration, ended: &BTreeSet<(u32, u16)>) {
        let first = it.emitted.iter().zip(&it.tokens).map(|(&r, &t)| (r, 0, t));
        let others = it.branches.iter().map(|b| (b.request, b.branch, b.token));
        for (request, branch, token) in first.chain(others) {
            assert!(!ended.contains(&(request, branch)), "nothing is emitted after the end");
            self.tokens.entry((request, branch)).or_default().push(token);
        }
        for event in &it.events {
            if let Event::Finished { request } = *event {
                assert!(self.finished.insert(request), "it ends once");
            }
        }
    }
}

fn play(config: &Config, slots: u32, specs: &[Spec]) -> (Engine, Seen, BTreeSet<(u32, u16)>) {
    let pools = vec![slots; config.workers() as usize];
    let watch = |e| Box::new(Watched::new(e, config.pp)) as Box<dyn Executor>;
    let executors = HashExecutor::workers(&pools, STEP).into_iter().map(watch).collect();
    let mut engine = wiring::engine(config, slots, executors);
    let (mut agenda, mut now) = (agenda(specs), Duration::ZERO);
    let (mut seen, mut ended) = (Seen::default(), BTreeSet::new());
    for _ in 0..20_000 {
        let due = agenda.first().copied();
        engine.start(now, due.map_or(Duration::MAX, |d| d.0));
        check_memory(&engine.state);
        match (engine.next_event(), due) {
            (None, None) => return (engine, seen, ended),
            (Some(at), due) if due.is_none_or(|d| at < d.0) => {
                now = at;
                if engine.step(now).is_some() {
                    seen.add(engine.last_iteration(), &ended);
                }
            }
            (_, Some(next)) => {
                agenda.remove(&next);
                now = next.0;
                match next.1 {
                    Due::Send(id) => drop(engine.add_request(specs[id as usize].request(id))),
                    Due::End(id, branch) => {
                        engine.end(id, branch, now);
                        let all = branch.map_or(0..specs[id as usize].width, |b| b..b + 1);
                        // Branches that do not exist yet are not ended one by one.
                        let known = |b: &u16| {
                            branch.is_none() || *b == 0 || seen.tokens.contains_key(&(id, *b))
                        };
                        ended.extend(all.filter(known).map(|b| (id, b)));
                        // The first branch is the whole request until the prompt is computed.
                        if branch == Some(0) && !seen.tokens.contains_key(&(id, 0)) {
                            ended.extend((0..specs[id as usize].width).map(|b| (id, b)));
                        }
                    }
                }
            }
            (Some(_), None) => unreachable!("an event before nothing"),
        }
        check_memory(&engine.state);
    }
    panic!("all requests end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_end_from_outside_touches_no_other_request(specs in specs(), seqs in 3u32..6, budget in 0u32..60, more in 0u32..300, pp in 1u32..3,
        late in any::<bool>(),
    ) {
        for scheduler in schedulers() {
            for allocator in allocators() {
                let mut config = Config {
                    max_seqs: seqs,
                    max_batch_tokens: seqs + budget,
                    max_model_len: 180,
                    pp,
                    async_scheduling: late,
                    ..Config::default()
                };
                scheduler.apply(&mut config);
                allocator.apply(&mut config);
                limit_flights(&mut config);
                if !is_legal(&config) {
                    continue;
                }
                let (engine, seen, ended) = play(&config, 256 + more, &specs);
                prop_assert!(engine.state.is_empty(), "{scheduler} x {allocator}: none is left");
                prop_assert_eq!(engine.state.load(), 0);
                for worker in 0..engine.state.workers.len() {
                    let usage = engine.state.holding(worker).usage;
                    prop_assert_eq!(usage.taken, 0, "{} x {}: all memory is back", scheduler, allocator);
                    prop_assert_eq!(engine.state.workers[worker].seats, 0);
                }
                for (&(id, branch), tokens) in &seen.tokens {
                    let spec = &specs[id as usize];
                    let mut context = spec.prompt(id);
                    for token in tokens {
                        let want = HashExecutor::next_token(context.iter().copied(), branch);
                        prop_assert_eq!(*token, want, "{} x {}: request {}", scheduler, allocator, id);
                        context.push(want);
                    }
                    if !ended.contains(&(id, branch)) {
                        prop_assert_eq!(tokens.len() as u32, spec.output, "{} x {}", scheduler, allocator);
                    }
                }
            }
        }
    }
}
