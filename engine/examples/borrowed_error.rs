//! The error of borrowing: the iteration times of every measured device, beside those by its own tables. First a whole
//! device borrows: it is predicted by its data sheet over the efficiencies of the measured device most like it. Then one
//! table at a time is hidden, or all of an operator's, so that the most alike one stands in.
//!
//!     cargo run --release -p knee-engine --example borrowed_error

use engine::config::KvDtype;
use engine::exec::cost::CostModel;
use engine::shape::Shape;
use engine::{DeviceProfile, ModelShape};

/// Models, each on so many GPUs.
const MODELS: [(&str, u32); 3] = [("llama-3.1-8b", 1), ("qwen3-32b", 2), ("llama-3.1-70b", 4)];

/// Batches of decodes at two contexts, prompts alone, and prompts beside decodes.
fn batches() -> Vec<(String, Shape)> {
    let mut all = Vec::new();
    for seqs in [1, 8, 32, 128, 256] {
        for context in [500, 4000] {
            let mut shape = Shape::default();
            (0..seqs).for_each(|_| shape.add(context, 1, true, true));
            all.push((format!("{seqs} decodes at {context}"), shape));
        }
    }
    for tokens in [128, 512, 2048, 8192] {
        let mut shape = Shape::default();
        shape.add(0, tokens, false, true);
        all.push((format!("a prompt of {tokens}"), shape));
        (0..32).for_each(|_| shape.add(1000, 1, true, true));
        all.push((format!("the same beside 32 decodes at {tokens}"), shape));
    }
    all
}

/// Models whose operators have tables in several formats, each on so many GPUs.
const TABLED: [(&str, u32); 7] = [
    ("nvidia/Llama-3.1-70B-Instruct-FP8", 4),
    ("Qwen/Qwen3-30B-A3B", 1),
    ("Qwen/Qwen3-30B-A3B-FP8", 1),
    ("openai/gpt-oss-20b", 1),
    ("openai/gpt-oss-120b", 2),
    ("deepseek-ai/DeepSeek-V3", 8),
    ("Qwen/Qwen3.6-35B-A3B", 1),
];

/// ln(borrowed / own) of the iteration times of all batches.
fn logs(model: &ModelShape, tp: u32, own: &DeviceProfile, borrowed: &DeviceProfile) -> Vec<f64> {
    let cost = |device: &DeviceProfile| CostModel::new(model, device, tp, 1, KvDtype::Bf16, 8192);
    let (mine, theirs) = (cost(own), cost(borrowed));
    let log = |shape: &Shape| (theirs.stage_ns(shape) as f64 / mine.stage_ns(shape) as f64).ln();
    batches().iter().map(|(_, shape)| log(shape)).collect()
}

fn rms(logs: &[f64]) -> f64 {
    (logs.iter().map(|x| x * x).sum::<f64>() / logs.len() as f64).sqrt()
}

/// Prints a row, and returns its root mean square.
fn row(names: [&str; 2], logs: &[f64]) -> f64 {
    let bias = logs.iter().sum::<f64>() / logs.len() as f64;
    let worst = logs.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    let percent = |x: f64| format!("{:+.1} %", 100.0 * x.exp_m1());
    println!(
        "{:<14}{:<54}{:>10}{:>8.1} %{:>10}",
        names[0],
        names[1],
        percent(bias),
        100.0 * rms(logs),
        percent(worst.unwrap_or_default())
    );
    rms(logs)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let measured: Vec<DeviceProfile> =
        DeviceProfile::names().map(DeviceProfile::load).collect::<Result<_, _>>()?;
    let measured: Vec<_> = measured.into_iter().filter(|device| device.like.is_none()).collect();
    let head = |what| {
        println!("{:<14}{what:<54}{:>10}{:>10}{:>10}", "device", "bias", "rms", "worst");
    };
    head("borrowed from");
    let mut devices: Vec<f64> = Vec::new();
    for own in &measured {
        let figures =
            [own.peak_flops, own.peak_fp8_flops, own.peak_fp4_flops, own.memory_bandwidth];
        let Some(base) = DeviceProfile::most_alike(figures, &own.name) else { continue };
        let borrowed = own.data_sheet(&base.name).onto(&base);
        let mut all = Vec::new();
        for (model, tp) in MODELS {
            all.extend(logs(&ModelShape::load(model)?, tp, own, &borrowed));
        }
        devices.push(row([&own.name, &base.name], &all));
    }
    println!("\nall devices alike: sigma = {:.3}\n", rms(&devices));
    head("without the tables of");
    let mut operators: Vec<f64> = Vec::new();
    for (name, tp) in TABLED {
        let model = ModelShape::load(name)?;
        let borrows = |device: &DeviceProfile| {
            !CostModel::new(&model, device, tp, 1, KvDtype::Bf16, 8192).borrowed().is_empty()
        };
        for own in measured.iter().filter(|own| !borrows(own)) {
            for (kind, tables) in &own.operators {
                let mut last: Option<Vec<f64>> = None;
                let mut hidden: Vec<Vec<&String>> = tables.keys().map(|f| vec![f]).collect();
                if tables.len() > 1 {
                    hidden.push(tables.keys().collect());
                }
                for formats in hidden {
                    let mut without = own.clone();
                    if let Some(left) = without.operators.get_mut(kind) {
                        left.retain(|format, _| !formats.contains(&format));
                    }
                    let all = logs(&model, tp, own, &without);
                    // To hide further formats need not change what stands in.
                    if borrows(&without) && last.as_ref() != Some(&all) {
                        let formats =
                            if formats.len() == 1 { formats[0].as_str() } else { "all formats" };
                        let short = name.rsplit('/').next().unwrap_or(name);
                        let what = format!("{kind} in {formats}, {short}");
                        operators.push(row([&own.name, &what], &all));
                        last = Some(all);
                    }
                }
            }
        }
    }
    println!("\nall cases alike: sigma = {:.3}", rms(&operators));
    Ok(())
}
