//! The CPU executor's logits against a forward pass in f64 that keeps no cache, on small random models with each of the
//! family's variations.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::config::{AllocatorKind, Config, SchedulerKind};
use engine::exec::Executor;
use engine::exec::cpu::{CpuExecutor, CpuModel, CpuPipeline, Isa, Precision, Team};
use engine::exec::{Part, Sample};
use engine::model::llama::{LlamaConfig, Mixture, RopeScaling};
use engine::model::random::RandomWeights;
use engine::model::weights::Weights;
use engine::request::{Content, Token};
use engine::sequence::Sequence;
use engine::{Request, wiring};

/// A matrix in f64.
struct Matrix {
    cols: usize,
    data: Vec<f64>,
}

impl Matrix {
    fn times(&self, x: &[f64]) -> Vec<f64> {
        let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum();
        self.data.chunks_exact(self.cols).map(dot).collect()
    }
}

/// The model, plainly.
struct Reference {
    weights: RandomWeights,
    bf16: bool,
}

impl Reference {
    fn matrix(&mut self, name: &str) -> Matrix {
        let tensor = self.weights.tensor(name).unwrap();
        // Norms and biases stay in f32 whatever the weights are kept in.
        let round = self.bf16 && tensor.rows > 1;
        let kept = |x: f32| {
            let bits = x.to_bits();
            let rounded =
                f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000);
            f64::from(if round { rounded } else { x })
        };
        Matrix { cols: tensor.cols, data: tensor.data.into_iter().map(kept).collect() }
    }

    fn layer(&mut self, i: u32, name: &str) -> Matrix {
        self.matrix(&format!("model.layers.{i}.{name}"))
    }

    fn norm(&self, x: &[f64], weight: &Matrix) -> Vec<f64> {
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (square + f64::from(self.weights.config.rms_eps)).sqrt();
        x.iter().zip(&weight.data).map(|(x, w)| x * scale * w).collect()
    }

    fn turn(&self, head: &[f64], position: usize) -> Vec<f64> {
        let (config, half) = (&self.weights.config, head.len() / 2);
        let scale = f64::from(config.rope_scale());
        let frequencies = config.inv_freq();
        (0..head.len())
            .map(|i| {
                let (sin, cos) = f64::from(position as f32 * frequencies[i % half]).sin_cos();
                let other = if i < half { -head[i + half] } else { head[i - half] };
                (head[i] * cos + other * sin) * scale
            })
            .collect()
    }

    /// Heads of a projection, normalised and turned.
    fn heads(&mut self, i: u32, which: &str, x: &[Vec<f64>]) -> Vec<Vec<Vec<f64>>> {
        let config = self.weights.config.clone();
        let w = self.layer(i, &format!("self_attn.{which}_proj.weight"));
        let bias = config.qkv_bias.then(|| self.layer(i, &format!("self_attn.{which}_proj.bias")));
        let norm = (config.qk_norm && which != "v")
            .then(|| self.layer(i, &format!("self_attn.{which}_norm.weight")));
        let row = |(position, x): (usize, &Vec<f64>)| {
            let mut y = w.times(x);
            if let Some(bias) = &bias {
                y.iter_mut().zip(&bias.data).for_each(|(y, b)| *y += b);
            }
            let head = |head: &[f64]| {
                let head = norm.as_ref().map_or(head.to_vec(), |n| self.norm(head, n));
                if which == "v" { head } else { self.turn(&head, position) }
            };
            y.chunks_exact(config.head_dim as usize).map(head).collect()
        };
        x.iter().enumerate().map(row).collect()
    }

    fn attention(&mut self, i: u32, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let config = self.weights.config.clone();
        let [q, k, v] = ["q", "k", "v"].map(|which| self.heads(i, which, x));
        let group = (config.heads / config.kv_heads) as usize;
        let mut out = Vec::new();
        for (at, heads) in q.iter().enumerate() {
            let first = config.sliding_window.map_or(0, |w| (at + 1).saturating_sub(w as usize));
            let mut row = Vec::new();
            for (h, q) in heads.iter().enumerate() {
                let score = |t: usize| {
                    let dot: f64 = q.iter().zip(&k[t][h / group]).map(|(a, b)| a * b).sum();
                    (dot / f64::from(config.head_dim).sqrt()).exp()
                };
                let scores: Vec<f64> = (first..=at).map(score).collect();
                let sum: f64 = scores.iter().sum();
                let mixed = |d: usize| {
                    let parts = (first..=at).zip(&scores).map(|(t, s)| s * v[t][h / group][d]);
                    parts.sum::<f64>() / sum
                };
                row.extend((0..config.head_dim as usize).map(mixed));
            }
            out.push(row);
        }
        out
    }

    /// The parts of the feed-forward layer that a row goes through, with their shares.
    fn experts(&mut self, i: u32, x: &[f64]) -> Vec<(String, f64)> {
        let Some(mixture) = self.weights.config.mixture else {
            return vec![("mlp".to_owned(), 1.0)];
        };
        // A router is in f32 whatever the weights are kept in.
        let bf16 = std::mem::replace(&mut self.bf16, false);
        let logits = self.layer(i, "mlp.gate.weight").times(x);
        self.bf16 = bf16;
        let all: f64 = logits.iter().map(|logit| logit.exp()).sum();
        let mut shares: Vec<_> = logits.iter().map(|logit| logit.exp() / all).enumerate().collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        shares.truncate(mixture.top_k as usize);
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        let scale = if mixture.normalised { sum } else { 1.0 };
        shares.iter().map(|(e, share)| (format!("mlp.experts.{e}"), share / scale)).collect()
    }

    /// Logits after the last of `tokens`.
    fn logits(&mut self, tokens: &[Token]) -> Vec<f64> {
        let config = self.weights.config.clone();
        let embedding = self.matrix("model.embed_tokens.weight");
        let width = config.hidden as usize;
        let mut x: Vec<Vec<f64>> = tokens
            .iter()
            .map(|&t| embedding.data[t as usize * width..][..width].to_vec())
            .collect();
        for i in 0..config.layers {
            let norm = self.layer(i, "input_layernorm.weight");
            let normal: Vec<_> = x.iter().map(|x| self.norm(x, &norm)).collect();
            let attended = self.attention(i, &normal);
            let out = self.layer(i, "self_attn.o_proj.weight");
            let norm = self.layer(i, "post_attention_layernorm.weight");
            for (x, attended) in x.iter_mut().zip(&attended) {
                x.iter_mut().zip(out.times(attended)).for_each(|(x, y)| *x += y);
                let normal = self.norm(x, &norm);
                for (part, share) in self.experts(i, &normal) {
                    let [gate, up, down] = ["gate", "up", "down"]
                        .map(|w| self.layer(i, &format!("{part}.{w}_proj.weight")));
                    let gated = gate.times(&normal).into_iter().zip(up.times(&normal));
                    let inner: Vec<f64> = gated.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                    x.iter_mut().zip(down.times(&inner)).for_each(|(x, y)| *x += share * y);
                }
            }
        }
        let norm = self.matrix("model.norm.weight");
        let head = if config.tied_embeddings { embedding } else { self.matrix("lm_head.weight") };
        head.times(&self.norm(&x[x.len() - 1], &norm))
    }
}

