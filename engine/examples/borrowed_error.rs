//! The error of borrowing: the iteration times of every measured device, predicted by its data sheet over the
//! efficiencies of the measured device most like it, beside those by its own tables.
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut squares: Vec<f64> = Vec::new();
    println!("{:<14}{:<14}{:>10}{:>10}{:>10}", "device", "borrowed from", "bias", "rms", "worst");
    for name in DeviceProfile::names() {
        let own = DeviceProfile::load(name)?;
        if own.like.is_some() {
            continue;
        }
        let figures =
            [own.peak_flops, own.peak_fp8_flops, own.peak_fp4_flops, own.memory_bandwidth];
        let Some(base) = DeviceProfile::most_alike(figures, name) else { continue };
        let borrowed = own.data_sheet(&base.name).onto(&base);
        let mut logs = Vec::new();
        for (model, tp) in MODELS {
            let model = ModelShape::load(model)?;
            let cost =
                |device: &DeviceProfile| CostModel::new(&model, device, tp, 1, KvDtype::Bf16, 8192);
            let (mine, theirs) = (cost(&own), cost(&borrowed));
            for (_, shape) in batches() {
                logs.push((theirs.stage_ns(&shape) as f64 / mine.stage_ns(&shape) as f64).ln());
            }
        }
        let n = logs.len() as f64;
        let bias = logs.iter().sum::<f64>() / n;
        let rms = (logs.iter().map(|x| x * x).sum::<f64>() / n).sqrt();
        let worst = logs.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
        let percent = |x: f64| format!("{:+.1} %", 100.0 * x.exp_m1());
        println!(
            "{name:<14}{:<14}{:>10}{:>8.1} %{:>10}",
            base.name,
            percent(bias),
            100.0 * rms,
            percent(worst.unwrap_or_default())
        );
        squares.push(rms * rms);
    }
    let sigma = (squares.iter().sum::<f64>() / squares.len() as f64).sqrt();
    println!("\nall devices alike: sigma = {sigma:.3}");
    Ok(())
}
