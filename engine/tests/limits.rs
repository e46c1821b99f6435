//! Figures that no device, model or table has: refused where they are read, so that nothing overflows or goes on for ever
//! where they are used.

use std::fs;
use std::path::Path;

use engine::format::Format;
use engine::import::{SEED, import};
use engine::model::DenseShape;
use engine::{Config, DeviceProfile, ModelShape};

/// `text` with `line` in place of the first one that begins as it does.
fn changed(text: &str, line: &str) -> String {
    let key = line.split('=').next().unwrap();
    let old = text.lines().find(|l| l.starts_with(key)).unwrap();
    text.replacen(old, line, 1)
}

#[test]
fn a_profile_has_figures_of_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.toml");
    let own = "\n[host]\nstep_us = 100.0\nseq_us = 10.0\nsource = \"measured with it\"\n";
    let text = format!("{}{own}", include_str!("../profiles/rtx4090.toml"));
    let load = |line: &str| {
        fs::write(&path, changed(&text, line)).unwrap();
        DeviceProfile::load(path.to_str().unwrap()).map_err(|e| e.to_string())
    };
    assert!(load("gpus_per_node = 72").is_ok());
    for (line, said) in [
        ("gpus_per_node = 1_000_000_000", "gpus_per_node = 1000000000 is more than any device has"),
        ("memory_bytes = 9_223_372_036_854_775_807", "memory_bytes = 9223372036854776000 is more"),
        (
            "runtime_bytes = 9_223_372_036_854_775_807",
            "runtime_bytes = 9223372036854776000 is more",
        ),
        ("buffer_bytes = 9_223_372_036_854_775_807", "buffer_bytes is beyond any device"),
        ("start_us = 1e300", "node.start_us = 1"),
        ("step_us = 1e300", "host.step_us = 1"),
        ("sustained = nan", "sustained = NaN must be positive"),
    ] {
        let error = load(line).unwrap_err();
        assert!(error.contains(said) && !error.contains('\n'), "{line}: {error}");
    }
}

/// Knots of y go on beyond the last, as they were spaced: below 1 they would stay where they are.
#[test]
fn knots_of_y_are_counts() {
    let mut device = DeviceProfile::load("h100").unwrap();
    let table = &mut device.decode_attention;
    (table.shapes, table.x, table.y) = (Vec::new(), vec![1.0], vec![0.1, 0.2]);
    table.per_mille = vec![vec![500, 500]];
    let error = device.check().unwrap_err().to_string();
    assert!(error.contains("its knots must be at least 1"), "{error}");
    device.decode_attention.y = vec![1.0, 1.2];
    device.check().unwrap();
    let heads = engine::profile::Heads { query: 32, kv: 8, dim: 128, window: 0 };
    assert!(device.decode_attention(heads, engine::config::KvDtype::Bf16).at(1e6, 1e6) > 0.0);
}

#[test]
fn a_shape_has_figures_of_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.toml");
    let text = "name = \"m\"\nsource = \"made up\"\nhidden = 4096\nlayers = 32\nheads = 32\nkv_heads = 8\nhead_dim = 128\n\
                ffn = 14336\ngated = true\nvocab = 128256\ntied_embeddings = false\nmax_context = 131072\n";
    let fields =
        ["hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "max_context"];
    for field in fields {
        fs::write(&path, changed(text, &format!("{field} = 4294967295"))).unwrap();
        let error = ModelShape::load(path.to_str().unwrap()).unwrap_err().to_string();
        let said = format!("{field} = 4294967295 is more than any model has");
        assert!(error.contains(&said), "{error}");
    }
}

/// The largest figures that are taken: no sum of bytes overflows.
#[test]
fn the_largest_model_can_be_counted() {
    let model = ModelShape::from(DenseShape {
        name: "most".into(),
        source: "made up".into(),
        hidden: 1 << 18,
        layers: 1 << 12,
        heads: 1 << 14,
        kv_heads: 1 << 14,
        head_dim: 1 << 12,
        ffn: 1 << 24,
        gated: true,
        vocab: 1 << 26,
        tied_embeddings: false,
        position_rows: 1 << 30,
        bias: true,
        qk_norm: true,
        format: Format::Bf16,
        dtype_bytes: None,
        max_context: 1 << 30,
    });
    assert!(model.weight_bytes() > 1 << 59);
    let device = DeviceProfile::load("h100").unwrap();
    for (tp, pp) in [(1, 1), (1024, 1), (3, 2), (16_384, 4096)] {
        let config = Config { tp, pp, max_batch_tokens: 1 << 20, ..Config::default() };
        assert!(engine::memory::kv_slots(&model, &device, &config).is_err());
    }
}

const HEAD: &str =
    "attn_dtype,kv_cache_dtype,head_dim,num_heads,num_key_value_heads,batch_size,isl,latency_ms\n";

/// The message of an import of a table of prompt chunks with these rows.
fn imported(dir: &Path, rows: &str) -> String {
    let sheet = include_str!("../profiles/sheets/rtx4090.toml");
    let sheet = sheet.replace("llmservingsim", "aiconfigurator").replace("RTX4090", "toy");
    let constant = "start_us = 1.0\nper_mille = [[500]]\nsource = \"a guess\"\n";
    let constants: String = ["gemm", "decode_attention", "elementwise", "sampler"]
        .map(|name| format!("[{name}]\n{constant}"))
        .concat();
    let folder = dir.join("aiconfigurator");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("toy.v.context_attention.csv"), format!("{HEAD}{rows}")).unwrap();
    let sheet = format!("{sheet}\n{constants}");
    import(dir, ("toy", &sheet), &[], SEED).map_or_else(|e| e.to_string(), |_| "made".to_owned())
}

#[test]
fn impossible_rows_are_left_out_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let row = |seqs: &str, tokens: &str, ms: &str| {
        format!("bfloat16,bfloat16,128,32,8,{seqs},{tokens},{ms}\n")
    };
    let sound: String =
        [("1", "64", "0.02"), ("1", "512", "0.1"), ("4", "512", "0.4"), ("8", "2048", "8")]
            .map(|(seqs, tokens, ms)| row(seqs, tokens, ms))
            .concat();
    assert_eq!(imported(dir.path(), &sound), "made");
    // Four billion sequences of nothing took as many steps; tokens beyond 2^32 overflowed.
    for (seqs, tokens) in [("4000000000", "0"), ("1", "4294967295"), ("1", "1e12")] {
        let rows = format!("{sound}{}", row(seqs, tokens, "1"));
        assert_eq!(imported(dir.path(), &rows), "made", "{seqs} of {tokens}");
        let alone = imported(dir.path(), &row(seqs, tokens, "1"));
        assert!(alone.starts_with("none of the 1 rows of prefill_attention"), "{alone}");
    }
    for (seqs, tokens, ms, said) in [
        ("1e300", "64", "1", "batch_size = `1e300` must be a number from 0 to"),
        ("1", "64", "1e300", "latency_ms = `1e300` must be a time above 0 and up to"),
        ("1", "64", "nan", "latency_ms = `nan` must be a time"),
    ] {
        let error = imported(dir.path(), &row(seqs, tokens, ms));
        assert!(error.contains(said), "{error}");
    }
}
