//! Shapes of the models that were run and that knee does not ship, from their `config.json`.

use engine::ModelShape;
use engine::model::DenseShape;

/// Hidden width, layers, query heads, KV heads, feed-forward width, vocabulary.
type Figures = (u32, u32, u32, u32, u32, u32);

const SHAPES: &[(&str, Figures)] = &[
    ("Llama-2-7b-hf", (4096, 32, 32, 32, 11_008, 32_000)),
    ("CodeLlama-34b-Instruct-hf", (8192, 48, 64, 8, 22_016, 32_000)),
    ("Yi-34B", (7168, 60, 56, 8, 20_480, 64_000)),
    ("Qwen3-14B", (5120, 40, 40, 8, 17_408, 151_936)),
    ("Qwen2.5-7B-Instruct", (3584, 28, 28, 4, 18_944, 152_064)),
    ("Mistral-Nemo-Instruct-2407", (5120, 40, 32, 8, 14_336, 131_072)),
];

/// The model `name` stands for, if its shape is known. The part before a slash, its publisher, does
/// not matter.
pub(crate) fn shape(name: &str) -> Option<ModelShape> {
    let base = name.rsplit('/').next()?.split(' ').next()?;
    let embedded = match base {
        "Llama-3.1-8B-Instruct" | "Llama-3.1-8B" => "llama-3.1-8b",
        "Llama-3.1-70B-Instruct" => "llama-3.1-70b",
        "Llama-2-70b-hf" => "llama-2-70b",
        "opt-13b" => "opt-13b",
        _ => {
            let found = SHAPES.iter().find(|(n, _)| *n == base)?;
            let (hidden, layers, heads, kv_heads, ffn, vocab) = found.1;
            let llama = ModelShape::load("llama-3.1-8b").ok()?.dense()?;
            let (name, source) = (base.to_owned(), format!("config.json of {name}"));
            let (bias, qk_norm) = (base.starts_with("Qwen2.5"), base.starts_with("Qwen3"));
            let dense = DenseShape {
                name,
                source,
                hidden,
                layers,
                heads,
                kv_heads,
                ffn,
                vocab,
                bias,
                qk_norm,
                ..llama
            };
            return Some(dense.into());
        }
    };
    ModelShape::load(embedded).ok()
}
