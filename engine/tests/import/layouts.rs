//! Families' tables are read as their publishers lay them: a wheel of Parquet files, a checkout of CSV files.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use engine::import::{Family, ImportError, Imported, SEED, import};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use super::{SHEET, gemm_rows};

/// A column of a Parquet table.
enum Column {
    Text(Vec<&'static str>),
    Whole(Vec<i64>),
    Real(Vec<f64>),
}
use Column::{Real, Text, Whole};

/// A Parquet file, compressed as the wheel's are.
fn parquet(columns: &[(&str, Column)]) -> Vec<u8> {
    let kind = |column: &Column| match column {
        Text(_) => "BYTE_ARRAY",
        Whole(_) => "INT64",
        Real(_) => "DOUBLE",
    };
    let utf8 = |column: &Column| if matches!(column, Text(_)) { " (UTF8)" } else { "" };
    let fields: Vec<String> = columns
        .iter()
        .map(|(name, c)| format!("REQUIRED {} {name}{};", kind(c), utf8(c)))
        .collect();
    let schema = parse_message_type(&format!("message table {{ {} }}", fields.join(" "))).unwrap();
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let settings = WriterProperties::builder().set_compression(zstd).build();
    let mut bytes = Vec::new();
    let mut file =
        SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(settings)).unwrap();
    let mut rows = file.next_row_group().unwrap();
    for (_, column) in columns {
        let mut writer = rows.next_column().unwrap().unwrap();
        match column {
            Text(texts) => {
                let values: Vec<ByteArray> = texts.iter().map(|t| ByteArray::from(*t)).collect();
                writer.typed::<ByteArrayType>().write_batch(&values, None, None)
            }
            Whole(values) => writer.typed::<Int64Type>().write_batch(values, None, None),
            Real(values) => writer.typed::<DoubleType>().write_batch(values, None, None),
        }
        .unwrap();
        writer.close().unwrap();
    }
    rows.close().unwrap();
    file.close().unwrap();
    bytes
}

/// Products that take `times` twice the time that the data sheet allows, and others in an unknown format, with nonsense
/// for times.
fn gemm(times: f64) -> Vec<u8> {
    let csv = gemm_rows(times);
    let rows: Vec<Vec<f64>> = csv
        .lines()
        .skip(1)
        .map(|line| line.split(',').skip(2).map(|x| x.parse().unwrap()).collect())
        .collect();
    let whole = |i: usize| rows.iter().chain(&rows).map(|row| row[i] as i64).collect();
    let dtype = |name| std::iter::repeat_n(name, rows.len());
    let nonsense = rows.iter().map(|row| row[3] * 7.0);
    parquet(&[
        ("framework", Text(vec!["VLLM"; 2 * rows.len()])),
        ("gemm_dtype", Text(dtype("bfloat16").chain(dtype("fp3")).collect())),
        ("m", Whole(whole(0))),
        ("n", Whole(whole(1))),
        ("k", Whole(whole(2))),
        ("latency", Real(rows.iter().map(|row| row[3]).chain(nonsense).collect())),
    ])
}

