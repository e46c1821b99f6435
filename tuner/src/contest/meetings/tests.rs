//! Decisions on a closed-form server, alone or on a machine that others use too.

use super::finalists::finalists;
use super::*;
use crate::contest::progress::Silent;
use crate::knee::{Effort, Knee, Prober, rate_at};
use crate::result::{Answer, Contender, Neighbour, Standing, config_of, knobs};
use crate::result::{DeviceInfo, Objective, WorkloadInfo};
use crate::space::{Scope, Space};
use crate::subject::fake::{Fake, Shared};
use crate::subject::observation::Observation;
use crate::subject::{Relax, Trial};
use crate::tune::{DeviceUnderTest, Method, Question, tune};
use engine::Config;
use proptest::prelude::*;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static GO_ON: AtomicBool = AtomicBool::new(false);
/// The simulation that several tests use: `ttft=300ms`, `tpot=40ms`.
static SCREENED: OnceLock<TuneResult> = OnceLock::new();
const WATCH: Watch<'_> = Watch { progress: &Silent, cancel: &GO_ON };
const LONG: Duration = Duration::from_secs(3600);

fn screened(fake: &Fake) -> TuneResult {
    let scope = Scope {
        gpus: 1,
        fewer_gpus: false,
        shared_prefixes: false,
        allow_lossy_kv: false,
        experts: false,
    };
    let workload = WorkloadInfo {
        name: "closed".to_owned(),
        provenance: Vec::new(),
        requests: fake.requests,
        requests_per_session: None,
        natural_rps: fake.natural_rate(fake.requests),
        prompt_tokens_per_request: None,
        output_tokens_per_request: 250.0,
        repeats: false,
    };
    let info = DeviceInfo { name: "x".to_owned(), provenance: String::new(), price: None };
    tune(&Question {
        devices: vec![DeviceUnderTest { info, subject: fake, accuracy: None }],
        space: &Space::new(scope),
        slo: fake.slo.slo(),
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
        watch: WATCH,
    })
    .unwrap()
}

/// The decision of `real` on the finalists of `screened`, at whatever pace.
fn decided(
    screened: &TuneResult,
    real: &dyn Subject,
    budget: Duration,
    watch: &Watch<'_>,
) -> Result<Answer, Stop> {
    let decided = decide(|_| Ok::<_, Stop>(screened.clone()), ("x", real), budget, watch)?;
    assert_eq!(decided.screened.interrupted, watch.cancelled());
    Ok(decided.answer.unwrap())
}

fn knee(real: &Fake, config: &Config) -> f64 {
    let mut prober = Prober::new(real, config, Relax::Nothing, real.requests, &GO_ON).unwrap();
    match prober.knee(0, Effort::COLD).unwrap() {
        Knee::Between { lo, .. } => rate_at(lo),
        Knee::Nowhere => 0.0,
    }
}

#[test]
fn a_slower_machine_is_decided_on_its_own_in_few_runs() {
    let targets = &["ttft=300ms", "tpot=40ms"];
    let result = screened(&Fake::new(targets));
    let real = Fake { prompt: 1100.0, output: 300.0, ..Fake::new(targets) };
    let decision = decided(&result, &real, LONG, &WATCH).unwrap();
    assert_eq!(decision.runs, real.runs.load(Ordering::Relaxed));
    let (winner, rps) = decision.best().unwrap();
    let truth = |f: &Contender| knee(&real, &config_of(&f.config).unwrap());
    let best = decision.contenders.iter().map(truth).fold(0.0, f64::max);
    assert!((rps / truth(winner) - 1.0).abs() < 0.04, "{rps} of {}", truth(winner));
    assert!(rps > 0.96 * best, "{rps} of {best}");
    let residual = decision.residual.unwrap();
    assert!((0.5..0.95).contains(&residual), "{residual}");
    assert!(decision.runs < 4 * decision.contenders.len() as u64 + 8, "{}", decision.runs);
    for f in &decision.contenders {
        match f.standing {
            Standing::Untried(_) => assert!(f.tried.is_empty()),
            Standing::Beaten(k) => assert!(f.tried.iter().any(|t| !t.held && t.rate_rps == k)),
            Standing::Carries(k) => assert!(f.tried.iter().any(|t| t.held && t.rate_rps == k)),
            Standing::Nothing => assert!(f.tried.iter().all(|t| !t.held)),
            Standing::Twin | Standing::Failed(_) => panic!("{f:?}"),
        }
    }
}

