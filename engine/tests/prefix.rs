//! The prefix cache against models too simple to be wrong: every token has an identity, every copy is made, the
//! least recently used goes first.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Watched, check_memory};
use engine::config::{AllocatorKind, Config, Reserve, SchedulerKind};
use engine::exec::{Executor, HashExecutor};
use engine::kv::{Contiguous, KvAllocator, Paged};
use engine::request::{BlockIds, Content, Token, mix};
use engine::sequence::{ALONE, Place, Sequence};
use engine::{Engine, Event, Request, wiring};
use proptest::prelude::*;

/// A sequence as an allocator sees it.
fn sequence(request: u32, prompt: u32, content: Content, covered: u32) -> Sequence {
    let tokens = match &content {
        Content::Tokens(tokens) => tokens.to_vec(),
        _ => Vec::new(),
    };
    Sequence {
        len: prompt,
        computed: 0,
        drafted: 0,
        draft: engine::sequence::Draft::default(),
        in_flight: 0,
        end: prompt + 10_000,
        slots: 0,
        beyond: 0,
        prompt,
        reached: 0,
        place: Place::Running,
        fated: true,
        cut: false,
        branch: 0,
        width: 1,
        forked: false,
        together: false,
        held: false,
        started: true,
        worker: 0,
        request,
        group: ALONE,
        priority: 0,
        ticket: 0,
        content,
        covered,
        tokens,
    }
}

