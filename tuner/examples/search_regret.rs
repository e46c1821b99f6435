//! The quality of the search against measuring everything, and against chance at equal work, on
//! simulated workloads.
//!
//!     cargo run --release -p knee-tuner --example search_regret -- [PRESET SLO...]
//!
//! Without arguments: chat, code and summarization under the targets of the README, two seeds each. Prints one row
//! per workload and seed; exhaustive search takes minutes.

use loadgen::Slo;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tuner::contest::entry::Candidate;
use tuner::contest::progress::{Silent, Watch};
use tuner::contest::waves::{Contest, Found, RUNGS, exhaustive, halving, random};
use tuner::space::{Scope, Space, label};
use tuner::subject::Subject;
use tuner::subject::bed::Testbed;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "{:<14} {:>4} {:>7} {:>8} {:>8} {:>7} {:>7} {:>9} {:>7} {:>7}  winner",
        "workload",
        "seed",
        "configs",
        "best",
        "median",
        "regret",
        "work",
        "random",
        "full s",
        "fast s"
    );
    if let [preset, slo @ ..] = args.as_slice()
        && !slo.is_empty()
    {
        return (1..3).try_for_each(|seed| row(preset, slo, seed));
    }
    for (preset, slo) in [
        ("chat", ["ttft=1s", "tpot=25ms"]),
        ("code", ["ttft=2s", "tpot=40ms"]),
        ("summarization", ["ttft=1s", "tpot=25ms"]),
    ] {
        (1..3).try_for_each(|seed| row(preset, &slo.map(str::to_owned), seed))?;
    }
    Ok(())
}

fn row(preset: &str, slo: &[String], seed: u64) -> Outcome {
    let trace =
        workloads::synthesise(&workloads::preset(preset).ok_or("no such preset")?, Some(seed))?;
    let slo = Slo::parse(slo, None)?.bind(&trace.classes)?;
    let model = engine::ModelShape::load("llama-3.1-8b")?;
    let device = engine::DeviceProfile::load("h100-sxm")?;
    let shared_prefixes = trace.block_tokens > 0;
    let sim = Testbed::new(Arc::new(trace), Arc::new(model), Arc::new(device), slo);
    let scope = Scope {
        gpus: 1,
        fewer_gpus: false,
        shared_prefixes,
        allow_lossy_kv: false,
        experts: false,
    };
    let candidate = |config: engine::Config| {
        let group = config.policy() as usize;
        Candidate { device: 0, config, group }
    };
    let cancel = AtomicBool::new(false);
    let contest = Contest {
        devices: &[&sim as &dyn Subject],
        candidates: Space::new(scope).enumerate().configs.into_iter().map(candidate).collect(),
        near: &|_| Vec::new(),
        watch: Watch { progress: &Silent, cancel: &cancel },
    };
    let start = Instant::now();
    let fast = halving(&contest, RUNGS);
    let fast_s = start.elapsed().as_secs_f64();
    let winner = winner(&fast);
    let winner = winner.map_or("none".to_owned(), |b| label(&fast.entries[b].candidate.config));
    if std::env::var_os("FAST").is_some() {
        println!(
            "{preset} {seed}: {:.2} in {fast_s:.1} s, {} requests, {} trials  {winner}",
            best(&fast),
            fast.requests(),
            fast.trials()
        );
        let mut by = std::collections::BTreeMap::new();
        for e in &fast.entries {
            for p in &e.probes {
                let cell: &mut (u64, u64, u64) =
                    by.entry((p.head, e.candidate.config.policy())).or_default();
                cell.0 += 1;
                cell.1 += u64::from(p.passes());
                cell.2 += p.observation.summary.requests;
            }
        }
        by.iter().for_each(|b| println!("  {b:?}"));
        for h in by.keys().map(|k| k.0).collect::<std::collections::BTreeSet<_>>() {
            let n = fast.entries.iter().filter(|e| e.probes.iter().any(|p| p.head == h)).count();
            println!("  head {h}: {n} candidates");
        }
        return Ok(());
    }
    let start = Instant::now();
    let full = exhaustive(&contest, Found::nothing(&contest));
    let full_s = start.elapsed().as_secs_f64();
    let lucky = random(&contest, seed, fast.requests());
    let mut all: Vec<f64> = (0..full.entries.len()).map(|i| full.rate(i)).collect();
    all.sort_by(f64::total_cmp);
    let top = best(&full);
    let regret = |f: &Found| 100.0 * (1.0 - best(f) / top);
    println!(
        "{preset:<14} {seed:>4} {:>7} {top:>8.2} {:>7.0}% {:>6.2}% {:>6.1}% {:>8.2}% {full_s:>7.0} {fast_s:>7.1}  {winner}",
        all.len(),
        100.0 * all[all.len() / 2] / top,
        regret(&fast),
        100.0 * fast.requests() as f64 / full.requests() as f64,
        regret(&lucky),
    );
    Ok(())
}

fn best(found: &Found) -> f64 {
    winner(found).map_or(0.0, |b| found.rate(b))
}

fn winner(found: &Found) -> Option<usize> {
    found.bests().max_by(|a, b| found.rate(*a).total_cmp(&found.rate(*b)))
}
