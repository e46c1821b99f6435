//! Each preset is what it says: like the real source whose figures it carries, and those figures are the source's.

use std::path::Path;

use workloads::{
    Arrival, Comparison, Description, ReadOptions, Reference, Spec, describe, preset, presets,
    read, synthesise,
};

/// The distance that a figure of a preset may have from the source's: relative, or absolute for correlations and hit
/// rates. A preset is minutes long, so what few events decide (tails, bursts) is allowed more.
fn tolerance(preset: &str, figure: &str) -> f64 {
    match (preset, figure) {
        (_, "rank correlation") => 0.08,
        ("agentic", "prefix-hit rate in session") => 0.005,
        (_, "prefix-hit rate") => 0.02,
        (_, "CV of gaps") => 0.06,
        (_, "Fano factor, 60 s" | "Fano factor, 1 s") => 0.15,
        (_, "rate, 1/s") | ("agentic", _) => 0.05,
        _ => 0.12,
    }
}

fn apart(line: &Comparison) -> f64 {
    let here = line.here.unwrap_or(f64::NAN);
    let absolute = line.figure == "rank correlation" || line.figure.starts_with("prefix-hit rate");
    if absolute { (here - line.source).abs() } else { (here / line.source - 1.0).abs() }
}

#[test]
fn presets_are_like_their_sources() {
    let names: Vec<String> = presets().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["chat", "code", "summarization", "rag-long", "agentic", "reasoning"]);
    for name in names {
        let spec = preset(&name).unwrap();
        let figures = describe(&synthesise(&spec, None).unwrap());
        let lines = figures.beside(spec.reference().unwrap());
        assert!(lines.len() >= 8);
        for line in lines {
            let allowed = tolerance(&name, &line.figure);
            println!("{name:14} {:28} {:10.3} {:10.3?}", line.figure, line.source, line.here);
            assert!(apart(&line) <= allowed, "{name}: {line:?} is more than {allowed} apart");
        }
    }
}

#[test]
fn presets_end_soon_but_leave_enough_beyond_p99() {
    for (name, least, most) in [
        ("chat", 2000, 3000),
        ("code", 3000, 5000),
        ("summarization", 2000, 2000),
        ("rag-long", 6000, 9000),
        ("agentic", 3000, 3000),
        ("reasoning", 2000, 2000),
    ] {
        let trace = synthesise(&preset(name).unwrap(), None).unwrap();
        let n = trace.requests.len();
        assert!((least..=most).contains(&n), "{name}: {n}");
        assert_eq!(trace.name, name);
        assert!(trace.provenance.len() >= 2);
    }
}

/// The real trace that a preset was fitted to.
fn source(file: &str, rate: Option<f64>) -> Option<Description> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces").join(file);
    if !path.exists() {
        println!("skipped: {file} is not here");
        return None;
    }
    let mut trace = read(&path, &ReadOptions { rate, ..ReadOptions::default() }).unwrap();
    if rate.is_some() {
        // The fit to the arXiv lengths leaves out prompts of a few tokens.
        trace.requests.retain(|r| r.input >= 16);
    }
    Some(describe(&trace))
}

#[test]
fn references_are_the_figures_of_the_real_traces() {
    for (name, file, rate) in [
        ("chat", "azure-2023/AzureLLMInferenceTrace_conv.first2400s.csv", None),
        ("code", "azure-2023/AzureLLMInferenceTrace_code.first2400s.csv", None),
        ("rag-long", "mooncake/conversation_trace.first2400s.jsonl.gz", None),
        (
            "summarization",
            "lengths/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv.gz",
            Some(1.0),
        ),
    ] {
        let Some(real) = source(file, rate) else { return };
        let spec = preset(name).unwrap();
        let reference: &Reference = spec.reference().unwrap();
        for line in real.beside(reference) {
            assert!(apart(&line) < 0.002, "{name}: {line:?}");
        }
        for (here, real) in
            [(reference.input_quantiles, real.input), (reference.output_quantiles, real.output)]
        {
            let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.5;
            assert!(
                here.unwrap().iter().zip(&real.quantiles).all(close),
                "{name}: {here:?} {real:?}"
            );
        }
    }
}

