//! Closed loops of published servers beside their simulation: the errors of time per output token
//! and time to first token, by model and GPU, and the loss from choosing the number of GPUs by
//! simulation.
//!
//!     cargo run --release -p knee-tuner --example silicon -- vllm-aggregated.csv [--beside OTHER.csv] [DETAIL]
//!
//! The file is one of AISimulate's wheel (`systems/silicon_sample.csv`), cut to columns by name.
//! Nothing here is fitted to it. Below the errors stand the figures that tell their causes. OTHER.csv has the same columns
//! with the times that another program predicts (`scripts/aiconfigurator-beside`): both are printed for the rows that it
//! answers. With DETAIL every row is printed. Settings that a row does not
//! give are those of the scripts of these runs (SemiAnalysisAI/InferenceX, `benchmarks/*.sh`):
//! 8,192 tokens an iteration, asynchronous scheduling, no prefix caching, an FP8 KV cache but for
//! gpt-oss on Hopper and for MiniMax. Batches of gpt-oss are replayed from CUDA graphs up to 2,048
//! tokens; Llama on B200 has graphs for decodes alone (`FULL_DECODE_ONLY`). Rows of MiniMax that say eight ranks of
//! experts' width, which is no multiple of 128, ran with whole experts on each: their script of that day turned expert
//! parallelism on. They are reported apart.

mod causes;

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::config::KvDtype;
use engine::format::Format;
use engine::{Config, DeviceProfile, EngineProfile, ModelShape};
use loadgen::{Metric, Slo};
use tuner::subject::Relax;
use tuner::subject::bed::Testbed;
use workloads::Spec;

/// Model, GPU and precision.
type Key = (String, String, String);

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A row of the file.
#[derive(Debug, Clone)]
struct Row {
    model: String,
    device: String,
    precision: String,
    input: u32,
    output: u32,
    streams: u32,
    tp: u32,
    dp: u32,
    moe_tp: u32,
    ep: u32,
    /// Version of vLLM; empty where it is not known.
    version: String,
    ttft_ms: f64,
    tpot_ms: f64,
}

/// A row and its simulation, ms.
struct Pair {
    row: Row,
    ttft_ms: f64,
    tpot_ms: f64,
    /// TPOT where the host takes no time.
    no_host_ms: f64,
    /// The least TPOT by the data sheet.
    least_ms: f64,
}

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (path, others, detail) = match args.as_slice() {
        [path, flag, other, detail @ ..] if flag == "--beside" => (path, read(other)?, detail),
        [path, detail @ ..] => (path, Vec::new(), detail),
        [] => return Err("expected FILE [--beside OTHER] [DETAIL]".into()),
    };
    let rows = read(path)?;
    let repeats = causes::repeats(&rows);
    let mut groups: BTreeMap<Key, Vec<Pair>> = BTreeMap::new();
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        if let Some(why) = unjudged(&row) {
            *refused.entry(why.to_owned()).or_default() += 1;
            continue;
        }
        match simulate(&row) {
            Ok(pair) => groups.entry(row.pair()).or_default().push(pair),
            Err(why) => *refused.entry(format!("{}: {why}", row.model)).or_default() += 1,
        }
    }
    println!(
        "{:<28}{:<12}{:<10}{:>5}{:>11}{:>9}{:>11}{:>9}",
        "model", "GPU", "precision", "rows", "TPOT MAPE", "bias", "TTFT MAPE", "bias"
    );
    for ((model, device, precision), pairs) in &groups {
        let tpot = errors(pairs.iter().map(|p| p.tpot_ms / p.row.tpot_ms));
        let ttft = errors(pairs.iter().map(|p| p.ttft_ms / p.row.ttft_ms));
        println!(
            "{model:<28}{device:<12}{precision:<10}{:>5}{:>9.1} %{:>+7.1} %{:>9.1} %{:>+7.1} %",
            pairs.len(),
            tpot.0,
            tpot.1,
            ttft.0,
            ttft.1
        );
        if !detail.is_empty() {
            pairs.iter().for_each(Pair::print);
        }
    }
    for (why, count) in refused {
        println!("{count:>5} rows are not in it: {why}");
    }
    if !others.is_empty() {
        beside(&groups, &others);
    }
    let all: Vec<&Pair> = groups.values().flatten().collect();
    regret(&all);
    causes::print(&groups, &repeats);
    Ok(())
}

