//! A model whose ranks and stages have a device each: emulated, or with `KNEE_TEST_DEVICE=cuda:0,1` on as many GPUs,
//! which has not been run.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::cuda::{
    VOCAB, compared, device, even, forced, gpus, plain, spread, spread_over, weights, worker,
};
use common::said;
use engine::config::Config;
use engine::exec::Greedy;
use engine::exec::cuda::{Arithmetic, CudaModel, Layout};
use engine::model::llama::LlamaConfig;
use engine::request::{Content, Token, mix};
use engine::{Request, wiring};
use kernels::cuda::emulator::{Fuse, Pretence};

const SPLITS: [(usize, usize); 3] = [(2, 1), (1, 3), (2, 2)];

/// The tokens are those of the same parts on one device, to the bit, and of the model in one piece where no sum is
/// split.
#[test]
fn they_say_what_parts_on_one_device_say() {
    let prompt: Vec<Token> = (0..70).map(|i| (mix(4, i) % u64::from(VOCAB)) as Token).collect();
    for (ranks, stages) in SPLITS {
        for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
            let layout = Layout { arithmetic, ranks, stages };
            let (Some(apart), Some(device)) = (spread(even(), layout), device()) else { continue };
            let together = |layout| {
                let device = std::slice::from_ref(&device);
                Arc::new(CudaModel::load(device, &mut weights(even()), layout).unwrap())
            };
            let on_one = together(layout);
            let answer = said(plain(&on_one, Box::<Greedy>::default()), &prompt, 20, 1, 512);
            let of = |model| forced(|s| plain(model, s), &prompt, &answer[0], 32);
            let (logits, of_one) = (of(&apart), of(&on_one));
            // In which order GPUs sum is theirs to choose.
            let (_, error) = compared(&of_one, &logits);
            assert!(error < 0.02, "{arithmetic:?}, {ranks} x {stages}: {error}");
            if gpus().is_empty() || ranks == 1 || arithmetic == Arithmetic::Invariant {
                assert_eq!(logits, of_one, "{arithmetic:?}, {ranks} x {stages}");
            }
            if arithmetic == Arithmetic::Invariant {
                assert_eq!(logits, of(&together(Layout::whole(arithmetic))), "{ranks} x {stages}");
            }
        }
    }
}

/// An emulated device that fails in the middle takes the others with it: none waits for it for ever.
#[test]
fn one_that_fails_is_the_end_of_all() {
    for (ranks, stages) in SPLITS {
        for kernels in [0, 15, 60] {
            let fuse = Fuse::default();
            let mut pretences = vec![Pretence::default(); ranks * stages];
            pretences[ranks * stages - 1].fuse = fuse.clone();
            let layout = Layout { arithmetic: Arithmetic::Fast, ranks, stages };
            let Some(model) = spread_over(&pretences, even(), layout) else { return };
            let executor = Box::new(worker(&model, 512, Box::<Greedy>::default()));
            let config = Config {
                pp: stages as u32,
                max_seqs: 4,
                max_batch_tokens: 64,
                max_model_len: 128,
                ..Config::default()
            };
            let mut engine = wiring::engine(&config, 512, vec![executor]);
            for id in 0..3 {
                let content = Content::Tokens((0..10 + id).collect());
                let request = Request {
                    id,
                    input: 10 + id,
                    limit: 60,
                    fate: None,
                    width: 1,
                    priority: 0,
                    content,
                };
                engine.add_request(request).unwrap();
            }
            fuse.light(kernels);
            let mut now = Duration::ZERO;
            for _ in 0..1000 {
                engine.start(now, Duration::MAX);
                engine.wait(now, Duration::MAX);
                let Some(next) = engine.next_event() else { break };
                now = next;
                engine.step(now);
            }
            let fault = engine.fault().expect("it has failed").to_string();
            assert!(fault.contains("an unspecified launch failure"), "{fault}");
            let devices = ranks * stages;
            assert!(fault.starts_with(&format!("{devices} x an emulated GPU failed")), "{fault}");
        }
    }
}

/// No device has more of the weights than the cost model says.
#[test]
fn weights_take_what_the_cost_model_says() {
    let sized = Pretence { memory: Some(1 << 20), ..Pretence::default() };
    for tied_embeddings in [false, true] {
        // Biases, which are small, have no place there.
        let config = LlamaConfig { tied_embeddings, qkv_bias: false, ..even() };
        for (ranks, stages) in SPLITS {
            for arithmetic in [Arithmetic::Fast, Arithmetic::Invariant] {
                let layout = Layout { arithmetic, ranks, stages };
                let pretences = vec![sized.clone(); ranks * stages];
                let Some(model) = spread_over(&pretences, config.clone(), layout) else { return };
                for (at, device) in model.devices().iter().enumerate() {
                    let (free, all) = device.memory().unwrap().expect("it says how much it has");
                    let (tp, pp, stage) = (ranks as u32, stages as u32, (at / ranks) as u32);
                    let said = config.shape().rank_weight_bytes(tp, pp, stage);
                    assert_eq!((all - free) as u64, said, "{tp} x {pp}, part {at}");
                }
            }
        }
    }
}

/// The device with the least to spare decides how many tokens there is room for, and each is asked for its own part.
#[test]
fn memory_is_that_of_the_tightest_device() {
    let sized = |mib: usize| Pretence { memory: Some(mib << 20), ..Pretence::default() };
    let layout = Layout { stages: 2, ..Layout::whole(Arithmetic::Fast) };
    let kv = |sizes: [usize; 2], fraction| {
        let model = spread_over(&sizes.map(sized), even(), layout)?;
        let config = Config {
            pp: 2,
            max_seqs: 4,
            max_batch_tokens: 64,
            max_model_len: 128,
            kv_fraction: fraction,
            ..Config::default()
        };
        Some(model.kv_memory(&config, None).unwrap().expect("they say how much they have"))
    };
    let (Some(even), Some(first), Some(second)) =
        (kv([180, 180], 0.95), kv([160, 180], 0.95), kv([180, 160], 0.95))
    else {
        return;
    };
    // Two of three layers are the first stage's: its memory is worth half as many tokens.
    assert!(first < even && second <= even, "{first}, {second} of {even}");
    let per_token = 3 * 2 * 2 * 32 * 2;
    let tokens = |bytes: u64| bytes as f64 / f64::from(per_token);
    let lost = tokens(even) - tokens(first);
    let expected = 0.95 * f64::from(20 << 20) / f64::from(per_token * 2 / 3);
    assert!((lost - expected).abs() < 2.0, "{lost} tokens fewer, not {expected}");
}