#[test]
fn one_seed_one_trace_and_another_rate_the_same_lengths() {
    for (name, _) in presets() {
        let spec = preset(&name).unwrap();
        let trace = synthesise(&spec, Some(9)).unwrap();
        assert_eq!(trace, synthesise(&spec, Some(9)).unwrap());
        assert_ne!(trace.requests, synthesise(&spec, Some(10)).unwrap().requests);
    }
    let toml = |rate: f64| {
        format!(
            "{HEAD}[arrival]\nprocess = \"poisson\"\nrate_rps = {rate}\n[lengths]\ninput = {{ dist = \"lognormal\", mean = 100, sigma = 1 }}\noutput = {{ dist = \"uniform\", min = 1, max = 9 }}\nspearman = 0.5\n"
        )
    };
    let make = |rate| synthesise(&Spec::parse("t", &toml(rate)).unwrap(), None).unwrap();
    let (slow, fast) = (make(1.0), make(10.0));
    assert!(
        slow.requests
            .iter()
            .zip(&fast.requests)
            .all(|(a, b)| (a.input, a.output) == (b.input, b.output))
    );
    assert!((slow.offered_rate() * 10.0 / fast.offered_rate() - 1.0).abs() < 1e-4);
    let correlation = describe(&slow).spearman.unwrap();
    assert!((correlation - 0.5).abs() < 0.05, "{correlation}");
}

const HEAD: &str = "schema = \"knee.workload/1\"\nname = \"t\"\ndescription = \"d\"\nprovenance = []\nseed = 1\n[size]\nrequests = 2000\n";

/// Every block that two requests share is preceded by blocks they share too, and covers what it must.
#[test]
fn block_identities_are_those_of_chains() {
    for name in ["rag-long", "agentic"] {
        let trace = synthesise(&preset(name).unwrap(), None).unwrap();
        let mut before = std::collections::HashMap::new();
        for request in &trace.requests {
            let ids = trace.blocks_of(request);
            assert!(
                ids.len() as u32 * trace.block_tokens >= request.input,
                "the prompt is covered"
            );
            assert!(
                ids.len() as u32
                    <= (request.input + request.output).div_ceil(trace.block_tokens).max(1)
            );
            for (index, id) in ids.iter().enumerate() {
                let chain = (index, index.checked_sub(1).map(|i| ids[i]));
                assert_eq!(
                    *before.entry(*id).or_insert(chain),
                    chain,
                    "{name}: one identity, one history"
                );
            }
        }
    }
}

#[test]
fn heads_are_valid_traces() {
    let trace = synthesise(&preset("agentic").unwrap(), None).unwrap();
    for n in [0, 1, 50, 2999, 3000, 9999] {
        let head = trace.head(n);
        assert_eq!(head.requests.len(), n.min(3000));
        for (index, request) in head.requests.iter().enumerate() {
            assert_eq!(head.blocks_of(request), trace.blocks_of(&trace.requests[index]));
            if let Arrival::After { previous, .. } = request.arrival {
                assert!((previous as usize) < index);
            }
        }
    }
}

#[test]
fn mistakes_in_descriptions_are_named() {
    let good = format!(
        "{HEAD}[arrival]\nprocess = \"poisson\"\nrate_rps = 2.0\n[lengths]\ninput = {{ dist = \"fixed\", value = 9 }}\noutput = {{ dist = \"fixed\", value = 3 }}\n"
    );
    assert!(Spec::parse("t.toml", &good).is_ok());
    for (from, to, says) in [
        ("rate_rps", "rate", "t.toml:10: unknown field `rate`"),
        ("knee.workload/1", "knee.workload/7", "schema must be"),
        ("requests = 2000", "", "[size] needs requests"),
        ("rate_rps = 2.0", "rate_rps = -2.0", "rate_rps between"),
        ("rate_rps = 2.0", "rate_rps = 2.0\ncv = 2.0", "cv with process gamma"),
        ("poisson", "poison", "unknown variant `poison`"),
        (
            "\"fixed\", value = 9",
            "\"fixed\", value = -9",
            "[lengths] input: value must be 0 or more",
        ),
        ("\"fixed\", value = 9", "\"fixed\", value = 9, max = 3", "t.toml:12: unknown field `max`"),
        (
            "\"fixed\", value = 9",
            "\"quantile\", values = [1, 2]",
            "[lengths] input: 2 values for 16 quantile_levels",
        ),
        ("\"fixed\", value = 9", "\"uniform\", min = 3, max = 1", "needs 0 <= min <= max"),
        ("\"fixed\", value = 9", "\"histogram\", values = [1], weights = [0]", "not all 0"),
        ("input =", "inputs =", "unknown field `inputs`"),
    ] {
        let error = Spec::parse("t.toml", &good.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
    let silent = good.replace("requests = 2000", "duration_s = 0.001");
    let error = synthesise(&Spec::parse("t", &silent).unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("nothing arrives"), "{error}");
}
