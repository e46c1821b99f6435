//! The knee search against every place of the grid, on machines that are disturbed, and on servers that cost time.

use super::*;
use crate::subject::Refused;
use crate::subject::fake::{Fake, Shared};
use crate::subject::observation::Outside;
use crate::subject::unfit::Unfit;
use proptest::prelude::*;
use std::collections::HashSet;
use std::sync::Mutex;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn prober<'a>(fake: &'a Fake, config: &'a Config) -> Prober<'a> {
    Prober::new(fake, config, Relax::Nothing, fake.requests, &GO_ON).unwrap()
}

#[test]
fn places_and_rates_are_inverse() {
    for k in FLOOR..2000 {
        assert_eq!(place_of(rate_at(k)), k);
        assert_eq!(place_of(rate_at(k) * 1.005), k);
    }
    assert!((0.99e-3..1.01e-3).contains(&rate_at(FLOOR)));
}

/// The oracle: every place of the grid, from the floor up.
fn scan(fake: &Fake, config: &Config) -> Option<i32> {
    let mut all = prober(fake, config);
    let top = all.ceiling();
    (FLOOR..=top).take_while(|k| all.passes(*k).unwrap()).last()
}

fn config(policy: &str, seqs: u32, budget: u32) -> Config {
    let mut c = Config { max_seqs: seqs, max_batch_tokens: budget, ..Config::default() };
    c.set("policy", policy).unwrap();
    space::canonical(&c)
}
use crate::space;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_monotone_knee_is_found_exactly_from_anywhere(
        start in -800..1200_i32, seqs in 3..11_u32, budget in 8..15_u32,
        policy in proptest::sample::select(vec!["static", "continuous", "paged", "chunked"]),
        stride in 1..100_i32,
    ) {
        let fake = Fake::new(&["ttft=200ms", "tpot=40ms"]);
        let config = config(policy, 1 << seqs, 1 << budget);
        let mut prober = prober(&fake, &config);
        let knee = prober.knee(start, Effort { stride, ..Effort::FINAL }).unwrap();
        match scan(&fake, &config) {
            None => prop_assert_eq!(knee, Knee::Nowhere),
            Some(k) => {
                let Knee::Between { lo, hi } = knee else { panic!("{knee:?}") };
                prop_assert_eq!(lo, k);
                prop_assert!(hi == Some(k + 1) || k == prober.ceiling());
            }
        }
        prop_assert!(prober.into_probes().len() < 40);
    }

    #[test]
    fn every_rate_tried_below_a_capacity_passed(start in 0..500_i32, seed in 0..50_u64) {
        let fake = Fake { jitter: 0.2, seed, ..Fake::new(&["ttft=200ms", "tpot=30ms"]) };
        let config = config("chunked", 256, 512);
        let mut prober = prober(&fake, &config);
        let knee = prober.knee(start, Effort::FINAL).unwrap();
        let probes = prober.into_probes();
        let Knee::Between { lo, hi } = knee else { panic!("{knee:?}") };
        prop_assert!(probes.iter().filter(|p| p.k <= lo).all(Probe::passes));
        prop_assert_eq!(probes.iter().find(|p| !p.passes()).map(|p| p.k), hi);
        prop_assert!(hi.is_none_or(|hi| hi == lo + 1));
        for below in Effort::FINAL.confirm {
            prop_assert!(probes.iter().any(|p| p.k == lo - below));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_disturbed_run_does_not_decide(seed: u64, start in -50..400_i32) {
        let config = config("chunked", 256, 512);
        let fake = Fake::new(&["ttft=200ms", "tpot=40ms"]);
        let truth = scan(&fake, &config).unwrap();
        // Some rates fail at first, though they hold.
        let seen = Mutex::new(HashSet::new());
        let run = |fake: &Fake, trial: &Trial<'_>, _| {
            let mut observation = fake.run(trial).unwrap();
            let scale = trial.scale.to_bits();
            let first = seen.lock().unwrap().insert(scale);
            if first && (scale ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0 {
                observation.summary.verdict.met = false;
            }
            observation
        };
        let disturbed = Shared::new(fake, run);
        let before = disturbed.fake.runs.load(Ordering::Relaxed);
        let requests = disturbed.requests();
        let mut prober =
            Prober::new(&disturbed, &config, Relax::Nothing, requests, &GO_ON).unwrap();
        let Knee::Between { lo, hi } = prober.knee(start, Effort::REAL).unwrap() else {
            panic!("it holds something")
        };
        prop_assert!(lo <= truth && truth < lo + Effort::REAL.resolution, "{lo} of {truth}");
        let probes = prober.into_probes();
        prop_assert!(probes.is_sorted_by_key(|p| p.k));
        let at = |k| probes.iter().filter(move |p| p.k == k);
        prop_assert_eq!(at(hi.unwrap()).count(), 2, "who says where it ends said so twice");
        let made = disturbed.fake.runs.load(Ordering::Relaxed) - before;
        prop_assert_eq!(probes.len() as u64, made, "every run is told of");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// As long as the machine is itself again before the search stops waiting for it.
    #[test]
    fn a_slow_machine_does_not_decide(
        from in 0..12_u64, long in 0..8_u64, between in 2..6_u64, start in -50..400_i32,
    ) {
        let config = config("chunked", 256, 512);
        let fake = Fake::new(&["ttft=200ms", "tpot=40ms"]);
        let truth = scan(&fake, &config).unwrap();
        let before = fake.runs.load(Ordering::Relaxed);
        let run = |fake: &Fake, trial: &Trial<'_>, n| {
            let mut observation = fake.run(trial).unwrap();
            let slow = n >= from && (n - from) % (long + between) < long;
            observation.set_pace(if slow { 1.5 } else { 1.05 });
            observation.summary.verdict.met &= !slow;
            observation
        };
        let moody = Shared::new(fake, run);
        let requests = moody.requests();
        let mut prober =
            Prober::new(&moody, &config, Relax::Nothing, requests, &GO_ON).unwrap();
        let Knee::Between { lo, hi } = prober.knee(start, Effort::REAL).unwrap() else {
            panic!("it holds something")
        };
        prop_assert!(lo <= truth && truth < lo + Effort::REAL.resolution, "{lo} of {truth}");
        let probes = prober.into_probes();
        let fair = |p: &&Probe| Some(p.k) == hi && p.observation.pace() == Some(1.05);
        prop_assert_eq!(probes.iter().filter(fair).count(), 2);
        let made = moody.fake.runs.load(Ordering::Relaxed) - before;
        prop_assert_eq!(probes.len() as u64, made, "every run is told of");
    }
}

#[test]
fn a_target_no_machine_meets_is_known_after_a_few_runs() {
    let fake = Fake::new(&["ttft=1ms"]);
    let config = config("chunked", 256, 2048);
    let mut prober = prober(&fake, &config);
    assert_eq!(prober.knee(300, Effort::COLD).unwrap(), Knee::Nowhere);
    let probes = prober.into_probes();
    assert_eq!(probes[0].k, FLOOR);
    assert!(probes.len() <= 4, "{}", probes.len());
}

#[test]
fn a_refused_or_cancelled_search_stops() {
    let fake = Fake::new(&["ttft=1s"]);
    let tiny = Config { kv_fraction: 0.1, ..Config::default() };
    let stop = Prober::new(&fake, &tiny, Relax::Nothing, 100, &GO_ON).err();
    let reason = "weights need 20 % of memory".to_owned();
    assert_eq!(stop, Some(Stop::Refused(Refused { reason })));
    let (cancel, config) = (AtomicBool::new(true), Config::default());
    let mut prober = Prober::new(&fake, &config, Relax::Nothing, 100, &cancel).unwrap();
    assert_eq!(prober.knee(0, Effort::COLD), Err(Stop::Cancelled));
}

#[test]
fn a_knee_is_not_above_the_rate_of_a_saturated_run() {
    let (fake, config) = (Fake::new(&[]), Config::default());
    let free = Effort { bounded: false, ..Effort::FINAL };
    let Knee::Between { lo: most, .. } = prober(&fake, &config).knee(200, free).unwrap() else {
        panic!("no target, so some rate holds");
    };
    // A finite trace passes at 6 % more than that.
    let slower = Shared::new(Fake::new(&[]), |fake: &Fake, trial: &Trial<'_>, _| {
        let mut seen = fake.run(trial).unwrap();
        seen.summary.duration_s *= 1.06;
        seen
    });
    for start in [most - 100, most, most + 100] {
        let requests = slower.requests();
        let mut prober = Prober::new(&slower, &config, Relax::Nothing, requests, &GO_ON).unwrap();
        let Knee::Between { lo, hi } = prober.knee(start, Effort::FINAL).unwrap() else {
            panic!("it holds below");
        };
        assert!((6..=7).contains(&(most - lo)) && hi == Some(most + 1), "{lo} of {most}, {hi:?}");
        assert!(prober.probe(lo).is_some_and(Probe::passes));
    }
}

