//! Tables become the shipped profiles again, and broken ones are refused where they are broken.
//!
//! The measurements are not part of this repository: without them the first tests say so and pass.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use engine::DeviceProfile;
use engine::import::{Family, ImportError, SEED, SHEETS, import};
use flate2::Compression;
use flate2::write::GzEncoder;

fn measurements() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/profiles");
    if dir.is_dir() {
        return Some(dir);
    }
    println!("skipped: no measurements at {}", dir.display());
    None
}

fn comes_out_again(device: &str) {
    let Some(dir) = measurements() else { return };
    let (name, sheet, compose) = SHEETS.into_iter().find(|(name, ..)| *name == device).unwrap();
    let imported = import(&dir, (name, sheet), compose, SEED).unwrap();
    let path = format!("{}/profiles/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    assert!(
        imported.toml == fs::read_to_string(&path).unwrap(),
        "{path} is not what the import writes"
    );
    assert_eq!(imported.profile, DeviceProfile::load(name).unwrap());
    assert!(imported.toml.len() < 80_000, "{}", imported.toml.len());
}

#[test]
fn h100_comes_out_again() {
    comes_out_again("h100-sxm");
}

#[test]
fn h200_comes_out_again() {
    comes_out_again("h200-sxm");
}

#[test]
fn a100_comes_out_again() {
    comes_out_again("a100-sxm");
}

#[test]
fn a40_comes_out_again() {
    comes_out_again("a40");
}

#[test]
fn rtx4090_comes_out_again() {
    comes_out_again("rtx4090");
}

#[test]
fn rtx_pro_6000_comes_out_again() {
    comes_out_again("rtx-pro-6000");
}

#[test]
fn nothing_is_composed_unless_asked() {
    let Some(dir) = measurements() else { return };
    let (name, sheet, _) = SHEETS[0];
    let error = import(&dir, (name, sheet), &[Family::LlmServingSim], SEED).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no node in the aiconfigurator tables of h100_sxm: take it from another family with --compose vidur, or give \
         it in the sheet, with its source"
    );
    let (name, sheet, _) = SHEETS[3];
    let error = import(&dir, (name, sheet), &[], SEED).unwrap_err().to_string();
    assert!(error.starts_with("no prefill_attention in the vidur tables of a40"), "{error}");
}

/// A device whose only measured operator is the matrix product.
const SHEET: &str = r#"
name = "toy"
provenance = "a test"
memory_bytes = 1
peak_flops = 1e12
memory_bandwidth = 1e11
gpus_per_node = 1
runtime_bytes = 0
sustained = 1.0
[import]
family = "aiconfigurator"
system = "toy"
[prefill_attention]
start_us = 1.0
per_mille = [[500]]
source = "a guess"
[decode_attention]
start_us = 1.0
per_mille = [[500]]
source = "a guess"
[attention]
tile_tokens = 0.0
decode_rows = 0.0
skew = 0.0
source = "a guess"
[elementwise]
start_us = 1.0
per_mille = [[500]]
source = "a guess"
[sampler]
start_us = 1.0
per_mille = [[500]]
source = "a guess"
[[all_reduce]]
ranks = 2
start_us = 1.0
bandwidth = 1e9
buffer_bytes = 0
per_mille = [1000]
source = "a guess"
[node]
start_us = 1.0
bandwidth = 1e9
source = "a guess"
[network]
start_us = 1.0
bandwidth = 1e9
source = "a guess"
[host]
step_us = 1.0
seq_us = 0.0
source = "a guess"
[price]
per_gpu_hour = 1.0
currency = "USD"
date = "2026-01"
basis = "assumed"
source = "a guess"
"#;

/// Products that take twice what the data sheet allows, in units of `ms`.
fn gemm_rows(unit: f64) -> String {
    let mut rows = "gemm_dtype,kernel_source,m,n,k,latency_ms\n".to_owned();
    for (n, k) in [(512, 512), (1024, 512), (2048, 4096)] {
        for m in [1, 16, 64, 256, 1024, 4096] {
            let (m, n, k) = (f64::from(m), f64::from(n), f64::from(k));
            let compute = 2.0 * m * n * k / 1e12;
            let memory = 2.0 * (n * k + m * (n + k)) / 1e11;
            rows += &format!("bfloat16,test,{m},{n},{k},{}\n", unit * 2e3 * compute.max(memory));
        }
    }
    rows
}