/// A context, and the logits after it.
type Said = (Vec<Token>, Vec<f32>);

/// Greedy, and remembers.
struct Remember(Arc<Mutex<Vec<Said>>>);

impl Sample for Remember {
    fn sample(&mut self, seq: &Sequence, _drafted: u32, _branch: u16, logits: &mut [f32]) -> Token {
        self.0.lock().unwrap().push((seq.tokens.clone(), logits.to_vec()));
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        best.unwrap() as Token
    }
}

/// [`serve_in`] batches of a few tokens.
fn serve(
    weights: &RandomWeights,
    precision: Precision,
    isa: Isa,
    split: (usize, usize),
) -> Vec<Said> {
    serve_in(13, weights, precision, isa, split)
}

/// Serves three prompts in chunks on paged memory, on so many tensor-parallel ranks and pipeline stages, in batches of
/// at most so many tokens; returns the requests and the model's answers.
fn serve_in(
    max_batch_tokens: u32,
    weights: &RandomWeights,
    precision: Precision,
    isa: Isa,
    (ranks, stages): (usize, usize),
) -> Vec<Said> {
    let share = |stage, rank| {
        let team = Arc::new(Team::with_isa(2, isa));
        let part = Part { rank, ranks, stage, stages };
        let model = CpuModel::load_part(&team, &mut weights.clone(), precision, part);
        (Arc::new(model.unwrap()), team)
    };
    let parts: Vec<Vec<_>> =
        (0..stages).map(|stage| (0..ranks).map(|rank| share(stage, rank)).collect()).collect();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sampler = || -> Box<dyn Sample> { Box::new(Remember(Arc::clone(&seen))) };
    let executor: Box<dyn Executor> = match stages {
        1 => Box::new(CpuExecutor::tensor_parallel(&parts[0], &[256], sampler).remove(0)),
        _ => Box::new(CpuPipeline::new(&parts, 256, sampler())),
    };
    let config = Config {
        scheduler: SchedulerKind::Chunked,
        allocator: AllocatorKind::Paged,
        block_size: 4,
        max_seqs: 3,
        max_batch_tokens,
        max_model_len: 80,
        prefix_cache: false,
        pp: stages as u32,
        ..Config::default()
    };
    let mut engine = wiring::engine(&config, 256, vec![executor]);
    for (id, input) in [(0u32, 1u32), (1, 17), (2, 30)] {
        let words: Vec<Token> = (0..input).map(|i| (i * 37 + id * 11) % 90).collect();
        let content = Content::Tokens(words.into());
        let request = Request { id, input, limit: 6, fate: None, width: 1, priority: 0, content };
        engine.add_request(request).unwrap();
    }
    let mut now = Duration::ZERO;
    loop {
        engine.start(now, Duration::MAX);
        engine.wait(now, Duration::MAX);
        let Some(next) = engine.next_event() else { break };
        now = next;
        engine.step(now);
    }
    drop(engine);
    Arc::into_inner(seen).unwrap().into_inner().unwrap()
}

