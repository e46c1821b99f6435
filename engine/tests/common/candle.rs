//! candle's own Llama as the reference for ours: the same tensors, in f32, one sequence at a time.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config as CandleConfig, Llama};
use engine::config::{AllocatorKind, Config, SchedulerKind};
use engine::exec::Sample;
use engine::exec::cpu::{CpuExecutor, CpuModel, Precision, Team};
use engine::model::weights::Weights;
use engine::request::{Content, Token};
use engine::sequence::Sequence;
use engine::{Request, wiring};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A model's answer to a prompt: its tokens, and the logits each was chosen from.
pub(crate) type Said = Vec<(Token, Vec<f32>)>;

/// candle's model of some weights.
pub(crate) struct Reference {
    model: Llama,
    config: CandleConfig,
}

impl Reference {
    pub(crate) fn new(weights: &mut dyn Weights) -> Result<Self> {
        let ours = weights.config().clone();
        let config = CandleConfig {
            hidden_size: ours.hidden as usize,
            intermediate_size: ours.ffn as usize,
            vocab_size: ours.vocab as usize,
            num_hidden_layers: ours.layers as usize,
            num_attention_heads: ours.heads as usize,
            num_key_value_heads: ours.kv_heads as usize,
            use_flash_attn: false,
            rms_norm_eps: f64::from(ours.rms_eps),
            rope_theta: ours.rope_theta,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: ours.max_position as usize,
            tie_word_embeddings: ours.tied_embeddings,
        };
        let mut names = vec!["model.embed_tokens".to_owned(), "model.norm".to_owned()];
        names.extend((!ours.tied_embeddings).then(|| "lm_head".to_owned()));
        for layer in 0..ours.layers {
            let parts = ["input_layernorm", "post_attention_layernorm"].map(str::to_owned);
            let attention = ["q", "k", "v", "o"].map(|p| format!("self_attn.{p}_proj"));
            let mlp = ["gate", "up", "down"].map(|p| format!("mlp.{p}_proj"));
            let parts = parts.into_iter().chain(attention).chain(mlp);
            names.extend(parts.map(|part| format!("model.layers.{layer}.{part}")));
        }
        let mut tensors = HashMap::new();
        for name in names.iter().map(|name| format!("{name}.weight")) {
            let ours = weights.tensor(&name)?;
            let tensor = Tensor::from_vec(ours.data, (ours.rows, ours.cols), &Device::Cpu)?;
            let vector = name.ends_with("norm.weight");
            tensors.insert(name, if vector { tensor.flatten_all()? } else { tensor });
        }
        let tensors = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Ok(Self { model: Llama::load(tensors, &config)?, config })
    }

    /// The likeliest `n` tokens after `prompt`.
    pub(crate) fn greedy(&self, prompt: &[Token], n: usize) -> Result<Said> {
        let mut cache = Cache::new(true, DType::F32, &self.config, &Device::Cpu)?;
        let (mut said, mut next, mut at) = (Vec::new(), prompt.to_vec(), 0);
        while said.len() < n {
            let rows = Tensor::new(&next[..], &Device::Cpu)?.unsqueeze(0)?;
            let logits = self.model.forward(&rows, at, &mut cache)?.squeeze(0)?;
            at += next.len();
            next = vec![logits.argmax(D::Minus1)?.to_scalar::<u32>()?];
            said.push((next[0], logits.to_vec1()?));
        }
        Ok(said)
    }
}

/// Greedy, and remembers by request.
struct Remember(Arc<Mutex<Vec<Said>>>);

impl Sample for Remember {
    fn sample(&mut self, seq: &Sequence, _branch: u16, logits: &mut [f32]) -> Token {
        let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        let token = best.expect("a vocabulary") as Token;
        self.0.lock().expect("nobody panicked")[seq.request as usize]
            .push((token, logits.to_vec()));
        token
    }
}

/// The same by our engine, all `prompts` at once, in chunks, over paged keys and values.
pub(crate) fn ours(
    weights: &mut dyn Weights,
    precision: Precision,
    prompts: &[Vec<Token>],
    n: usize,
) -> Result<Vec<Said>> {
    let team = Arc::new(Team::new(2));
    let model = Arc::new(CpuModel::load(&team, weights, precision)?);
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + n;
    let slots = prompts.len() as u32 * (longest as u32).next_multiple_of(16);
    let said = Arc::new(Mutex::new(vec![Vec::new(); prompts.len()]));
    let sampler = || -> Box<dyn Sample> { Box::new(Remember(Arc::clone(&said))) };
    let executor = CpuExecutor::workers(&model, &team, &[slots], sampler).remove(0);
    let config = Config {
        scheduler: SchedulerKind::Chunked,
        allocator: AllocatorKind::Paged,
        max_seqs: prompts.len() as u32,
        max_batch_tokens: prompts.len() as u32 + 13,
        max_model_len: longest as u32,
        ..Config::default()
    };
    let mut engine = wiring::engine(&config, slots, vec![Box::new(executor)]);
    for (id, prompt) in (0..).zip(prompts) {
        let (input, limit) = (prompt.len() as u32, n as u32);
        let content = Content::Tokens(prompt[..].into());
        let request = Request { id, input, limit, fate: None, width: 1, priority: 0, content };
        engine.add_request(request)?;
    }
    let mut now = Duration::ZERO;
    loop {
        engine.start(now, Duration::MAX);
        let Some(next) = engine.next_event() else { break };
        now = next;
        engine.step(now);
    }
    drop(engine);
    let mut said = said.lock().expect("nobody panicked");
    Ok(std::mem::take(&mut *said))
}

/// Root mean square difference, in units of the spread of what is right.
pub(crate) fn error(got: &[f32], want: &[f32]) -> f64 {
    let n = want.len() as f64;
    let mean = want.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
    let spread: f64 = want.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum();
    let off: f64 = got.iter().zip(want).map(|(&g, &w)| f64::from(g - w).powi(2)).sum();
    (off / spread).sqrt()
}