/// A folder with one table, gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, table: &str, bytes: &[u8]) -> Self {
        let root = std::env::temp_dir().join(format!("knee-import-{name}-{}", std::process::id()));
        fs::create_dir_all(root.join("aiconfigurator")).unwrap();
        File::create(root.join("aiconfigurator").join(table)).unwrap().write_all(bytes).unwrap();
        Self(root)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

const TABLE: &str = "toy.vllm-1.gemm.csv";

fn refusal(name: &str, rows: &str) -> ImportError {
    let folder = Folder::new(name, TABLE, rows.as_bytes());
    import(&folder.0, ("toy", SHEET), &[], SEED).unwrap_err()
}

#[test]
fn a_toy_table_gives_back_the_efficiency_it_was_made_with() {
    let folder = Folder::new("toy", TABLE, gemm_rows(1.0).as_bytes());
    let device = import(&folder.0, ("toy", SHEET), &[], SEED).unwrap().profile;
    assert_eq!(device.gemm.shapes, [[512, 512], [1024, 512], [2048, 4096]]);
    let fit = device.fit["gemm"];
    assert!(fit.rows == 18 && fit.p95 < 0.01, "{fit:?}");
    // A shape that nobody measured.
    let (times, roof) = (device.gemm(1500.0, 1500.0, 2.0), device.gemm_roof(1500.0, 1500.0, 2.0));
    for m in [1.0, 100.0, 1e3, 1e5] {
        let ratio = times.at(m, 0.0) / (roof.at(m) - roof.start);
        assert!((1.8..2.4).contains(&ratio), "{m}: {ratio}");
    }
}

#[test]
fn a_bad_row_is_told_with_its_line() {
    for (name, bad, reason) in [
        ("negative", "bfloat16,test,1,512,512,-0.1", "latency_ms = `-0.1` must be a time above 0"),
        ("zero", "bfloat16,test,1,512,512,0", "latency_ms = `0` must be a time above 0"),
        ("nan", "bfloat16,test,1,512,512,nan", "latency_ms = `nan` must be a time above 0"),
        ("text", "bfloat16,test,one,512,512,1", "m = `one` must be a number from 0 up"),
        ("broken", "bfloat16,test,1,512.5,512,1", "n = 512.5 must be a whole number"),
        ("short", "bfloat16,test,1", "found record with 3 fields"),
    ] {
        let mut lines: Vec<String> = gemm_rows(1.0).lines().map(str::to_owned).collect();
        lines[6] = bad.to_owned();
        let error = refusal(name, &lines.join("\n")).to_string();
        assert!(error.contains(&format!("{TABLE}:7: ")) && error.contains(reason), "{error}");
    }
}

#[test]
fn a_header_of_another_form_is_refused() {
    let error = refusal("header", &gemm_rows(1.0).replace("latency_ms", "latency_us")).to_string();
    assert!(
        error.contains(
            ":1: no column `latency_ms` among gemm_dtype, kernel_source, m, n, k, latency_us"
        ),
        "{error}"
    );
}

#[test]
fn times_in_another_unit_are_doubted() {
    for (name, unit) in [("us", 1e3), ("s", 1e-3)] {
        let error = refusal(name, &gemm_rows(unit));
        assert!(matches!(error, ImportError::Units { .. }), "{error}");
        assert!(
            error.to_string().contains("are they in the unit that the family uses?"),
            "{error}"
        );
    }
}