fn put(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn imported(root: &Path, sheet: &str) -> Result<Imported, ImportError> {
    import(root, ("toy", sheet), &[], SEED)
}

const TABLE: &str = "toy/gemm/vllm/0.24.0/gemm_perf.parquet";

#[test]
fn the_wheel_is_read_wherever_it_is_unpacked() {
    let flat = TempDir::new().unwrap();
    put(flat.path(), "aiconfigurator/toy.vllm-0.24.0.gemm.csv", gemm_rows(1.0).as_bytes());
    let flat = imported(flat.path(), SHEET).unwrap().profile;
    for place in [
        "aiconfigurator/data",
        "aiconfigurator/aiconfigurator_core/systems/data",
        "aiconfigurator_core/systems/data",
        "aisimulate_core/systems/data",
        "systems/data",
        "",
    ] {
        let root = TempDir::new().unwrap();
        put(&root.path().join(place), TABLE, &gemm(1.0));
        let wheel = imported(root.path(), SHEET).unwrap();
        assert_eq!(wheel.profile, flat, "{place}");
        assert_eq!(wheel.notes[0], "gemm is of vLLM 0.24.0");
    }
}

#[test]
fn a_sheet_of_the_newer_wheel_takes_the_older_one() {
    let sheet = SHEET.replace("family = \"aiconfigurator\"", "family = \"aisimulate\"");
    assert_ne!(sheet, SHEET);
    for place in ["aiconfigurator/data", "aisimulate/data", "aiconfigurator_core/systems/data"] {
        let root = TempDir::new().unwrap();
        put(&root.path().join(place), TABLE, &gemm(1.0));
        let wheel = imported(root.path(), &sheet).unwrap();
        assert_eq!(wheel.notes[0], "gemm is of vLLM 0.24.0", "{place}");
    }
}

#[test]
fn a_system_that_the_wheel_has_not_is_named() {
    let root = TempDir::new().unwrap();
    put(root.path(), &format!("aiconfigurator/data/{TABLE}"), &gemm(1.0));
    let other = SHEET.replace("system = \"toy\"", "system = \"Toy9\"");
    let error = imported(root.path(), &other).unwrap_err().to_string();
    assert!(error.starts_with("no table of Toy9 in ") && error.contains("data"), "{error}");
}

#[test]
fn the_newest_version_counts_that_has_the_table() {
    let root = TempDir::new().unwrap();
    let at = |version: &str| format!("data/toy/gemm/vllm/{version}/gemm_perf.parquet");
    put(root.path(), &at("0.9.2"), &gemm(2.0));
    put(root.path(), &at("0.24.0"), &gemm(1.0));
    put(root.path(), &at("0.24.0rc1"), &gemm(3.0));
    put(root.path(), "data/toy/gemm/vllm/0.25.0/reuse.yaml", b"");
    put(root.path(), "data/toy/gemm/sglang/0.30.0/gemm_perf.parquet", &gemm(4.0));
    let wheel = imported(root.path(), SHEET).unwrap();
    assert_eq!(wheel.notes[0], "gemm is of vLLM 0.24.0");
    let time = wheel.points["gemm"].iter().map(|p| p.measured).fold(0.0, f64::max);
    let once: f64 = gemm_rows(1.0)
        .lines()
        .skip(1)
        .map(|l| l.rsplit(',').next().unwrap().parse::<f64>().unwrap())
        .fold(0.0, f64::max);
    assert!((time - once / 1e3).abs() < 1e-12, "{time}");
}

/// Attention of a prompt and of decodes: heads, batch, new tokens, tokens before, window, head size, types, ms.
type Attention = ([i64; 2], i64, i64, i64, i64, i64, [&'static str; 2], f64);

fn attention(rows: &[Attention]) -> Vec<u8> {
    let whole = |f: fn(&Attention) -> i64| Whole(rows.iter().map(f).collect());
    parquet(&[
        ("batch_size", whole(|r| r.1)),
        ("isl", whole(|r| r.2)),
        ("num_heads", whole(|r| r.0[0])),
        ("num_key_value_heads", whole(|r| r.0[1])),
        ("head_dim", whole(|r| r.5)),
        ("attn_dtype", Text(rows.iter().map(|r| r.6[0]).collect())),
        ("kv_cache_dtype", Text(rows.iter().map(|r| r.6[1]).collect())),
        ("step", whole(|r| r.3)),
        ("window_size", whole(|r| r.4)),
        ("latency", Real(rows.iter().map(|r| r.7).collect())),
    ])
}

#[test]
fn a_decode_of_the_wheel_has_its_whole_context_and_other_kinds_are_left_out() {
    const BF16: [&str; 2] = ["bfloat16", "bfloat16"];
    let ms = |tokens: i64| 1e-3 + 2e3 * (4.0 * 128.0 * 8.0 * tokens as f64) / 1e11;
    let mut rows: Vec<Attention> = [64, 256, 1024, 4096, 16_384]
        .iter()
        .map(|&len| ([32, 8], 4, 1, len - 1, 0, 128, BF16, ms(4 * len)))
        .collect();
    // Windows and other heads, faster than memory, and another type: times that would show.
    rows.push(([32, 8], 4, 1, 4095, 128, 128, BF16, 1e-4));
    rows.push(([32, 8], 4, 1, 4095, 0, 64, BF16, 1e-4));
    rows.push(([32, 8], 4, 1, 4095, 0, 128, ["bfloat16", "int8"], 1e-4));
    let root = TempDir::new().unwrap();
    put(root.path(), &format!("data/{TABLE}"), &gemm(1.0));
    let name = "data/toy/attention/vllm/0.24.0/generation_attention_perf.parquet";
    put(root.path(), name, &attention(&rows));
    let found = imported(root.path(), SHEET).unwrap();
    let fit = found.profile.fit["decode_attention"];
    assert_eq!((fit.rows, fit.left_out), (5, 2));
    let lengths: Vec<f64> = found.points["decode_attention"]
        .iter()
        .map(|p| match p.run {
            engine::import::Run::Attention { decodes: 4.0, length, .. } => length,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths, [64.0, 256.0, 1024.0, 4096.0, 16_384.0]);
}

#[test]
fn a_broken_parquet_table_is_told_with_its_row_or_as_a_whole() {
    let refusal = |bytes: &[u8]| {
        let root = TempDir::new().unwrap();
        put(root.path(), &format!("data/{TABLE}"), bytes);
        let error = imported(root.path(), SHEET).unwrap_err().to_string();
        let (_, said) = error.split_once("gemm_perf.parquet").expect(&error);
        said.to_owned()
    };
    let one = |latency: Vec<f64>, m: &'static str| {
        let n = latency.len();
        parquet(&[
            ("gemm_dtype", Text(vec!["bfloat16"; n])),
            (m, Whole(vec![1; n])),
            ("n", Whole(vec![512; n])),
            ("k", Whole(vec![512; n])),
            ("latency", Real(latency)),
        ])
    };
    assert_eq!(
        refusal(&one(vec![1.0, -1.0], "m")),
        ", row 2: latency = `-1` must be a time above 0 and up to 10000 s"
    );
    assert_eq!(refusal(&one(vec![], "m")), ": the table has no rows");
    assert_eq!(
        refusal(&one(vec![1.0], "rows")),
        ": no column `m` among gemm_dtype, rows, n, k, latency"
    );
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n";
    assert_eq!(refusal(pointer), ": a Git LFS pointer and not the table: run `git lfs pull`");
    let whole = gemm(1.0);
    assert!(refusal(&whole[..whole.len() - 9]).starts_with(": not readable as Parquet: "));
    assert!(refusal(b"").starts_with(": not readable as Parquet: "));
}

#[test]
fn no_damage_to_a_table_ends_in_more_than_an_error() {
    let whole = gemm(1.0);
    let root = TempDir::new().unwrap();
    for seed in 0..400_usize {
        let mut bytes = whole.clone();
        // One byte in the body, one in the description at the end, by a fixed pattern.
        let at = seed * 7919 % bytes.len();
        bytes[at] ^= 1 << (seed % 8);
        let at = bytes.len() - 1 - seed * 31 % (bytes.len() / 3);
        bytes[at] = bytes[at].wrapping_add(seed as u8);
        put(root.path(), &format!("data/{TABLE}"), &bytes);
        let _ = imported(root.path(), SHEET);
    }
}

const SERVING: [&str; 3] = ["llmservingsim/profiler/perf", "profiler/perf", "llmservingsim/perf"];

#[test]
fn a_checkout_is_read_as_it_lies_and_unknown_models_are_named() {
    let sheet = SHEET.replace("aiconfigurator", "llmservingsim").replace("\"toy\"", "\"GPU9\"");
    // Llama 3.1 8B: 4096 wide, so that o_proj is [m, 4096] x [4096, 4096].
    let dense: String = [1.0, 64.0, 1024.0, 4096.0]
        .iter()
        .map(|m: &f64| {
            let us = 2e6
                * (2.0 * m * 4096.0 * 4096.0 / 1e12).max(2.0 * 4096.0 * (4096.0 + 2.0 * m) / 1e11);
            format!("o_proj,{m},{us}\n")
        })
        .collect();
    let dense = format!("layer,tokens,time_us\n{dense}");
    for place in SERVING {
        let root = TempDir::new().unwrap();
        let at = |model: &str| format!("{place}/GPU9/{model}/tp1/dense.csv");
        put(root.path(), &at("meta-llama/Llama-3.1-8B/bf16"), dense.as_bytes());
        put(root.path(), &at("Someone/Unheard-Of-9B/bf16"), dense.as_bytes());
        put(root.path(), &at("meta-llama/Llama-3.1-8B/fp8"), b"not read");
        let found = imported(root.path(), &sheet).unwrap();
        assert_eq!(found.profile.gemm.shapes, [[4096, 4096]], "{place}");
        assert_eq!(found.notes[0], "Unheard-Of-9B on 1 is left out: its shape is not known");
    }
    let root = TempDir::new().unwrap();
    put(
        root.path(),
        "profiler/perf/GPU9/Someone/Unheard-Of-9B/bf16/tp1/dense.csv",
        dense.as_bytes(),
    );
    let error = imported(root.path(), &sheet).unwrap_err().to_string();
    assert!(error.contains("unheard-of-9b"), "{error}");
    assert_eq!(Family::LlmServingSim.name(), "llmservingsim");
}
