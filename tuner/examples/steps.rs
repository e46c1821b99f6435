//! Recorded iterations of real engines beside the cost model: the error of each iteration's time, by model, split and
//! phase. It judges the time of one iteration alone; no queue and no client is in it.
//!
//!     cargo run --release -p knee-tuner --example steps -- steps-b300 [DETAIL]
//!
//! The folder is a cut of ai-dynamo/aiconfigurator's `fpm_golden_runs` (vLLM 0.20.1 on B300, asynchronous scheduling).
//! Nothing is fitted to it. The first errors are those of the simulation, with the host time of that engine; the second are
//! without any. A line has sums over its batch: its longest sequence is taken one standard deviation of uniform lengths
//! above the mean.
//!
//! Decodes are told apart by the lengths of their contexts: even, or uneven where these deviate by over a tenth.
//!
//! Two kinds of lines are not judged as they stand, by rules that look at the measurement alone. A line faster than the
//! data sheet allows, with half of the experts that a batch at random goes through, is a part of the one before it: its
//! tokens were in flight already. A line that took over three times the median of like batches is a warm-up or a stall,
//! and is left out.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use engine::config::KvDtype;
use engine::exec::cost::{Breakdown, CostModel, Ranks};
use engine::exec::speed;
use engine::model::Layer;
use engine::model::feed_forward::FeedForward;
use engine::{Config, DeviceProfile, EngineProfile, ModelShape, Shape};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The engine that was recorded.
const ENGINE: &str = "vllm@0.20";

/// The GPU of these runs.
const DEVICE: &str = "b300";

/// Tokens of the largest batch that is tabulated.
const BATCH_TOKENS: u32 = 8192;

/// Standard deviation of contexts over their mean from which they are uneven.
const UNEVEN: f64 = 0.1;

/// A scheduler iteration, or several that are measured together.
#[derive(Debug, Clone)]
struct Step {
    phase: &'static str,
    shapes: Vec<Shape>,
    ms: f64,
}

/// A step beside its prediction, ms.
struct Judged {
    step: Step,
    hidden_ms: f64,
    shown_ms: f64,
    parts: Breakdown,
}

/// A folder of runs and its setting.
struct Setting {
    model: &'static str,
    ranks: Ranks,
    steps: Vec<Step>,
}

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, detail @ ..] = args.as_slice() else {
        return Err("expected FOLDER [DETAIL]".into());
    };
    let mut folders = Vec::new();
    find(Path::new(folder), &mut folders)?;
    folders.sort();
    let device = DeviceProfile::load(DEVICE)?;
    println!(
        "{:<24}{:<18}{:<9}{:>6}{:>6}{:>6}  {:<31}without host time",
        "model", "split", "phase", "steps", "joined", "left", "error: median, p90, bias"
    );
    let mut models: BTreeMap<(&str, bool), Vec<Judged>> = BTreeMap::new();
    for path in folders {
        let setting = read(&path)?;
        let model = ModelShape::load(setting.model)?;
        let Ranks { tp, dp, ep, .. } = setting.ranks;
        let cost = CostModel::on(&model, &device, setting.ranks, KvDtype::Bf16, BATCH_TOKENS);
        let config = Config { tp, async_scheduling: true, ..Config::default() };
        let cost = cost.hosted(EngineProfile::load(ENGINE)?.host_time(&device, &config));
        let (steps, joined) = joined(setting.steps, &model, &device, setting.ranks);
        let (steps, left_out) = usual(steps);
        let mut phases: BTreeMap<&str, Vec<Judged>> = BTreeMap::new();
        for step in steps {
            phases.entry(step.phase).or_default().push(judge(&cost, step, dp));
        }
        for (phase, judged) in phases {
            let split = format!("TP {tp} DP {dp} EP {ep}");
            print!(
                "{:<24}{split:<18}{phase:<9}{:>6}{joined:>6}{left_out:>6}",
                setting.model,
                judged.len()
            );
            print_errors(&judged);
            if !detail.is_empty() {
                print_detail(&judged);
            }
            models.entry((setting.model, dp > 1)).or_default().extend(judged);
        }
    }
    println!();
    for ((model, split), judged) in &models {
        let split = if *split { "attention by sequence" } else { "all else" };
        print!("{model:<24}{split:<27}{:>6}{:12}", judged.len(), "");
        print_errors(judged);
    }
    Ok(())
}

/// Folders below `folder` that hold a run.
fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Outcome {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, found)?;
        } else if path.ends_with("fpm_metrics_detail.csv.gz") {
            found.push(folder.to_owned());
        }
    }
    Ok(())
}

