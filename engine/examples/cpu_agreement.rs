//! The agreement of the CPU engine with candle's own Llama on the same weights, on 20 prompts, greedily, and the
//! distance of the two likeliest tokens at each disagreement.
//!
//!     cargo run --release -p knee-engine --example cpu_agreement -- MODEL [TOKENS]
//!
//! f32 has to say the same, but for ties; bf16 and int8 answer for other weights than the reference's.

#[path = "../tests/common/candle.rs"]
mod candle;

use std::error::Error;

use candle::{Reference, error, ours};
use engine::exec::cpu::Precision;
use engine::model::Model;
use engine::request::Token;

const PROMPTS: [&str; 20] = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
    "Water boils at a temperature of",
    "The three laws of motion are",
    "Dear Sir or Madam, I am writing to",
    "In 1969, the first human being",
    "A recipe for bread: take flour,",
    "The difference between a process and a thread is",
    "SELECT name, age FROM people WHERE",
    "To be or not to be,",
    "The largest planet of the solar system",
    "import numpy as np\n\n",
    "My favourite book is about",
    "Photosynthesis is the process by which",
    "The stock market fell today after",
    "Question: What is 12 times 12? Answer:",
    "It was a dark and stormy night;",
    "The patient complains of",
    "List of European countries:\n1.",
];

/// The log odds of the first of two logits over the next, in nats.
fn margin(logits: &[f32]) -> f32 {
    let mut best = [f32::MIN; 2];
    for &x in logits {
        if x > best[0] {
            best = [x, best[0]];
        } else if x > best[1] {
            best[1] = x;
        }
    }
    best[0] - best[1]
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, rest @ ..] = &args[..] else {
        return Err("usage: cpu_agreement MODEL [TOKENS]".into());
    };
    let n = rest.first().map_or(Ok(200), |n| n.parse())?;
    let mut model = Model::open(name, None)?;
    let encode = |text: &&str| model.tokenizer.encode(text, false);
    let prompts: Vec<Vec<Token>> = PROMPTS.iter().map(encode).collect::<Result<_, _>>()?;
    let reference = Reference::new(model.weights.as_mut())?;
    let want = prompts.iter().map(|p| reference.greedy(p, n)).collect::<Result<Vec<_>, _>>()?;
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let said = ours(model.weights.as_mut(), precision, &prompts, n)?;
        let (mut whole, mut off, mut near) = (0, 0.0f64, 0.0f32);
        for (said, want) in said.iter().zip(&want) {
            let parted = said.iter().zip(want).position(|(s, w)| s.0 != w.0);
            // Logits of the same context: up to where they part.
            let pairs = said.iter().zip(want).take(parted.map_or(n, |at| at + 1));
            off = pairs.map(|(s, w)| error(&s.1, &w.1)).fold(off, f64::max);
            match parted {
                None => whole += 1,
                Some(at) => near = near.max(margin(&want[at].1)),
            }
        }
        println!(
            "{precision:?}: {whole} of {} prompts say the same {n} tokens; the others part where the likeliest two were \
             at most {near:.3} nats apart; logits of one context {off:.1e} apart at most",
            prompts.len()
        );
    }
    Ok(())
}
