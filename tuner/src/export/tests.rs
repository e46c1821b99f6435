//! The duties of all targets: no knob dropped in silence, and pins that leave nothing missing.

use super::said::hub_name;
use super::*;
use ::engine::KNOBS;

/// The configuration that the golden tests export.
pub(crate) fn found(policy: &str, edits: &[(&str, &str)]) -> Found {
    // Engines plan ahead where they can, and so do winners.
    let mut config = Config { async_scheduling: true, ..Config::default() };
    config.set("policy", policy).unwrap();
    edits.iter().for_each(|(k, v)| config.set(k, v).unwrap());
    let set: Vec<_> = edits.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let config = config.settled(&set);
    Found {
        model: hub_name("llama-3.1-8b").to_owned(),
        experts: false,
        engine: None,
        config,
        capacity_rps: 12.345,
        slo: vec!["ttft:p99=200ms".to_owned()],
        provenance: "knee 0.1.0: simulated on 1 x h100-sxm with workload chat".to_owned(),
    }
}

/// Values unlike the default for each knob that matters under some policy.
const OTHERS: &[(&str, &str, &str)] = &[
    ("chunked", "scheduler", "static"),
    ("chunked", "scheduler", "continuous"),
    ("chunked", "scheduler", "disagg"),
    ("chunked", "allocator", "contiguous"),
    ("continuous", "reserve", "pow2"),
    ("chunked", "prefix-cache", "off"),
    ("chunked", "max-seqs", "48"),
    ("chunked", "max-batch-tokens", "768"),
    ("chunked", "long-prefill-threshold", "512"),
    ("chunked", "block-size", "32"),
    ("chunked", "kv-fraction", "0.83"),
    ("chunked", "quantization", "fp8"),
    ("chunked", "quantization", "nvfp4"),
    ("chunked", "kv-dtype", "fp8"),
    ("chunked", "watermark", "0.02"),
    ("chunked", "prompt-kv", "chunk"),
    ("chunked", "queue", "priority"),
    ("chunked", "queue", "shortest-prefill"),
    ("chunked", "queue", "longest-prefix"),
    ("chunked", "max-queue", "100"),
    ("chunked", "victim", "least-computed"),
    ("chunked", "max-model-len", "4096"),
    ("chunked", "allow-long-context", "on"),
    ("static", "padding", "off"),
    ("static", "max-wait", "50ms"),
    ("paged", "mix", "on"),
    ("chunked", "async-scheduling", "off"),
    ("chunked", "speculation", "prompt-lookup"),
    ("chunked", "speculation", "mtp"),
    ("chunked", "tp", "2"),
    ("chunked", "dp", "2"),
    ("chunked", "ep", "2"),
    ("chunked", "pp", "2"),
    ("chunked", "replicas", "3"),
    ("disagg", "prefill-workers", "2"),
    ("disagg", "decode-workers", "3"),
];

#[test]
fn no_knob_is_dropped_in_silence() {
    for target in TARGETS {
        for (policy, knob, value) in OTHERS {
            let (usual, changed) = (found(policy, &[]), found(policy, &[(knob, value)]));
            assert_ne!(target.render(&usual), target.render(&changed), "{} {knob}", target.name);
        }
        for router in ["round-robin", "prefix-affine"] {
            let usual = target.render(&found("chunked", &[("replicas", "2")]));
            let edits = [("replicas", "2"), ("router", router)];
            assert_ne!(usual, target.render(&found("chunked", &edits)), "{}", target.name);
        }
        for (speculation, knob, value) in [
            ("prompt-lookup", "draft-tokens", "5"),
            ("mtp", "draft-tokens", "5"),
            ("mtp", "acceptance", "1.7"),
        ] {
            let drafts = ("speculation", speculation);
            let usual = target.render(&found("chunked", &[drafts]));
            let changed = target.render(&found("chunked", &[drafts, (knob, value)]));
            assert_ne!(usual, changed, "{} {speculation} {knob}", target.name);
        }
    }
    let elsewhere = ["policy", "router", "draft-tokens", "acceptance"];
    let tried: Vec<&str> = OTHERS.iter().map(|o| o.1).collect();
    for knob in KNOBS.iter().filter(|k| !elsewhere.contains(&k.name)) {
        assert!(tried.contains(&knob.name), "{} is not exported in any test", knob.name);
    }
}

