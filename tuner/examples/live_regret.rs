//! The loss from deciding with few real runs: the configuration that a decision chooses, beside
//! every cell of a small grid.
//!
//!     cargo run --release -p knee-tuner --example live_regret -- MODEL [ROUNDS]
//!
//! First `decide` runs on the recommendations of a simulation with a profile of this machine. Then
//! all configurations run side by side in rounds: each is offered a rate in the same seconds of the
//! machine, and those that hold meet the next rate. Capacities are compared within a round only, so
//! that the other work of the machine is the same for all. Last, the knee of every cell of the grid
//! is searched alone with the same effort: this is the cost of deciding without a simulation.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use engine::exec::cpu::{Isa, Precision};
use engine::model::Model;
use engine::{Config, Machine};
use loadgen::Slo;
use tuner::contest::meetings::decide;
use tuner::contest::progress::{Silent, Watch};
use tuner::knee::verdict;
use tuner::knee::{Effort, Knee, Prober, place_of, rate_at};
use tuner::result::{DeviceInfo, Objective, TuneResult, WorkloadInfo, config_of};
use tuner::space::{Scope, Space, label};
use tuner::subject::bed::Testbed;
use tuner::subject::{Length, Relax, Subject, Trial};
use tuner::tune::{DeviceUnderTest, Method, Question, tune};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Summaries, cut to what this machine does in seconds.
const PRESET: &str = "summarization";
const CUT: u32 = 256;
const REQUESTS: usize = 40;
const SLO: [&str; 2] = ["ttft=500ms", "tpot=20ms"];
const KV_BYTES: u64 = 1_000_000_000;
/// The grid: seats, and tokens of an iteration where they are enough for the seats.
const SEATS: [u32; 3] = [8, 16, 64];
const TOKENS: [u32; 4] = [32, 64, 128, 512];
/// Steps of the rates at which all meet, in places of the grid of rates.
const STEP: i32 = 2;

static GO_ON: AtomicBool = AtomicBool::new(false);
const WATCH: Watch<'_> = Watch { progress: &Silent, cancel: &GO_ON };

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (model, rounds) = match args.as_slice() {
        [model] => (model, 3),
        [model, rounds] => (model, rounds.parse()?),
        _ => return Err("expected MODEL [ROUNDS]".into()),
    };
    let began = Instant::now();
    let (sim, real) = beds(model)?;
    let profiled_s = began.elapsed().as_secs_f64();
    let at = |pace: Option<f64>| sim.paced(pace.unwrap_or(1.0));
    let budget = Duration::from_secs(600);
    let decided = decide(|pace| screen(&at(pace)), ("cpu", &real), budget, &WATCH)?;
    let decided_s = began.elapsed().as_secs_f64();
    let decision = decided.answer.ok_or("interrupted")?;
    let (winner, rps) = decision.best().ok_or("nothing holds")?;
    println!(
        "decided in {decided_s:.0} s: {}, {rps:.2} requests/s; {} real runs took {:.0} s, the profile {profiled_s:.0}",
        winner.label, decision.runs, decision.load_s
    );
    decision.pace.iter().for_each(|pace| println!("  simulated anew at pace {pace:.2}"));
    decision.doubts().iter().for_each(|doubt| println!("  {doubt}"));
    for finalist in decision.contenders.iter().filter(|f| !f.tried.is_empty()) {
        let simulated = finalist.predicted_rps.unwrap_or(f64::NAN);
        println!("  {}, {simulated:.2} simulated: {:?}", finalist.label, finalist.standing);
        for t in &finalist.tried {
            let (said, pace) = (if t.held { "held" } else { "failed" }, t.pace.unwrap_or(0.0));
            println!("    {:.2}/s {said}, pace {pace:.2}", t.rate_rps);
        }
    }
    let chosen = config_of(&winner.config)?;
    let grid = grid(&chosen)?;
    let mut all = grid.clone();
    all.insert(0, chosen);
    compare(&real, &all, place_of(0.96 * rps), rounds)?;
    let sim = at(decision.pace);
    let began = Instant::now();
    for config in &grid {
        let (cell, rps) = (Instant::now(), alone(&sim, &real, config)?);
        println!("{}: {rps:.2} requests/s, {:.0} s", label(config), cell.elapsed().as_secs_f64());
    }
    let took = began.elapsed().as_secs_f64();
    let share = 100.0 * decided_s / took;
    println!("the grid alone: {took:.0} s; the decision took {share:.0} % of that");
    Ok(())
}

