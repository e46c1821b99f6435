//! `knee models`, and models that are named in other ways.

use super::*;

/// A small model with experts, windows and FP8 weights, in the words of a `config.json`.
const CONFIG: &str = r#"{"model_type": "gpt_oss", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 512, "vocab_size": 32000, "sliding_window": 128,
    "max_position_embeddings": 8192, "num_local_experts": 16, "num_experts_per_tok": 4,
    "quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["re:.*self_attn.*"]}}"#;

#[test]
fn known_models_are_listed_and_described() {
    let listed: serde_json::Value =
        serde_json::from_slice(&knee(&["models", "--json"]).stdout).unwrap();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().filter_map(|m| m["name"].as_str()).collect();
    assert!(names.len() > 60 && names.contains(&"openai/gpt-oss-120b"), "{names:?}");
    let said = knee(&["models", "GPT-OSS-120B"]);
    let said = text(&said.stdout);
    for part in ["116.83 billion", "18 x window of 128", "4 of 128 experts", "mxfp4"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.lines().all(|l| l.chars().count() <= 100), "{said}");
    let wrong = knee(&["models", "gpt-os-120b"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("did you mean openai/gpt-oss-120b"));
}

#[test]
fn a_configuration_is_simulated_by_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("Mine-8E");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("config.json"), CONFIG).unwrap();
    let folder = folder.to_str().unwrap();
    let bench = |more: &[&str]| {
        let usual = ["bench", "--model", folder, "--requests", "50", "--rate", "5", "--json"];
        knee(&[&usual, more].concat())
    };
    let own = bench(&["--tp", "2", "--ep", "2"]);
    let result: serde_json::Value = serde_json::from_slice(&own.stdout).unwrap();
    assert_eq!(result["completed"], 50);
    // Ranks of attention share the experts, and have requests of their own.
    let ranks = bench(&["--dp", "2", "--ep", "2", "--prefix-cache", "off"]);
    let ranks: serde_json::Value = serde_json::from_slice(&ranks.stdout).unwrap();
    assert_eq!((&ranks["completed"], &ranks["gpus"]), (&50.into(), &2.into()));
    let dense = knee(&["bench", "--requests", "50", "--rate", "5", "--dp", "2"]);
    assert_eq!(dense.status.code(), Some(1));
    assert!(text(&dense.stderr).contains("has no experts that --dp 2 could share out"));
    // A search that takes them says that nothing measured stands behind them.
    let usual = [
        "tune",
        "--model",
        folder,
        "--requests",
        "60",
        "--slo",
        "ttft=5s",
        "--max-seqs",
        "32",
        "--gpus",
        "2",
    ];
    let search = |dp: &str| {
        let ranks = [
            "--policy",
            "chunked",
            "--max-batch-tokens",
            "1024",
            "--dp",
            dp,
            "--tp",
            if dp == "1" { "2" } else { "1" },
        ];
        let out = tempfile::tempdir().unwrap();
        let search = [&usual[..], &ranks, &["--out", out.path().to_str().unwrap()]].concat();
        text(&knee(&search).stdout)
    };
    let doubt = "recorded run judges attention split by sequence (dp 2)";
    let squeezed = |said: String| said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed(search("2")).contains(doubt));
    assert!(!squeezed(search("1")).contains("recorded run judges"));
    // Two groups of four layers, whose pages hold 16 tokens each.
    let said = text(&knee(&["models", folder]).stdout);
    for part in [
        "1 x 4 of 4 layers: all tokens, 16 a page",
        "1 x 4 of 4 layers: the last 128 tokens, 16 a page",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // 512 wide in blocks of 128 goes over four ranks, not over eight.
    let blocks = bench(&["--quantization", "fp8_block", "--tp", "4", "--ep", "1"]);
    assert!(blocks.status.success(), "{}", text(&blocks.stderr));
    let cut = bench(&["--quantization", "fp8_block", "--tp", "8", "--ep", "1"]);
    assert_eq!(cut.status.code(), Some(1));
    assert!(text(&cut.stderr).contains("in FP8 blocks of 128"), "{}", text(&cut.stderr));
}
