//! The embedded profiles are as good as they say, against the tables they were fitted to and against real servers.
//!
//! The measurements are not part of this repository: without them these tests say so and pass.

#[path = "../examples/fit_profile/tables.rs"]
mod tables;

use std::path::{Path, PathBuf};

use engine::Shape;
use engine::config::KvDtype;
use engine::exec::cost::CostModel;
use engine::model::ModelShape;
use engine::profile::DeviceProfile;

fn measurements() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/profiles");
    if dir.is_dir() {
        return Some(dir);
    }
    println!("skipped: no measurements at {}", dir.display());
    None
}

#[test]
fn laws_are_as_far_from_the_tables_as_stated() {
    let Some(dir) = measurements() else { return };
    for name in DeviceProfile::names() {
        let mut device = DeviceProfile::load(name).unwrap();
        assert_eq!(device.fit.len(), tables::OPERATORS.len(), "{name}");
        device.sustained = 1.0;
        for operator in tables::OPERATORS {
            let (stated, found) =
                (device.fit[operator], tables::error(&device, &tables::rows(&dir, name, operator)));
            assert_eq!(found.rows, stated.rows, "{name} {operator}");
            // Coefficients are printed with three digits.
            assert!(
                (found.median - stated.median).abs() < 0.005,
                "{name} {operator}: {found:?} {stated:?}"
            );
            assert!(
                (found.p90 - stated.p90).abs() < 0.01,
                "{name} {operator}: {found:?} {stated:?}"
            );
        }
    }
}

/// Steady stages of real vLLM 0.15.1 servers whose prompts were nearly all cached: the time per output token is that of
/// a decode iteration of as many sequences as Little's law gives.
#[test]
fn time_per_output_token_is_that_of_real_servers() {
    let Some(dir) = measurements() else { return };
    let mut reader =
        csv::Reader::from_path(dir.join("real-runs/sim-to-real-stages/stages.csv")).unwrap();
    let headers = reader.headers().unwrap().clone();
    let mut errors = Vec::new();
    for row in reader.records() {
        let row = row.unwrap();
        let field = |name: &str| &row[headers.iter().position(|h| h == name).unwrap()];
        let number = |name: &str| field(name).parse::<f64>().unwrap();
        let model = match field("model") {
            "meta-llama/Llama-3.1-8B-Instruct" => "llama-3.1-8b",
            "meta-llama/Llama-3.1-70B-Instruct" => "llama-3.1-70b",
            _ => continue,
        };
        // Experiment 46 is overloaded; `all` mixes two rates.
        let fit =
            field("hardware") == "H100" && field("precision") == "FP16" && field("stage") != "all";
        if !fit || field("exp_id") == "46" {
            continue;
        }
        let lengths = field("workload_desc");
        let tokens = |key: &str| -> f64 {
            let digits: String = lengths
                .split(key)
                .nth(1)
                .unwrap()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            digits.parse().unwrap()
        };
        let (prompt, output) = (tokens("ISL~"), tokens("OSL~"));
        let measured = (number("e2e_mean_ms") - number("ttft_mean_ms")) / (output - 1.0);
        let running = (number("rate_req_s") * number("e2e_mean_ms") * 1e-3).round() as u32;
        let mut shape = Shape::default();
        (0..running).for_each(|_| shape.add((prompt + output / 2.0) as u32, 1, true, true));
        let (model, device) =
            (ModelShape::load(model).unwrap(), DeviceProfile::load("h100").unwrap());
        let cost = CostModel::new(&model, &device, number("tp") as u32, 1, KvDtype::Bf16, 2048);
        let predicted = cost.stage_ns(&shape) as f64 * 1e-6;
        let error = predicted / measured - 1.0;
        println!(
            "{} {running} running: {predicted:.2} ms, measured {measured:.2}: {error:+.3}",
            field("model")
        );
        errors.push(error.abs());
    }
    assert!(errors.len() >= 8, "{}", errors.len());
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    let worst = errors.iter().copied().fold(0.0, f64::max);
    assert!(mean < 0.04 && worst < 0.08, "mean {mean:.3}, worst {worst:.3}");
}

#[test]
fn a_device_is_found_by_its_short_name_and_refused_with_the_known_ones() {
    assert_eq!(DeviceProfile::load("H100").unwrap().name, "h100-sxm");
    assert_eq!(DeviceProfile::load("a100-80g").unwrap().name, "a100-sxm");
    assert_eq!(
        DeviceProfile::load("tpu").unwrap_err().to_string(),
        "unknown device `tpu`: expected h100-sxm, h200-sxm, a100-sxm or the path of a .toml file"
    );
}

#[test]
fn a_device_of_ones_own_is_checked() {
    let path = std::env::temp_dir().join(format!("knee-device-{}.toml", std::process::id()));
    let text = include_str!("../profiles/h100-sxm.toml");
    let load = |from: &str, to: &str| {
        assert!(text.contains(from));
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        DeviceProfile::load(path.to_str().unwrap())
    };
    assert_eq!(load("h100-sxm\"", "mine\"").unwrap().name, "mine");
    let error = load("peak_flops = 989e12", "peak_flops = -1.0").unwrap_err().to_string();
    assert_eq!(error, "device h100-sxm: peak_flops = -1 must be positive");
    let error = load("seq_us = 8.0", "seq_us = nan").unwrap_err().to_string();
    assert_eq!(error, "device h100-sxm: host.seq_us = NaN must not be negative");
    let error = load("ranks = 4", "ranks = 2").unwrap_err().to_string();
    assert!(error.contains("rising numbers of ranks"), "{error}");
    let error = load("gpus_per_node", "gpus_per_rack").unwrap_err().to_string();
    assert!(error.contains("unknown field `gpus_per_rack`"), "{error}");
    std::fs::remove_file(&path).unwrap();
}