/// The machine as its profile predicts it, and as it is.
fn beds(model: &str) -> Outcome<(Testbed, Testbed)> {
    let trace = workloads::synthesise(&workloads::preset(PRESET).ok_or("no such preset")?, None)?;
    let trace = Arc::new(trace.head(REQUESTS).cut(CUT));
    let slo = Slo::parse(&SLO, None)?.bind(&trace.classes)?;
    let mut model = Model::open(model, None)?;
    let threads = std::thread::available_parallelism()?.get();
    let weights = model.weights.as_mut();
    let machine = Machine::load(weights, Precision::Int8, (Isa::best(), threads), (1, 1))?;
    let timings = machine.time(trace.longest(), &mut |_, _| ())?;
    let profile = Arc::new(machine.profile("cpu", &[timings])?.profile);
    let shape = Arc::new(machine.config().shape());
    let slots = u32::try_from(KV_BYTES / machine.kv_bytes_per_token())?;
    let bed = || {
        let (trace, shape, profile) = (trace.clone(), shape.clone(), profile.clone());
        Testbed::new(trace, shape, profile, slo.clone()).with_kv_slots(slots)
    };
    Ok((bed(), bed().computed(Arc::new(machine)).profiled()))
}

fn screen(sim: &Testbed) -> Outcome<TuneResult> {
    let scope = Scope {
        gpus: 1,
        fewer_gpus: false,
        shared_prefixes: false,
        allow_lossy_kv: false,
        experts: false,
    };
    let workload = WorkloadInfo {
        name: PRESET.to_owned(),
        provenance: Vec::new(),
        requests: sim.requests(),
        requests_per_session: None,
        natural_rps: sim.natural_rate(sim.requests()),
        prompt_tokens_per_request: None,
        output_tokens_per_request: sim.output_tokens_per_request(),
        repeats: sim.repeats(),
    };
    let info = DeviceInfo { name: "cpu".to_owned(), provenance: String::new(), price: None };
    Ok(tune(&Question {
        devices: vec![DeviceUnderTest { info, subject: sim, accuracy: None }],
        space: &Space::new(scope),
        slo: sim.slo().slo(),
        objective: Objective::Rps,
        workload,
        model: sim.model().name.clone(),
        experts: false,
        notes: Vec::new(),
        engine: None,
        engines: Vec::new(),
        seed: 1,
        simulated: true,
        method: Method::Halving,
        demand: None,
        watch: WATCH,
    })?)
}

/// Cells of the grid, in all else like `base`.
fn grid(base: &Config) -> Outcome<Vec<Config>> {
    let mut cells = Vec::new();
    for max_seqs in SEATS {
        for max_batch_tokens in TOKENS.into_iter().filter(|tokens| *tokens >= max_seqs) {
            let mut cell = Config { max_seqs, max_batch_tokens, ..base.clone() };
            cell.set("policy", "chunked")?;
            cells.push(cell);
        }
    }
    Ok(cells)
}

/// The rate that `config` carries by a search of its own, requests/s; 0 if none holds.
fn alone(sim: &Testbed, real: &Testbed, config: &Config) -> Outcome<f64> {
    let knee = |bed: &Testbed, start, effort| -> Outcome<f64> {
        let prober = Prober::new(bed, config, Relax::Nothing, bed.requests(), &GO_ON);
        let knee = prober.and_then(|mut prober| prober.knee(place_of(start), effort));
        Ok(match knee? {
            Knee::Between { lo, .. } => rate_at(lo),
            Knee::Nowhere => 0.0,
        })
    };
    let expected = knee(sim, 1.0, Effort::COLD)?.max(0.1);
    knee(real, expected, Effort::REAL)
}

