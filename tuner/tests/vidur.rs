//! The knobs that stand for Vidur's schedulers do what those schedulers do, and its tables come through the import.

#[path = "../examples/vidur/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::config::KvDtype;
use engine::event::Event;
use engine::exec::cost::CostModel;
use engine::import::{SEED, import};
use engine::{DeviceProfile, EngineProfile, Iteration};
use loadgen::Slo;
use tuner::subject::Relax;
use tuner::subject::bed::Testbed;
use tuner::subject::observation::Detailed;
use workloads::{Arrival, ReadOptions, Trace};

/// 300 requests at 8/s in Vidur's form, prompts of 50 to 2,049 tokens.
fn trace() -> Trace {
    let mut csv = "arrived_at,num_prefill_tokens,num_decode_tokens\n".to_owned();
    for i in 0..300_u32 {
        let (input, output) = (50 + i * 7919 % 2000, 20 + i * 104_729 % 300);
        let _ = writeln!(csv, "{},{input},{output}", f64::from(i) / 8.0);
    }
    workloads::read_bytes("vidur.csv", csv.as_bytes(), &ReadOptions::default()).unwrap()
}

/// Every iteration under one scheduler, with room for `slots` tokens of KV where that is said.
fn run(scheduler: &str, slots: Option<u32>) -> (Detailed, Vec<Iteration>) {
    let trace = trace();
    let slo = Slo::parse::<&str>(&[], None).unwrap().bind(&trace.classes).unwrap();
    let model = Arc::new(world::model("llama-3-8b").unwrap());
    let device = Arc::new(DeviceProfile::load("a100-sxm").unwrap());
    // There is nothing around Vidur's replicas.
    let sim =
        Testbed::new(Arc::new(trace), model, device, slo).under(Arc::new(EngineProfile::bare()));
    let config = world::scheduler(scheduler).unwrap();
    let mut deployment = sim.deployment(&config, Relax::Nothing).unwrap();
    if let Some(slots) = slots {
        deployment.kv_slots = slots;
    }
    let mut seen = Vec::new();
    let detail =
        sim.watched(&deployment, 1.0, &mut |iteration| seen.push(iteration.clone())).unwrap();
    assert_eq!(detail.observation.summary.completed, 300, "{scheduler}");
    (detail, seen)
}

#[test]
fn every_scheduler_loads_and_finishes() {
    for scheduler in world::SCHEDULERS {
        let (detail, _) = run(scheduler, None);
        assert_eq!(
            detail.observation.work().tokens_cached,
            0,
            "{scheduler}: no prefix cache there"
        );
    }
    assert!(world::scheduler("lightllm").unwrap_err().contains("cannot read"));
}

#[test]
fn models_are_layers_alone() {
    // Counted as Vidur's own parameter counter does: 2 B x layers x (QKV + O + three of the feed-forward).
    for (name, layers, hidden, kv, ffn) in [
        ("llama-3-8b", 32_u64, 4096_u64, 1024_u64, 14_336_u64),
        ("llama-2-70b", 80, 8192, 1024, 28_672),
    ] {
        let bytes = 2 * layers * (hidden * (hidden + 2 * kv) + hidden * hidden + 3 * hidden * ffn);
        let ratio = world::model(name).unwrap().weight_bytes() as f64 / bytes as f64;
        assert!((1.0..1.0002).contains(&ratio), "{name}: {ratio}");
    }
}

#[test]
fn sarathi_never_exceeds_its_chunk() {
    let (_, seen) = run("sarathi", None);
    let tokens: Vec<u32> = seen.iter().map(|i| i.shape.tokens()).collect();
    assert_eq!(tokens.iter().max(), Some(&512));
    let full = |i: &&Iteration| i.shape.tokens() == 512 && i.shape.decode_seqs > 0;
    assert!(seen.iter().filter(full).count() > 100, "chunks share iterations with decodes");
}