/// A run of iterations that take `pace` thousandths of their time on an otherwise idle machine.
fn paced(fake: &Fake, trial: &Trial<'_>, pace: u32) -> Observation {
    let mut observation = fake.run(&Trial { relax: Relax::Pace(pace), ..*trial }).unwrap();
    observation.set_pace(f64::from(pace) / 1e3);
    observation
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The first by simulation need not be the best there is, and the machine is not always itself.
    #[test]
    fn the_best_of_the_finalists_wins(seed: u64, prompt in 300.0..1500.0, output in 100.0..500.0) {
        let targets = &["ttft=300ms", "tpot=40ms"];
        let result = SCREENED.get_or_init(|| screened(&Fake::new(targets)));
        let fake = Fake { prompt, output, ..Fake::new(targets) };
        let hash = |n: u64| (seed ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pace = |n| if hash(n) >> 62 == 0 { 1800 } else { 1000 };
        let real = Shared::new(fake, |fake, trial, n| paced(fake, trial, pace(n)));
        let decision = decided(result, &real, LONG, &WATCH).unwrap();
        let truth = |f: &Contender| knee(&real.fake, &config_of(&f.config).unwrap());
        let asked = decision.contenders.iter().filter(|f| !f.tried.is_empty());
        let best = asked.map(truth).fold(0.0, f64::max);
        let (winner, rps) = decision.best().unwrap();
        // Five slow runs on end are believed, and seldom: 1 in 1,000.
        let doubt = decision.doubts().iter().any(|doubt| doubt.contains("slower"));
        prop_assert!(doubt || rps > 0.96 * best, "{rps} of {best}");
        prop_assert!(rps <= truth(winner), "{rps} of {}", truth(winner));
    }
}

/// A profile of a minute that was slower or faster than all others is found out by the first runs.
#[test]
fn a_machine_that_its_profile_misjudges_is_screened_anew() {
    let targets = &["ttft=300ms", "tpot=40ms"];
    let at = |pace| Fake { pace, ..Fake::new(targets) };
    for per_mille in [550, 1600] {
        let pace = f64::from(per_mille) / 1e3;
        let real = Shared::new(at(1.0), |fake, trial, _| paced(fake, trial, per_mille));
        let mut asked = Vec::new();
        let screen = |pace: Option<f64>| {
            asked.push(pace);
            Ok::<_, Stop>(screened(&at(pace.unwrap_or(1.0))))
        };
        let decided = decide(screen, ("x", &real), LONG, &WATCH).unwrap();
        assert_eq!(asked, [None, Some(pace)]);
        let decision = decided.answer.unwrap();
        assert_eq!(decision.pace, Some(pace));
        let (winner, rps) = decision.best().unwrap();
        let truth = |f: &Contender| knee(&at(pace), &config_of(&f.config).unwrap());
        let best = decision.contenders.iter().map(truth).fold(0.0, f64::max);
        assert!(rps > 0.96 * best && rps <= truth(winner), "{rps} of {best}");
        // At the right pace the simulation gives the measured figures.
        for f in &decision.contenders {
            match f.predicted_rps {
                Some(predicted) => {
                    assert!(
                        (predicted / truth(f) - 1.0).abs() < 0.02,
                        "{predicted} of {}",
                        truth(f)
                    );
                }
                None => assert!(!f.tried.is_empty()),
            }
        }
    }
}

#[test]
fn results_count_when_the_time_is_up() {
    let targets = &["ttft=300ms", "tpot=40ms"];
    let result = SCREENED.get_or_init(|| screened(&Fake::new(targets)));
    let none = decided(result, &Fake::new(targets), Duration::ZERO, &WATCH).unwrap();
    assert_eq!((none.winner, none.runs, none.out_of_time), (None, 0, true));
    assert!(none.doubts()[0].contains("--budget"));
    // The user may also end the search at any time: on a calm machine, or one that is faster than
    // its profile, but for some runs.
    let calm = |_: u64| 1000;
    let moody = |n: u64| if n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0 { 1000 } else { 550 };
    let machines: [&(dyn Fn(u64) -> u32 + Sync); 2] = [&calm, &moody];
    for pace in machines {
        let real = Shared::new(Fake::new(targets), |fake, trial, n| paced(fake, trial, pace(n)));
        let all = decided(result, &real, LONG, &WATCH).unwrap();
        assert!(!all.out_of_time);
        let (asked, mut held) = (real.asked.into_inner(), 0.0);
        for last in 0..asked {
            let cancel = AtomicBool::new(false);
            let watch = Watch { progress: &Silent, cancel: &cancel };
            let real = Shared::new(Fake::new(targets), |fake, trial, n| {
                cancel.fetch_or(n == last, Ordering::Relaxed);
                paced(fake, trial, pace(n))
            });
            match decided(result, &real, LONG, &watch) {
                Ok(known) => {
                    assert!(!known.out_of_time);
                    let (_, rps) = known.best().unwrap();
                    assert!(held <= rps && rps <= all.best().unwrap().1, "{held}, then {rps}");
                    assert!(known.fails_at_rps.is_none_or(|at| at > rps));
                    held = rps;
                }
                Err(stop) => assert_eq!((stop, held), (Stop::Cancelled, 0.0)),
            }
            assert_eq!(real.asked.into_inner(), last + 1, "no run is begun after that");
        }
    }
}

#[test]
fn a_winner_carries_no_more_than_its_saturated_run() {
    let targets = &["ttft=300ms", "tpot=40ms"];
    let result = SCREENED.get_or_init(|| screened(&Fake::new(targets)));
    let free = decided(result, &Fake::new(targets), LONG, &WATCH).unwrap();
    let (_, held) = free.best().unwrap();
    assert!(!free.bounded && free.doubts().is_empty());
    // At once it completes 0.8 of what it holds for as long as the trace lasts; on a slow machine that says nothing.
    let at_once = |pace: f64| {
        Shared::new(Fake::new(targets), move |fake: &Fake, trial: &Trial<'_>, _| {
            let mut seen = fake.run(trial).unwrap();
            if trial.scale.is_infinite() {
                seen.summary.duration_s = seen.summary.requests as f64 / (0.8 * held);
                seen.set_pace(pace);
            }
            seen
        })
    };
    let (calm, slow) = (at_once(1.0), at_once(1.5));
    let decision = decided(result, &calm, LONG, &WATCH).unwrap();
    let (winner, rps) = decision.best().unwrap();
    assert!((0.79 * held..=0.8 * held).contains(&rps), "{rps} of {held}");
    assert!(decision.bounded && decision.doubts()[0].contains("all requests at once"));
    assert!(decision.fails_at_rps.is_some_and(|at| at > held));
    assert_eq!(decision.runs, free.runs, "one run more, as ever");
    assert!(winner.tried.iter().any(|t| t.held && t.rate_rps > rps));
    let decision = decided(result, &slow, LONG, &WATCH).unwrap();
    assert!(!decision.bounded && decision.best().unwrap().1 == held);
}