/// Lets `seq` be computed as far as it goes, and ended. Returns the tokens of it that were found.
fn pass(kv: &mut dyn KvAllocator, id: u32, seq: &mut Sequence) -> u32 {
    let hit = kv.open(id, seq, u32::MAX, 0).expect("there is room").hit;
    seq.computed = seq.len;
    seq.reached = seq.len;
    kv.commit(id, seq, hit);
    kv.check();
    hit
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// With real tokens and room for all, a hit is the longest common prefix with anything computed before, in whole
    /// blocks, and short of the last token.
    #[test]
    fn hits_are_longest_common_prefixes(
        block in 1u32..20,
        // A small alphabet, so that prompts share beginnings of every length.
        prompts in prop::collection::vec(prop::collection::vec(0u32..2, 1..80), 1..20),
    ) {
        let mut kv = Paged::new(100 * 100, block, true);
        let mut known: Vec<Vec<Token>> = Vec::new();
        for (id, prompt) in (0u32..).zip(prompts) {
            let common = |k: &Vec<Token>| k.iter().zip(&prompt).take_while(|(a, b)| a == b).count() as u32;
            let longest = known.iter().map(|k| common(k) / block * block).max().unwrap_or(0);
            let want = longest.min((prompt.len() as u32 - 1) / block * block);
            let mut seq = sequence(id, prompt.len() as u32, Content::Tokens(prompt.clone().into()), 0);
            prop_assert_eq!(kv.lookup(&seq), want);
            prop_assert_eq!(pass(&mut kv, id, &mut seq), want);
            if id % 2 == 0 {
                kv.close(id, &seq, false);
                kv.check();
            }
            known.push(prompt);
        }
    }

    /// Identities of trace blocks, whatever their size, give the hits that tokens with identities would give: equal
    /// lists up to some entry mean equal tokens up to there, or to the end of the shorter prompt's last, partial block.
    #[test]
    fn trace_blocks_are_their_tokens(
        trace in prop_oneof![Just(64u32), Just(512u32), 1u32..70],
        block in prop_oneof![Just(16u32), 1u32..40],
        prompts in prop::collection::vec((0u8..2, 0u32..5, 1u32..1600, 0u32..2), 1..14),
    ) {
        let mut table: Vec<u64> = Vec::new();
        let mut spans = Vec::new();
        for (own, &(text, shared, input, further)) in (0u64..).zip(&prompts) {
            let len = input.div_ceil(trace) + further;
            let start = table.len() as u32;
            // An identity stands for the block and all before it.
            let mut chain = 0;
            for at in 0..len {
                let part = if at < shared { u64::from(text) } else { 100 + own };
                chain = mix(chain + 1, mix(part, u64::from(at)));
                table.push(chain);
            }
            spans.push((start, len));
        }
        let table: Arc<[u64]> = table.into();
        // The model: token `t` is its trace block's identity and its place in it, where the trace knows it.
        let tokens = |i: usize| -> Vec<(u64, u32)> {
            let ((start, len), input) = (spans[i], prompts[i].2);
            let known = if len == input.div_ceil(trace) { input } else { len * trace };
            (0..known).map(|t| (table[(start + t / trace) as usize], t % trace)).collect()
        };
        let mut kv = Paged::new(14 * 4000, block, true);
        let mut known: Vec<Vec<(u64, u32)>> = Vec::new();
        for (i, &(_, _, input, _)) in prompts.iter().enumerate() {
            let ids = BlockIds {
                table: Arc::clone(&table),
                start: spans[i].0,
                len: spans[i].1,
                block_tokens: trace,
            };
            let mine = tokens(i);
            prop_assert_eq!(ids.covered(input), mine.len() as u32);
            let common = |k: &Vec<(u64, u32)>| k.iter().zip(&mine).take_while(|(a, b)| a == b).count() as u32;
            let longest = known.iter().map(|k| common(k) / block * block).max().unwrap_or(0);
            let want = longest.min((input - 1) / block * block);
            let mut seq = sequence(i as u32, input, Content::Blocks(ids), mine.len() as u32);
            prop_assert_eq!(pass(&mut kv, i as u32, &mut seq), want);
            // Then it generates a while: what the list covers of that can be found too, the rest cannot.
            let before = seq.computed;
            seq.len += 30;
            kv.grow(i as u32, &seq, seq.len).expect("there is room");
            seq.computed = seq.len;
            kv.commit(i as u32, &seq, before);
            if i % 2 == 0 {
                kv.close(i as u32, &seq, false);
            }
            kv.check();
            known.push(mine[..mine.len().min(seq.len as usize)].to_vec());
        }
    }

    /// Ended one after another in a pool too small for all, prompts without a common block are forgotten in the order
    /// in which they were last used, from their tails.
    #[test]
    fn the_least_recently_used_goes_first(
        blocks in 4u32..30,
        turns in prop::collection::vec((0u32..6, 1u32..6), 1..60),
    ) {
        let size = 4;
        let mut kv = Paged::new(blocks * size, size, true);
        // Cached blocks (prompt, index), least recently used first.
        let mut lru: Vec<(u32, u32)> = Vec::new();
        for (prompt, whole) in turns {
            let whole = whole.min(blocks - 1);
            let text: Vec<Token> = (0..whole * size + 1).map(|t| prompt * 1000 + t).collect();
            let cached = |index: u32| lru.contains(&(prompt, index));
            let hit = (0..whole).take_while(|&i| cached(i)).count() as u32;
            let mut seq = sequence(prompt, text.len() as u32, Content::Tokens(text.into()), 0);
            prop_assert_eq!(pass(&mut kv, prompt, &mut seq), hit * size);
            kv.close(prompt, &seq, false);
            kv.check();
            lru.retain(|&(p, i)| !(p == prompt && i < hit));
            // Fresh blocks (one of them the last, partial one) come from those never used, then from the oldest.
            let free = blocks - hit - lru.len() as u32;
            let evicted = (whole + 1 - hit).saturating_sub(free);
            lru.drain(..evicted as usize);
            // A block whose twin is still found is not kept twice.
            for index in (0..whole).rev() {
                if !lru.contains(&(prompt, index)) {
                    lru.push((prompt, index));
                }
            }
            prop_assert_eq!(kv.usage().cached, lru.len() as u32 * size);
        }
    }
}

/// A branch in the copying model: its memory is its own.
#[derive(Clone)]
struct Naive {
    words: Vec<u64>,
}

/// The steps of a beam search on memory.
#[derive(Debug, Clone)]
enum Move {
    Fork(prop::sample::Index),
    Write(prop::sample::Index, u32),
    Close(prop::sample::Index),
}

/// Beams over one allocator and over plain copies.
struct Beams {
    kv: Box<dyn KvAllocator>,
    memory: Vec<u64>,
    live: Vec<(u32, Sequence, Naive)>,
    next: u32,
    word: u64,
}

