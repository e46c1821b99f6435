//! Small configurations of every kind of layer and every way to say number formats, made up here.

use serde_json::{Value, json};

use super::of_value;
use crate::format::Format;
use crate::model::ModelShape;
use crate::model::operators::Formats;

/// A plain model of four layers, with `more` over it.
fn with(more: Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 256, "vocab_size": 100, "max_position_embeddings": 1000
    });
    let Value::Object(more) = more else { panic!("fields") };
    config.as_object_mut().unwrap().extend(more);
    config
}

fn read(more: Value) -> Result<ModelShape, String> {
    of_value(&with(more), None, "m")
}

/// Its kinds of layers: the number of each, and its description.
fn layers(more: Value) -> String {
    let model = read(more).unwrap();
    let groups = model.layers.groups().map(|(n, layer)| format!("{n} x {}", layer.describe()));
    groups.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_layer_is_what_its_fields_say() {
    insta::assert_snapshot!(layers(json!({})), @"4 x full, 4 heads over 2 of 16; dense, 256 wide");
    let windows = json!({"model_type": "gpt_oss", "sliding_window": 16, "num_local_experts": 8,
        "num_experts_per_tok": 2});
    insta::assert_snapshot!(layers(windows), @r"
    2 x window of 16, 4 heads over 2 of 16; 2 of 8 experts, 256 wide
    2 x full, 4 heads over 2 of 16; 2 of 8 experts, 256 wide
    ");
    let chunks = json!({"model_type": "llama4", "attention_chunk_size": 128, "num_local_experts": 8,
        "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 512});
    insta::assert_snapshot!(layers(chunks), @r"
    2 x window of 128, 4 heads over 2 of 16; dense, 512 wide
    1 x window of 128, 4 heads over 2 of 16; 1 of 8 experts, 256 wide + 256 shared
    1 x full, 4 heads over 2 of 16; 1 of 8 experts, 256 wide + 256 shared
    ");
    let latent = json!({"model_type": "deepseek_v3", "kv_lora_rank": 32, "q_lora_rank": 48, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1, "n_routed_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 2});
    insta::assert_snapshot!(layers(latent.clone()), @r"
    1 x latent, 4 heads over 32+8; dense, 256 wide
    3 x latent, 4 heads over 32+8; 2 of 8 experts, 32 wide + 64 shared
    ");
    let mut sparse = latent;
    let more = json!({"index_topk": 64, "index_n_heads": 4, "index_head_dim": 16, "index_topk_freq": 2,
        "index_skip_topk_offset": 1});
    sparse.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    insta::assert_snapshot!(layers(sparse), @r"
    1 x latent of 64 tokens, 4 heads over 32+8; dense, 256 wide
    2 x latent of 64 tokens, those of the layer before, 4 heads over 32+8; 2 of 8 experts, 32 wide + 64 shared
    1 x latent of 64 tokens, 4 heads over 32+8; 2 of 8 experts, 32 wide + 64 shared
    ");
    let linear = json!({"model_type": "qwen3_5", "full_attention_interval": 4, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4});
    insta::assert_snapshot!(layers(linear), @r"
    3 x gated delta net, 4 heads over 2 of 16x16; dense, 256 wide
    1 x full, 4 heads over 2 of 16; dense, 256 wide
    ");
    let mixers = json!({"model_type": "nemotron_h", "hybrid_override_pattern": "ME*-", "mamba_num_heads": 8,
        "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 32, "conv_kernel": 4, "n_routed_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 64,
        "moe_latent_size": 16});
    insta::assert_snapshot!(layers(mixers), @r"
    1 x Mamba 2, 8 heads of 16x32 in 2 groups
    1 x 2 of 8 experts, 32 wide in a latent of 16 + 64 shared
    1 x full, 4 heads over 2 of 16
    1 x dense, 256 wide
    ");
    let beside = json!({"model_type": "gemma4", "layer_types": ["sliding_attention", "sliding_attention",
        "sliding_attention", "full_attention"], "sliding_window": 16, "global_head_dim": 32,
        "num_global_key_value_heads": 1, "attention_k_eq_v": true, "enable_moe_block": true, "num_experts": 8,
        "top_k_experts": 2, "moe_intermediate_size": 32});
    insta::assert_snapshot!(layers(beside), @r"
    3 x window of 16, 4 heads over 2 of 16; 2 of 8 experts, 32 wide + 256 shared
    1 x full, 4 heads over 1 of 32; 2 of 8 experts, 32 wide + 256 shared
    ");
    let searched = json!({"model_type": "nemotron-nas", "intermediate_size": null, "block_configs": [
        {"attention": {"n_heads_in_group": 2, "no_op": false}, "ffn": {"ffn_mult": 6.0, "no_op": false}},
        {"attention": {"n_heads_in_group": null, "no_op": true}, "ffn": {"ffn_mult": 12.0, "no_op": false}},
        {"attention": {"n_heads_in_group": 4, "no_op": false}, "ffn": {"no_op": true}}]});
    insta::assert_snapshot!(layers(searched), @r"
    1 x full, 4 heads over 2 of 16; dense, 256 wide
    1 x dense, 512 wide
    1 x full, 4 heads over 1 of 16
    ");
}

#[test]
fn an_unknown_kind_is_refused_by_its_name() {
    let refused = |more: Value| read(more).unwrap_err();
    let types =
        json!({"layer_types": ["full_attention", "retention", "full_attention", "full_attention"]});
    assert_eq!(refused(types), "attention `retention` of model_type `llama` is not known");
    let compressed = json!({"model_type": "deepseek_v9", "compress_ratios": [0, 4]});
    assert_eq!(
        refused(compressed),
        "attention `compressed attention` of model_type `deepseek_v9` is not known (`compress_ratios`)"
    );
    let state = json!({"model_type": "bamba", "mamba_d_state": 16});
    assert_eq!(
        refused(state),
        "attention `mamba_d_state` of model_type `bamba` is not known without a list of layers"
    );
    let mixer = json!({"model_type": "nemotron_h", "hybrid_override_pattern": "?"});
    assert_eq!(refused(mixer), "layer `?` of model_type `nemotron_h` is not known");
    assert_eq!(
        refused(json!({"hidden_size": null})),
        "it does not say `hidden_size` or `n_embd` or `d_model`"
    );
    assert_eq!(
        refused(json!({"vocab_size": -1})),
        "`vocab_size` or `padded_vocab_size` = -1 must be a count"
    );
    assert_eq!(
        refused(json!({"quantization_config": {"quant_method": "ternary"}})),
        "quant_method `ternary` is not known: give the format of its weights with --quantization"
    );
}

#[test]
fn parts_left_out_are_named() {
    let model = read(json!({"model_type": "someone", "vision_config": {"depth": 3}, "num_nextn_predict_layers": 1,
        "sliding_window": 32}))
    .unwrap();
    insta::assert_snapshot!(model.notes.join("\n"), @r"
    its vision tower is left out
    its draft head (MTP) is left out without --speculation mtp
    model_type `someone` is not known by name: it is read by its fields
    ");
}

#[test]
fn a_language_model_among_others_is_found() {
    let whole = json!({"model_type": "pair", "text_config": with(json!({})), "vision_config": {"hidden_size": 9},
        "tie_word_embeddings": true});
    let model = of_value(&whole, None, "m").unwrap();
    assert_eq!((model.hidden, model.layers.count(), model.tied_embeddings), (64, 4, true));
    assert!(!read(json!({})).unwrap().tied_embeddings);
}

#[test]
fn contexts_are_those_after_scaling() {
    let context = |scaling: Value| read(json!({ "rope_scaling": scaling })).unwrap().max_context;
    assert_eq!(context(Value::Null), 1000);
    assert_eq!(context(json!({"rope_type": "llama3", "factor": 8.0})), 1000);
    assert_eq!(context(json!({"type": "linear", "factor": 2.0})), 2000);
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 500});
    assert_eq!(context(yarn), 2000);
}

/// Formats of layers 0 and 1 and of the head.
fn formats(more: &Value, beside: Option<&Value>) -> (Formats, Formats, Format) {
    let experts = json!({"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "n_shared_experts": 1});
    let mut config = with(experts);
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let model = of_value(&config, beside, "m").unwrap();
    let all: Vec<Formats> =
        model.layers.groups().flat_map(|(n, l)| vec![l.formats; n as usize]).collect();
    (all[0], all[all.len() - 1], model.head)
}

#[test]
fn number_formats_are_read_however_they_are_said() {
    let of = |config: Value| formats(&json!({ "quantization_config": config }), None);
    let all = |format| (Formats::all(format), Formats::all(format), Format::Bf16);
    assert_eq!(of(Value::Null), all(Format::Bf16));
    assert_eq!(of(json!({"quant_method": "fp8"})), all(Format::Fp8));
    let blocks = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    assert_eq!(of(blocks), all(Format::Fp8Block));
    for (bits, format) in [(4, Format::Int4), (8, Format::Int8)] {
        assert_eq!(
            of(json!({"quant_method": "gptq", "bits": bits, "group_size": 128})),
            all(format)
        );
    }
    let group = |weights: Value| {
        json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"],
            "weights": weights}}, "ignore": ["lm_head"]})
    };
    for (weights, format) in [
        (json!({"num_bits": 8, "type": "float", "strategy": "channel"}), Format::Fp8),
        (
            json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}),
            Format::Fp8Block,
        ),
        (json!({"num_bits": 4, "type": "float", "group_size": 16}), Format::Nvfp4),
        (json!({"num_bits": 4, "type": "float", "group_size": 32}), Format::Mxfp4),
        (json!({"num_bits": 8, "type": "int"}), Format::Int8),
        (json!({"num_bits": 4, "type": "int", "group_size": 32}), Format::Int4G32),
    ] {
        assert_eq!(of(group(weights)), all(format));
    }
    // Only experts are kept in MXFP4.
    let experts = Formats { feed_forward: Format::Mxfp4, ..Formats::default() };
    assert_eq!(of(json!({"quant_method": "mxfp4"})), (experts, experts, Format::Bf16));
    // The file beside it; attention stays as it is, and so does the first layer.
    let beside = json!({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["lm_head", "model.layers.0*", "model.layers.1.self_attn*", "model.layers.2.self_attn*",
        "model.layers.3.self_attn*"]}});
    let (first, last, head) = formats(&json!({}), Some(&beside));
    let attention =
        Formats { projections: Format::Bf16, output: Format::Bf16, ..Formats::all(Format::Nvfp4) };
    assert_eq!((first, last, head), (Formats::default(), attention, Format::Bf16));
    // Modules one by one.
    let mixed = json!({"quant_algo": "MIXED_PRECISION", "quantized_layers": {
        "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
        "model.layers.0.mlp.experts": {"quant_algo": "W4A16_NVFP4"}, "lm_head": {"quant_algo": "FP8"}}});
    let (first, last, head) = of(mixed);
    let listed =
        Formats { projections: Format::Fp8, feed_forward: Format::Nvfp4, ..Formats::default() };
    assert_eq!((first, last, head), (listed, Formats::default(), Format::Fp8));
}

#[test]
fn numbers_that_are_none_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let text = with(json!({"limits": "HERE", "said": "no \"Infinity\" here"})).to_string();
    std::fs::write(&path, text.replace("\"HERE\"", "[0.0, Infinity, -Infinity, NaN]")).unwrap();
    assert_eq!(ModelShape::of_config(&path, "m").unwrap().hidden, 64);
    std::fs::write(&path, "{\n\"hidden_size\": }").unwrap();
    let told = ModelShape::of_config(&path, "m").unwrap_err().to_string();
    assert!(told.contains("config.json:2: not a model configuration"), "{told}");
}

#[test]
fn a_text_model_among_several_parts_leaves_out_the_defaults_of_its_family() {
    let part =
        |text: Value| of_value(&json!({"model_type": "pair", "text_config": text}), None, "m");
    let text = json!({"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024});
    let model = part(text.clone()).unwrap();
    let layers = model.layers.groups().map(|(n, layer)| format!("{n} x {}", layer.describe()));
    insta::assert_snapshot!(layers.collect::<Vec<_>>().join("\n"), @r"
    29 x window of 1024, 8 heads over 4 of 256; dense, 10240 wide
    5 x full, 8 heads over 4 of 256; dense, 10240 wide
    ");
    assert_eq!((model.vocab, model.max_context), (262_208, 131_072));
    insta::assert_snapshot!(model.notes[0], @"its text model leaves `head_dim`, `max_position_embeddings`, `num_attention_heads`, `num_key_value_heads`, `tie_word_embeddings`, `vocab_size` to the defaults of `gemma3` in transformers");

    // A field that is null is no gap; a family without known defaults has gaps, and so has a single part.
    let mut none = text.clone();
    none["vocab_size"] = Value::Null;
    insta::assert_snapshot!(part(none).unwrap_err(), @"it does not say `vocab_size` or `padded_vocab_size`");
    let mut other = text.clone();
    other["model_type"] = json!("nobody_knows");
    insta::assert_snapshot!(part(other).unwrap_err(), @"it lacks the figures of its attention");
    insta::assert_snapshot!(of_value(&text, None, "m").unwrap_err(), @"it lacks the figures of its attention");
}