#[test]
fn a_queue_is_bounded_as_each_engine_counts_it() {
    let of = |target: &Target, policy, edits: &[(&str, &str)]| {
        let edits = [&[("max-seqs", "64"), ("max-queue", "100")], edits].concat();
        target.render(&found(policy, &edits))
    };
    assert!(of(&sglang::TARGET, "chunked", &[]).contains("--max-queued-requests 100"));
    assert!(of(&sglang::TARGET, "disagg", &[]).contains("max-queue 100: "));
    // vLLM's limit is of one API server, and of all that are inside.
    assert!(of(&vllm::TARGET, "chunked", &[]).contains("--max-num-queued-reqs 164"));
    let two = [("replicas", "2")];
    assert!(of(&vllm::TARGET, "chunked", &two).contains("--max-num-queued-reqs 328"));
    assert!(of(&kserve::TARGET, "chunked", &two).contains("--max-num-queued-reqs 164"));
    assert!(of(&trtllm::TARGET, "chunked", &[]).contains("max-queue 100"));
    assert!(!vllm::TARGET.render(&found("chunked", &[])).contains("queued"));
}

#[test]
fn names_are_one_word_and_one_line() {
    let names = ["my model", "a;reboot", "it's", "$(reboot)", "x\nreboot", "plain/Name-1.0"];
    for (name, target) in names.iter().flat_map(|name| TARGETS.map(|target| (name, target))) {
        let (model, provenance) = ((*name).to_owned(), format!("on 1 x {name} with {name}"));
        let text = target.render(&Found { model, provenance, ..found("chunked", &[]) });
        if target.file.ends_with(".yaml") {
            let quoted = format!(" '{}'\n", name.replace('\n', " ").replace('\'', "''"));
            assert!(text.contains(&quoted), "{text}");
            continue;
        }
        let words = shlex::Shlex::new(&text).filter(|word| word == name).count();
        assert_eq!(words, 1, "{text}");
        let reboots = text.lines().any(|line| line.trim_start().starts_with("reboot"));
        // In quotes a line break is part of the name.
        assert!(!reboots || text.contains(&format!("'{name}'")), "{text}");
    }
}

#[test]
fn settings_that_an_engine_refuses_are_not_written() {
    let vllm = |edits: &[_]| vllm::TARGET.render(&found("chunked", edits));
    assert!(!vllm(&[("block-size", "8")]).contains("--block-size"));
    let long = [("max-model-len", "1024"), ("long-prefill-threshold", "2048")];
    assert!(!vllm(&long).contains("--long-prefill-token-threshold"));
    let sglang = |edits: &[_]| sglang::TARGET.render(&found("chunked", edits));
    assert!(!sglang(&[("block-size", "48")]).contains("--page-size"));
    let beyond = [("max-model-len", "200000"), ("allow-long-context", "on")];
    assert!(vllm(&beyond).contains("\nVLLM_ALLOW_LONG_MAX_MODEL_LEN=1 vllm serve meta-llama/"));
    for target in TARGETS.iter().filter(|target| target.file.ends_with(".yaml")) {
        let text = target.render(&found("chunked", &beyond));
        assert!(text.contains("- name: VLLM_ALLOW_LONG_MAX_MODEL_LEN\n"), "{text}");
    }
}

#[test]
fn every_target_has_a_name_and_a_file_of_its_own() {
    let mut seen = std::collections::BTreeSet::new();
    assert!(TARGETS.iter().all(|t| seen.insert(t.name) && seen.insert(t.file)));
}

