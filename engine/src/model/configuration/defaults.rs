//! The fields that a language model inside a configuration of several parts leaves out.
//!
//! transformers writes such a part as its difference to the defaults of its family, so what is not there is no gap.
//! Source of the figures: the configuration classes of transformers 4.50 to 5.0. A configuration of one part is written
//! whole, and what it lacks stays an error.

use std::sync::LazyLock;

use serde_json::{Value, json};

static FAMILIES: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "gemma2": {
            "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "max_position_embeddings": 8192, "sliding_window": 4096, "tie_word_embeddings": true
        },
        "gemma3": {
            "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "max_position_embeddings": 131072, "sliding_window": 4096, "tie_word_embeddings": true
        },
        "llama": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": false
        },
        "mistral": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
            "sliding_window": 4096, "tie_word_embeddings": false
        },
        "qwen2": {
            "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
            "tie_word_embeddings": false
        }
    })
});

/// The defaults of `family`, where they are known.
pub(super) fn of(family: &str) -> Option<&'static Value> {
    FAMILIES.get(family)
}