#[test]
fn an_empty_or_missing_table_is_refused() {
    let error = refusal("empty", "gemm_dtype,kernel_source,m,n,k,latency_ms\n").to_string();
    assert!(error.ends_with("the table has no rows"), "{error}");
    let folder = Folder::new("missing", "toy.other.csv", b"x\n1\n");
    let error = import(&folder.0, ("toy", SHEET), &[], SEED).unwrap_err().to_string();
    assert_eq!(
        error,
        "no gemm in the aiconfigurator tables of toy: give it in the sheet, with its source, as [gemm]"
    );
    let error = import(Path::new("/nowhere"), ("toy", SHEET), &[], SEED).unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nowhere/aiconfigurator"), "{error}");
}

#[test]
fn a_truncated_gzip_is_refused() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(gemm_rows(1.0).as_bytes()).unwrap();
    let whole = encoder.finish().unwrap();
    let name = format!("{TABLE}.gz");
    let folder = Folder::new("gzip", &name, &whole);
    assert!(import(&folder.0, ("toy", SHEET), &[], SEED).is_ok());
    let folder = Folder::new("truncated", &name, &whole[..whole.len() - 40]);
    let error = import(&folder.0, ("toy", SHEET), &[], SEED).unwrap_err().to_string();
    assert!(error.contains(".gz:") && error.contains("truncated"), "{error}");
    let folder = Folder::new("cut", &name, &whole[..20]);
    assert!(import(&folder.0, ("toy", SHEET), &[], SEED).is_err());
}

#[test]
fn a_sheet_says_where_its_tables_are() {
    let folder = Folder::new("sheet", TABLE, gemm_rows(1.0).as_bytes());
    let refused = |sheet: String| {
        import(&folder.0, ("mine.toml", &sheet), &[], SEED).unwrap_err().to_string()
    };
    let error = refused(SHEET.replace("[import]", "[other]"));
    assert_eq!(error, "mine.toml: has no [import] that says which tables are the device's");
    let error = refused(SHEET.replace("peak_flops = 1e12", "peak_flops = 0.0"));
    assert_eq!(error, "mine.toml: peak_flops must be positive");
    let error = refused(SHEET.replace("\"aiconfigurator\"", "\"vllm\""));
    assert!(error.contains("unknown variant `vllm`"), "{error}");
    let error = refused(SHEET.replace("[sampler]", "[sampling]"));
    assert!(error.starts_with("no sampler in the aiconfigurator tables of toy"), "{error}");
}

/// What Vidur's tables lack of an A100: a sheet with constants for everything but what is tested.
fn vidur_sheet(choices: &str) -> String {
    let constants = SHEET.replace("\"aiconfigurator\"", "\"vidur\"");
    let without = |text: String, operator: &str| {
        let entry =
            format!("[{operator}]\nstart_us = 1.0\nper_mille = [[500]]\nsource = \"a guess\"\n");
        text.replace(&entry, "")
    };
    let sheet = ["prefill_attention", "decode_attention", "elementwise"]
        .iter()
        .fold(constants, |s, o| without(s, o));
    format!("{sheet}\n[import.vidur]\n{choices}\n")
}

