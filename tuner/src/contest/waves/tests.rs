//! The search against exhaustive search on analytic servers.

use super::*;
use crate::contest::progress::Watch;
use crate::contest::progress::{Silent, Status};
use crate::knee::STEP;
use crate::knee::verdict;
use crate::result::Standing;
use crate::space::{Scope, Space};
use crate::subject::Subject;
use crate::subject::fake::Fake;
use engine::Config;
use std::sync::atomic::AtomicBool;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn watch() -> Watch<'static> {
    Watch { progress: &Silent, cancel: &GO_ON }
}

fn candidates(gpus: u32) -> Vec<Candidate> {
    let scope = Scope {
        gpus,
        fewer_gpus: false,
        shared_prefixes: true,
        allow_lossy_kv: false,
        experts: false,
    };
    let configs = Space::new(scope).enumerate().configs;
    let candidate = |config: Config| {
        let group = config.policy() as usize;
        Candidate { device: 0, config, group }
    };
    configs.into_iter().map(candidate).collect()
}

/// Capacities of all of them, ascending; what holds nowhere counts 0.
fn capacities(found: &Found) -> Vec<f64> {
    let mut all: Vec<f64> = (0..found.entries.len()).map(|i| found.rate(i)).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// Of all groups.
fn best(found: &Found) -> Option<f64> {
    found.bests().map(|i| found.rate(i)).reduce(f64::max)
}

fn contest<'a>(devices: &'a [&'a dyn Subject], candidates: Vec<Candidate>) -> Contest<'a> {
    Contest { devices, candidates, near: &|_| Vec::new(), watch: watch() }
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
            let devices: [&dyn Subject; 1] = [&fake];
            let contest = contest(&devices, candidates(1));
            let full = exhaustive(&contest, Found::nothing(&contest));
            let fast = halving(&contest, RUNGS);
            let all = capacities(&full);
            let (top, median) = (all[all.len() - 1], all[all.len() / 2]);
            assert!(all.len() >= 200 && median <= 0.8 * top, "{median} of {top}");
            let regret = 1.0 - best(&fast).unwrap() / top;
            let work = fast.requests() as f64 / full.requests() as f64;
            println!("{slo:?} seed {seed}: regret {regret:.4} at {work:.3} of the work");
            assert!(regret <= 1.0 - 1.0 / STEP + 1e-9, "regret {regret}");
            assert!(work <= 0.15, "work {work}");
            // Each policy is known at its best, too.
            for (group, _) in full.groups.iter().enumerate() {
                let k = |f: &Found| f.groups[group].and_then(|g| f.good(g.best?));
                let (exact, found) = (k(&full), k(&fast));
                assert!(found >= exact.map(|k| k - 2), "group {group}: {found:?} {exact:?}");
            }
            let lucky = random(&contest, seed, fast.requests());
            random_regret.push(1.0 - best(&lucky).unwrap_or(0.0) / top);
        }
    }
    let mean = random_regret.iter().sum::<f64>() / random_regret.len() as f64;
    println!("uniform random search at equal work: mean regret {mean:.3}");
}

#[test]
fn any_number_of_threads_makes_the_same_runs() {
    let runs = |threads: usize| {
        let fake = Fake { jitter: 0.1, bias: 0.5, ..Fake::new(&["ttft=300ms", "tpot=30ms"]) };
        let devices: [&dyn Subject; 1] = [&fake];
        let contest = contest(&devices, candidates(2));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| halving(&contest, RUNGS));
        let mut log = fake.log.lock().unwrap().clone();
        log.sort();
        (found, log)
    };
    let one = runs(1);
    assert!(best(&one.0).is_some());
    assert!(one == runs(2) && one == runs(4));
}

#[test]
fn a_group_is_found_the_same_in_any_company() {
    let strong = Fake { jitter: 0.05, bias: 0.6, ..Fake::new(&["ttft=300ms", "tpot=30ms"]) };
    let weak = Fake { pace: 2.0, seed: 9, ..Fake { kv_slots: 90_000.0, ..fake_like(&strong) } };
    let devices: [&dyn Subject; 2] = [&strong, &weak];
    let on = |device: usize, group: usize| {
        let own = move |c: Candidate| Candidate { device, group: c.group + group, ..c };
        candidates(2).into_iter().map(own)
    };
    let both = halving(&contest(&devices, on(0, 0).chain(on(1, 5)).collect()), RUNGS);
    for (device, group) in [(0, 0), (1, 5)] {
        let alone = halving(&contest(&devices, on(device, group).collect()), RUNGS);
        let of = |f: &Found| -> Vec<Entry> {
            f.entries.iter().filter(|e| e.candidate.device == device).cloned().collect()
        };
        assert!(of(&alone) == of(&both), "device {device}");
        for g in group..group + 5 {
            assert_eq!(alone.groups[g].map(|g| g.head), both.groups[g].map(|g| g.head));
        }
    }
}

