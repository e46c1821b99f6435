//! Whole tuning runs on analytic servers.

use super::*;
use crate::contest::progress::Silent;
use crate::contest::progress::Watch;
use crate::evidence::accuracy::Accuracy;
use crate::plan::Price;
use crate::result::config_of;
use crate::result::{DeviceInfo, Objective, Tiebreak, WorkloadInfo};
use crate::space::Scope;
use crate::space::Space;
use crate::subject::Subject;
use crate::subject::fake::Fake;
use crate::subject::study::{Identity, Study};
use engine::Config;
use loadgen::Slo;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

static GO_ON: AtomicBool = AtomicBool::new(false);

fn space(gpus: u32, fewer_gpus: bool) -> Space {
    Space::new(Scope {
        gpus,
        fewer_gpus,
        shared_prefixes: true,
        allow_lossy_kv: false,
        experts: false,
    })
}

fn device<'a>(name: &str, subject: &'a dyn Subject, usd: f64) -> DeviceUnderTest<'a> {
    let price = Some(Price { usd_per_gpu_hour: usd, source: "test".to_owned() });
    let info =
        DeviceInfo { name: name.to_owned(), provenance: "closed formulas".to_owned(), price };
    DeviceUnderTest { info, subject, accuracy: None }
}

fn question<'a>(devices: Vec<DeviceUnderTest<'a>>, space: &'a Space, slo: &'a Slo) -> Question<'a> {
    let subject = devices[0].subject;
    let workload = WorkloadInfo {
        name: "closed".to_owned(),
        provenance: vec!["closed formulas".to_owned()],
        requests: subject.requests(),
        requests_per_session: None,
        natural_rps: subject.natural_rate(subject.requests()),
        prompt_tokens_per_request: None,
        output_tokens_per_request: subject.output_tokens_per_request(),
        repeats: false,
    };
    Question {
        devices,
        space,
        slo,
        objective: Objective::Rps,
        workload,
        model: "closed".to_owned(),
        experts: false,
        notes: Vec::new(),
        engine: None,
        engines: Vec::new(),
        seed: 1,
        simulated: true,
        method: Method::Halving,
        demand: None,
        watch: Watch { progress: &Silent, cancel: &GO_ON },
    }
}

/// Without what may differ between runs.
fn stored(result: &TuneResult) -> String {
    let mut r = result.clone();
    (r.wall_s, r.cpu_s, r.host) = (0.0, 0.0, String::new());
    serde_json::to_string_pretty(&r).unwrap()
}

#[test]
fn the_answer_is_complete_and_consistent() {
    let fake = Fake { jitter: 0.02, bias: 0.3, ..Fake::new(&["ttft=1s", "tpot=25ms"]) };
    let space = space(1, false);
    let r = tune(&question(vec![device("x", &fake, 2.0)], &space, fake.slo.slo())).unwrap();
    let best = r.best.as_ref().unwrap();
    assert!(best.slo_met && best.margins.iter().all(|m| m.met) && best.margins.len() == 2);
    assert!(config_of(&best.config).is_ok());
    assert_eq!(r.baselines.len(), 4);
    let others = r.baselines.iter().filter_map(|b| b.best.as_ref());
    assert!(others.into_iter().all(|o| o.capacity_rps <= best.capacity_rps));
    assert!(best.curve.windows(2).all(|w| w[0].rate_rps < w[1].rate_rps));
    assert!(best.curve.iter().any(|p| !p.slo_met || !p.sustainable), "the knee is bracketed");
    assert_eq!(r.losers.len(), 3);
    for loser in &r.losers {
        assert!(loser.capacity_rps <= loser.winner_rps * 1.03, "{loser:?}");
        assert_eq!(loser.cause.is_some(), loser.checked.iter().any(|c| c.confirmed));
        assert!(loser.checked.iter().all(|c| c.confirmed == (c.after_rps > c.before_rps)));
    }
    assert!(r.losers.iter().any(|l| l.cause.is_some()));
    assert!(r.sensitivity.iter().any(|n| n.knob == "max-seqs"));
    assert!(r.sensitivity.iter().any(|n| n.knob == "block-size"));
    assert!(!r.pareto.throughput_interactivity.is_empty() && !r.pareto.goodput_ttft.is_empty());
    assert!(r.plans.is_empty() && r.chosen.is_none());
    let at_once = fake.at_once.load(Ordering::Relaxed);
    assert!(at_once > 0 && r.trials == fake.runs.load(Ordering::Relaxed), "{}", r.trials);
    let back: TuneResult = serde_json::from_str(&stored(&r)).unwrap();
    assert_eq!(stored(&back), stored(&r));
}