impl Beams {
    fn new(kv: Box<dyn KvAllocator>, slots: u32, prompt: u32) -> Self {
        let live = Vec::new();
        let mut beams = Self { kv, memory: vec![0; slots as usize], live, next: 1, word: 0 };
        let mut seq = sequence(0, prompt, Content::Private, 0);
        seq.end = 400;
        beams.kv.open(0, &seq, u32::MAX, 0).expect("it is empty");
        seq.len = 0;
        beams.live.push((0, seq, Naive { words: Vec::new() }));
        beams.write(0, prompt);
        beams
    }

    fn copy(&mut self) {
        for c in self.kv.copies() {
            let from = c.from as usize;
            self.memory.copy_within(from..from + c.len as usize, c.to as usize);
        }
    }

    fn write(&mut self, at: usize, n: u32) -> bool {
        let (id, seq, _) = &self.live[at];
        if seq.computed + n > seq.end || self.kv.grow(*id, seq, seq.computed + n).is_err() {
            return false;
        }
        self.copy();
        let (id, seq, naive) = &mut self.live[at];
        let before = seq.computed;
        for position in before..before + n {
            self.word += 1;
            self.memory[self.kv.table(*id).slot(position) as usize] = self.word;
            naive.words.push(self.word);
        }
        (seq.len, seq.computed) = (before + n, before + n);
        self.kv.commit(*id, seq, before);
        true
    }

    fn fork(&mut self, at: usize) -> bool {
        let (parent, seq, naive) = self.live[at].clone();
        let child = self.next;
        if self.kv.fork(parent, child, &seq, 0).is_err() {
            return false;
        }
        self.next += 1;
        let branch = child as u16;
        self.live.push((child, Sequence { branch, width: 100, ..seq }, naive));
        true
    }