fn read(path: &str) -> Outcome<Vec<Row>> {
    let text = std::fs::read_to_string(path)?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let mut rows = Vec::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |name: &str| -> Outcome<&str> {
            let at = header.iter().position(|h| *h == name).ok_or_else(|| format!("no {name}"))?;
            Ok(cells.get(at).copied().unwrap_or_default())
        };
        // A whole number, written with a point; what is not given is one.
        let whole = |name: &str| -> Outcome<u32> {
            let text = cell(name)?;
            Ok(if text.is_empty() { 1 } else { text.parse::<f64>()? as u32 })
        };
        let row = Row {
            model: cell("model_path")?.to_owned(),
            device: cell("system")?
                .replace("_sxm", if cell("system")?.starts_with('b') { "" } else { "-sxm" }),
            precision: cell("precision")?.to_owned(),
            input: whole("isl")?,
            output: whole("osl")?,
            streams: whole("concurrency")?,
            tp: whole("tp_size")?,
            dp: whole("attention_dp_size")?,
            moe_tp: whole("moe_tp_size")?.max(1),
            ep: whole("moe_ep_size")?.max(1),
            version: version(cell("image")?),
            ttft_ms: cell("silicon_ttft_ms")?.parse()?,
            tpot_ms: cell("silicon_tpot_ms")?.parse()?,
        };
        rows.push(row.with_true_split());
    }
    Ok(rows)
}

/// The version of vLLM in the name of an image of it.
fn version(image: &str) -> String {
    let tag = image.strip_prefix("vllm/vllm-openai:v").unwrap_or_default();
    tag.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// The engine of a row. Its scripts turn asynchronous scheduling on, which it does by itself from 0.14 on: an older one
/// is taken as that. Where the version is not known, 0.15 as the file's publisher says.
fn engine(row: &Row) -> Outcome<EngineProfile> {
    let minor = row.version.split_once('.').and_then(|(_, minor)| minor.parse::<u32>().ok());
    let mut engine = EngineProfile::load(&format!("vllm@0.{}", minor.unwrap_or(15).max(14)))?;
    let launch = &mut engine.outside.launch;
    if row.model.contains("gpt-oss") {
        launch.graph_tokens = 2048;
    } else if row.model.contains("Llama") && row.device.starts_with('b') {
        launch.pieces = false;
    }
    Ok(engine)
}

/// Why a row says nothing of a simulation, by the publisher's own notes on the file.
fn unjudged(row: &Row) -> Option<&'static str> {
    if row.streams >= 512 {
        Some("512 streams wait for the recipe's sequences")
    } else if row.dp > 1 {
        Some("attention data parallelism with EP 16: probably mislabelled")
    } else {
        None
    }
}

/// The closed loop of a row, simulated.
fn simulate(row: &Row) -> Outcome<Pair> {
    let shape = ModelShape::load(&row.model)?;
    let shape = match (&row.model[..], &row.precision[..]) {
        (model, "fp8") if model.contains("Llama") || model.contains("Qwen3-32B") => {
            shape.quantised(Format::Fp8)
        }
        (model, "fp4") if model.contains("Llama") => shape.quantised(Format::Nvfp4),
        // VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8=1 in the script.
        (model, "fp4") if model.contains("gpt-oss") && row.device.starts_with('b') => {
            shape.quantised(Format::Mxfp4Fp8)
        }
        _ => shape,
    };
    let device = DeviceProfile::load(&row.device)?;
    let hopper = row.device.starts_with("h1") || row.device.starts_with("h2");
    let small_kv = row.model.contains("Llama") || (row.model.contains("gpt-oss") && !hopper);
    let mut config = Config {
        tp: row.tp,
        max_seqs: 512,
        max_batch_tokens: 8192,
        async_scheduling: true,
        prefix_cache: false,
        kv_dtype: if small_kv { KvDtype::Fp8 } else { KvDtype::Bf16 },
        ..Config::default()
    };
    config.set("policy", "chunked")?;
    if row.ep > 1 {
        config.set("ep", &row.ep.to_string())?;
    }
    let least_ms = causes::least_ms(row, &shape, &device, config.kv_dtype);
    let on = (Arc::new(shape), Arc::new(device));
    let (ttft_ms, tpot_ms) = loop_means(row, &config, &on, engine(row)?)?;
    let (_, no_host_ms) = loop_means(row, &config, &on, EngineProfile::bare())?;
    Ok(Pair { row: row.clone(), ttft_ms, tpot_ms, no_host_ms, least_ms })
}

