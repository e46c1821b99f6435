//! Properties of the shapes that ship.
use super::*;
use crate::config::KvDtype;
use crate::format::Format;

/// The seven models that shipped first, by the sizes of their checkpoints.
const CHECKPOINTS: [(&str, u64); 7] = [
    ("llama-3.1-8b", 8_030_261_248),
    ("llama-3.1-70b", 70_553_706_496),
    ("llama-2-13b", 13_015_864_320),
    ("llama-2-70b", 68_976_648_192),
    ("mistral-7b", 7_241_732_096),
    ("opt-13b", 12_853_473_280),
    ("qwen3-32b", 32_762_123_264),
];

#[test]
fn parameters_are_those_of_the_checkpoints() {
    for (name, parameters) in CHECKPOINTS {
        let model = ModelShape::load(name).unwrap();
        assert_eq!(model.name, name);
        assert_eq!(model.parameters(), parameters, "{name}");
        assert_eq!(model.weight_bytes(), 2 * parameters, "{name}");
        assert!(model.dense().is_some() && model.notes.is_empty(), "{name}: {:?}", model.notes);
    }
}

#[test]
fn kv_bytes_by_hand() {
    let kv = |name, dtype, tp| ModelShape::load(name).unwrap().kv_bytes_per_token(dtype, tp);
    assert_eq!(kv("llama-3.1-8b", KvDtype::Bf16, 1), 2 * 8 * 128 * 2 * 32);
    assert_eq!(kv("llama-3.1-8b", KvDtype::Fp8, 1), 65_536);
    assert_eq!(kv("opt-13b", KvDtype::Bf16, 1), 819_200); // the 800 KB of the PagedAttention paper
    assert_eq!(kv("llama-3.1-70b", KvDtype::Bf16, 8), 40_960);
    assert_eq!(
        kv("llama-3.1-70b", KvDtype::Bf16, 16),
        40_960,
        "heads are copied beyond one per rank"
    );
    // 70 KB a token, of which every rank keeps all: what the DeepSeek-V3 report says of its cache.
    assert_eq!(kv("deepseek-ai/DeepSeek-V3", KvDtype::Bf16, 8), 61 * (512 + 64) * 2);
    // vLLM's page of 656 bytes, and 132 of the indexer.
    assert_eq!(kv("deepseek-ai/DeepSeek-V3.2", KvDtype::Fp8, 8), 61 * (656 + 132));
    assert_eq!(kv("Qwen/Qwen3.5-35B-A3B", KvDtype::Bf16, 1), 10 * 2 * 2 * 256 * 2);
}

#[test]
fn states_by_hand() {
    let model = ModelShape::load("Qwen/Qwen3.5-35B-A3B").unwrap();
    // 32 heads with 128 x 128 in float32, and three tokens of the convolution over 8,192 channels in bf16.
    let layer = 32 * 128 * 128 * 4 + 3 * 8192 * 2;
    assert_eq!(model.stage_state_bytes(1, 1, 0), 30 * layer);
    assert_eq!(model.stage_state_bytes(2, 1, 0), 15 * layer);
    let both: u64 = (0..3).map(|stage| model.stage_state_bytes(1, 3, stage)).sum();
    assert_eq!(both, 30 * layer);
}

/// Billions in a model's own name: all of them, and those that are active.
fn named(name: &str) -> (Option<f64>, Option<f64>) {
    let billions = |part: &str| {
        let digits = part.strip_suffix(['B', 'b'])?;
        let digits = digits.strip_prefix('A').unwrap_or(digits);
        digits.parse::<f64>().ok().filter(|n| *n > 0.0)
    };
    let parts = || name.split(['-', '_']);
    let all = parts().filter(|p| !p.starts_with('A')).find_map(billions);
    // Llama 4 says the active ones, and then its experts.
    if parts().any(|p| p.strip_suffix('E').is_some_and(|n| n.parse::<u32>().is_ok())) {
        return (None, all);
    }
    let trillions = parts().find_map(|p| p.strip_suffix('T')?.parse::<f64>().ok());
    (trillions.map(|t| 1e3 * t).or(all), parts().filter(|p| p.starts_with('A')).find_map(billions))
}

/// True where `name` says how many parameters a model has and it has others.
fn mistaken(model: &ModelShape, name: &str) -> Option<String> {
    let off = |said: Option<f64>, own: u64| {
        let own = own as f64 / 1e9;
        // Small ones are rounded to whole billions, a vision tower included.
        said.filter(|said| (own / said - 1.0).abs() > 0.1 && (own - said).abs() > 0.3)
            .map(|said| format!("{name}: {own:.2} B for {said} B"))
    };
    let (all, active) = named(name);
    off(all, model.parameters()).or_else(|| off(active, model.active_parameters()))
}