fn fake_like(other: &Fake) -> Fake {
    Fake { jitter: other.jitter, bias: other.bias, ..Fake::new(&["ttft=300ms", "tpot=30ms"]) }
}

#[test]
fn to_measure_the_rest_is_never_worse_than_to_screen() {
    let space = Space::new(Scope {
        gpus: 1,
        fewer_gpus: false,
        shared_prefixes: true,
        allow_lossy_kv: false,
        experts: false,
    });
    let near = |of: &Candidate| {
        let near = space.neighbours(&of.config).into_iter();
        let near = near.map(|(_, config)| (config.policy() as usize, config));
        near.map(|(group, config)| Candidate { device: 0, config, group }).collect()
    };
    for seed in 0..4 {
        let fake = Fake { jitter: 0.1, bias: 0.9, seed, ..Fake::new(&["ttft=200ms", "tpot=25ms"]) };
        let devices: [&dyn Subject; 1] = [&fake];
        let contest = Contest { near: &near, ..contest(&devices, candidates(1)) };
        let fast = halving(&contest, RUNGS);
        let full = exhaustive(&contest, fast.clone());
        for (fast_group, full_group) in fast.groups.iter().zip(&full.groups) {
            let rate =
                |f: &Found, g: &Option<Group>| g.and_then(|g| g.best).map_or(0.0, |b| f.rate(b));
            assert!(rate(&full, full_group) >= rate(&fast, fast_group), "seed {seed}");
        }
        let grid = full.entries.iter().take(candidates(1).len());
        assert!(grid.into_iter().all(|e| e.knee.is_some()), "everything was measured");
        // A polished candidate differs from its grid in a knob that is not of the grid.
        assert!(full.entries.len() > candidates(1).len());
    }
}

#[test]
fn a_trace_too_short_for_the_rates_is_made_longer_and_else_bounds_them() {
    let of = |requests: usize, most: usize| {
        let fake = Fake { requests, most, lasts_s: 40.0, ..Fake::new(&["ttft=1s", "tpot=40ms"]) };
        let devices: [&dyn Subject; 1] = [&fake];
        let found = halving(&contest(&devices, candidates(1)), RUNGS);
        (best(&found).unwrap(), found.bests().map(|i| found.head(i)).max().unwrap())
    };
    let (truth, head) = of(64_000, 64_000);
    assert_eq!(head, 64_000);
    let (longer, head) = of(900, 1 << 20);
    assert_eq!(longer, truth);
    assert!((20_000..120_000).contains(&head), "as long as the rates need: {head}");
    let (bounded, head) = of(900, 900);
    assert_eq!(head, 900);
    assert!(bounded < 0.9 * truth, "{bounded} of {truth}");
    // A trace with enough requests is not made longer.
    assert_eq!(of(32_000, 1 << 20).1, 32_000);
}

#[test]
fn impossible_targets_leave_no_winner_but_a_nearest_miss() {
    let fake = Fake::new(&["ttft=5ms"]);
    let devices: [&dyn Subject; 1] = [&fake];
    let contest = contest(&devices, candidates(1));
    let found = halving(&contest, RUNGS);
    assert_eq!(best(&found), None);
    let nearest = found.nearest_miss().unwrap();
    assert_eq!(nearest.1.head, fake.requests);
    assert!(verdict::worst(&nearest.1.observation) > 1.0);
}

#[test]
fn a_cancelled_search_returns_its_results() {
    let cancel = AtomicBool::new(false);
    struct After<'a>(&'a AtomicBool, std::sync::atomic::AtomicUsize);
    impl crate::contest::progress::Progress for After<'_> {
        fn update(&self, status: &Status) {
            let several = status.best.is_some()
                && self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 3;
            if several {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
    let fake = Fake::new(&["ttft=200ms"]);
    let devices: [&dyn Subject; 1] = [&fake];
    let progress = After(&cancel, 0.into());
    let watch = Watch { progress: &progress, cancel: &cancel };
    let contest = Contest { watch, ..contest(&devices, candidates(1)) };
    let found = halving(&contest, RUNGS);
    assert!(found.interrupted && best(&found).is_some());
    assert!(found.entries.iter().any(|e| e.standing == Standing::Untried(None)));
}