/// Prints the rate of each configuration as a share of the first one's, the chosen one, round by
/// round.
fn compare(real: &Testbed, all: &[Config], start: i32, rounds: usize) -> Outcome {
    let mut of_best = Vec::with_capacity(rounds);
    let mut ratios = vec![Vec::with_capacity(rounds); all.len()];
    for number in 1..=rounds {
        let began = Instant::now();
        let (chosen, others) = round(real, all, start)?;
        let rates =
            others.iter().map(|k| k.map_or("less".to_owned(), |k| format!("{:.2}", rate_at(k))));
        let cells = all[1..].iter().zip(rates);
        let cells = cells.map(|(c, rate)| format!("{}x{} {rate}", c.max_seqs, c.max_batch_tokens));
        let cells: Vec<String> = cells.collect();
        let (rps, took) = (rate_at(chosen), began.elapsed().as_secs_f64());
        println!("round {number}, {took:.0} s: chosen {rps:.2}; {}", cells.join(", "));
        let best = others.iter().flatten().copied().max().unwrap_or(chosen);
        of_best.push(rate_at(chosen - best));
        for (ratios, k) in ratios.iter_mut().zip(others) {
            ratios.extend(k.map(|k| rate_at(k - chosen)));
        }
    }
    println!("capacity over that of the chosen one, mean over rounds and its standard error:");
    for (config, ratios) in all[1..].iter().zip(&ratios) {
        let n = ratios.len();
        println!("  {}: {} in {n} of {rounds} rounds, else less", label(config), mean(ratios));
    }
    println!("the chosen one over whichever cell was the best of the round: {}", mean(&of_best));
    Ok(())
}

fn mean(ratios: &[f64]) -> String {
    let n = ratios.len() as f64;
    let mean = ratios.iter().sum::<f64>() / n;
    let variance = ratios.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0);
    format!("{mean:.3} +- {:.3}", (variance / n).sqrt())
}

/// The highest places at which the first of `all` and the others hold, from one where it and most of them do; none where
/// one carries less than that.
fn round(real: &Testbed, all: &[Config], start: i32) -> Outcome<(i32, Vec<Option<i32>>)> {
    let everybody: Vec<usize> = (0..all.len()).collect();
    let mut k = start;
    let mut standing = meet(real, all, &everybody, k)?;
    while !standing.contains(&0) || 2 * standing.len() <= all.len() {
        // The machine is slower than it was.
        k -= 2 * STEP;
        standing = meet(real, all, &everybody, k)?;
    }
    let mut held = vec![None; all.len()];
    while !standing.is_empty() {
        standing.iter().for_each(|i| held[*i] = Some(k));
        k += STEP;
        standing = meet(real, all, &standing, k)?;
    }
    let chosen = held.remove(0).ok_or("the chosen one holds nothing")?;
    Ok((chosen, held))
}

/// The members of `standing` that hold at `k`.
fn meet(real: &Testbed, all: &[Config], standing: &[usize], k: i32) -> Outcome<Vec<usize>> {
    let head = real.requests();
    let scale = rate_at(k) / real.natural_rate(head);
    let trial = |i: &usize| Trial {
        config: &all[*i],
        relax: Relax::Nothing,
        length: Length::Requests(head),
        scale,
        verdict_only: false,
    };
    let trials: Vec<Trial<'_>> = standing.iter().map(trial).collect();
    let seen = real.run_together(&trials)?;
    let holders = standing.iter().zip(&seen).filter(|(_, seen)| verdict::holds(seen));
    Ok(holders.map(|(i, _)| *i).collect())
}