/// Mean TTFT and TPOT of the closed loop, ms.
fn loop_means(
    row: &Row,
    config: &Config,
    (shape, device): &(Arc<ModelShape>, Arc<DeviceProfile>),
    engine: EngineProfile,
) -> Outcome<(f64, f64)> {
    let spec = Spec::random(row.input, row.output, 0.8, 10 * row.streams)?;
    let trace = workloads::synthesise(&spec, None)?.closed_loop(row.streams);
    let slo = Slo::parse::<&str>(&[], None)?.bind(&trace.classes)?;
    let bed = Testbed::new(Arc::new(trace), Arc::clone(shape), Arc::clone(device), slo);
    let bed = bed.under(Arc::new(engine));
    let deployment = bed.deployment(config, Relax::Nothing)?;
    let run = bed.rerun(&deployment, 1.0, &mut |_| ())?;
    let mean =
        |metric| run.observation.summary.stats(metric).mean.millis().ok_or("nothing was completed");
    Ok((mean(Metric::Ttft)?, mean(Metric::Tpot)?))
}

/// Prints the errors of another program's predictions beside these, on the rows that it answers.
fn beside(groups: &BTreeMap<Key, Vec<Pair>>, others: &[Row]) {
    println!(
        "\nBeside another program, on the rows that it answers: mean absolute error of TPOT and of TTFT"
    );
    for ((model, device, precision), pairs) in groups {
        let answered: Vec<(&Pair, &Row)> = (pairs.iter())
            .filter_map(|p| Some((p, others.iter().find(|other| other.is_of(&p.row))?)))
            .collect();
        print!("{model:<28}{device:<12}{precision:<10}{:>3} of {:<3}", answered.len(), pairs.len());
        if answered.is_empty() {
            println!("  it has no answer");
            continue;
        }
        let error = |of: fn(&Row, &Pair, &Row) -> f64| {
            errors(answered.iter().map(|(p, other)| of(&p.row, p, other))).0
        };
        println!(
            "  here {:>6.1} % {:>6.1} %, there {:>6.1} % {:>6.1} %",
            error(|row, p, _| p.tpot_ms / row.tpot_ms),
            error(|row, p, _| p.ttft_ms / row.ttft_ms),
            error(|row, _, other| other.tpot_ms / row.tpot_ms),
            error(|row, _, other| other.ttft_ms / row.ttft_ms),
        );
    }
}

/// Mean absolute error and mean error of predicted over measured, percent.
fn errors(ratios: impl Iterator<Item = f64>) -> (f64, f64) {
    let errors: Vec<f64> = ratios.map(|ratio| 100.0 * (ratio - 1.0)).collect();
    let mean = |x: f64| x / errors.len().max(1) as f64;
    (mean(errors.iter().map(|e| e.abs()).sum()), mean(errors.iter().sum()))
}

impl Row {
    fn pair(&self) -> Key {
        (self.model.clone(), self.device.clone(), self.precision.clone())
    }

    /// The same with the split of experts that it had.
    fn with_true_split(self) -> Self {
        if self.model.contains("MiniMax") && self.moe_tp == 8 {
            let precision = format!("{}, EP 8", self.precision);
            return Self { moe_tp: 1, ep: 8, precision, ..self };
        }
        self
    }