#[test]
fn threads_and_resumption_do_not_show_in_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let space = space(2, true);
    let run = |threads: usize, study: Option<&Study>| {
        let fake = Fake { jitter: 0.1, bias: 0.5, ..Fake::new(&["ttft=300ms", "tpot=30ms"]) };
        let slo = fake.slo.slo().clone();
        let recorded = study.map(|s| s.record(&fake, "x"));
        let subject: &dyn Subject = recorded.as_ref().map_or(&fake, |r| r as &dyn Subject);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let question = question(vec![device("x", subject, 2.0)], &space, &slo);
        let result = pool.install(|| tune(&question)).unwrap();
        (stored(&result), fake.runs.load(Ordering::Relaxed))
    };
    let (expected, runs) = run(1, None);
    for threads in [2, 4] {
        assert_eq!(run(threads, None), (expected.clone(), runs));
    }
    let path = dir.path().join("s.db");
    let study = Study::open(&path, &Identity::new()).unwrap();
    assert_eq!(run(2, Some(&study)).0, expected);
    study.close().unwrap();
    let again = Study::open(&path, &Identity::new()).unwrap();
    assert_eq!(run(4, Some(&again)), (expected, 0));
}

#[test]
fn an_impossible_target_names_a_possible_one() {
    let fake = Fake::new(&["ttft=5ms"]);
    let space = space(1, false);
    let r = tune(&question(vec![device("x", &fake, 2.0)], &space, fake.slo.slo())).unwrap();
    assert!(r.best.is_none() && r.baselines.iter().all(|b| b.best.is_none()));
    let infeasible = r.infeasible.unwrap();
    assert!(infeasible.reason.starts_with("even on an empty machine p99 TTFT"), "{infeasible:?}");
    // Targets at the values that it reaches are feasible indeed.
    let reached = infeasible.reaches[0].value_ms.unwrap();
    assert!(reached > 5.0);
    let relaxed = Fake::new(&[&format!("ttft={:.3}ms", reached * 1.001)]);
    let r = tune(&question(vec![device("x", &relaxed, 2.0)], &space, relaxed.slo.slo())).unwrap();
    assert!(r.best.is_some());
}

#[test]
fn cost_prefers_the_cheaper_of_equal_devices() {
    let fake = Fake::new(&["ttft=1s", "tpot=30ms"]);
    let mut space = space(1, true);
    space.pin("max-seqs", "256").unwrap();
    let devices = vec![device("dear", &fake, 3.0), device("cheap", &fake, 2.0)];
    let mut ask = question(devices, &space, fake.slo.slo());
    ask.objective = Objective::Cost;
    let r = tune(&ask).unwrap();
    assert_eq!(r.device, "cheap");
    assert_eq!(r.baselines.len(), 8);
    ask.devices[1].info.price = None;
    assert_eq!(tune(&ask), Err(TuneError::NoPrice("cheap".to_owned())));
}

#[test]
fn pins_that_exclude_each_other_are_named() {
    let fake = Fake::new(&["ttft=1s"]);
    let mut space = space(1, false);
    space.pin("max-seqs", "512").unwrap();
    space.pin("max-batch-tokens", "256").unwrap();
    let error = tune(&question(vec![device("x", &fake, 2.0)], &space, fake.slo.slo())).unwrap_err();
    assert!(error.to_string().contains("max-batch-tokens below max-seqs"), "{error}");
}