#[test]
fn the_catalogue_is_what_its_names_say() {
    let mut faults = Vec::new();
    for entry in Entry::all() {
        let model = entry.shape().unwrap();
        assert_eq!(model.fault(), None, "{}", entry.name);
        assert_eq!(ModelShape::load(&entry.name).unwrap(), model);
        let base = entry.name.rsplit('/').next().unwrap();
        faults.extend(mistaken(&model, base));
        for alias in &entry.aliases {
            assert_eq!(ModelShape::load(alias).unwrap(), model, "{alias}");
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(Entry::all().len() > 60);
}

#[test]
fn ranks_and_stages_hold_the_model_between_them() {
    for name in ModelShape::names() {
        let model = ModelShape::load(name).unwrap();
        let (whole, layers) = (model.weight_bytes(), model.layers.count());
        for pp in [1, 2, 3, 5, 8] {
            let counts: u32 = (0..pp).map(|s| model.layers.stage_count(pp, s)).sum();
            assert_eq!(counts, layers);
            assert_eq!(model.layers.stage_count(pp, pp - 1), layers / pp);
            let kv: u64 = (0..pp).map(|s| model.stage_kv_bytes(KvDtype::Bf16, 1, pp, s)).sum();
            assert_eq!(kv, model.kv_bytes_per_token(KvDtype::Bf16, 1));
            for tp in [1, 2, 4] {
                let held: u64 =
                    (0..pp).map(|s| u64::from(tp) * model.rank_weight_bytes(tp, pp, s)).sum();
                let excess = held as f64 / whole as f64 - 1.0;
                // Parts that ranks hold copies of: norms, routers, latents, KV heads of a model with two of them.
                let copied = copied_bytes(&model, tp) as f64 / whole as f64;
                let tied =
                    if pp > 1 && model.tied_embeddings { embedding_share(&model) } else { 0.0 };
                assert!(excess >= -1e-6, "{name} tp {tp} pp {pp}: {excess}");
                assert!(
                    excess <= copied + tied + 1e-3,
                    "{name} tp {tp} pp {pp}: {excess} {copied}"
                );
            }
        }
    }
}

fn embedding_share(model: &ModelShape) -> f64 {
    2.0 * f64::from(model.vocab) * f64::from(model.hidden) / model.weight_bytes() as f64
}

/// Bytes that the further ones of `tp` ranks hold copies of.
fn copied_bytes(model: &ModelShape, tp: u32) -> u64 {
    let further = u64::from(tp - 1);
    let positions = 2 * further * model.position_parameters();
    positions
        + model.over_layers(|layer| {
            let (one, all) = (layer.parts(model.hidden, 1), layer.parts(model.hidden, tp));
            let part = |(one, all): (&operators::Operators, &operators::Operators)| {
                let copied = all.matrices.iter().filter(|m| m.split == operators::Split::Copied);
                let copied: u64 = copied.map(|m| m.elements(1)).sum();
                // KV heads beyond one per rank make a matrix wider.
                let wide =
                    |of: &operators::Operators| of.matrices.iter().map(|m| m.n * m.k).sum::<u64>();
                2 * (further * (copied + all.copied_vectors) + wide(all) - wide(one))
            };
            one.iter().zip(&all).map(part).sum::<u64>()
                + further * 2 * u64::from(layer.norm_count()) * u64::from(model.hidden)
        })
}

#[test]
fn scales_are_weights_too() {
    let load = |name| ModelShape::load(name).unwrap();
    let (plain, block) = (load("Qwen/Qwen3-30B-A3B"), load("Qwen/Qwen3-30B-A3B-FP8"));
    assert_eq!(plain.parameters(), block.parameters());
    // Router, norms, embedding and head stay as they are; a float32 scale is kept for every 128 x 128.
    let (h, vocab) = (2048, 151_936);
    let kept = 48 * (128 * h + 2 * h + 2 * 128) + 2 * vocab * h + h;
    let quantised = plain.parameters() - kept;
    assert_eq!(block.weight_bytes(), 2 * kept + quantised + quantised / (128 * 128) * 4);
    // gpt-oss: attention in bf16, experts with an 8-bit scale per 32 elements.
    let oss = load("openai/gpt-oss-120b");
    let experts = 36 * 128 * 3 * 2880_u64 * 2880;
    let rest = oss.parameters() - experts;
    assert_eq!(oss.weight_bytes(), 2 * rest + experts / 2 + experts / 32);
    assert_eq!(oss.formats(), [Format::Bf16, Format::Mxfp4]);
    let four = load("Qwen/Qwen3-30B-A3B").quantised(Format::Nvfp4);
    assert!(four.weight_bytes() < block.weight_bytes());
}

#[test]
fn an_unknown_model_says_which_were_meant() {
    let told = |name: &str| ModelShape::load(name).unwrap_err().to_string();
    assert_eq!(
        told("gpt-os-120b"),
        "unknown model `gpt-os-120b`: did you mean openai/gpt-oss-120b, openai/gpt-oss-20b? `knee models` lists the known \
         ones; a folder, a config.json, hf:ORG/NAME or a .toml file will do as well"
    );
    assert!(told("kimi-k2").contains("moonshotai/Kimi-K2"), "{}", told("kimi-k2"));
    assert!(told("zzz").starts_with("unknown model `zzz`: `knee models` lists"), "{}", told("zzz"));
    for name in ["Meta-Llama/Llama-3.1-8B", "LLAMA-3.1-8B-INSTRUCT"] {
        assert_eq!(ModelShape::load(name).unwrap().name, "llama-3.1-8b");
    }
    assert_eq!(ModelShape::load("GPT-OSS-120B").unwrap().name, "openai/gpt-oss-120b");
}

/// A flat file, as people write it.
const FLAT: &str = "name = \"mine\"\nsource = \"made up\"\nhidden = 4096\nlayers = 32\nheads = 32\nkv_heads = 8\n\
                    head_dim = 128\nffn = 14336\ngated = true\nvocab = 32000\ntied_embeddings = false\n\
                    dtype_bytes = 2\nmax_context = 32768\n";

#[test]
fn a_file_is_read_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    let load = |text: String| {
        std::fs::write(&path, text).unwrap();
        ModelShape::load(path.to_str().unwrap())
    };
    let mistral = ModelShape::load("mistral-7b").unwrap();
    let mine = load(FLAT.to_owned()).unwrap();
    assert_eq!(mine.layers, mistral.layers);
    assert_eq!(mine.parameters(), mistral.parameters());
    let told = |from: &str, to: &str| load(FLAT.replace(from, to)).unwrap_err().to_string();
    assert_eq!(
        told("kv_heads = 8", "kv_heads = 5"),
        "model mine: heads = 32 must be a multiple of kv_heads = 5"
    );
    assert_eq!(told("layers = 32", "layers = 0"), "model mine: layers must be at least 1");
    let error = told("layers = 32", "");
    assert!(error.contains("missing field `layers`"), "{error}");
    let error = told("dtype_bytes = 2", "dtype_bytes = 1");
    assert!(error.contains("dtype_bytes = 1 does not say which number format"), "{error}");
    let fp8 = load(FLAT.replace("dtype_bytes = 2", "format = \"fp8\"")).unwrap();
    assert_eq!(fp8.formats(), [Format::Fp8, Format::Bf16]);
    let error = ModelShape::load("nowhere.toml").unwrap_err().to_string();
    assert!(error.starts_with("cannot read model file"), "{error}");
    // The words of a config.json will do as well.
    let words = "model_type = \"llama\"\nhidden_size = 64\nnum_hidden_layers = 2\nnum_attention_heads = 4\n\
                 intermediate_size = 128\nvocab_size = 256\nmax_position_embeddings = 512\n";
    assert_eq!(load(words.to_owned()).unwrap().name, "mine");
}

#[test]
fn kernels_of_mxfp4_want_experts_in_whole_tiles() {
    let of = |name: &str, ranks| ModelShape::load(name).unwrap().expert_filling(ranks, 1, 0);
    // 2,880 becomes 3,072 of the residual stream; inside 2,944, or 1,536 of a half, or 384 of an eighth.
    let added = |outer: u64, inner: u64, ranks: u64| outer * inner - 2880 * 2880 / ranks;
    let bytes = |experts: u64, weights: u64| 36 * experts * 3 * weights * 17 / 32;
    let model = "openai/gpt-oss-120b";
    assert_eq!(of(model, (1, 1)), bytes(128, added(3072, 2944, 1)));
    assert_eq!(of(model, (2, 1)), bytes(128, added(3072, 1536, 2)));
    assert_eq!(of(model, (8, 1)), bytes(128, added(3072, 384, 8)));
    assert_eq!(of(model, (8, 8)), bytes(16, added(3072, 2944, 1)));
    assert_eq!(of("Qwen/Qwen3-30B-A3B-FP8", (4, 1)), 0, "other formats have no such tiles");
    // 65.97 GiB is what a vLLM server said that it had loaded on one H100.
    let shape = ModelShape::load(model).unwrap();
    let gib = (shape.weight_bytes() + of(model, (1, 1))) as f64 / f64::from(1 << 30);
    assert!((gib - 65.97).abs() < 0.3, "{gib}");
}