/// A server that finishes `capacity` requests per second, offered more than that: late after a while. A request takes
/// `drain` s, and the server any rate until then; a whole probe is lengthened to that of two.
struct Fluid {
    fake: Fake,
    capacity: f64,
    slack: f64,
    drain: f64,
    /// Requests that there are: a rate is offered until they are used up at most.
    requests: f64,
    /// The seed that picks the rates whose first try is broken by something else.
    luck: Option<u64>,
    tried: Mutex<HashSet<i32>>,
    /// Place, and what was seen from outside, in order.
    log: Mutex<Vec<(i32, bool, Outside)>>,
}

const PROBE: Duration = Duration::from_secs(8);
const GLIMPSE: Duration = Duration::from_millis(3200);

impl Fluid {
    fn new(capacity: f64, drain: f64) -> Self {
        let (fake, luck) = (Fake::new(&["ttft=200ms"]), None);
        let (tried, log) = (Mutex::default(), Mutex::default());
        let (slack, requests) = (0.1, f64::INFINITY);
        Self { fake, capacity, slack, drain, requests, luck, tried, log }
    }

    /// The result of a search from `start` requests/s: the highest rate that holds, the lowest that
    /// fails, and seconds of load.
    fn search(&self, start: f64) -> (Option<f64>, Option<f64>, f64) {
        let config = Config::default();
        let prober = Prober::new(self, &config, Relax::Nothing, 100, &GO_ON).unwrap();
        let floor = place_of(start / 1024.0);
        let mut prober = prober.in_real_time((GLIMPSE, PROBE), floor, 600.0);
        let knee = prober.knee(place_of(start), Effort::SERVER);
        let load = self.log.lock().unwrap().iter().map(|(_, _, o)| o.took_s).sum();
        match knee.unwrap() {
            Knee::Nowhere => (None, prober.lowest_failure().map(rate_at), load),
            Knee::Between { lo, hi } => (Some(rate_at(lo)), hi.map(rate_at), load),
        }
    }