#[test]
fn a_polish_knob_that_helps_is_adopted() {
    // More memory helps where KV limits, and kv-fraction is not in the grid.
    let fake = Fake { kv_slots: 20_000.0, ..Fake::new(&["ttft=1s", "tpot=40ms"]) };
    let space = space(1, false);
    let r = tune(&question(vec![device("x", &fake, 2.0)], &space, fake.slo.slo())).unwrap();
    let best = r.best.unwrap();
    assert_eq!(best.config["kv-fraction"], "0.95", "{}", best.label);
    let own = r.baselines.iter().find(|b| b.policy == best.policy).unwrap();
    assert_eq!(own.best.as_ref().unwrap().capacity_rps, best.capacity_rps);
    assert!(r.warnings.is_empty(), "{:?}", r.warnings);
}

#[test]
fn a_model_that_does_not_fit_says_so() {
    let fake = Fake::new(&["ttft=1s"]);
    let mut space = space(1, false);
    space.pin("kv-fraction", "0.1").unwrap();
    let r = tune(&question(vec![device("x", &fake, 2.0)], &space, fake.slo.slo())).unwrap();
    let reason = r.infeasible.unwrap().reason;
    assert_eq!(reason, "no configuration can run: weights need 20 % of memory");
    assert_eq!((r.trials, fake.runs.load(Ordering::Relaxed)), (0, 0));
    assert!(r.baselines.iter().all(|b| b.infeasible.is_some()));
}

fn seen(error: f64) -> Accuracy {
    let spread = crate::evidence::accuracy::Spread { bias: 0.0, sigma: error, runs: 30 };
    Accuracy { spread, devices: vec!["there".to_owned()] }
}

#[test]
fn a_capacity_comes_with_its_range_for_fast_and_slow_iterations() {
    let fake = Fake::new(&["ttft=1s", "tpot=25ms"]);
    let space = space(1, false);
    let mut under_test = device("here", &fake, 1.0);
    under_test.accuracy = Some(seen(0.1));
    let r = tune(&question(vec![under_test], &space, fake.slo.slo())).unwrap();
    let (c, best) = (r.confidence.unwrap(), r.best.unwrap());
    assert!(c.low_rps < best.capacity_rps && best.capacity_rps < c.high_rps, "{c:?}");
    assert!((c.faster * c.slower - 1.0).abs() < 1e-9 && c.slower > 1.1 && c.p_feasible > 0.99);
    // The same ends, measured directly.
    let config = config_of(&best.config).unwrap();
    for (factor, rps) in [(c.slower, c.low_rps), (c.faster, c.high_rps)] {
        let pace = crate::subject::Relax::Pace((factor * 1e3).round() as u32);
        let mut prober =
            crate::knee::Prober::new(&fake, &config, pace, fake.requests, &GO_ON).unwrap();
        let knee = prober.knee(0, crate::knee::Effort::COLD).unwrap();
        let crate::knee::Knee::Between { lo, .. } = knee else { panic!("holds somewhere") };
        assert!((crate::knee::rate_at(lo) / rps - 1.0).abs() < 0.021, "{factor}: {rps}");
    }
}

#[test]
fn a_device_without_comparisons_has_no_confidence() {
    let fake = Fake::new(&["ttft=1s", "tpot=25ms"]);
    let space = space(1, false);
    let r = tune(&question(vec![device("here", &fake, 1.0)], &space, fake.slo.slo())).unwrap();
    assert_eq!(r.confidence, None);
}

#[test]
fn of_nearly_equal_configurations_the_one_that_keeps_more_wins() {
    let mut preferred = 0;
    for ttft in ["ttft=70ms", "ttft=100ms", "ttft=140ms", "ttft=200ms", "ttft=280ms"] {
        for error in [0.03, 0.08, 0.15] {
            let fake = Fake::new(&[ttft, "tpot=25ms"]);
            let space = space(1, false);
            let mut under_test = device("here", &fake, 1.0);
            under_test.accuracy = Some(seen(error));
            let r = tune(&question(vec![under_test], &space, fake.slo.slo())).unwrap();
            let (Some(c), Some(best)) = (r.confidence, r.best) else { continue };
            let Some(other) = c.instead_of else { continue };
            preferred += 1;
            assert!(c.low_rps >= 1.02 * other.low_rps, "{ttft} {error}: {} {other:?}", c.low_rps);
            assert!(best.capacity_rps >= 0.97 * other.capacity_rps);
            let own = r.baselines.iter().filter_map(|b| b.best.as_ref());
            assert!(own.into_iter().any(|b| b.config == best.config), "it stands for its policy");
        }
    }
    assert!(preferred > 0, "some winner was fragile");
}

