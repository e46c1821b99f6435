//! The table of knobs keeps its word: a knob that does not apply makes no difference, and a queue's limit is kept.

use std::sync::Arc;

use engine::config::{Domain, Policy, Reserve, RouterKind, SchedulerKind};
use engine::{Config, Deployment, DeviceProfile, EngineProfile, KNOBS, Knob, ModelShape};
use loadgen::Slo;
use proptest::prelude::*;
use tuner::subject::Relax;
use tuner::subject::bed::Testbed;
use tuner::subject::observation::Observation;

/// Requests of a run.
const REQUESTS: usize = 60;

/// A trace of the preset, on a device whose memory holds few of its requests at once.
fn bed(preset: &str, slots: u32) -> Testbed {
    let preset = workloads::preset(preset).unwrap();
    let trace = workloads::synthesise(&preset, Some(7)).unwrap().head(REQUESTS).cut(1500);
    let slo = Slo::parse(&["ttft=1s"], None).unwrap().bind(&trace.classes).unwrap();
    let model = Arc::new(ModelShape::load("llama-3.1-8b").unwrap());
    let device = Arc::new(DeviceProfile::load("h100-sxm").unwrap());
    Testbed::new(Arc::new(trace), model, device, slo).with_kv_slots(slots)
}

/// Values of `knob` that differ from each other as much as they can.
fn values(knob: &Knob) -> Vec<String> {
    match knob.domain {
        Domain::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        Domain::Count { min, max } => {
            let counts = [min, min + 2, 64, 700].into_iter().filter(|n| *n <= max);
            counts.map(|n| n.to_string()).collect()
        }
        Domain::Fraction { min, max } => [min, max].map(|x| x.to_string()).to_vec(),
        Domain::Switch => ["on", "off"].map(str::to_owned).to_vec(),
        Domain::Time => ["0s", "200ms"].map(str::to_owned).to_vec(),
        Domain::Lengths => ["auto", "1.5/1.7"].map(str::to_owned).to_vec(),
    }
}

fn observe(bed: &Testbed, deployment: &Deployment, pace: f64) -> Observation {
    bed.observe(deployment, REQUESTS, pace).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_knob_that_does_not_apply_changes_nothing(
        preset in prop::sample::select(vec!["chat", "agentic"]),
        reserve in prop::sample::select(Reserve::NAMES),
        replicas in 1..3_u32,
        seats in 2..12_u32,
        budget in 128..700_u32,
        pace in 2.0..40.0,
    ) {
        let bed = bed(preset, 5000);
        for policy in Policy::NAMES {
            let mut config = Config::default();
            config.set("policy", policy).unwrap();
            config.set("reserve", reserve).unwrap();
            (config.replicas, config.max_seqs, config.max_batch_tokens) = (replicas, seats, budget);
            let deployment = bed.deployment(&config.canonical(), Relax::Nothing).unwrap();
            let usual = observe(&bed, &deployment, pace);
            prop_assert!(usual.summary.completed > 0);
            for knob in KNOBS.iter().filter(|knob| !knob.applies(&deployment.config)) {
                for value in values(knob) {
                    let mut other = deployment.clone();
                    other.config.set(knob.name, &value).unwrap();
                    let seen = observe(&bed, &other, pace);
                    prop_assert!(seen == usual, "{policy}: {} = {value} makes a difference", knob.name);
                }
            }
        }
    }

    #[test]
    fn a_deployed_configuration_holds_no_idle_knob(
        scheduler in prop::sample::select(SchedulerKind::NAMES),
        allocator in prop::sample::select(vec!["contiguous", "paged"]),
        chosen in prop::collection::vec((0..KNOBS.len(), 0..4_usize), 0..6),
    ) {
        let mut config = Config::default();
        for (knob, value) in chosen {
            let values = values(&KNOBS[knob]);
            config.set(KNOBS[knob].name, &values[value % values.len()]).unwrap();
        }
        config.set("scheduler", scheduler).unwrap();
        config.set("allocator", allocator).unwrap();
        let canonical = config.canonical();
        prop_assert_eq!(&canonical.canonical(), &canonical);
        prop_assert!(canonical.check_applies().is_ok());
        // Only what does nothing was changed, and a change is what is refused.
        for knob in KNOBS.iter().filter(|knob| !["policy", "long-prefill-threshold"].contains(&knob.name)) {
            let (before, after) = (config.value(knob), canonical.value(knob));
            prop_assert!(before == after || !knob.applies(&config), "{}", knob.name);
            let refused = knob.check_in(std::slice::from_ref(&config)).is_err();
            prop_assert_eq!(refused, before != after, "{}", knob.name);
        }
    }
}

#[test]
fn each_policy_has_knobs_that_do_nothing() {
    let idle = |policy: &&str| {
        let mut config = Config::default();
        config.set("policy", policy).unwrap();
        let names = KNOBS.iter().filter(|knob| !knob.applies(&config)).map(|knob| knob.name);
        format!("{policy}: {}", names.collect::<Vec<_>>().join(" "))
    };
    insta::assert_snapshot!(Policy::NAMES.iter().map(idle).collect::<Vec<_>>().join("\n"), @r"
    static: prefix-cache long-prefill-threshold block-size prompt-kv victim mix async-scheduling draft-tokens acceptance router prefill-workers decode-workers
    continuous: prefix-cache long-prefill-threshold block-size prompt-kv victim padding max-wait draft-tokens acceptance router prefill-workers decode-workers
    paged: reserve long-prefill-threshold prompt-kv padding max-wait draft-tokens acceptance router prefill-workers decode-workers
    chunked: reserve padding max-wait mix draft-tokens acceptance router prefill-workers decode-workers
    disagg: reserve long-prefill-threshold padding max-wait mix async-scheduling draft-tokens acceptance router
    ");
}

#[test]
fn requests_beyond_the_queue_are_refused() {
    // No front end spreads arrivals.
    let bed = bed("chat", 5000).under(Arc::new(EngineProfile::bare()));
    let lost = |policy: &str, replicas: u32, max_queue: u32| {
        let mut config = Config { max_seqs: 4, max_batch_tokens: 512, ..Config::default() };
        config.set("policy", policy).unwrap();
        (config.replicas, config.max_queue) = (replicas, max_queue);
        config.router = RouterKind::RoundRobin;
        let config = config.canonical();
        let seen = bed.saturated(&config).unwrap();
        assert_eq!(seen.summary.completed + seen.summary.rejected, REQUESTS as u64);
        seen.summary.rejected
    };
    for policy in Policy::NAMES {
        assert_eq!(lost(policy, 1, 0), 0, "{policy}: a queue without a limit");
        // All come before anything starts.
        assert_eq!(lost(policy, 1, 7), REQUESTS as u64 - 7, "{policy}");
        assert_eq!(lost(policy, 2, 7), REQUESTS as u64 - 14, "{policy}, each replica has a queue");
        assert_eq!(lost(policy, 1, 1000), 0, "{policy}: a queue that holds all");
    }
}

#[test]
fn a_lost_request_misses_its_targets() {
    let bed = bed("chat", 5000);
    let met = |max_queue| {
        let config = Config { max_seqs: 1, max_batch_tokens: 512, max_queue, ..Config::default() };
        let seen = bed.replay(&config, 1.0).unwrap();
        (seen.summary.rejected > 0, seen.summary.verdict.met)
    };
    assert_eq!(met(1), (true, false));
}