    /// True where it held `rate` for a whole probe.
    fn held(&self, rate: f64) -> bool {
        let log = self.log.lock().unwrap();
        log.iter()
            .any(|(k, passed, o)| rate_at(*k) == rate && *passed && o.steady && o.offered_s >= 8.0)
    }
}

impl Subject for Fluid {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        let Length::Time(asked) = trial.length else { panic!("it is driven in real time") };
        let rate = trial.scale * self.natural_rate(0);
        let (drain, over) = (self.drain, rate / self.capacity - 1.0);
        let time = asked.as_secs_f64();
        let time = if asked >= PROBE { time.max(2.0 * drain) } else { time };
        let time = time.min(self.requests / rate);
        // Of what is offered over t, over * t is the delay; a hundredth may be beyond the slack. Requests under way
        // hide it for a while.
        let delay = 0.99 * (over * (time - drain)).max(over * time - drain);
        let k = place_of(rate * 1.001);
        let first = self.tried.lock().unwrap().insert(k);
        let broken = self.luck.is_some_and(|seed| {
            first && (k as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0
        });
        let passed = (over <= 0.0 || delay <= self.slack) && !broken;
        let early = (drain + self.slack / over.max(1e-9)).clamp(2.4_f64.min(time), time);
        let offered_s = if passed || broken { time } else { early };
        let outside = Outside {
            offered_s,
            // Requests under way at the end are waited for.
            took_s: if passed { time + drain } else { offered_s },
            steady: time >= 2.0 * drain,
            hopeless: !passed,
            requests: 100,
            finished_rps: Some(rate.min(self.capacity)),
            ..Outside::default()
        };
        self.log.lock().unwrap().push((k, passed, outside.clone()));
        let config = Config::default();
        let length = Length::Requests(100);
        let seen = self.fake.run(&Trial { config: &config, length, scale: 1e-3, ..*trial })?;
        Ok(Observation { outside: Some(outside), inside: None, ..seen })
    }

