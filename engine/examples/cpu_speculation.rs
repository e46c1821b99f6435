//! Prompt lookup on real text: tokens per second of decodes with and without drafts, side by side, by batch size.
//!
//!     cargo run --release -p knee-engine --example cpu_speculation -- MODEL TEXT_FILE [THREADS [DRAFT_TOKENS]]
//!
//! Each prompt (ChatML, as SmolLM2 has it) asks for a piece of the text to be repeated and summed up. The tokens are the
//! same with drafts as without; that is checked.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::config::{Config, Speculation};
use engine::exec::Greedy;
use engine::exec::cpu::{CpuExecutor, CpuModel, Precision, Team};
use engine::model::Model;
use engine::request::{Content, Token};
use engine::{Request, wiring};

/// Characters of a piece of the text.
const PIECE: usize = 1200;
/// Tokens of output.
const OUTPUT: u32 = 128;
/// Times that each is measured, with and without drafts in turn.
const ROUNDS: usize = 5;
const BATCHES: [usize; 4] = [1, 4, 16, 32];

struct Run {
    tokens: Vec<Vec<Token>>,
    decoding: Duration,
    accepted: f64,
}

fn run(executor: CpuExecutor, slots: u32, config: &Config, prompts: &[Vec<Token>]) -> Run {
    let engine = wiring::engine(config, slots, vec![Box::new(executor)]);
    let mut engine = engine.drafting(wiring::drafter(config));
    for (id, prompt) in (0..).zip(prompts) {
        let request = Request {
            id,
            input: prompt.len() as u32,
            limit: OUTPUT,
            fate: None,
            width: 1,
            priority: 0,
            content: Content::Tokens(prompt.as_slice().into()),
        };
        engine.add_request(request).expect("there is room");
    }
    let (mut now, mut decoding) = (Duration::ZERO, Duration::ZERO);
    let mut tokens = vec![Vec::new(); prompts.len()];
    loop {
        let start = Instant::now();
        engine.start(now, Duration::MAX);
        let took = start.elapsed();
        let Some(next) = engine.next_event() else { break };
        now = next;
        engine.step(now);
        let iteration = engine.last_iteration();
        if iteration.shape.prefill_seqs == 0 {
            decoding += took;
        }
        for (&request, &token) in iteration.emitted.iter().zip(&iteration.tokens) {
            tokens[request as usize].push(token);
        }
    }
    let totals = engine.totals();
    let accepted = totals.accepted as f64 / totals.drafted.max(1) as f64;
    Run { tokens, decoding, accepted }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, text, rest @ ..] = &args[..] else {
        return Err("usage: cpu_speculation MODEL TEXT_FILE [THREADS [DRAFT_TOKENS]]".into());
    };
    let threads = rest.first().map_or(Ok(2), |n| n.parse())?;
    let draft_tokens = rest.get(1).map_or(Ok(4), |n| n.parse())?;
    let mut model = Model::open(name, None)?;
    let letters: Vec<char> = std::fs::read_to_string(text)?.chars().collect();
    let asked = |piece: &[char]| {
        let piece: String = piece.iter().collect();
        let prompt = format!(
            "<|im_start|>user\nRepeat the following text word for word, then sum it up.\n\n{piece}<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        model.tokenizer.encode(&prompt, true)
    };
    let prompts: Vec<Vec<Token>> = letters.chunks(PIECE).map(asked).collect::<Result<_, _>>()?;
    let team = Arc::new(Team::new(threads));
    let packed = Arc::new(CpuModel::load(&team, model.weights.as_mut(), Precision::Int8)?);
    println!(
        "batch  tokens/s without  with {draft_tokens} drafted   ratio (rounds)          accepted"
    );
    for batch in BATCHES {
        let mine: Vec<_> = prompts.iter().cycle().take(batch).cloned().collect();
        let longest = mine.iter().map(Vec::len).max().unwrap_or(0) as u32 + OUTPUT;
        let slots = batch as u32 * longest.next_multiple_of(16) + 16 * batch as u32;
        let config = |speculation| Config {
            speculation,
            draft_tokens,
            max_seqs: batch as u32,
            max_batch_tokens: (batch as u32 * longest).max(512),
            max_model_len: longest,
            prefix_cache: false,
            ..Config::default()
        };
        let once = |speculation| {
            let greedy = || Box::new(Greedy::default()) as _;
            let executor = CpuExecutor::workers(&packed, &team, &[slots], greedy).remove(0);
            run(executor, slots, &config(speculation), &mine)
        };
        let (mut speeds, mut ratios, mut accepted) = ([0.0_f64; 2], Vec::new(), 0.0);
        for _ in 0..ROUNDS {
            let (plain, drafted) = (once(Speculation::Off), once(Speculation::PromptLookup));
            assert_eq!(plain.tokens, drafted.tokens, "drafts change no token");
            let all = (batch as u32 * (OUTPUT - 1)) as f64;
            let speed = [&plain, &drafted].map(|run| all / run.decoding.as_secs_f64());
            speeds = [0, 1].map(|i| speeds[i].max(speed[i]));
            ratios.push(speed[1] / speed[0]);
            accepted = drafted.accepted;
        }
        ratios.sort_by(f64::total_cmp);
        println!(
            "{batch:5}  {:16.0}  {:14.0}   {:.2} ({:.2} to {:.2})     {:6.0} %",
            speeds[0],
            speeds[1],
            ratios[ROUNDS / 2],
            ratios[0],
            ratios[ROUNDS - 1],
            100.0 * accepted
        );
    }
    Ok(())
}