    /// True where both are of the same loop.
    fn is_of(&self, row: &Self) -> bool {
        let loop_of = |r: &Self| [r.input, r.output, r.streams, r.tp, r.dp, r.moe_tp, r.ep];
        self.pair() == row.pair() && loop_of(self) == loop_of(row)
    }
}

impl Pair {
    fn print(&self) {
        let r = &self.row;
        println!(
            "    {:>5} in {:>5} out x {:>3} TP {} EP {}: TPOT {:>7.2} of {:>7.2} ms ({:+.1} %), TTFT {:>8.1} of {:>8.1} ms ({:+.1} %)",
            r.input,
            r.output,
            r.streams,
            r.tp,
            r.ep,
            self.tpot_ms,
            r.tpot_ms,
            100.0 * (self.tpot_ms / r.tpot_ms - 1.0),
            self.ttft_ms,
            r.ttft_ms,
            100.0 * (self.ttft_ms / r.ttft_ms - 1.0)
        );
    }

    /// Output tokens/s per GPU.
    fn worth(&self, ttft_ms: f64, tpot_ms: f64) -> f64 {
        let (n, r) = (0.9 * f64::from(self.row.output), &self.row);
        1e3 * f64::from(r.streams) * n / (ttft_ms + (n - 1.0) * tpot_ms) / f64::from(r.tp)
    }
}

/// The loss of tokens/s per GPU by the TP that a simulation chooses, if several hold a target of
/// TPOT.
fn regret(all: &[&Pair]) {
    let mut losses = Vec::new();
    for limit_ms in [10.0, 20.0, 40.0] {
        let mut questions: BTreeMap<(&str, &str, &str, u32, u32), Vec<&Pair>> = BTreeMap::new();
        for p in all {
            let r = &p.row;
            let key = (&r.model[..], &r.device[..], &r.precision[..], r.input, r.output);
            questions.entry(key).or_default().push(p);
        }
        for pairs in questions.values() {
            // Of each TP the most that it carries within the limit: measured, and what was measured where the
            // simulation says that it carries the most.
            let mut by_tp: BTreeMap<u32, Vec<&Pair>> = BTreeMap::new();
            pairs.iter().for_each(|p| by_tp.entry(p.row.tp).or_default().push(p));
            let true_of = |tp: &[&Pair]| {
                let held = tp.iter().filter(|p| p.row.tpot_ms <= limit_ms);
                held.map(|p| p.worth(p.row.ttft_ms, p.row.tpot_ms)).reduce(f64::max)
            };
            let said_of = |tp: &[&Pair]| {
                let held = tp.iter().filter(|p| p.tpot_ms <= limit_ms);
                held.map(|p| p.worth(p.ttft_ms, p.tpot_ms)).reduce(f64::max)
            };
            let truth: BTreeMap<u32, f64> =
                by_tp.iter().filter_map(|(tp, p)| Some((*tp, true_of(p)?))).collect();
            if truth.len() < 2 {
                continue;
            }
            let best = truth.values().copied().fold(0.0, f64::max);
            let chosen = by_tp
                .iter()
                .filter_map(|(tp, p)| Some((*tp, said_of(p)?)))
                .max_by(|a, b| a.1.total_cmp(&b.1));
            let got = chosen.and_then(|(tp, _)| truth.get(&tp).copied()).unwrap_or(0.0);
            losses.push(100.0 * (1.0 - got / best));
        }
    }
    losses.sort_by(f64::total_cmp);
    if let (Some(median), Some(worst)) = (losses.get(losses.len() / 2), losses.last()) {
        let right = losses.iter().filter(|l| **l < 0.05).count();
        println!(
            "\nTP chosen for tokens/s per GPU at TPOT <= 10, 20, 40 ms: {} questions, {right} right, median loss {median:.1} %, worst {worst:.1} %",
            losses.len()
        );
    }
}
