//! The live loop over a model whose every token is known: nothing is lost, doubled or mixed up while clients come and
//! go.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::config::{AllocatorKind, Config, SchedulerKind};
use crate::exec::{Executor, HashExecutor};
use crate::wiring;

/// The holdings of the engine at the last look.
#[derive(Debug, Default, Clone, PartialEq)]
struct Held {
    used: u64,
    running: usize,
    waiting: usize,
    requests_seen: u64,
    /// Replicas that were computing at once.
    most_busy: usize,
}

fn start(config: &Config, slots: u32, step: Duration) -> (Live, Arc<Mutex<Held>>) {
    let engine = |_| {
        let executors = HashExecutor::workers(&[slots], step).into_iter();
        let executors = executors.map(|e| Box::new(e) as Box<dyn Executor>).collect();
        wiring::engine(config, slots, executors)
    };
    let held = Arc::new(Mutex::new(Held::default()));
    let seen = Arc::clone(&held);
    let watch = move |iteration: Option<&Iteration>, engines: &[Engine]| {
        let mut seen = seen.lock().unwrap();
        let free = |class: &&(&str, u64)| matches!(class.0, "idle" | "cached");
        let used = |e: &Engine| -> u64 {
            e.classes().iter().filter(|class| !free(class)).map(|c| c.1).sum()
        };
        seen.used = engines.iter().map(used).sum();
        seen.running = engines.iter().map(|e| e.state.workers[0].running.len()).sum();
        seen.waiting = engines.iter().map(|e| e.state.waiting.len()).sum();
        let admitted = |e: &&Event| matches!(e, Event::Admitted { .. });
        let events = iteration.map_or(&[][..], |i| &i.events);
        seen.requests_seen += events.iter().filter(admitted).count() as u64;
        seen.most_busy =
            seen.most_busy.max(engines.iter().filter(|e| e.in_flight().next().is_some()).count());
    };
    let (tokenizer, sampler) = (Some(Arc::new(Tokenizer::bytes())), Sampler::default());
    let engines: Vec<Engine> = (0..config.replicas).map(engine).collect();
    let router = Router::new(config.router);
    let live = Live::start_replicas(engines, router, sampler, tokenizer, Box::new(watch));
    (live.unwrap(), held)
}

fn config() -> Config {
    Config {
        max_seqs: 8,
        max_batch_tokens: 64,
        max_model_len: 400,
        block_size: 4,
        ..Config::default()
    }
}

fn ask(prompt: &[Token], limit: u32) -> Ask {
    Ask {
        prompt: prompt.into(),
        limit,
        width: 1,
        priority: 0,
        sampling: SamplingParams::default(),
        ends: Arc::new([]),
        stops: Vec::new(),
        beams: None,
    }
}

fn reference(prompt: &[Token], limit: u32, branch: u16) -> Vec<Token> {
    let mut context = prompt.to_vec();
    for _ in 0..limit {
        context.push(HashExecutor::next_token(context.iter().copied(), branch));
    }
    context.split_off(prompt.len())
}

/// All steps of an answer, up to its end.
fn steps(answer: &mut Answer) -> Vec<Step> {
    let updates = std::iter::from_fn(|| answer.wait());
    let steps = updates.filter_map(|u| if let Update::Step(s) = u { Some(s) } else { None });
    steps.collect()
}