/// One model's layer, and its attention with or without what it takes to write keys and values, in ms.
fn vidur_folder(name: &str, save: Option<&str>, derived: bool) -> Folder {
    let mut layer = "n_head,n_kv_head,n_embd,n_expanded_embd,vocab_size,use_gated_mlp,num_tensor_parallel_workers,\
        num_tokens,attn_pre_proj.median,attn_post_proj.median,mlp_up_proj.median,mlp_down_proj.median,\
        input_layernorm.median,post_attention_layernorm.median,attn_rope.median,mlp_act.median,add.median\n"
        .to_owned();
    for m in [1.0, 8.0, 64.0, 512.0, 4096.0] {
        let gemm = |n: f64, k: f64| 4e3 * (m * n * k / 1e12).max((n * k + m * (n + k)) / 1e11);
        let moved = |elements: f64| 4e3 * m * elements / 1e11 + 1e-3;
        layer += &format!(
            "8,8,1024,2048,1000,True,1,{m},{},{},{},{},{},{},{},{},{}\n",
            gemm(3072.0, 1024.0),
            gemm(1024.0, 1024.0),
            gemm(4096.0, 1024.0),
            gemm(1024.0, 2048.0),
            moved(4096.0),
            moved(4096.0),
            moved(4096.0),
            moved(6144.0),
            moved(2048.0)
        );
    }
    let column = if save.is_some() { ",time_stats.attn_kv_cache_save.median" } else { "" };
    let mut attention = format!(
        "n_embd,n_q_head,n_kv_head,num_tensor_parallel_workers,is_prefill,batch_size,prefill_chunk_size,\
         kv_cache_size,time_stats.attn_prefill.median,time_stats.attn_decode.median{column}\n"
    );
    for cached in [0.0, 512.0, 1024.0, 2048.0, 4096.0] {
        let save = save.map_or(String::new(), |s| format!(",{s}"));
        for tokens in [64.0, 256.0, 1024.0] {
            let ms = 1e-2 + 4e3 * 1024.0 * tokens * (cached + tokens) / 1e12;
            attention += &format!("1024,8,8,1,True,1,{tokens},{cached},{ms},{save}\n");
        }
        for seqs in [1.0, 8.0, 64.0] {
            let ms = 1e-2 + 1e3 * 4096.0 * seqs * (cached + 1.0) / 1e11;
            attention += &format!("1024,8,8,1,False,{seqs},0,{cached},,{ms}{save}\n");
        }
    }
    let root = std::env::temp_dir().join(format!("knee-vidur-{name}-{}", std::process::id()));
    let dir = root.join("vidur");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("toy.m.mlp.csv"), layer).unwrap();
    let mark = if derived { "DERIVED." } else { "" };
    fs::write(dir.join(format!("toy.m.tp1.attention.{mark}csv")), attention).unwrap();
    Folder(root)
}

fn vidur(folder: &Folder, choices: &str) -> Result<DeviceProfile, String> {
    let imported = import(&folder.0, ("toy", &vidur_sheet(choices)), &[], SEED);
    imported.map(|i| i.profile).map_err(|e| e.to_string())
}

#[test]
fn writing_the_cache_is_measured_set_or_left_out_but_never_forgotten() {
    let lacking = vidur_folder("lacking", None, false);
    let error = vidur(&lacking, "").unwrap_err();
    assert!(
        error.contains("toy.m.tp1.attention.csv:1: no column `attn_kv_cache_save.median`: say kv_cache_save = \"omit\""),
        "{error}"
    );
    let measured = vidur_folder("measured", Some("0.03"), false);
    let [without, set, by_table] = [
        vidur(&lacking, "kv_cache_save = \"omit\""),
        vidur(&lacking, "kv_cache_save = { us = 30.0 }"),
        vidur(&measured, ""),
    ]
    .map(|device| device.unwrap().decode_attention);
    assert_eq!(set.per_mille, by_table.per_mille, "30 µs are 0.03 ms");
    assert!(
        (set.start_us - without.start_us - 30.0).abs() < 0.1,
        "{} {}",
        set.start_us,
        without.start_us
    );
    // What nobody measured is not a measurement of nothing.
    let zero = vidur_folder("zero", Some("0.0"), false);
    let error = vidur(&zero, "").unwrap_err();
    assert!(
        error.contains(":2: attn_kv_cache_save.median = `0.0` must be a time above 0"),
        "{error}"
    );
    assert!(vidur(&zero, "kv_cache_save = \"omit\"").is_ok());
}

#[test]
fn vidurs_other_choices_are_told_apart_too() {
    let folder = vidur_folder("choices", Some("0.03"), true);
    let error = vidur(&folder, "models = [\"m\"]").unwrap_err();
    assert!(error.starts_with("no table toy.m*.attention.csv in "), "{error}");
    assert!(
        error.ends_with(": one marked DERIVED is there; to take it, say derived = true"),
        "{error}"
    );
    let error = vidur(&folder, "models = [\"n\"]\nderived = true").unwrap_err();
    assert!(
        error.starts_with("no table toy.n*.mlp.csv in ") && !error.contains("DERIVED"),
        "{error}"
    );
    let error = vidur(&folder, "derived = false").unwrap_err();
    assert!(error.starts_with("no prefill_attention in the vidur tables of toy"), "{error}");
    let error = vidur(&folder, "derived = true\nlaunch = 1").unwrap_err();
    assert!(error.contains("unknown field `launch`"), "{error}");
    let moved = |choices: &str| {
        let device = vidur(&folder, choices).unwrap();
        device.elementwise().at(4096.0 * 4096.0 * 2.0, 0.0)
    };
    let (fused, own) = (moved("derived = true"), moved("derived = true\nresidual_add = true"));
    assert!(own > 1.05 * fused, "a kernel more takes longer: {own} against {fused}");
}