#[test]
fn vllm_prefills_first() {
    let (_, seen) = run("vllm", None);
    let mut admitted: Vec<Duration> = (seen.iter())
        .flat_map(|i| &i.events)
        .filter_map(|e| match e {
            Event::Admitted { at, .. } => Some(*at),
            _ => None,
        })
        .collect();
    admitted.sort();
    let arrivals: Vec<Duration> = (trace().requests.iter())
        .map(|r| match r.arrival {
            Arrival::At(at) => at,
            Arrival::After { .. } => unreachable!("Vidur's traces are open loops"),
        })
        .collect();
    let before = |times: &[Duration], t: Duration| times.partition_point(|x| *x < t);
    for i in &seen {
        let (prefill, decode) = (i.shape.prefill_seqs, i.shape.decode_seqs);
        assert!(prefill == 0 || decode == 0, "prompts run in iterations of their own");
        assert!(i.shape.prefill_tokens <= 4096);
        let starts = std::iter::once(i.start).chain(i.ends.iter().rev().skip(1).copied());
        for t in starts.filter(|_| decode > 0) {
            // 30 to 60 sequences run and memory is ample, so nothing else holds a prompt back.
            assert!(
                before(&arrivals, t) <= before(&admitted, t),
                "at {t:?} decodes went before a prompt that waited"
            );
        }
    }
}

#[test]
fn orca_reserves_whole_lengths_and_mixes() {
    // Room for eight whole lengths and most of a ninth.
    let (detail, seen) = run("orca", Some(9 * 4096 - 1));
    let seqs = |i: &Iteration| i.shape.prefill_seqs + i.shape.decode_seqs;
    assert_eq!(seen.iter().map(seqs).max(), Some(8));
    assert_eq!(detail.observation.work().preemptions, 0, "what is reserved is never short");
    let mixed = |i: &&Iteration| i.shape.prefill_seqs > 0 && i.shape.decode_seqs > 0;
    assert!(seen.iter().filter(mixed).count() > 100);
    // Pages hold many more of the same requests.
    let (_, paged) = run("vllm", Some(9 * 4096 - 1));
    assert!(paged.iter().map(seqs).max() > Some(16));
}

/// Seconds of one layer of Llama-3-8B on one GPU, all but attention, by tokens: the sum of Vidur's medians.
fn layers(dir: &Path) -> BTreeMap<u64, f64> {
    let file = File::open(dir.join("vidur/a100.Meta-Llama-3-8B.mlp.csv.gz")).unwrap();
    let mut reader = csv::Reader::from_reader(flate2::read::MultiGzDecoder::new(file));
    let mut found = BTreeMap::new();
    for row in reader.deserialize::<BTreeMap<String, String>>() {
        let row = row.unwrap();
        let figure = |name: &str| row[name].parse::<f64>().unwrap();
        if figure("num_tensor_parallel_workers") == 1.0 {
            let times = row.keys().filter(|k| k.ends_with(".median") && *k != "emb.median");
            let ms: f64 = times.map(|k| figure(k)).sum();
            found.insert(figure("num_tokens") as u64, ms / 1e3);
        }
    }
    found
}

#[test]
fn the_imported_profile_costs_what_its_tables_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/profiles");
    if !dir.is_dir() {
        println!("skipped: no measurements at {}", dir.display());
        return;
    }
    let sheet = world::text("a100.toml").unwrap();
    let world = import(&dir, ("a100.toml", &sheet), &[], SEED).unwrap().profile;
    assert_eq!(world.decode_attention.shapes, [[32, 4, 128, 0], [32, 8, 128, 0]]);
    let host = world.host.as_ref().unwrap();
    assert_eq!((host.step_us, host.seq_us), (0.0, 0.0));
    let model = world::model("llama-3-8b").unwrap();
    let cost = CostModel::new(&model, &world, 1, 1, KvDtype::Bf16, 4096);
    let measured = layers(&dir);
    let mut errors = Vec::new();
    for (tokens, seconds) in measured.range(1..=4096) {
        let predicted = cost.dense(*tokens) + cost.elementwise(*tokens);
        errors.push((predicted / seconds - 1.0).abs());
    }
    errors.sort_by(f64::total_cmp);
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    let p95 = errors[errors.len() * 95 / 100];
    println!("layers of 1 to 4,096 tokens: mean {:.1} %, p95 {:.1} %", 1e2 * mean, 1e2 * p95);
    assert!(errors.len() > 100 && mean < 0.04 && p95 < 0.10, "{mean} {p95}");
    // No vocabulary head, and a sampler of one logit: a thousandth of a step.
    let (head, step) = (cost.head(64), 32.0 * (cost.dense(64) + cost.elementwise(64)));
    assert!(head < 5e-3 * step, "{head} of {step}");
}