/// Waits until the engine has nothing to do, and checks that it holds nothing.
fn comes_to_rest(held: &Mutex<Held>) -> Held {
    let begin = Instant::now();
    loop {
        let now = held.lock().unwrap().clone();
        if now.used == 0 && now.running == 0 && now.waiting == 0 {
            return now;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "it comes to rest: {now:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_client_gets_its_own_tokens() {
    clients_get_their_own_tokens(&config());
}

#[test]
fn every_client_gets_its_own_tokens_from_a_replica() {
    for router in RouterKind::ALL {
        let held = clients_get_their_own_tokens(&Config { replicas: 3, router, ..config() });
        assert!(held.most_busy > 1, "several at once: {held:?}");
    }
}

fn clients_get_their_own_tokens(config: &Config) -> Held {
    let (live, held) = start(config, 800, Duration::from_micros(50));
    std::thread::scope(|scope| {
        for client in 0..12u32 {
            let live = &live;
            scope.spawn(move || {
                for turn in 0..15 {
                    let prompt: Vec<Token> =
                        (0..1 + (client * 7 + turn * 13) % 90).map(|i| i + client % 3).collect();
                    let limit = 1 + (client * 5 + turn * 11) % 60;
                    let width = if turn % 5 == 0 { 2 } else { 1 };
                    let mut answer =
                        live.ask_blocking(Ask { width, ..ask(&prompt, limit) }).unwrap();
                    if (client + turn) % 4 == 0 {
                        // Goes away in the middle, or before the first token.
                        for _ in 0..turn % 3 {
                            answer.wait();
                        }
                        continue;
                    }
                    let steps = steps(&mut answer);
                    for branch in 0..width {
                        let mut own = steps.iter().filter(|s| s.branch == branch);
                        let got: Vec<Token> = own.clone().filter_map(|s| s.token).collect();
                        assert_eq!(got, reference(&prompt, limit, branch));
                        let last = own.next_back().unwrap();
                        assert_eq!(last.finish, Some(Finish::Length));
                    }
                    assert!(steps.is_sorted_by_key(|s| s.at));
                    assert_eq!(
                        steps.iter().filter(|s| s.finish.is_some()).count(),
                        usize::from(width)
                    );
                }
            });
        }
    });
    let rest = comes_to_rest(&held);
    assert!(rest.requests_seen > 100, "{rest:?}");
    rest
}

#[test]
fn a_stop_token_ends_it_when_it_may() {
    let (live, held) = start(&config(), 800, Duration::from_micros(50));
    let prompt = [1, 2, 3];
    let tokens = reference(&prompt, 30, 0);
    let stop = |at: usize, min_tokens| {
        let sampling = SamplingParams { min_tokens, ..SamplingParams::default() };
        let ends = Arc::new([tokens[at]]);
        let steps =
            steps(&mut live.ask_blocking(Ask { ends, sampling, ..ask(&prompt, 30) }).unwrap());
        (steps.len(), steps.last().unwrap().finish)
    };
    assert_eq!(stop(4, 0), (5, Some(Finish::Stop)));
    assert_eq!(stop(4, 4), (5, Some(Finish::Stop)));
    assert_eq!(stop(4, 5), (30, Some(Finish::Length)));
    assert_eq!(stop(29, 0), (30, Some(Finish::Stop)));
    comes_to_rest(&held);
}

#[test]
fn a_request_that_can_never_run_is_refused() {
    let (live, _) = start(&config(), 100, Duration::from_micros(50));
    let refused = |limit| live.ask_blocking(ask(&[1; 50], limit)).err().unwrap().to_string();
    assert_eq!(refused(351), "prompt and output of 401 tokens exceed max-model-len 400");
    assert_eq!(refused(60), "prompt and output of 110 tokens exceed the KV memory of 100 slots");
    assert_eq!(steps(&mut live.ask_blocking(ask(&[1; 50], 50)).unwrap()).len(), 50);
}

#[test]
fn dropped_it_finishes_what_it_began() {
    let (live, _) = start(&config(), 800, Duration::from_micros(200));
    let mut answers: Vec<Answer> =
        (1..6).map(|n| live.ask_blocking(ask(&[n], 20 * n)).unwrap()).collect();
    drop(live);
    for (n, answer) in (1..).zip(&mut answers) {
        assert_eq!(steps(answer).len() as u32, 20 * n);
    }
}

/// The events of an iteration without their times: admissions, preemptions and ends, and the tokens of each request.
#[derive(Debug, PartialEq)]
struct Happened(Vec<Event>, Vec<(RequestId, Token)>);

impl Happened {
    fn in_(iteration: &Iteration) -> Self {
        let untimed = |event: &Event| match *event {
            Event::Admitted { request, hit, .. } => {
                Event::Admitted { request, hit, at: Duration::ZERO }
            }
            other => other,
        };
        let tokens = iteration.emitted.iter().copied().zip(iteration.tokens.iter().copied());
        Self(iteration.events.iter().map(untimed).collect(), tokens.collect())
    }
}

/// An executor of fixed cost that says when a batch begins, and how many have.
struct Telling<F>(HashExecutor, usize, F);

impl<F: FnMut(usize) + Send> Executor for Telling<F> {
    fn submit(
        &mut self,
        batch: &crate::exec::Batch<'_>,
        now: Duration,
        horizon: crate::exec::Horizon,
    ) -> crate::exec::Ticket {
        self.1 += 1;
        (self.2)(self.1);
        self.0.submit(batch, now, horizon)
    }

    fn complete(&mut self, outcome: &mut crate::exec::Outcome) {
        self.0.complete(outcome);
    }

    fn transfer(&mut self, transfer: &crate::exec::Transfer<'_>, now: Duration) -> Duration {
        self.0.transfer(transfer, now)
    }
}

/// An engine of little memory whose executor tells of its batches.
fn telling(config: &Config, step: Duration, tell: impl FnMut(usize) + Send + 'static) -> Engine {
    let slots = 100;
    let executor = HashExecutor::workers(&[slots], step).remove(0);
    wiring::engine(config, slots, vec![Box::new(Telling(executor, 0, tell))])
}

/// The request with this number, which comes while batch `2 * id` is computed; the first one keeps the engine busy until
/// all are there.
fn comes(id: RequestId) -> Ask {
    let prompt: Vec<Token> = (0..1 + id * 7 % 30).map(|i| i % 5).collect();
    ask(&prompt, if id == 0 { 45 } else { 1 + id * 11 % 25 })
}
const COME: usize = 20;

fn virtually(config: &Config) -> Vec<Happened> {
    let begun = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&begun);
    let tell = move |n| seen.store(n, Ordering::Relaxed);
    let mut engine = telling(config, Duration::from_millis(1), tell);
    let (mut here, mut now, mut all) = (0, Duration::ZERO, Vec::new());
    loop {
        while here < COME && 2 * here <= begun.load(Ordering::Relaxed) {
            let (id, ask) = (here as RequestId, comes(here as RequestId));
            let (input, limit) = (ask.prompt.len() as u32, ask.limit);
            let content = Content::Tokens(ask.prompt);
            let request = Request { id, input, limit, fate: None, width: 1, priority: 0, content };
            engine.add_request(request).unwrap();
            here += 1;
        }
        let before = begun.load(Ordering::Relaxed);
        engine.start(now, Duration::MAX);
        if begun.load(Ordering::Relaxed) > before {
            continue;
        }
        let Some(next) = engine.next_event() else { return all };
        now = next;
        if engine.step(now).is_some() {
            all.push(Happened::in_(engine.last_iteration()));
        }
    }
}

fn live(config: &Config) -> Vec<Happened> {
    let inbox = Arc::new(OnceLock::<std::sync::Weak<Sender<Command>>>::new());
    let (door, mut here) = (Arc::clone(&inbox), 1);
    let mut open = Vec::new();
    let tell = move |begun| {
        while here < COME && 2 * here <= begun {
            let (updates, answer) = unbounded_channel();
            let (reply, verdict) = oneshot::channel();
            let ask =
                Command::Ask(here as RequestId, Box::new(comes(here as RequestId)), updates, reply);
            door.get().unwrap().upgrade().expect("the engine runs").send(ask).unwrap();
            open.push((answer, verdict));
            here += 1;
        }
    };
    let engine = telling(config, Duration::from_micros(300), tell);
    let all = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&all);
    let watch = move |iteration: Option<&Iteration>, _: &[Engine]| {
        seen.lock().unwrap().extend(iteration.map(Happened::in_));
    };
    let live = Live::start(engine, Sampler::default(), None, Box::new(watch)).unwrap();
    inbox.set(Arc::downgrade(&live.commands)).unwrap();
    let mut first = live.ask_blocking(comes(0)).unwrap();
    while first.wait().is_some() {}
    let begin = Instant::now();
    let ended = |all: &[Happened]| {
        let ends =
            |h: &Happened| h.0.iter().filter(|e| matches!(e, Event::Finished { .. })).count();
        all.iter().map(ends).sum::<usize>()
    };
    while ended(&all.lock().unwrap()) < COME {
        assert!(begin.elapsed() < Duration::from_secs(60), "all are answered");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::mem::take(&mut all.lock().unwrap())
}

#[test]
fn the_same_happens_in_virtual_time_and_live() {
    let (mut preempted, mut hits) = (0, 0);
    // One worker, which does all.
    let whole = SchedulerKind::ALL.into_iter().filter(|kind| !kind.traits().disaggregates);
    for scheduler in whole {
        for allocator in AllocatorKind::ALL {
            for prefix_cache in [false, true] {
                if prefix_cache && allocator == AllocatorKind::Contiguous {
                    continue;
                }
                let max_model_len = 60;
                let config =
                    Config { scheduler, allocator, prefix_cache, max_model_len, ..config() };
                let expected = virtually(&config);
                assert_eq!(live(&config), expected, "{scheduler:?} {allocator:?}");
                for event in expected.iter().flat_map(|h| &h.0) {
                    preempted += u32::from(matches!(event, Event::Preempted { .. }));
                    hits += u32::from(matches!(event, Event::Admitted { hit: 1.., .. }));
                }
            }
        }
    }
    assert!(preempted > 10 && hits > 10, "{preempted} preempted, {hits} hits");
}

/// An executor that dies in its third iteration.
struct Mortal(HashExecutor, u32);

impl Executor for Mortal {
    fn submit(
        &mut self,
        batch: &crate::exec::Batch<'_>,
        now: Duration,
        horizon: crate::exec::Horizon,
    ) -> crate::exec::Ticket {
        self.1 += 1;
        assert!(self.1 < 3, "this is how it dies");
        self.0.submit(batch, now, horizon)
    }

    fn complete(&mut self, outcome: &mut crate::exec::Outcome) {
        self.0.complete(outcome);
    }

    fn transfer(&mut self, transfer: &crate::exec::Transfer<'_>, now: Duration) -> Duration {
        self.0.transfer(transfer, now)
    }
}

#[test]
fn a_dead_engine_says_so() {
    let executor = HashExecutor::workers(&[800], Duration::ZERO).remove(0);
    let engine = wiring::engine(&config(), 800, vec![Box::new(Mortal(executor, 0))]);
    let live = Live::start(engine, Sampler::default(), None, Box::new(|_, _| {})).unwrap();
    let mut answer = live.ask_blocking(ask(&[1], 10)).unwrap();
    let steps = steps(&mut answer);
    assert!(steps.len() == 2 && steps.iter().all(|s| s.finish.is_none()), "{steps:?}");
    while !live.is_dead() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(live.ask_blocking(ask(&[1], 1)).err(), Some(Refused::Stopped));
}

#[test]
fn a_full_queue_turns_requests_away() {
    let config = Config { max_seqs: 1, max_queue: 1, ..config() };
    let (live, _) = start(&config, 800, Duration::from_millis(20));
    let mut first = live.ask_blocking(ask(&[1], 390)).unwrap();
    assert!(matches!(first.wait(), Some(Update::Admitted { .. })));
    let second = live.ask_blocking(ask(&[2], 1)).unwrap();
    let third = || live.ask_blocking(ask(&[3], 1)).err();
    assert_eq!(third(), Some(Refused::Full { waiting: 1 }));
    drop(second);
    assert_eq!(third(), None, "a request that went away has left its place");
}

/// The text that a branch shows of a sequence of tokens, step by step.
fn shown(ask: &Ask, tokens: &[Token]) -> (Vec<String>, Option<Finish>) {
    let (updates, _keep) = unbounded_channel();
    let branch = Branch {
        characters: Characters::default(),
        stops: Stops::new(ask.stops.clone()),
        count: 0,
        done: false,
    };
    let min_tokens = ask.sampling.min_tokens;
    let (limit, ends) = (ask.limit, Arc::clone(&ask.ends));
    let (replica, branches) = (0, vec![branch]);
    let mut open = Open { replica, updates, branches, limit, min_tokens, ends, search: None };
    let tokenizer = Tokenizer::bytes();
    let mut texts = Vec::new();
    for &token in tokens {
        let step = open.step(0, token, Some(&tokenizer));
        texts.push(step.text);
        if step.finish.is_some() {
            return (texts, step.finish);
        }
    }
    (texts, None)
}

#[test]
fn text_is_whole_characters_without_stops() {
    let bytes: Vec<Token> = "a€bcX".bytes().map(Token::from).collect();
    let plain = Ask { limit: 9, ..ask(&[1], 9) };
    assert_eq!(shown(&plain, &bytes).0, ["a", "", "", "€", "b", "c", "X"]);
    let stop = Ask { stops: vec!["bcX".to_owned(), "zz".to_owned()], ..plain.clone() };
    assert_eq!(
        shown(&stop, &bytes),
        (["a", "", "", "€", "", "", ""].map(str::to_owned).to_vec(), Some(Finish::Stop))
    );
    // Text that was held back comes when it ends otherwise: by length, or by a token that is not shown.
    let short = Ask { limit: 6, ..stop.clone() };
    assert_eq!(shown(&short, &bytes).0.concat(), "a€bc");
    let end = Ask { ends: Arc::new([u32::from(b'X')]), ..stop.clone() };
    assert_eq!(
        shown(&end, &bytes),
        (["a", "", "", "€", "", "", "bc"].map(str::to_owned).to_vec(), Some(Finish::Stop))
    );
    // A character that never ends; a control token; a stop string before the least length.
    assert_eq!(shown(&Ask { limit: 2, ..plain.clone() }, &bytes).0, ["a", "\u{fffd}"]);
    assert_eq!(shown(&plain, &[97, 257, 98]).0, ["a", "", "b"]);
    let sampling = SamplingParams { min_tokens: 7, ..SamplingParams::default() };
    assert_eq!(shown(&Ask { sampling, ..stop }, &bytes).0.concat(), "a€bcX");
}