/// Root mean square difference, in units of the spread of what is right.
fn error(got: &[f32], want: &[f64]) -> f64 {
    let mean = want.iter().sum::<f64>() / want.len() as f64;
    let spread: f64 = want.iter().map(|w| (w - mean).powi(2)).sum();
    let off: f64 = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
    (off / spread).sqrt()
}

fn small() -> LlamaConfig {
    LlamaConfig {
        name: "small".to_owned(),
        layers: 2,
        hidden: 72,
        ffn: 100,
        vocab: 90,
        ..LlamaConfig::tiny()
    }
}

fn check(config: LlamaConfig) {
    let weights = RandomWeights { config, seed: 11 };
    for (precision, tolerance) in
        [(Precision::F32, 2e-5), (Precision::Bf16, 2e-2), (Precision::Int8, 6e-2)]
    {
        let bf16 = precision != Precision::F32;
        let mut reference = Reference { weights: weights.clone(), bf16 };
        for isa in Isa::all() {
            let seen = serve(&weights, precision, isa, (1, 1));
            assert_eq!(seen.len(), 18);
            for (context, logits) in seen {
                let off = error(&logits, &reference.logits(&context));
                assert!(off < tolerance, "{precision:?} {isa:?} {} tokens: {off}", context.len());
            }
        }
    }
}

/// Where a token goes through all experts, rounding cannot make it go through others.
#[test]
fn all_experts() {
    let mixture = Some(Mixture { experts: 3, top_k: 3, normalised: true });
    check(LlamaConfig { mixture, ..small() });
}

#[test]
fn some_experts() {
    for normalised in [false, true] {
        let mixture = Some(Mixture { experts: 7, top_k: 2, normalised });
        let weights =
            RandomWeights { config: LlamaConfig { mixture, qk_norm: true, ..small() }, seed: 15 };
        let mut reference = Reference { weights: weights.clone(), bf16: false };
        for (context, logits) in serve(&weights, Precision::F32, Isa::best(), (1, 1)) {
            let off = error(&logits, &reference.logits(&context));
            assert!(off < 2e-5, "{} tokens: {off}", context.len());
        }
    }
}

/// Ranks put their columns side by side and sum nothing: the logits are those of one rank to the bit, in every precision
/// and by all instructions.
#[test]
fn tensor_parallel_ranks() {
    let config = LlamaConfig { heads: 8, kv_heads: 4, qkv_bias: true, qk_norm: true, ..small() };
    let mixture = Some(Mixture { experts: 5, top_k: 2, normalised: true });
    let experts = LlamaConfig { mixture, ..config.clone() };
    for config in [config, experts] {
        same_on_ranks(RandomWeights { config, seed: 12 });
    }
}

