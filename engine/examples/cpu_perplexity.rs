//! The cost of precision: perplexity of a text under each of the CPU executor's precisions, token by token through the
//! whole engine.
//!
//!     cargo run --release -p knee-engine --example cpu_perplexity -- MODEL TEXT_FILE [THREADS]

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::config::{AllocatorKind, Config, SchedulerKind};
use engine::exec::Sample;
use engine::exec::cpu::{CpuExecutor, CpuModel, Precision, Team};
use engine::model::Model;
use engine::request::{Content, Token};
use engine::sequence::Sequence;
use engine::{Request, wiring};

/// Tokens of a piece of the text; each is a sequence of its own.
const PIECE: usize = 256;
/// Pieces side by side.
const BATCH: u32 = 16;

/// Always chooses the text's next token, and keeps its log-likelihood.
struct Reader {
    pieces: Arc<Vec<Vec<Token>>>,
    likelihood: Arc<Mutex<(f64, usize)>>,
}

impl Sample for Reader {
    fn sample(&mut self, seq: &Sequence, _drafted: u32, _branch: u16, logits: &mut [f32]) -> Token {
        let next = self.pieces[seq.request as usize][seq.len as usize];
        let most = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
        let mut likelihood = self.likelihood.lock().expect("nobody panicked");
        likelihood.0 += f64::from(logits[next as usize] - most) - sum.ln();
        likelihood.1 += 1;
        next
    }
}

fn perplexity(executor: CpuExecutor, pieces: &[Vec<Token>], read: &Mutex<(f64, usize)>) -> f64 {
    let config = Config {
        scheduler: SchedulerKind::Continuous,
        allocator: AllocatorKind::Paged,
        max_seqs: BATCH,
        max_batch_tokens: BATCH,
        max_model_len: PIECE as u32,
        prefix_cache: false,
        ..Config::default()
    };
    let mut engine = wiring::engine(&config, BATCH * PIECE as u32, vec![Box::new(executor)]);
    for (id, piece) in (0..).zip(pieces) {
        let content = Content::Tokens(piece[..1].into());
        let limit = piece.len() as u32 - 1;
        let request = Request { id, input: 1, limit, fate: None, width: 1, priority: 0, content };
        engine.add_request(request).expect("a piece fits");
    }
    let mut now = Duration::ZERO;
    loop {
        engine.start(now, Duration::MAX);
        let Some(next) = engine.next_event() else { break };
        now = next;
        engine.step(now);
    }
    let (sum, tokens) = *read.lock().expect("nobody panicked");
    (-sum / tokens as f64).exp()
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, text, rest @ ..] = &args[..] else {
        return Err("usage: cpu_perplexity MODEL TEXT_FILE [THREADS]".into());
    };
    let threads = rest.first().map_or(Ok(2), |n| n.parse())?;
    let mut model = Model::open(name, None)?;
    let tokens = model.tokenizer.encode(&std::fs::read_to_string(text)?, false)?;
    let pieces: Vec<Vec<Token>> =
        tokens.chunks(PIECE).filter(|p| p.len() > 1).map(<[Token]>::to_vec).collect();
    println!("{} tokens in {} pieces", tokens.len(), pieces.len());
    let (pieces, team) = (Arc::new(pieces), Arc::new(Team::new(threads)));
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let packed = Arc::new(CpuModel::load(&team, model.weights.as_mut(), precision)?);
        let likelihood = Arc::new(Mutex::new((0.0, 0)));
        let reader = || -> Box<dyn Sample> {
            let (pieces, likelihood) = (Arc::clone(&pieces), Arc::clone(&likelihood));
            Box::new(Reader { pieces, likelihood })
        };
        let slots = BATCH * PIECE as u32;
        let executor = CpuExecutor::workers(&packed, &team, &[slots], reader).remove(0);
        println!("{precision:?}: {:.4}", perplexity(executor, &pieces, &likelihood));
    }
    Ok(())
}
