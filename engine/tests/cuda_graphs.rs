//! Decodes that are recorded and replayed give the tokens of decodes that are launched kernel by kernel.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::cuda::{VOCAB, config, weights};
use engine::config::Config;
use engine::exec::Greedy;
use engine::exec::cuda::{Arithmetic, CudaExecutor, CudaModel, Layout};
use engine::request::{Content, Token, mix};
use engine::{Request, wiring};
use kernels::cuda::emulator::{self, Pretence};

fn request(id: u32, input: u32, limit: u32) -> Request {
    let prompt =
        (0..input).map(|at| (mix(u64::from(id), u64::from(at)) % u64::from(VOCAB)) as Token);
    let content = Content::Tokens(prompt.collect());
    Request { id, input, limit, fate: None, width: 1, priority: 0, content }
}

/// The requests: steps before each comes, tokens of its prompt, tokens of its answer.
type Load = &'static [(u32, u32, u32)];

/// Three, and a fourth whose prompt is longer than anything before it and comes while they decode.
const LONGER: Load = &[(0, 5, 20), (0, 8, 21), (0, 11, 22), (8, 200, 20)];

/// One that is soon alone, until three come and go at once: the logits move to more memory, and nothing else does.
const WIDER: Load = &[(0, 30, 1), (0, 30, 1), (0, 20, 30), (10, 10, 1), (10, 10, 1), (10, 10, 1)];

/// Their answers.
fn said(model: &Arc<CudaModel>, graphs: bool, load: Load) -> BTreeMap<u32, Vec<Token>> {
    let workers = CudaExecutor::workers(model, &[1024], || Box::<Greedy>::default());
    let worker = workers.unwrap().remove(0);
    let worker = if graphs { worker } else { worker.without_graphs() };
    let config =
        Config { max_seqs: 6, max_batch_tokens: 256, max_model_len: 512, ..Config::default() };
    let mut engine = wiring::engine(&config, 1024, vec![Box::new(worker)]);
    let (mut tokens, mut now, mut steps) = (BTreeMap::<u32, Vec<Token>>::new(), Duration::ZERO, 0);
    loop {
        for (id, &(_, input, limit)) in (0..).zip(load).filter(|(_, due)| due.0 == steps) {
            engine.add_request(request(id, input, limit)).unwrap();
        }
        engine.start(now, Duration::MAX);
        let Some(next) = engine.next_event() else { break };
        now = next;
        engine.step(now);
        let it = engine.last_iteration();
        for (request, token) in it.emitted.iter().zip(&it.tokens) {
            tokens.entry(*request).or_default().push(*token);
        }
        steps += 1;
    }
    assert_eq!(engine.fault(), None);
    tokens
}

#[test]
fn they_say_the_same() {
    if let Some(reason) = emulator::absent() {
        return println!("skipped: {reason}");
    }
    let replays = Arc::<AtomicU64>::default();
    let pretence = Pretence { replays: Arc::clone(&replays), ..Pretence::default() };
    let device = emulator::pretending(Path::new(env!("CARGO_TARGET_TMPDIR")), pretence);
    let devices = [device];
    for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
        let layout = Layout::whole(arithmetic);
        let model = CudaModel::load(&devices, &mut weights(config()), layout).unwrap();
        let model = Arc::new(model);
        for (load, least) in [(LONGER, 20), (WIDER, 25)] {
            let one_by_one = said(&model, false, load);
            assert_eq!(replays.swap(0, Ordering::Relaxed), 0, "none where none are wanted");
            let lengths = one_by_one.values().map(|tokens| tokens.len() as u32);
            assert!(lengths.eq(load.iter().map(|who| who.2)), "all are answered");
            assert_eq!(said(&model, true, load), one_by_one, "{arithmetic:?}");
            // But for prompts, and the first decode of each size.
            let replays = replays.swap(0, Ordering::Relaxed);
            println!("{arithmetic:?}: {replays} replays");
            assert!((least..30).contains(&replays), "{arithmetic:?}: {replays} replays");
        }
    }
}