    fn requests(&self) -> usize {
        100
    }
    fn natural_rate(&self, _: usize) -> f64 {
        3.0
    }
    fn output_tokens_per_request(&self) -> f64 {
        1.0
    }
    fn served_tokens_per_request(&self, _: &Config) -> Result<f64, Refused> {
        Ok(1.0)
    }
    fn ceiling(&self, _: &Config) -> Result<f64, Refused> {
        Ok(f64::INFINITY)
    }
    fn unfit(&self, _: &Config) -> Result<Unfit, Refused> {
        Ok(Unfit::default())
    }
}

proptest! {
    #[test]
    fn a_known_capacity_is_found_in_75_seconds(capacity in 1.0..5_000.0f64, start in 0.01..1.0f64) {
        let server = Fluid::new(capacity, 0.0);
        let (lo, hi, load) = server.search((capacity * start).max(capacity / 64.0));
        let (lo, hi) = (lo.unwrap(), hi.unwrap());
        prop_assert!((lo / capacity - 1.0).abs() < 0.03, "{lo} of {capacity}");
        prop_assert!(hi <= lo * 1.021 && load <= 75.0, "{hi} {load} s");
        prop_assert!(server.held(lo));
    }

    #[test]
    fn a_start_above_capacity_comes_down(capacity in 1.0..100.0f64, start in 1.0..50.0f64) {
        let server = Fluid::new(capacity, 6.0);
        let lo = server.search(capacity * start).0.unwrap();
        prop_assert!((lo / capacity - 1.0).abs() < 0.03);
        prop_assert!(server.held(lo), "waiting for the last answers is no probe");
    }

    #[test]
    fn a_rate_that_held_only_until_the_first_end_does_not_count(
        capacity in 1.0..100.0f64, start in 0.05..8.0f64, drain in 4.0..20.0f64,
    ) {
        let server = Fluid::new(capacity, drain);
        let (lo, hi, _) = server.search(capacity * start);
        let (lo, hi) = (lo.unwrap(), hi.unwrap());
        prop_assert!((lo / capacity - 1.0).abs() < 0.03, "{lo} of {capacity}");
        prop_assert!(hi <= lo * 1.021);
        prop_assert!(server.held(lo));
    }

    #[test]
    fn a_disturbed_probe_does_not_decide(
        capacity in 1.0..1_000.0f64, start in 0.05..1.0f64, seed: u64,
    ) {
        let server = Fluid { luck: Some(seed), ..Fluid::new(capacity, 0.0) };
        let lo = server.search(capacity * start).0.unwrap();
        prop_assert!((lo / capacity - 1.0).abs() < 0.03, "{lo} of {capacity}");
    }
}

proptest! {
    #[test]
    fn traffic_that_is_over_before_a_probe_is_offered_for_as_long_as_it_lasts(
        capacity in 1.0..1_000.0f64, start in 0.05..1.0f64, requests in 1.0..6_000.0f64,
    ) {
        let server = Fluid { requests, slack: 0.02, ..Fluid::new(capacity, 0.0) };
        let (lo, hi, _) = server.search(capacity * start);
        prop_assert!(server.log.lock().unwrap().len() < 40);
        prop_assert!(lo.zip(hi).is_none_or(|(lo, hi)| hi <= 1.021 * lo), "{lo:?} {hi:?}");
    }
}

#[test]
fn a_server_that_meets_no_target_ends_the_search() {
    let server = Fluid { slack: -1.0, ..Fluid::new(1e-9, 0.0) };
    let (lo, hi, load) = server.search(10.0);
    assert_eq!(lo, None);
    assert!(hi.unwrap() < 0.02 && load < 60.0, "{hi:?} {load}");
}
