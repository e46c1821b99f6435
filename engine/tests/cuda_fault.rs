//! A device that fails in the middle of a batch: the engine gives the reason in one line, nothing panics, and finished
//! work stays finished.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::cuda::{config, weights};
use engine::config::Config;
use engine::exec::cuda::{Arithmetic, CudaExecutor, CudaModel, Layout};
use engine::exec::{Greedy, Sample};
use engine::live::{Ask, Live, Refused, Update};
use engine::request::Content;
use engine::router::Router;
use engine::sample::{Sampler, SamplingParams};
use engine::{Event, Fleet, Next, Request, wiring};
use kernels::cuda::emulator::{self, Fuse, Pretence};

/// A worker on a device with this fuse.
fn worker(fuse: &Fuse, sampler: Box<dyn Sample>) -> Option<CudaExecutor> {
    if let Some(reason) = emulator::absent() {
        println!("skipped: {reason}");
        return None;
    }
    let pretence = Pretence { fuse: fuse.clone(), ..Pretence::default() };
    let device = emulator::pretending(Path::new(env!("CARGO_TARGET_TMPDIR")), pretence);
    let layout = Layout::whole(Arithmetic::Fast);
    let model = CudaModel::load(&[device], &mut weights(config()), layout).unwrap();
    let mut sampler = Some(sampler);
    let sampler = || sampler.take().expect("one worker");
    let workers = CudaExecutor::workers(&Arc::new(model), &[512], sampler);
    Some(workers.unwrap().remove(0))
}

fn knobs() -> Config {
    Config { max_seqs: 4, max_batch_tokens: 64, max_model_len: 128, ..Config::default() }
}

fn request(id: u32, output: u32) -> Request {
    let content = Content::Tokens((0..10 + id).collect());
    Request { id, input: 10 + id, limit: output, fate: None, width: 1, priority: 0, content }
}

const SAID: &str = "an emulated GPU failed: the emulator failed: an unspecified launch failure";

/// Kernels of this model's passes number some tens each: it fails in one of the first decodes, in the middle, or nearly
/// at the end.
#[test]
fn a_run_ends_with_the_reason() {
    for overlapped in [false, true] {
        for kernels in [0, 1, 10, 60, 150, 400] {
            let fuse = Fuse::default();
            let Some(worker) = worker(&fuse, Box::<Greedy>::default()) else { return };
            let worker = if overlapped { worker.overlapped() } else { worker };
            let config = knobs();
            let engine = wiring::engine(&config, 512, vec![Box::new(worker)]);
            let mut fleet = Fleet::new(vec![engine], Router::new(config.router), false);
            for (id, output) in [(0, 2), (1, 60), (2, 5)] {
                fleet.add_request(request(id, output), Duration::ZERO).unwrap();
            }
            fuse.light(kernels);
            let (mut tokens, mut finished) = (0, Vec::new());
            let arrival = Some(Duration::from_secs(3600));
            loop {
                match fleet.advance(arrival) {
                    Next::Iteration(i) => {
                        let it = fleet.iteration(i);
                        tokens += it.tokens.len();
                        finished.extend(it.events.iter().filter_map(|event| match event {
                            Event::Finished { request } => Some(*request),
                            _ => None,
                        }));
                    }
                    Next::Broken => break,
                    other => panic!("{other:?} with {kernels} kernels"),
                }
            }
            println!("{kernels} kernels: {tokens} tokens, {finished:?} finished");
            assert_eq!(fleet.fault().unwrap().to_string(), SAID);
            assert_eq!(fleet.advance(None), Next::Broken, "for good");
            assert_eq!(tokens > 0, kernels > 10, "a pass was whole or it was not");
            assert!(!finished.contains(&1) && (kernels < 400 || finished == [0, 2]));
        }
    }
}

/// A caller that waits for the device learns that it has failed; a batch that is only asked for is not waited for.
#[test]
fn a_submitted_batch_is_not_waited_for() {
    for overlapped in [false, true] {
        let fuse = Fuse::default();
        let Some(worker) = worker(&fuse, Box::<Greedy>::default()) else { return };
        let worker = if overlapped { worker.overlapped() } else { worker };
        let mut engine = wiring::engine(&knobs(), 512, vec![Box::new(worker)]);
        // The first batch makes room, and giving memory back waits.
        engine.add_request(request(0, 1)).unwrap();
        engine.start(Duration::ZERO, Duration::MAX);
        engine.wait(Duration::ZERO, Duration::MAX);
        let now = engine.next_event().unwrap();
        assert_eq!(engine.step(now), Some(0));
        engine.add_request(request(0, 5)).unwrap();
        fuse.light(0);
        engine.start(now, Duration::MAX);
        assert_eq!(engine.fault().is_none(), overlapped, "so much is known when it is submitted");
        assert_eq!(engine.in_flight().count(), 1);
        engine.wait(now, Duration::MAX);
        assert_eq!(engine.fault().unwrap().to_string(), SAID);
    }
}

/// Clients under way get the tokens there were, and no end; new ones are refused; and the reason can be asked for.
#[test]
fn a_server_ends_with_the_reason() {
    for overlapped in [false, true] {
        let (fuse, sampler) = (Fuse::default(), Sampler::default());
        let Some(worker) = worker(&fuse, Box::new(sampler.clone())) else { return };
        let worker = if overlapped { worker.overlapped() } else { worker };
        let engine = wiring::engine(&knobs(), 512, vec![Box::new(worker)]);
        let live = Live::start(engine, sampler, None, Box::new(|_, _| {})).unwrap();
        let ask = |limit| Ask {
            prompt: [1, 2, 3, 4, 5].into(),
            limit,
            width: 1,
            beams: None,
            priority: 0,
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            ends: Arc::new([]),
            stops: Vec::new(),
        };
        let mut whole = live.ask_blocking(ask(4)).unwrap();
        let updates: Vec<Update> = std::iter::from_fn(|| whole.wait()).collect();
        assert_eq!(updates.len(), 5, "before it fails all is well: {updates:?}");
        fuse.light(90);
        let mut broken = live.ask_blocking(ask(100)).unwrap();
        let updates: Vec<Update> = std::iter::from_fn(|| broken.wait()).collect();
        let ended = |update: &Update| matches!(update, Update::Step(step) if step.finish.is_some());
        assert!(updates.len() > 1 && updates.len() < 50, "{updates:?}");
        assert!(
            !updates.iter().any(ended),
            "no client is told that an answer is whole: {updates:?}"
        );
        assert_eq!(live.fault().get().expect("said first").to_string(), SAID);
        let begin = Instant::now();
        while !live.is_dead() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the engine ends");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(live.ask_blocking(ask(1)).err(), Some(Refused::Stopped));
    }
}