/// The real engine is not asked about a neighbour whose knob changes nothing.
#[test]
fn an_idle_knob_is_not_tried() {
    let result = screened(&Fake::new(&["ttft=300ms", "tpot=40ms"]));
    let (idle, live): (Vec<&Neighbour>, Vec<_>) = result.sensitivity.iter().partition(|n| n.idle);
    let has = |all: &[&Neighbour], knob: &str| all.iter().any(|n| n.knob == knob);
    assert!(has(&idle, "victim") && has(&live, "max-batch-tokens"));
    assert!(idle.iter().all(|n| n.capacity_rps == n.winner_rps));
    let best = &result.best.as_ref().unwrap().config;
    // A change that leaves the winner what it is does not put it out.
    let mut more = result.clone();
    let none = Neighbour { to: best["victim"].clone(), ..result.sensitivity[0].clone() };
    more.sensitivity.push(Neighbour { knob: "victim".to_owned(), idle: true, ..none });
    let all: Vec<_> = finalists(&more).iter().map(|(config, _)| knobs(config)).collect();
    assert!(all.contains(best));
    for finalist in all {
        for n in &idle {
            let mut same = best.clone();
            same.insert(n.knob.clone(), n.to.clone());
            assert!(finalist != same, "{} = {}", n.knob, n.to);
        }
    }
}

#[test]
fn targets_that_nothing_holds_have_no_winner() {
    let result = screened(&Fake::new(&["ttft=300ms"]));
    let real = Fake::new(&["ttft=1ms"]);
    let decision = decided(&result, &real, LONG, &WATCH).unwrap();
    assert_eq!((decision.winner, decision.residual), (None, None));
    let hopeless = |s: &Standing| matches!(s, Standing::Nothing | Standing::Untried(_));
    assert!(decision.contenders.iter().all(|f| hopeless(&f.standing)));
}

#[test]
fn cancelled_before_anything_is_known() {
    let result = screened(&Fake::new(&["ttft=300ms"]));
    let cancel = AtomicBool::new(true);
    let watch = Watch { progress: &Silent, cancel: &cancel };
    assert_eq!(decided(&result, &Fake::new(&["ttft=1s"]), LONG, &watch), Err(Stop::Cancelled));
}
