//! candle's own models as the reference for ours: the same tensors, in f32, one sequence at a time.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config as CandleConfig, Llama};
use candle_transformers::models::{mixtral, qwen3_moe};
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
pub(crate) struct Reference(Model);

/// The architectures. Those that keep keys and values themselves are made anew for every prompt.
enum Model {
    Llama(Llama, Box<CandleConfig>),
    Mixtral(VarBuilder<'static>, mixtral::Config),
    Qwen3Moe(VarBuilder<'static>, Box<qwen3_moe::Config>),
}

/// Logits after some rows, which begin at a position.
type Forward<'a> = dyn FnMut(&Tensor, usize) -> candle_core::Result<Tensor> + 'a;

impl Reference {
    pub(crate) fn new(weights: &mut dyn Weights) -> Result<Self> {
        let ours = weights.config().clone();
        let tensors = tensors(weights)?;
        let Some(mixture) = ours.mixture else {
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
            let llama = Llama::load(tensors, &config)?;
            return Ok(Self(Model::Llama(llama, Box::new(config))));
        };
        let config = serde_json::json!({
            "vocab_size": ours.vocab,
            "hidden_size": ours.hidden,
            "intermediate_size": ours.ffn,
            "moe_intermediate_size": ours.ffn,
            "num_hidden_layers": ours.layers,
            "num_attention_heads": ours.heads,
            "num_key_value_heads": ours.kv_heads,
            "head_dim": ours.head_dim,
            "hidden_act": "silu",
            "attention_bias": false,
            "max_position_embeddings": ours.max_position,
            "rms_norm_eps": ours.rms_eps,
            "rope_theta": ours.rope_theta,
            "tie_word_embeddings": ours.tied_embeddings,
            // As long as any sequence.
            "sliding_window": ours.max_position,
            "use_sliding_window": false,
            "max_window_layers": ours.layers,
            "decoder_sparse_step": 1,
            "num_experts": mixture.experts,
            "num_local_experts": mixture.experts,
            "num_experts_per_tok": mixture.top_k,
            "norm_topk_prob": mixture.normalised,
            "use_flash_attn": false,
        });
        Ok(Self(if ours.qk_norm {
            Model::Qwen3Moe(tensors, Box::new(serde_json::from_value(config)?))
        } else {
            Model::Mixtral(tensors, serde_json::from_value(config)?)
        }))
    }

    /// The likeliest `n` tokens after `prompt`.
    pub(crate) fn greedy(&self, prompt: &[Token], n: usize) -> Result<Said> {
        let mut forward: Box<Forward<'_>> = match &self.0 {
            Model::Llama(model, config) => {
                let mut cache = Cache::new(true, DType::F32, config, &Device::Cpu)?;
                Box::new(move |rows, at| model.forward(rows, at, &mut cache)?.squeeze(0))
            }
            Model::Mixtral(tensors, config) => {
                let mut model = mixtral::Model::new(config, tensors.clone())?;
                Box::new(move |rows, at| model.forward(rows, at)?.flatten_all())
            }
            Model::Qwen3Moe(tensors, config) => {
                let mut model = qwen3_moe::ModelForCausalLM::new(config, tensors.clone())?;
                Box::new(move |rows, at| model.forward(rows, at)?.flatten_all())
            }
        };
        let (mut said, mut next, mut at) = (Vec::new(), prompt.to_vec(), 0);
        while said.len() < n {
            let rows = Tensor::new(&next[..], &Device::Cpu)?.unsqueeze(0)?;
            let logits = forward(&rows, at)?;
            at += next.len();
            next = vec![logits.argmax(D::Minus1)?.to_scalar::<u32>()?];
            said.push((next[0], logits.to_vec1()?));
        }
        Ok(said)
    }
}

/// All tensors of a model, by candle's names.
fn tensors(weights: &mut dyn Weights) -> Result<VarBuilder<'static>> {
    let ours = weights.config().clone();
    let mixtral = ours.mixture.is_some() && !ours.qk_norm;
    let mut names = vec!["model.embed_tokens".to_owned(), "model.norm".to_owned()];
    names.extend((!ours.tied_embeddings).then(|| "lm_head".to_owned()));
    for layer in 0..ours.layers {
        let mut parts: Vec<String> =
            ["input_layernorm", "post_attention_layernorm"].map(str::to_owned).into();
        parts.extend(["q", "k", "v", "o"].map(|p| format!("self_attn.{p}_proj")));
        if ours.qk_norm {
            parts.extend(["q", "k"].map(|p| format!("self_attn.{p}_norm")));
        }
        let gated = |of: &str| ["gate", "up", "down"].map(|p| format!("mlp{of}.{p}_proj"));
        match ours.mixture {
            None => parts.extend(gated("")),
            Some(mixture) => {
                parts.push("mlp.gate".to_owned());
                parts.extend((0..mixture.experts).flat_map(|e| gated(&format!(".experts.{e}"))));
            }
        }
        names.extend(parts.iter().map(|part| format!("model.layers.{layer}.{part}")));
    }
    let mut tensors = HashMap::new();
    for name in names.iter().map(|name| format!("{name}.weight")) {
        let ours = weights.tensor(&name)?;
        let tensor = Tensor::from_vec(ours.data, (ours.rows, ours.cols), &Device::Cpu)?;
        let vector = name.ends_with("norm.weight");
        let renamed = [
            (".mlp.", ".block_sparse_moe."),
            (".gate_proj.", ".w1."),
            (".up_proj.", ".w3."),
            (".down_proj.", ".w2."),
        ];
        let renamed = renamed.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to));
        let name = if mixtral { renamed } else { name };
        tensors.insert(name, if vector { tensor.flatten_all()? } else { tensor });
    }
    Ok(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

/// Greedy, and remembers by request.
struct Remember(Arc<Mutex<Vec<Said>>>);

impl Sample for Remember {
    fn sample(&mut self, seq: &Sequence, _drafted: u32, _branch: u16, logits: &mut [f32]) -> Token {
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
