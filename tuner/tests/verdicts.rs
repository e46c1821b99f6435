//! A trial that is asked for its verdict alone gives the verdict of the same trial in full, for less work.

use std::sync::Arc;

use engine::{Config, DeviceProfile, ModelShape};
use loadgen::Slo;
use tuner::knee::verdict::holds;
use tuner::subject::bed::Testbed;
use tuner::subject::{Length, Relax, Subject, Trial};

#[test]
fn a_verdict_alone_is_that_of_the_run_in_full() {
    let trace = workloads::synthesise(&workloads::preset("chat").unwrap(), Some(3)).unwrap();
    let trace = Arc::new(trace.head(500));
    let shape = Arc::new(ModelShape::load("llama-3.1-8b").unwrap());
    let device = Arc::new(DeviceProfile::load("h100-sxm").unwrap());
    let config = Config { replicas: 2, ..Config::default() };
    for slo in [&["ttft=500ms", "tpot=25ms"][..], &["ttft:p50=300ms"], &["e2e=4s"]] {
        let slo = Slo::parse(slo, None).unwrap().bind(&trace.classes).unwrap();
        let bed = Testbed::new(Arc::clone(&trace), Arc::clone(&shape), Arc::clone(&device), slo);
        let (mut failed, mut shorter) = (0, 0);
        for scale in [0.5, 2.0, 4.0, 8.0, 16.0, 64.0] {
            let in_full = Trial {
                config: &config,
                relax: Relax::Nothing,
                length: Length::Requests(500),
                scale,
                verdict_only: false,
            };
            let whole = bed.run(&in_full).unwrap();
            let alone = bed.run(&Trial { verdict_only: true, ..in_full }).unwrap();
            assert_eq!(holds(&whole), holds(&alone), "{scale}");
            assert!(whole.summary.completed == 500);
            if holds(&whole) {
                assert_eq!(whole, alone);
            } else {
                failed += 1;
                shorter += u32::from(alone.summary.completed < 500);
            }
        }
        assert!(failed > 0 && shorter > 0, "{failed} failed, {shorter} ended early");
    }
}
