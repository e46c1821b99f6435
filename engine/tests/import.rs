//! Tables become the shipped profiles again, and broken ones are refused where they are broken.
//!
//! The measurements are not part of this repository: without them the first tests say so and pass.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use engine::DeviceProfile;
use engine::format::Format;
use engine::import::{Family, ImportError, SEED, import};
use engine::profile::{gemm_roof, import_sheets};
use flate2::Compression;
use flate2::write::GzEncoder;

#[path = "import/layouts.rs"]
mod layouts;
mod measurements;
#[path = "import/traps.rs"]
mod traps;
#[path = "import/vidur.rs"]
mod vidur;

use measurements::measurements;

fn shipped(device: &str) -> (&'static str, &'static str) {
    import_sheets().find(|(name, _)| *name == device).unwrap()
}

/// H200, GB200 and B300 come the same way as H100 and B200, which are enough to show it.
fn comes_out_again(device: &str) {
    let Some(dir) = measurements() else { return };
    let (name, sheet) = shipped(device);
    let imported = import(&dir, (name, sheet), &Family::ALL, SEED).unwrap();
    let path = format!("{}/profiles/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    assert!(
        imported.toml == fs::read_to_string(&path).unwrap(),
        "{path} is not what the import writes"
    );
    assert_eq!(imported.profile, DeviceProfile::load(name).unwrap());
    assert!(imported.toml.len() <= 150_000, "{}", imported.toml.len());
}

#[test]
fn h100_comes_out_again() {
    comes_out_again("h100-sxm");
}

#[test]
fn b200_comes_out_again() {
    comes_out_again("b200");
}

#[test]
fn l40s_comes_out_again() {
    comes_out_again("l40s");
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
    let (name, sheet) = shipped("h100-sxm");
    let error = import(&dir, (name, sheet), &[Family::LlmServingSim], SEED).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no node in the aisimulate tables of h100_sxm: take it from another family with --compose vidur, or give \
         it in the sheet, with its source"
    );
    let (name, sheet) = shipped("a40");
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
    // A shape that was not measured.
    let times = device.gemm(1500.0, 1500.0, Format::Bf16);
    let roof = gemm_roof(&device.peaks(), [1500.0, 1500.0], Format::Bf16, 2.0);
    for m in [1.0, 100.0, 1e3, 1e5] {
        let ratio = times.at(m, 0.0) / roof.at(m);
        assert!((1.8..2.4).contains(&ratio), "{m}: {ratio}");
    }
}

#[test]
fn a_bad_row_is_told_with_its_line() {
    for (name, bad, reason) in [
        ("negative", "bfloat16,test,1,512,512,-0.1", "latency_ms = `-0.1` must be a time above 0"),
        ("zero", "bfloat16,test,1,512,512,0", "latency_ms = `0` must be a time above 0"),
        ("nan", "bfloat16,test,1,512,512,nan", "latency_ms = `nan` must be a time above 0"),
        ("text", "bfloat16,test,one,512,512,1", "m = `one` must be a number from 0 to"),
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