#[test]
fn what_models_of_today_need_is_carried_by_every_target() {
    let edits = [
        ("quantization", "fp8"),
        ("kv-dtype", "fp8"),
        ("tp", "4"),
        ("ep", "4"),
        ("max-model-len", "16384"),
        ("replicas", "2"),
    ];
    for policy in ["chunked", "disagg"] {
        for (target, expected) in [
            (&vllm::TARGET, VLLM_FLAGS),
            (&kserve::TARGET, VLLM_FLAGS),
            (&llmd::TARGET, VLLM_FLAGS),
            (&dynamo::TARGET, VLLM_FLAGS),
            (
                &sglang::TARGET,
                [
                    "--quantization fp8",
                    "--kv-cache-dtype fp8_e4m3",
                    "--tp-size 4",
                    "--ep-size 4",
                    "--context-length 16384",
                ],
            ),
            (
                &trtllm::TARGET,
                [
                    "serve a checkpoint whose weights are in fp8",
                    "dtype: fp8",
                    "--tp_size 4",
                    "--ep_size 4",
                    "--max_seq_len 16384",
                ],
            ),
        ] {
            // A container's arguments are a word a line.
            let text = target.render(&found(policy, &edits)).replace("'\n", " ").replace('\'', " ");
            let words = text.split_whitespace().filter(|word| *word != "-");
            let text = words.collect::<Vec<_>>().join(" ");
            for flag in expected {
                assert!(text.contains(flag), "{} {policy}: {flag}\n{text}", target.name);
            }
            let lacks = target.missing(&found(policy, &edits).config);
            assert!(lacks.is_empty(), "{}: {lacks:?}", target.name);
        }
    }
}

const VLLM_FLAGS: [&str; 5] = [
    "--quantization fp8",
    "--kv-cache-dtype fp8",
    "--tensor-parallel-size 4",
    "--enable-expert-parallel",
    "--max-model-len 16384",
];

#[test]
fn copies_of_an_engine_stay_copies() {
    let of = |target: &Target, experts, policy| {
        let edits = [("replicas", "2"), ("max-seqs", "64"), ("max-queue", "100")];
        target.render(&Found { experts, ..found(policy, &edits) })
    };
    assert!(of(&vllm::TARGET, false, "chunked").contains("--data-parallel-size 2"));
    assert!(of(&sglang::TARGET, true, "chunked").contains("--dp-size 2"));
    assert!(of(&trtllm::TARGET, true, "chunked").contains("replicas 2: run as many copies"));
    for target in [&kserve::TARGET, &llmd::TARGET, &dynamo::TARGET] {
        let text = of(target, true, "chunked");
        assert!(text.contains("replicas: 2\n") && !text.contains("data-parallel"), "{text}");
    }
    // vLLM's ranks would share the experts of all copies.
    let shared = of(&vllm::TARGET, true, "chunked");
    assert!(shared.contains("# run 2 of this, each with its own --port"), "{shared}");
    assert!(shared.contains("--max-num-queued-reqs 164"), "{shared}");
}

#[test]
fn a_search_under_a_targets_pins_leaves_nothing_missing() {
    for target in TARGETS {
        for (policy, knob, value) in OTHERS {
            let mut config = found(policy, &[(knob, value)]).config;
            let pins = target.pins(&config);
            assert_eq!(pins.is_empty(), target.missing(&config).is_empty());
            // The policy first: it sets other knobs.
            for (knob, value) in pins.iter().filter(|p| p.0 == "policy") {
                config.set(knob, value).unwrap();
            }
            for (knob, value) in &pins {
                config.set(knob, value).unwrap();
            }
            let config = crate::space::canonical(&config);
            let still = target.missing(&config);
            assert!(still.is_empty(), "{} {policy} {knob} {value}: {still:?}", target.name);
        }
    }
}

#[test]
fn the_most_faithful_target_comes_first() {
    let first = |policy, edits: &[_]| most_faithful(&found(policy, edits).config)[0].name;
    assert_eq!(first("chunked", &[]), "vLLM");
    assert_eq!(first("paged", &[]), "SGLang");
    assert_eq!(first("chunked", &[("queue", "shortest-prefill")]), "SGLang");
    assert_eq!(first("chunked", &[("watermark", "0.05")]), "vLLM");
    assert_eq!(first("static", &[]), "TensorRT-LLM");
}