fn read(folder: &Path) -> Outcome<Setting> {
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("effective_vllm_config.json"))?)?;
    let degree = |name: &str| {
        let found = config.get(format!("parallel_config.{name}_parallel_size"));
        found.and_then(serde_json::Value::as_u64).unwrap_or(1) as u32
    };
    let (tp, dp) = (degree("tensor"), degree("data"));
    // The number of ranks that share experts stands in the folder's name alone.
    let path = folder.to_string_lossy();
    let ep = path
        .rsplit("ep")
        .find_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .unwrap_or(1);
    let model = if path.contains("qwen3-32b") { "Qwen/Qwen3-32B" } else { "Qwen/Qwen3.6-35B-A3B" };
    let mut text = String::new();
    let file = std::fs::File::open(folder.join("fpm_metrics_detail.csv.gz"))?;
    flate2::read::GzDecoder::new(file).read_to_string(&mut text)?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let mut steps = Vec::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |name: &str| -> Outcome<f64> {
            let at = header.iter().position(|h| *h == name).ok_or_else(|| format!("no {name}"))?;
            Ok(cells.get(at).copied().unwrap_or_default().parse()?)
        };
        let chunks = number("num_prefill_requests")? as u32;
        let decodes = number("num_decode_requests")? as u32;
        let prefill = (number("sum_prefill_tokens")?, number("sum_prefill_kv_tokens")?);
        let context = number("sum_decode_kv_tokens")?;
        let deviation = number("var_decode_kv_tokens")?.max(0.0).sqrt();
        let shape = shape((chunks, prefill), (decodes, context, deviation));
        let uneven = deviation > UNEVEN * context / f64::from(decodes.max(1));
        let phase = match (chunks > 0, decodes > 0) {
            (true, true) => "mixed",
            (true, false) => "context",
            _ if uneven => "uneven",
            _ => "decode",
        };
        steps.push(Step { phase, shapes: vec![shape], ms: number("latency_ms")? });
    }
    Ok(Setting { model, ranks: Ranks { tp, dp, ep, pp: 1 }, steps })
}

/// A batch by its sums: chunks of equal length, tokens in them and before them; decodes, their context and its standard
/// deviation.
fn shape(
    (chunks, (tokens, history)): (u32, (f64, f64)),
    (decodes, context, deviation): (u32, f64, f64),
) -> Shape {
    let mut shape = Shape::default();
    for i in 0..chunks {
        let share = |sum: f64| {
            let upto = |i: u32| (sum * f64::from(i) / f64::from(chunks)) as u32;
            upto(i + 1) - upto(i)
        };
        shape.add(share(history), share(tokens), false, true);
    }
    let n = f64::from(decodes);
    if decodes > 0 {
        shape.decode_seqs = decodes;
        shape.decode_context = (context + n) as u64;
        shape.decode_longest = (context / n + deviation * 3.0_f64.sqrt().min(n.sqrt())) as u32 + 1;
        shape.sampled += decodes;
    }
    shape
}

/// Steps of which those that are faster than the data sheet allows are joined to the one before; and their number.
fn joined(
    steps: Vec<Step>,
    model: &ModelShape,
    device: &DeviceProfile,
    ranks: Ranks,
) -> (Vec<Step>, usize) {
    let tp = ranks.tp;
    let floor_ms = |shape: &Shape| {
        let compute = speed::flops(model, shape) / speed::peak_flops(model, device);
        let bytes = speed::bytes(model, KvDtype::Bf16, tp, shape) + experts_of(model, shape);
        let memory = bytes / device.memory_bandwidth;
        1e3 * compute.max(memory / f64::from(ranks.dp)) / f64::from(tp)
    };
    let (mut found, mut count) = (Vec::<Step>::new(), 0);
    for step in steps {
        match found.last_mut() {
            Some(before) if step.ms < floor_ms(&step.shapes[0]) => {
                before.ms += step.ms;
                before.shapes.extend(step.shapes);
                before.phase = "joined";
                count += 1;
            }
            _ => found.push(step),
        }
    }
    (found, count)
}

/// Bytes of half of the experts that a batch goes through at random, besides those of one token.
fn experts_of(model: &ModelShape, shape: &Shape) -> f64 {
    let bytes = |(count, layer): (u32, &Layer)| {
        let Some(FeedForward::Experts(experts)) = &layer.feed_forward else { return 0.0 };
        let idle = layer.formats.feed_forward.bytes(layer.idle_elements(model.hidden)) as f64;
        let missed = 1.0 - f64::from(experts.top_k) / f64::from(experts.experts);
        f64::from(count) * idle * 0.5 * (1.0 - missed.powi(shape.tokens() as i32 - 1))
    };
    model.layers.groups().map(bytes).sum()
}

