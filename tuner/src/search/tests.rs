//! The search against exhaustive search on analytic servers.

use super::*;
use crate::capacity::{STEP, rate_at};
use crate::fake::Fake;
use crate::progress::{Silent, Status};
use crate::space::{Scope, Space};
use std::sync::atomic::AtomicBool;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn watch() -> Watch<'static> {
    Watch { progress: &Silent, cancel: &GO_ON }
}

fn candidates(gpus: u32) -> Vec<Candidate> {
    let scope = Scope { gpus, fewer_gpus: false, shared_prefixes: true, allow_lossy_kv: false };
    let configs = Space::new(scope).enumerate().configs;
    let candidate = |config: Config| {
        let group = config.policy() as usize;
        Candidate { device: 0, config, weight: 1.0, group }
    };
    configs.into_iter().map(candidate).collect()
}

/// Capacities of all of them, ascending; what holds nowhere counts 0.
fn capacities(found: &Found) -> Vec<f64> {
    let rate = |e: &Entry| e.good(found.head).map_or(0.0, rate_at);
    let mut all: Vec<f64> = found.entries.iter().map(rate).collect();
    all.sort_by(f64::total_cmp);
    all
}

#[test]
fn halving_finds_what_exhaustive_search_finds_at_a_fraction_of_its_work() {
    let mut random_regret = Vec::new();
    for (slo, jitter, bias) in [
        (vec!["ttft=200ms"], 0.0, 0.0),
        (vec!["ttft=1s", "tpot=25ms"], 0.02, 0.5),
        (vec!["ttft=2s", "tpot=40ms"], 0.02, 0.8),
        (vec!["ttft=300ms", "tpot=15ms"], 0.03, 0.9),
    ] {
        for seed in 0..3 {
            let fake = Fake { jitter, bias, seed, ..Fake::new(&slo) };
            let devices: [&dyn Evaluate; 1] = [&fake];
            let contest = Contest { devices: &devices, candidates: candidates(1), watch: watch() };
            let full = exhaustive(&contest);
            let fast = halving(&contest, RUNGS);
            let all = capacities(&full);
            let (best, median) = (all[all.len() - 1], all[all.len() / 2]);
            assert!(all.len() >= 200 && median <= 0.8 * best, "{median} of {best}");
            let value = |f: &Found| f.best.and_then(|b| f.entries[b].good(f.head)).map(rate_at);
            let regret = 1.0 - value(&fast).unwrap() / best;
            let work = fast.requests() as f64 / full.requests() as f64;
            println!("{slo:?} seed {seed}: regret {regret:.4} at {work:.3} of the work");
            assert!(regret <= 1.0 - 1.0 / STEP + 1e-9, "regret {regret}");
            assert!(work <= 0.15, "work {work}");
            // Each policy is known at its best, too.
            for (group, best) in full.group_best.iter().enumerate() {
                let k = |f: &Found, b: &Option<usize>| b.and_then(|b| f.entries[b].good(f.head));
                let (exact, found) = (k(&full, best), k(&fast, &fast.group_best[group]));
                assert!(found >= exact.map(|k| k - 2), "group {group}: {found:?} {exact:?}");
            }
            let lucky = random(&contest, seed, fast.requests());
            random_regret.push(1.0 - value(&lucky).unwrap_or(0.0) / best);
        }
    }
    let mean = random_regret.iter().sum::<f64>() / random_regret.len() as f64;
    println!("uniform random search at equal work: mean regret {mean:.3}");
}

#[test]
fn any_number_of_threads_makes_the_same_runs() {
    let runs = |threads: usize| {
        let fake = Fake { jitter: 0.1, bias: 0.5, ..Fake::new(&["ttft=300ms", "tpot=30ms"]) };
        let devices: [&dyn Evaluate; 1] = [&fake];
        let contest = Contest { devices: &devices, candidates: candidates(2), watch: watch() };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| halving(&contest, RUNGS));
        let mut log = fake.log.lock().unwrap().clone();
        log.sort();
        (found, log)
    };
    let one = runs(1);
    assert!(one.0.best.is_some());
    assert!(one == runs(2) && one == runs(4));
}

#[test]
fn what_counts_is_the_objective_not_the_rate() {
    let fake = Fake::new(&["ttft=1s", "tpot=40ms"]);
    let devices: [&dyn Evaluate; 1] = [&fake];
    let mut dear = candidates(4);
    let per_gpu = |c: &mut Candidate| c.weight = 1.0 / f64::from(c.config.gpus()).powf(1.5);
    dear.iter_mut().for_each(per_gpu);
    let contest = Contest { devices: &devices, candidates: dear, watch: watch() };
    let (fast, full) = (halving(&contest, RUNGS), exhaustive(&contest));
    let score = |f: &Found| {
        let e = &f.entries[f.best.unwrap()];
        rate_at(e.good(f.head).unwrap()) * e.candidate.weight
    };
    assert!(score(&fast) >= score(&full) / STEP * 0.9999);
}

#[test]
fn impossible_targets_leave_nobody_and_the_nearest_miss_is_known() {
    let fake = Fake::new(&["ttft=5ms"]);
    let devices: [&dyn Evaluate; 1] = [&fake];
    let contest = Contest { devices: &devices, candidates: candidates(1), watch: watch() };
    let found = halving(&contest, RUNGS);
    assert_eq!(found.best, None);
    let nearest = found.nearest_miss().unwrap();
    assert_eq!(nearest.1.head, fake.requests);
    assert!(verdict::worst(&nearest.1.observation) > 1.0);
}

#[test]
fn told_to_end_it_returns_what_it_knows() {
    let cancel = AtomicBool::new(false);
    struct After<'a>(&'a AtomicBool, std::sync::atomic::AtomicUsize);
    impl crate::progress::Progress for After<'_> {
        fn update(&self, _: &Status) {
            if self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 3 {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
    let fake = Fake::new(&["ttft=200ms"]);
    let devices: [&dyn Evaluate; 1] = [&fake];
    let progress = After(&cancel, 0.into());
    let watch = Watch { progress: &progress, cancel: &cancel };
    let contest = Contest { devices: &devices, candidates: candidates(1), watch };
    let found = halving(&contest, RUNGS);
    assert!(found.interrupted && found.best.is_some());
    assert!(found.entries.iter().any(|e| e.standing == Standing::Untried));
}