    fn check(&mut self) {
        self.copy();
        self.kv.check();
        for (id, seq, naive) in &self.live {
            let table = self.kv.table(*id);
            let read = (0..seq.computed).map(|p| self.memory[table.slot(p) as usize]);
            assert!(read.eq(naive.words.iter().copied()), "branch {id} reads what it wrote");
        }
        let held: u32 = self.live.iter().map(|l| l.1.computed).sum();
        let usage = self.kv.usage();
        assert!(held - usage.shared <= usage.taken, "no more tokens than slots");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Forks that share blocks and copy on write read the same as forks that copy everything.
    #[test]
    fn copy_on_write_is_a_copy(
        which in 0usize..5,
        prompt in 1u32..40,
        moves in prop::collection::vec(prop_oneof![
            2 => any::<prop::sample::Index>().prop_map(Move::Fork),
            5 => (any::<prop::sample::Index>(), 1u32..9).prop_map(|(i, n)| Move::Write(i, n)),
            2 => any::<prop::sample::Index>().prop_map(Move::Close),
        ], 1..80),
    ) {
        let slots = 512;
        let kv: Box<dyn KvAllocator> = match which {
            0 => Box::new(Paged::new(slots, 1, false)),
            1 => Box::new(Paged::new(slots, 4, false)),
            2 => Box::new(Paged::new(slots, 16, true)),
            3 => Box::new(Paged::new(slots, 7, true)),
            _ => Box::new(Contiguous::new(slots, Reserve::Doubling, 400)),
        };
        let mut beams = Beams::new(kv, slots, prompt);
        for step in moves {
            let n = beams.live.len();
            match step {
                Move::Fork(i) => { beams.fork(i.index(n)); }
                Move::Write(i, tokens) => { beams.write(i.index(n), tokens); }
                Move::Close(i) if n > 1 => {
                    let (id, seq, _) = beams.live.swap_remove(i.index(n));
                    beams.kv.close(id, &seq, false);
                }
                Move::Close(_) => {}
            }
            beams.check();
        }
        for (id, seq, _) in std::mem::take(&mut beams.live) {
            beams.kv.close(id, &seq, false);
        }
        beams.kv.check();
        let usage = beams.kv.usage();
        prop_assert_eq!((usage.taken, usage.shared, usage.requested), (0, 0, 0), "all is given back");
    }
}

/// Sharing saves memory: siblings hold a common prompt once.
#[test]
fn branches_hold_their_prompt_once() {
    let mut beams = Beams::new(Box::new(Paged::new(512, 16, false)), 512, 40);
    for _ in 0..3 {
        assert!(beams.fork(0));
    }
    assert_eq!((beams.kv.usage().taken, beams.kv.usage().shared), (48, 120));
    assert!(beams.write(1, 1), "the first to write copies the block of 8 tokens they share");
    assert_eq!((beams.kv.usage().taken, beams.kv.usage().shared), (64, 112));
    beams.check();
}

fn engine(config: &Config, slots: u32) -> Engine {
    let executors = HashExecutor::workers(&[slots], Duration::from_millis(1));
    let watch = |e| Box::new(Watched::new(e, 1)) as Box<dyn Executor>;
    wiring::engine(config, slots, executors.into_iter().map(watch).collect())
}

/// Two private requests outgrow memory; the one that gives way finds its own blocks when it comes back, so that less
/// is recomputed than without the cache.
#[test]
fn a_preempted_private_sequence_finds_its_own_blocks() {
    let run = |prefix_cache: bool| {
        let config = Config {
            scheduler: SchedulerKind::Chunked,
            allocator: AllocatorKind::Paged,
            block_size: 4,
            prefix_cache,
            max_seqs: 4,
            max_batch_tokens: 64,
            max_model_len: 100,
            ..Config::default()
        };
        let device = std::sync::Arc::new(engine::DeviceProfile::load("h100-sxm").unwrap());
        let model = std::sync::Arc::new(engine::ModelShape::load("llama-3.1-8b").unwrap());
        let mut deployment = engine::Deployment::new(config, model, device, 100).unwrap();
        deployment.kv_slots = 100;
        let mut fleet = wiring::simulated(&deployment, false);
        for (id, output) in [(0, 30), (1, 60)] {
            let (fate, content) = (Some(output), Content::Private);
            let request =
                Request { id, input: 30, limit: output, fate, width: 1, priority: 0, content };
            fleet.add_request(request, Duration::ZERO).unwrap();
        }
        let mut preempted = 0;
        while let engine::Next::Iteration(i) = fleet.advance(None) {
            let events = &fleet.iteration(i).events;
            preempted += events.iter().filter(|e| matches!(e, Event::Preempted { .. })).count();
            check_memory(&fleet.replicas()[i].state);
        }
        assert!(preempted > 0, "memory is too small for both");
        let replica = &fleet.replicas()[0];
        assert_eq!(
            replica.state.workers[0].kv.usage().cached,
            0,
            "no sequence can meet them any more"
        );
        replica.totals().recomputed
    };
    let (without, with) = (run(false), run(true));
    assert!(with < without, "{with} tokens recomputed with the cache, {without} without");
}

/// While a prompt is computed chunk by chunk, another with the same tokens finds exactly what has been written.
#[test]
fn no_hit_before_it_is_written() {
    let config = Config {
        scheduler: SchedulerKind::Chunked,
        block_size: 4,
        max_seqs: 8,
        max_batch_tokens: 10,
        max_model_len: 64,
        ..Config::default()
    };
    let mut engine = engine(&config, 640);
    let prompt: Arc<[Token]> = (0..41).collect();
    let (mut now, mut hits) = (Duration::ZERO, HashMap::new());
    for id in 0..6 {
        let content = Content::Tokens(Arc::clone(&prompt));
        let request =
            Request { id, input: 41, limit: 3, fate: None, width: 1, priority: 0, content };
        engine.add_request(request).unwrap();
    }
    loop {
        engine.start(now, Duration::MAX);
        check_memory(&engine.state);
        let Some(at) = engine.next_event() else { break };
        now = at;
        engine.step(now);
        for event in &engine.last_iteration().events {
            if let Event::Admitted { request, hit, .. } = *event {
                hits.insert(request, hit);
            }
        }
    }
    // Five iterations compute the first prompt; its last one has room left for the second, which finds the 40 tokens
    // written by the four before it, and so do all that follow.
    assert_eq!(hits[&0], 0);
    assert!((1..6).all(|id| hits[&id] == 40), "{hits:?}");
}