/// A plan for `rps` with replicas of at most `gpus` GPUs.
fn planned(devices: &[(&str, &Fake, f64)], gpus: u32, rps: f64, slo: &Slo) -> TuneResult {
    let devices = devices.iter().map(|(name, fake, usd)| device(name, *fake, *usd)).collect();
    let space = space(gpus, true);
    let demand = Some(Demand { rps, headroom: 0.1 });
    tune(&Question { demand, objective: Objective::Cost, ..question(devices, &space, slo) })
        .unwrap()
}

#[test]
fn a_plan_is_the_cheapest_of_everything_found() {
    let fake = Fake { jitter: 0.02, bias: 0.3, ..Fake::new(&["ttft=1s", "tpot=25ms"]) };
    let slo = fake.slo.slo().clone();
    for rps in [1.0, 30.0, 100.0, 1000.0] {
        let r = planned(&[("x", &fake, 2.0)], 1, rps, &slo);
        let (best, plan) = (r.best.as_ref().unwrap(), &r.plans[0]);
        assert!(plan.free >= 0.1 && best.slo_met, "{plan:?}");
        assert_eq!(best.config["replicas"], plan.simulated_replicas.to_string());
        let each = best.capacity_rps / f64::from(plan.simulated_replicas);
        assert!((plan.capacity_rps / (each * f64::from(plan.deployments)) - 1.0).abs() < 1e-9);
        // Up to eight are simulated together, so that the figures are those of the deployment itself.
        assert!(plan.deployments > 8 || plan.deployments == plan.simulated_replicas, "{plan:?}");
        assert_eq!(plan.usd_per_hour, Some(2.0 * f64::from(plan.gpus)));
        let fewer = f64::from(plan.deployments - 1) * each * 0.9;
        assert!(fewer < rps, "{plan:?}");
        let next = &r.chosen.as_ref().unwrap().instead_of;
        assert!(crate::plan::prefer(plan, next).0.is_le());
        assert_eq!(r.chosen.as_ref().unwrap().rule, crate::plan::prefer(plan, next).1);
    }
}

/// Requests that replicas can never serve: none, some of small ones, fewer of each larger one, some of all.
const UNSERVED: [fn(&Config) -> u64; 4] = [
    |_| 0,
    |c| if c.gpus() == c.replicas { 3 } else { 0 },
    |c| u64::from(8 / (c.gpus() / c.replicas)) - 1,
    |c| if c.max_seqs > 64 { 7 } else { 2 },
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn more_gpus_allowed_never_cost_more_for_equal_service(
        rps in 1.0..300.0_f64, tpot in 20..40_u32, kv in 20_000.0..400_000.0_f64, seed in 0..99_u64,
        unserved in proptest::sample::select(&UNSERVED[..]),
    ) {
        let targets = ["ttft=800ms".to_owned(), format!("tpot={tpot}ms")];
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let fake = Fake { jitter: 0.05, bias: 0.5, kv_slots: kv, seed, ..Fake::new(&targets) };
        let fake = Fake { too_long: unserved, ..fake };
        let slo = fake.slo.slo().clone();
        let (mut refused, mut usd) = (u64::MAX, f64::INFINITY);
        for gpus in [1, 2, 4, 8] {
            let r = planned(&[("x", &fake, 2.0)], gpus, rps, &slo);
            let Some(plan) = r.plans.first() else { continue };
            let (now, bill) = (plan.unfit.requests, plan.usd_per_hour.unwrap());
            prop_assert!(now < refused || (now == refused && bill <= usd), "{gpus}: {plan:?} after {usd}");
            // None that refuses some is taken where another serves them, however small the demand is.
            let replica = |gpus| Config { tp: gpus, max_seqs: 64, ..Config::default() };
            prop_assert_eq!(now, unserved(&replica(gpus)), "{}: {:?}", gpus, plan);
            (refused, usd) = (now, bill);
        }
    }
}