/// Steps without those that took over three times the median of like batches; and the number of those.
fn usual(steps: Vec<Step>) -> (Vec<Step>, usize) {
    // Batches are alike by phase, decodes, and eighths of a doubling of the tokens of prompts.
    let like = |step: &Step| {
        let tokens: u32 = step.shapes.iter().map(|s| s.prefill_tokens).sum();
        let decodes: u32 = step.shapes.iter().map(|s| s.decode_seqs).sum();
        (step.phase, decodes, (8.0 * f64::from(tokens + 1).log2()) as u32)
    };
    let mut times: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    steps.iter().for_each(|step| times.entry(like(step)).or_default().push(step.ms));
    let all = steps.len();
    let kept = |step: &Step| quantile(&times[&like(step)], 0.5) * 3.0 >= step.ms;
    let steps: Vec<Step> = steps.into_iter().filter(kept).collect();
    let left_out = all - steps.len();
    (steps, left_out)
}

fn judge(cost: &CostModel, step: Step, dp: u32) -> Judged {
    let mut parts = Breakdown::default();
    let (mut shown_ms, mut shared_ms) = (0.0, 0.0);
    for shape in &step.shapes {
        parts = add(parts, cost.breakdown(shape));
        // Only one rank's batch is known: the others are taken as large.
        let shared = cost.shared_ns(u64::from(dp) * u64::from(shape.tokens()));
        shared_ms += shared as f64 * 1e-6;
        shown_ms += cost.rank_ns(shape, shared) as f64 * 1e-6;
    }
    Judged { hidden_ms: 1e3 * (parts.total() - parts.host) + shared_ms, shown_ms, parts, step }
}

fn add(a: Breakdown, b: Breakdown) -> Breakdown {
    Breakdown {
        dense: a.dense + b.dense,
        elementwise: a.elementwise + b.elementwise,
        prefill_attention: a.prefill_attention + b.prefill_attention,
        decode_attention: a.decode_attention + b.decode_attention,
        all_reduce: a.all_reduce + b.all_reduce,
        head: a.head + b.head,
        kv_copy: a.kv_copy + b.kv_copy,
        drafting: a.drafting + b.drafting,
        host: a.host + b.host,
    }
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(((sorted.len() as f64 * share) as usize).min(sorted.len() - 1))
        .copied()
        .unwrap_or(0.0)
}

/// Median and 90th percentile of the absolute error, and median of the error, percent.
fn print_errors(judged: &[Judged]) {
    let by = |predicted: fn(&Judged) -> f64| {
        let errors: Vec<f64> =
            judged.iter().map(|j| 100.0 * (predicted(j) / j.step.ms - 1.0)).collect();
        let sizes: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
        let [median, p90] = [0.5, 0.9].map(|share| quantile(&sizes, share));
        format!("{median:>6.1} %{p90:>7.1} %{:>+7.1} %", quantile(&errors, 0.5))
    };
    println!("  {}      {}", by(|j| j.shown_ms), by(|j| j.hidden_ms));
}

/// The error by size of batch, and the parts of the prediction.
fn print_detail(judged: &[Judged]) {
    let mut by_size: BTreeMap<(u32, u32), Vec<&Judged>> = BTreeMap::new();
    for j in judged {
        let tokens: u32 = j.step.shapes.iter().map(|s| s.prefill_tokens).sum();
        let decodes: u32 = j.step.shapes.iter().map(|s| s.decode_seqs).sum();
        let size = (if tokens > 0 { tokens.next_power_of_two() } else { 0 }, decodes);
        by_size.entry(if tokens > 0 { (size.0, 0) } else { size }).or_default().push(j);
    }
    for ((tokens, decodes), group) in by_size {
        let median = |of: &dyn Fn(&Judged) -> f64| {
            quantile(&group.iter().map(|j| of(j)).collect::<Vec<_>>(), 0.5)
        };
        let size = if tokens > 0 {
            format!("prompts of up to {tokens} tokens")
        } else {
            format!("{decodes} decodes")
        };
        let parts = group[0].parts.parts();
        let named: Vec<String> = (0..parts.len() - 1)
            .map(|i| (parts[i].0, 1e3 * median(&|j| j.parts.parts()[i].1)))
            .filter(|(_, ms)| *ms > 0.0)
            .map(|(name, ms)| format!("{name} {ms:.2}"))
            .collect();
        println!(
            "    {size:<32}{:>6} steps: {:>8.2} of {:>8.2} ms ({:+.1} %)  {}",
            group.len(),
            median(&|j| j.shown_ms),
            median(&|j| j.step.ms),
            median(&|j| 100.0 * (j.shown_ms / j.step.ms - 1.0)),
            named.join(", ")
        );
    }
}