#[test]
fn every_table_tells_what_is_wrong_with_it_and_where() {
    let choices = "kv_cache_save = \"omit\"";
    for (name, file, from, to, at, reason) in [
        (
            "mlp-negative",
            "toy.m.mlp.csv",
            "True,1,64,",
            "True,1,64,-",
            4,
            "attn_pre_proj.median = `-",
        ),
        (
            "mlp-tokens",
            "toy.m.mlp.csv",
            "True,1,64,",
            "True,1,many,",
            4,
            "num_tokens = `many` must be a number",
        ),
        (
            "mlp-header",
            "toy.m.mlp.csv",
            "mlp_act.median",
            "act.median",
            1,
            "no column `mlp_act.median` among n_head, ",
        ),
        (
            "attention-header",
            "toy.m.tp1.attention.csv",
            "kv_cache_size",
            "kv",
            1,
            "no column `kv_cache_size` among ",
        ),
        (
            "attention-blank",
            "toy.m.tp1.attention.csv",
            "True,1,256,0,",
            "True,1,256,0,,",
            3,
            "found record with ",
        ),
    ] {
        let folder = vidur_folder(name, None, false);
        let path = folder.0.join("vidur").join(file);
        let text = fs::read_to_string(&path).unwrap().replacen(from, to, 1);
        fs::write(&path, text).unwrap();
        let error = vidur(&folder, choices).unwrap_err();
        assert!(error.contains(&format!("{file}:{at}: ")) && error.contains(reason), "{error}");
    }
    let folder = vidur_folder("nothing", None, false);
    fs::write(folder.0.join("vidur/toy.m.mlp.csv"), "").unwrap();
    let error = vidur(&folder, choices).unwrap_err();
    assert!(error.contains("toy.m.mlp.csv:1: the file is empty"), "{error}");
    // Seconds where milliseconds are expected: each operator is doubted by its own name.
    let folder = vidur_folder("seconds", None, false);
    let path = folder.0.join("vidur/toy.m.tp1.attention.csv");
    let mut lines: Vec<String> =
        fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    for line in &mut lines[1..] {
        let mut fields: Vec<String> = line.split(',').map(str::to_owned).collect();
        for field in &mut fields[8..10] {
            if let Ok(ms) = field.parse::<f64>() {
                *field = (ms / 1e3).to_string();
            }
        }
        *line = fields.join(",");
    }
    fs::write(&path, lines.join("\n")).unwrap();
    let error = vidur(&folder, choices).unwrap_err();
    assert!(
        error.starts_with(
            "prefill_attention in the vidur tables of toy: half of the times are less than 1 /"
        ),
        "{error}"
    );
}

#[test]
fn gzip_that_is_none_or_cut_is_told() {
    let folder = Folder::new("plain", &format!("{TABLE}.gz"), gemm_rows(1.0).as_bytes());
    let error = import(&folder.0, ("toy", SHEET), &[], SEED).unwrap_err().to_string();
    assert!(error.contains(".gz:1: ") && error.contains("gzip"), "{error}");
    let folder = Folder::new("none", &format!("{TABLE}.gz"), b"");
    let error = import(&folder.0, ("toy", SHEET), &[], SEED).unwrap_err().to_string();
    assert!(error.contains(".gz:1: the file ends too soon"), "{error}");
    let folder = Folder::new("void", TABLE, b"");
    let error = import(&folder.0, ("toy", SHEET), &[], SEED).unwrap_err().to_string();
    assert!(error.contains(".csv:1: the file is empty"), "{error}");
}