#[test]
fn a_device_is_the_same_alone_and_in_a_list() {
    let strong = Fake { jitter: 0.05, bias: 0.5, ..Fake::new(&["ttft=200ms", "tpot=30ms"]) };
    let weak =
        Fake { pace: 1.7, seed: 3, kv_slots: 60_000.0, ..Fake::new(&["ttft=200ms", "tpot=30ms"]) };
    let slo = strong.slo.slo().clone();
    let space = space(1, false);
    let of = |fakes: &[(&str, &Fake)]| {
        let devices = fakes.iter().map(|(name, fake)| {
            let mut under_test = device(name, *fake, 2.0);
            under_test.accuracy = Some(seen(0.1));
            under_test
        });
        tune(&question(devices.collect(), &space, &slo)).unwrap()
    };
    let both = of(&[("strong", &strong), ("weak", &weak)]);
    assert_eq!(both.device, "strong");
    let plan_both = planned(&[("strong", &strong, 3.0), ("weak", &weak, 1.0)], 1, 40.0, &slo);
    for (name, fake) in [("strong", &strong), ("weak", &weak)] {
        let alone = of(&[(name, fake)]);
        let rows: Vec<_> = both.baselines.iter().filter(|b| b.device == name).cloned().collect();
        assert_eq!(alone.baselines, rows);
        let usd = if name == "strong" { 3.0 } else { 1.0 };
        let alone = planned(&[(name, fake, usd)], 1, 40.0, &slo);
        let rows: Vec<_> =
            plan_both.baselines.iter().filter(|b| b.device == name).cloned().collect();
        assert_eq!(alone.baselines, rows);
        let plan = plan_both.plans.iter().find(|p| p.device == name).unwrap();
        assert_eq!((alone.plans[0].gpus, &alone.plans[0].label), (plan.gpus, &plan.label));
    }
}

#[test]
fn exhaustive_search_is_never_worse() {
    for seed in 0..3 {
        let fake =
            Fake { jitter: 0.08, bias: 0.8, seed, ..Fake::new(&["ttft=150ms", "tpot=25ms"]) };
        let mut space = space(1, false);
        space.search("max-seqs", &["16", "64", "256"]).unwrap();
        let capacity = |method| {
            let mut under_test = device("x", &fake, 2.0);
            under_test.accuracy = Some(seen(0.08));
            let ask = question(vec![under_test], &space, fake.slo.slo());
            tune(&Question { method, ..ask }).unwrap().best.unwrap().capacity_rps
        };
        let (fast, full) = (capacity(Method::Halving), capacity(Method::Exhaustive));
        assert!(full >= fast * 0.999, "seed {seed}: {full} after {fast}");
    }
}

#[test]
fn replicas_carry_the_same_in_a_plan_and_in_a_search() {
    let fake = Fake { bias: 0.3, ..Fake::new(&["ttft=300ms", "tpot=30ms"]) };
    let slo = fake.slo.slo().clone();
    for n in [1, 2, 4, 8] {
        let mut all = space(n, false);
        for knob in ["tp", "pp"] {
            all.pin(knob, "1").unwrap();
        }
        all.pin("replicas", &n.to_string()).unwrap();
        let tuned = tune(&question(vec![device("x", &fake, 2.0)], &all, &slo)).unwrap();
        let tuned = tuned.best.unwrap().capacity_rps;
        let r = planned(&[("x", &fake, 2.0)], 1, 0.89 * tuned, &slo);
        let plan = &r.plans[0];
        assert_eq!((plan.deployments, plan.simulated_replicas), (n, n), "{plan:?}");
        assert!((plan.capacity_rps / tuned - 1.0).abs() < 0.03, "{n}: {plan:?} and {tuned}");
    }
}

