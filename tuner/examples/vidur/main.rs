//! Vidur's world in this simulator: its A100 tables, its schedulers, its trace; to be put beside Vidur's own figures.
//!
//!     cargo run --release -p knee-tuner --example vidur -- ../shared/profiles [RATE...] [--kv-cache-save-us TIME]
//!
//! The tables are not part of the repository (the folder's README says where they come from). The trace is Azure's
//! conversations of 2023 in Vidur's CSV form: the first 2,000 requests of 2 to 4,096 tokens, which is as long as
//! Vidur's tables go, at their own intervals scaled to the rate.

mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use engine::import::{self, import};
use engine::{Config, DeviceProfile, EngineProfile, ModelShape};
use loadgen::{Latency, Metric, Slo, Stats};
use tuner::subject::Relax;
use tuner::subject::bed::Testbed;
use workloads::Trace;
use workloads::format::ReadOptions;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Requests replayed, and the longest of them.
const REQUESTS: usize = 2000;
const LONGEST: u32 = 4096;

fn main() -> Outcome<()> {
    let mut words = Vec::new();
    let mut save = None;
    let mut args = std::env::args().skip(1);
    while let Some(word) = args.next() {
        match word.as_str() {
            "--kv-cache-save-us" => {
                save = Some(args.next().ok_or("--kv-cache-save-us needs a time")?.parse::<f64>()?);
            }
            _ => words.push(word),
        }
    }
    let dir = PathBuf::from(words.first().ok_or("give the folder that holds vidur/")?);
    let mut rates = words[1..].iter().map(|w| w.parse()).collect::<Result<Vec<f64>, _>>()?;
    if rates.is_empty() {
        rates = vec![2.0, 4.0, 6.0];
    }
    let device = Arc::new(device(&dir, save)?);
    let trace = Arc::new(trace(&dir)?);
    println!(
        "{:<21}{:<9}{:>4}{:>10}{:>9}{:>10}{:>10}{:>8}{:>9}{:>9}{:>8}{:>9}{:>11}",
        "model",
        "scheduler",
        "/s",
        "TTFT mean",
        "p50",
        "p99",
        "TPOT mean",
        "p99",
        "E2E p50",
        "p99",
        "req/s",
        "wall s",
        "req/wall s"
    );
    for (name, tp, pp) in [("llama-3-8b", 1, 1), ("llama-2-70b", 2, 2)] {
        let model = Arc::new(world::model(name)?);
        for scheduler in world::SCHEDULERS {
            for rate in &rates {
                row((name, tp, pp), scheduler, *rate, &trace, (&model, &device))?;
            }
        }
    }
    Ok(())
}

/// Vidur's A100; with keys and values written by a kernel of `save` µs, where that is said.
fn device(dir: &Path, save: Option<f64>) -> Outcome<DeviceProfile> {
    let mut sheet = world::text("a100.toml")?;
    if let Some(us) = save {
        let said = "kv_cache_save = \"omit\"";
        sheet = sheet.replace(said, &format!("kv_cache_save = {{ us = {us:?} }}"));
    }
    let imported = import(dir, ("vidur/a100.toml", &sheet), &[], import::SEED)?;
    for note in imported.notes {
        println!("note: {note}");
    }
    Ok(imported.profile)
}

fn trace(dir: &Path) -> Outcome<Trace> {
    let path = dir.join("vidur/trace.splitwise_conv.csv.gz");
    let mut trace = workloads::format::read(&path, &ReadOptions::default())?;
    trace.requests.retain(|r| r.output > 1 && r.input + r.output <= LONGEST);
    Ok(trace.head(REQUESTS))
}

/// Tokens of KV as Vidur counts them: whole requests of the longest length in what the weights leave of nine tenths of
/// the memory, nothing kept for activations.
fn slots(model: &ModelShape, device: &DeviceProfile, config: &Config) -> u32 {
    let weights = model.rank_weight_bytes(config.tp, config.pp, 0);
    let token = model.stage_kv_bytes(config.kv_dtype, config.tp, config.pp, 0);
    let room = (0.9 * device.memory_bytes as f64) as u64 - weights;
    let requests = room / (token * u64::from(LONGEST));
    requests as u32 * LONGEST
}

fn row(
    (name, tp, pp): (&str, u32, u32),
    scheduler: &str,
    rate: f64,
    trace: &Arc<Trace>,
    (model, device): (&Arc<ModelShape>, &Arc<DeviceProfile>),
) -> Outcome<()> {
    let mut config = world::scheduler(scheduler)?;
    (config.tp, config.pp) = (tp, pp);
    let slo = Slo::parse::<&str>(&[], None)?.bind(&trace.classes)?;
    let sim = Testbed::new(Arc::clone(trace), Arc::clone(model), Arc::clone(device), slo)
        .under(Arc::new(EngineProfile::bare()));
    let mut deployment = sim.deployment(&config, Relax::Nothing)?;
    deployment.kv_slots = slots(model, device, &config);
    let start = Instant::now();
    let scale = rate / trace.offered_rate();
    let observation = sim.observe(&deployment, trace.requests.len(), scale)?;
    let seconds = start.elapsed().as_secs_f64(); // one thread
    let s = &observation.summary;
    let ms = |metric, of: fn(&Stats) -> Latency| of(&s.stats(metric)).millis().unwrap_or(f64::NAN);
    println!(
        "{:<21}{scheduler:<9}{rate:>4}{:>10.1}{:>9.1}{:>10.1}{:>10.2}{:>8.1}{:>9.0}{:>9.0}{:>8.2}{seconds:>9.3}{:>11.0}",
        format!("{name} tp{tp} pp{pp}"),
        ms(Metric::Ttft, |s| s.mean),
        ms(Metric::Ttft, |s| s.p50),
        ms(Metric::Ttft, |s| s.p99),
        ms(Metric::Tpot, |s| s.mean),
        ms(Metric::Tpot, |s| s.p99),
        ms(Metric::E2e, |s| s.p50),
        ms(Metric::E2e, |s| s.p99),
        s.completed as f64 / s.duration_s,
        trace.requests.len() as f64 / seconds
    );
    Ok(())
}
