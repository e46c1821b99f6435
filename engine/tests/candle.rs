//! The CPU engine agrees with candle's own models: the same tokens, from logits that differ by the rounding of f32.

#[path = "common/candle.rs"]
mod candle;

use candle::{Reference, error, ours};
use engine::exec::cpu::Precision;
use engine::model::llama::{LlamaConfig, Mixture};
use engine::model::random::RandomWeights;
use engine::request::Token;

fn check(config: LlamaConfig) {
    let vocab = config.vocab;
    let mut weights = RandomWeights { config, seed: 3 };
    let reference = Reference::new(&mut weights).unwrap();
    let prompt = |(id, len): (u32, u32)| -> Vec<Token> {
        (0..len).map(|i| (i * 37 + id * 11) % vocab).collect()
    };
    let prompts: Vec<Vec<Token>> = [(0, 1), (1, 17), (2, 40)].map(prompt).into();
    let said = ours(&mut weights, Precision::F32, &prompts, 40).unwrap();
    for (prompt, said) in prompts.iter().zip(said) {
        let want = reference.greedy(prompt, 40).unwrap();
        assert_eq!(said.len(), want.len());
        for (at, ((token, logits), (want, reference))) in said.iter().zip(&want).enumerate() {
            let off = error(logits, reference);
            assert!(off < 1e-4, "logits {off} apart at token {at}");
            assert_eq!(token, want, "at token {at}");
        }
    }
}

#[test]
fn tied() {
    check(LlamaConfig::tiny());
}

#[test]
fn untied_with_as_many_keys_as_queries() {
    let tiny = LlamaConfig::tiny();
    check(LlamaConfig { kv_heads: tiny.heads, tied_embeddings: !tiny.tied_embeddings, ..tiny });
}

#[test]
fn experts_of_mixtral() {
    let mixture = Some(Mixture { experts: 6, top_k: 2, normalised: true });
    check(LlamaConfig { mixture, tied_embeddings: false, ..LlamaConfig::tiny() });
}

#[test]
fn experts_of_qwen_3() {
    for normalised in [false, true] {
        let mixture = Some(Mixture { experts: 8, top_k: 3, normalised });
        check(LlamaConfig { mixture, qk_norm: true, ..LlamaConfig::tiny() });
    }
}