#[test]
fn the_fewest_refusals_win_against_any_capacity() {
    let targets = ["ttft=1s", "tpot=25ms"];
    // The fast one refuses three whatever its settings, the slow one some with many seats.
    let fast = Fake { pace: 0.5, too_long: |_| 3, ..Fake::new(&targets) };
    let roomy = |c: &Config| if c.max_seqs > 64 { 5 } else { 0 };
    let slow = Fake { too_long: roomy, ..Fake::new(&targets) };
    let (space, slo) = (space(1, false), Slo::parse(&targets, None).unwrap());
    let devices = vec![device("fast", &fast, 1.0), device("slow", &slow, 4.0)];
    let demand = Some(Demand { rps: 30.0, headroom: 0.1 });
    let result = tune(&Question { demand, ..question(devices, &space, &slo) }).unwrap();
    let best = result.best.unwrap();
    assert_eq!((best.device.as_str(), best.unfit.requests), ("slow", 0));
    assert!(config_of(&best.config).unwrap().max_seqs <= 64);
    let plan = |device: &str| result.plans.iter().find(|p| p.device == device).unwrap();
    assert_eq!((plan("fast").unfit.requests, plan("slow").unfit.requests), (3, 0));
    assert!(plan("fast").usd_per_hour < plan("slow").usd_per_hour);
    let lost: Vec<_> = result.losers.iter().filter(|l| l.device == "fast").collect();
    let cause = Some("prompts that do not fit".to_owned());
    assert!(!lost.is_empty() && lost.iter().all(|l| l.cause == cause), "{lost:?}");
    assert!(result.refused.iter().any(|r| r.reason.contains("that other settings hold")));
}

#[test]
fn a_neighbour_that_refuses_prompts_is_not_promoted() {
    // Seats are scarce, and every configuration with more of them refuses some.
    let many = |c: &Config| if c.max_seqs > 16 { 5 } else { 0 };
    let fake = Fake { too_long: many, ..Fake::new(&["ttft=1s"]) };
    let space = space(1, false);
    let r = tune(&question(vec![device("x", &fake, 1.0)], &space, fake.slo.slo())).unwrap();
    let best = r.best.unwrap();
    assert_eq!((best.unfit.requests, config_of(&best.config).unwrap().max_seqs), (0, 16));
    let mut seats = r.sensitivity.iter().filter(|n| n.knob == "max-seqs");
    let said = "of the prompts do not fit";
    assert!(seats.any(|n| n.to.parse::<u32>().unwrap() > 16 && n.broke.contains(said)));
}

#[test]
fn tokens_that_are_never_served_count_nowhere() {
    let fake = Fake { too_long: |_| 2000, ..Fake::new(&["ttft=1s"]) };
    let (space, slo) = (space(1, false), fake.slo.slo());
    let r = tune(&question(vec![device("x", &fake, 1.0)], &space, slo)).unwrap();
    let best = r.best.unwrap();
    // One of four requests is refused, so 0.75 * 250 tokens are served of each.
    assert_eq!(best.output_tokens_per_s, 187.5 * best.capacity_rps);
    let same =
        |p: &&crate::result::ParetoPoint| p.label == best.label && p.rate_rps == best.capacity_rps;
    let point = r.pareto.points.iter().find(same).unwrap();
    assert_eq!(point.tokens_per_s_per_gpu, best.tokens_per_s_per_gpu);
    let demand = Some(Demand { rps: 5.0, headroom: 0.0 });
    let r = tune(&Question { demand, ..question(vec![device("x", &fake, 1.0)], &space, slo) });
    let plan = &r.unwrap().plans[0];
    let usd = plan.usd_per_hour.unwrap() / (5.0 * 187.5 * 3600.0) * 1e6;
    assert!((plan.usd_per_million_tokens.unwrap() / usd - 1.0).abs() < 1e-12);
}