fn same_on_ranks(mut weights: RandomWeights) {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for isa in Isa::all() {
            let one = serve(&weights, precision, isa, (1, 1));
            assert_eq!(one.len(), 18);
            for ranks in [2, 4] {
                let said = serve(&weights, precision, isa, (ranks, 1));
                assert!(said == one, "{precision:?} {isa:?} {ranks} ranks");
            }
        }
    }
    let team = Team::new(1);
    let part = Part { ranks: 3, ..Part::WHOLE };
    let refused = CpuModel::load_part(&team, &mut weights, Precision::F32, part);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "model small: kv_heads = 4 must be a multiple of 3 ranks"
    );
}

/// Stages hand the residual stream on as it is: the logits are those of one stage to the bit, whatever is in flight.
#[test]
fn pipeline_stages() {
    for tied_embeddings in [true, false] {
        let config = LlamaConfig { layers: 5, tied_embeddings, ..small() };
        let mut weights = RandomWeights { config, seed: 13 };
        for (precision, ranks) in [(Precision::F32, 1), (Precision::Int8, 1), (Precision::F32, 2)] {
            // Stages share sequences out over batches, so that these are sampled in another order.
            let sorted = |stages| {
                let mut seen = serve(&weights, precision, Isa::best(), (ranks, stages));
                seen.sort_by(|a, b| a.0.cmp(&b.0));
                seen
            };
            let one = sorted(1);
            assert_eq!(one.len(), 18);
            for stages in [2, 3, 5] {
                assert_eq!(sorted(stages), one, "{precision:?}, {ranks} ranks, {stages} stages");
            }
        }
        let (team, part) = (Team::new(1), Part { stages: 6, ..Part::WHOLE });
        let refused = CpuModel::load_part(&team, &mut weights, Precision::F32, part);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "model small: layers = 5 do not fill 6 pipeline stages"
        );
    }
}

/// AMX, emulated where there is none, and AVX-512: the same logits to the bit, and so the same tokens. Batches of 13 rows
/// fill a part of a tile, and those of 48 more than one.
#[test]
fn amx_says_what_avx512_says() {
    let avx512 = Isa::all().into_iter().find(|isa| isa.name() == "avx512-vnni");
    let (Some(amx), Some(avx512)) = (Isa::amx_emulated(), avx512) else {
        return println!("skipped: no AVX-512 on Linux here");
    };
    let config = LlamaConfig { heads: 6, kv_heads: 2, qkv_bias: true, ..small() };
    let weights = RandomWeights { config, seed: 14 };
    for tokens in [13, 48] {
        let said = |isa| {
            let said = serve_in(tokens, &weights, Precision::Int8, isa, (1, 1));
            let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            said.into_iter().map(|(context, logits)| (context, bits(logits))).collect::<Vec<_>>()
        };
        let of_amx = said(amx);
        assert_eq!(of_amx.len(), 18);
        assert_eq!(of_amx, said(avx512), "batches of {tokens}");
    }
}

#[test]
fn grouped_queries() {
    check(LlamaConfig { heads: 6, kv_heads: 2, ..small() });
    check(LlamaConfig { heads: 3, kv_heads: 1, head_dim: 64, ..small() });
}

#[test]
fn as_many_keys_as_queries() {
    check(LlamaConfig { heads: 2, kv_heads: 2, head_dim: 128, ..small() });
}

#[test]
fn heads_that_fill_no_vector() {
    check(LlamaConfig { heads: 4, kv_heads: 4, head_dim: 20, ..small() });
}

#[test]
fn untied_with_biases() {
    check(LlamaConfig { tied_embeddings: false, qkv_bias: true, ..small() });
}

#[test]
fn norms_of_heads() {
    check(LlamaConfig { qk_norm: true, ..small() });
}

#[test]
fn sliding_windows() {
    check(LlamaConfig { sliding_window: Some(9), ..small() });
}

#[test]
fn scaled_rotations() {
    let rope_scaling = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position: 16,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: None,
    };
    check(LlamaConfig { rope_scaling, ..small() });
}
