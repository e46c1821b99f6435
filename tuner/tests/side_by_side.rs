//! The engine here computes the same side by side with others as it computes alone.

use std::sync::Arc;

use engine::exec::cpu::{Isa, Precision};
use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use engine::{Config, DeviceProfile, Machine};
use loadgen::Slo;
use tuner::subject::bed::Testbed;
use tuner::subject::{Length, Relax, Subject, Trial};

const SLOTS: u32 = 600;

fn bed() -> Testbed {
    let preset = workloads::preset("chat").unwrap();
    let trace = workloads::synthesise(&preset, Some(3)).unwrap();
    let trace = trace.head(24).cut(64);
    let config = LlamaConfig::tiny();
    let shape = Arc::new(config.shape());
    let mut weights = RandomWeights { config, seed: 1 };
    let machine = Machine::load(&mut weights, Precision::F32, (Isa::all()[0], 2), (1, 1)).unwrap();
    assert!(machine.at_once(u64::from(SLOTS)) > 3);
    let slo = Slo::parse::<&str>(&[], None).unwrap().bind(&trace.classes).unwrap();
    let profile = Arc::new(DeviceProfile::load("a100-sxm").unwrap());
    let bed = Testbed::new(Arc::new(trace), shape, profile, slo);
    bed.computed(Arc::new(machine)).with_kv_slots(SLOTS)
}

#[test]
fn runs_side_by_side_do_not_change_each_other() {
    let bed = bed();
    let configs = ["static", "continuous", "paged", "chunked"].map(|policy| {
        let mut config = Config { max_seqs: 8, max_batch_tokens: 64, ..Config::default() };
        config.set("policy", policy).unwrap();
        config
    });
    // All at once: what is in a batch does not depend on how long the others took.
    let trials = configs.each_ref().map(|config| Trial {
        config,
        relax: Relax::Nothing,
        length: Length::Requests(bed.requests()),
        scale: f64::INFINITY,
        verdict_only: false,
    });
    let together = bed.side_by_side(&trials).unwrap();
    assert_eq!(together.len(), trials.len());
    for (trial, beside) in trials.iter().zip(together) {
        let alone = bed.run(trial).unwrap();
        let counts = |o: &tuner::subject::observation::Observation| {
            let w = &o.work();
            let work = (w.iterations, w.tokens_executed, w.tokens_padded, w.tokens_recomputed);
            (o.summary.completed, work, w.preemptions, w.kv_slots)
        };
        assert_eq!(counts(&beside), counts(&alone), "{:?}", trial.config.scheduler);
        assert!(beside.summary.completed == 24 && beside.work().iterations > 24);
    }
}