/// The winner's queue and what is told of another order, where shortest prompts first behaves as given.
fn ordered(shortest_first: (f64, f64), sigma: Option<f64>) -> (String, Option<String>) {
    let fake = Fake { shortest_first, ..Fake::new(&["ttft=300ms", "tpot=30ms"]) };
    let mut space = space(1, false);
    space.pin("policy", "chunked").unwrap();
    let spread = |sigma| crate::evidence::accuracy::Spread { bias: 0.0, sigma, runs: 10 };
    let accuracy = sigma.map(|s| Accuracy { spread: spread(s), devices: vec!["x".to_owned()] });
    let device = DeviceUnderTest { accuracy, ..device("x", &fake, 2.0) };
    let r = tune(&question(vec![device], &space, fake.slo.slo())).unwrap();
    (r.best.unwrap().config["queue"].clone(), r.reordered.map(|other| other.why))
}

#[test]
fn another_order_wins_only_where_it_is_clearly_worth_it() {
    let (fcfs, shortest) = ("fcfs".to_owned(), "shortest-prefill".to_owned());
    assert_eq!(ordered((1.0, 0.0), None), (fcfs.clone(), None), "no gain");
    assert_eq!(ordered((0.7, 0.0), None), (shortest.clone(), None), "gain, and nobody waits");
    assert_eq!(ordered((0.7, 0.5), None), (shortest, None), "0.5 s is within twice the target");
    let (queue, why) = ordered((0.7, 0.7), None);
    assert_eq!(queue, fcfs);
    assert!(why.unwrap().contains("waits more than twice the target"));
    let (queue, why) = ordered((0.95, 0.0), Some(0.2));
    assert_eq!(queue, fcfs);
    assert!(why.unwrap().contains("within the interval"));
}

#[test]
fn every_engine_has_a_best_that_it_can_be_told() {
    let fake = Fake::new(&["ttft=300ms", "tpot=30ms"]);
    let space = space(1, false);
    let names = ["vllm", "sglang", "tensorrt-llm"];
    let engines =
        names.map(|name| std::sync::Arc::new(engine::EngineProfile::newest(name).clone()));
    let asked = question(vec![device("x", &fake, 2.0)], &space, fake.slo.slo());
    let r = tune(&Question { engines: engines.to_vec(), ..asked }).unwrap();
    let best = r.best.as_ref().unwrap().capacity_rps;
    assert_eq!(r.engines.len(), 3);
    for (engine, found) in engines.iter().zip(&r.engines) {
        let own = found.best.as_ref().unwrap();
        let config = config_of(&own.config).unwrap();
        assert!(crate::export::lacks(engine, &config).is_empty(), "{}", engine.title);
        assert!(own.capacity_rps <= best * 1.0001 && own.capacity_rps > 0.5 * best);
    }
}

#[test]
fn equal_configurations_are_told_with_what_decided() {
    // Seats alone limit: configurations of several policies hold the very same rate.
    let fake = Fake::new(&["ttft=100s"]);
    let space = space(2, true);
    let devices = vec![device("first", &fake, 2.0), device("second", &fake, 2.0)];
    let r = tune(&question(devices, &space, fake.slo.slo())).unwrap();
    let (best, ties) = (r.best.as_ref().unwrap(), r.ties.as_ref().unwrap());
    // The same device by another name carries the same, and what decides says so truly.
    assert!(ties.others.iter().any(|t| t.device == "second" && t.label == best.label), "{ties:?}");
    assert_eq!((best.device.as_str(), ties.step), ("first", crate::knee::STEP - 1.0));
    let next = &ties.others[0];
    match ties.rule {
        Tiebreak::WiderMargin => assert!(ties.left > next.left, "{ties:?}"),
        Tiebreak::FewerGpus => assert!(best.gpus < next.gpus, "{ties:?}"),
        Tiebreak::FoundFirst => assert!(ties.left <= next.left, "{ties:?}"),
        Tiebreak::Steadier => panic!("nothing is known of slow iterations: {ties:?}"),
    }
    // Equal ones have not lost.
    assert!(r.losers.iter().all(|l| l.capacity_rps < l.winner_rps), "{:?}", r.losers);
    // A plan is explained by its own rule.
    let plan = planned(&[("x", &fake, 2.0)], 1, 5.0, fake.slo.slo());
    assert!(plan.ties.is_none());
}
