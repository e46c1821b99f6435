//! Sampled tokens with drafts are those without, to the bit: so drafts change no distribution.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::small;
use engine::config::{Config, Speculation};
use engine::engine::Totals;
use engine::exec::Part;
use engine::exec::cpu::{CpuExecutor, CpuModel, Precision, Team};
use engine::model::random::RandomWeights;
use engine::request::{Content, Token, mix};
use engine::sample::{Sampler, SamplingParams};
use engine::sequence::{Draft, Sequence};
use engine::speculation::Drafter;
use engine::{Request, wiring};

const REQUESTS: u32 = 6;
const OUTPUT: u32 = 60;

/// Log probability and token of each place of each request.
type Said = HashMap<u32, Vec<(Token, u32)>>;

/// Drafts what was said before, with mistakes here and there.
struct Before(Said);

impl Drafter for Before {
    fn draft(&mut self, seq: &Sequence, most: u32, draft: &mut Draft) -> u32 {
        let output = seq.tokens.len() - seq.prompt as usize;
        let next = self.0[&seq.request][output..].iter();
        let guess = |(place, &(token, _)): (u64, &(Token, u32))| {
            let wrong = mix(u64::from(seq.request), (output as u64) << 8 | place).is_multiple_of(3);
            if wrong { token ^ 1 } else { token }
        };
        draft.tokens.extend((0..).zip(next).map(guess).take(most as usize));
        draft.tokens.len() as u32
    }
}

fn run(drafter: Option<Box<dyn Drafter>>) -> (Said, Totals) {
    let team = Arc::new(Team::new(1));
    let part = Part { rank: 0, ranks: 1, stage: 0, stages: 1 };
    let weights = &mut RandomWeights { config: small(128), seed: 5 };
    let model = Arc::new(CpuModel::load_part(&team, weights, Precision::F32, part).unwrap());
    let config = Config {
        speculation: Speculation::PromptLookup,
        draft_tokens: 4,
        max_seqs: 4,
        max_batch_tokens: 64,
        max_model_len: 128,
        ..Config::default()
    };
    let sampler = Sampler::default();
    let own = sampler.clone();
    let executors = CpuExecutor::workers(&model, &team, &[600], move || Box::new(own.clone()));
    let executors = executors.into_iter().map(|e| Box::new(e) as _).collect();
    let mut engine = wiring::engine(&config, 600, executors).drafting(drafter);
    for id in 0..REQUESTS {
        let prompt: Vec<Token> = (0..10 + id * 5).map(|at| (at * 7 + id) % 128).collect();
        let params = SamplingParams {
            temperature: 0.8,
            top_p: 0.95,
            repetition_penalty: 1.1,
            presence_penalty: 0.2,
            seed: u64::from(id),
            logprobs: Some(0),
            ..SamplingParams::default()
        };
        sampler.insert(id, params);
        let request = Request {
            id,
            input: prompt.len() as u32,
            limit: OUTPUT,
            fate: None,
            width: 1,
            priority: 0,
            content: Content::Tokens(prompt.into()),
        };
        engine.add_request(request).unwrap();
    }
    let (mut said, mut now) = (Said::new(), Duration::ZERO);
    loop {
        engine.start(now, Duration::MAX);
        let Some(next) = engine.next_event() else { break };
        now = next;
        engine.step(now);
        let iteration = engine.last_iteration();
        for (&request, &token) in iteration.emitted.iter().zip(&iteration.tokens) {
            let logprob = sampler.take_logprobs(request, 0).expect("one for each token").chosen;
            said.entry(request).or_default().push((token, logprob.to_bits()));
        }
    }
    (said, engine.totals())
}

#[test]
fn sampled_tokens_are_those_without_drafts() {
    let (alone, plain) = run(None);
    let (drafted, totals) = run(Some(Box::new(Before(alone.clone()))));
    assert_eq!(alone, drafted);
    assert!(alone.len() == REQUESTS as usize && alone.values().all(|s| s.len() == OUTPUT as usize));
    assert_eq!(plain.drafted, 0);
    let (right, all) = (totals.accepted, totals.drafted);
    assert!(0 < right && right < all, "{right} of {all} drafted tokens kept");
    assert!(totals.iterations < plain.iterations, "several tokens at once");
}
