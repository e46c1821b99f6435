//! One contest over every subject: a closed form, a simulation, a model computed here, and a
//! server. The answer has one form and keeps one set of laws for every subject.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::exec::cpu::{Isa, Precision};
use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use engine::{Config, DeviceProfile, Machine, ModelShape};
use loadgen::{BoundSlo, Live, LiveOptions, Mock, MockOptions, Prompts, Server, Slo};
use workloads::Trace;

use super::turns::{self, BETTER, Rules, searched};
use crate::result::{Answer, Contender, Failure, Standing, config_of};
use crate::subject::bed::Testbed;
use crate::subject::fake::Fake;
use crate::subject::server::{Aim, Range};

static GO_ON: AtomicBool = AtomicBool::new(false);

/// A measurement of a contender on some subject.
type Measure<'a> = &'a mut dyn FnMut(&Config, Contender, &Aim) -> Contender;

/// The contest: one seat against eight, and a configuration that cannot run. More seats carry more everywhere.
fn contest(on: &str, measure: Measure<'_>) -> Answer {
    let contender = |seats: &str| {
        let config = [("max-seqs".to_owned(), seats.to_owned())].into();
        Contender::new(format!("max-seqs {seats}"), config)
    };
    let all = ["1", "8", "none"].map(contender).to_vec();
    let rules = Rules { probe: None, budget: Duration::from_secs(60), in_full: false };
    turns::run(
        on,
        all,
        rules,
        &|| true,
        &mut |_, contender, aim| match config_of(&contender.config) {
            Ok(config) => measure(&config, contender, aim),
            Err(why) => {
                Contender { standing: Standing::Failed(Failure::of(why.to_string())), ..contender }
            }
        },
    )
}

/// Checks the laws of an answer, which hold for every subject.
fn check(answer: &Answer) {
    let [first, second, none] = &answer.contenders[..] else { panic!("{answer:#?}") };
    assert!(matches!(none.standing, Standing::Failed(_)) && none.tried.is_empty());
    let (winner, most) = answer.best().unwrap();
    assert_eq!((answer.capacity_rps, answer.fails_at_rps), (Some(most), winner.fails_at_rps));
    assert!([first, second].iter().all(|c| c.standing.carries().is_none_or(|rps| rps <= most)));
    if let Standing::Beaten(at) = second.standing {
        assert_eq!(at, BETTER * first.standing.carries().unwrap());
        assert!(second.tried.iter().all(|t| !t.held));
    }
    for (c, capacity) in [first, second].iter().filter_map(|c| Some((c, c.standing.carries()?))) {
        let last = |rate: f64| c.tried.iter().rfind(|t| t.rate_rps == rate).unwrap();
        assert!(last(capacity).held, "{c:#?}");
        if let Some(rate) = c.fails_at_rps {
            assert!(rate > capacity && !last(rate).held && last(rate).limit.is_some(), "{c:#?}");
            assert_eq!(c.first_to_fail(), Some(last(rate)));
        }
        // Nothing failed for good at or below it.
        let below = c.tried.iter().filter(|t| t.rate_rps <= capacity);
        assert!(below.map(|t| last(t.rate_rps)).all(|t| t.held), "{c:#?}");
    }
    let stored = serde_json::to_string(answer).unwrap();
    assert_eq!(serde_json::from_str::<Answer>(&stored).unwrap(), *answer);
}

/// Checks that more seats win, for subjects whose times do not depend on other work of this
/// machine.
fn check_winner(answer: &Answer) {
    check(answer);
    assert_eq!(answer.best().unwrap().0.label, "max-seqs 8", "{answer:#?}");
}

/// Chat of a few dozen tokens.
fn trace(requests: usize) -> Arc<Trace> {
    let spec = workloads::preset("chat").unwrap();
    Arc::new(workloads::synthesise(&spec, None).unwrap().head(requests).cut(24))
}

fn targets(trace: &Trace, slo: &[&str]) -> BoundSlo {
    Slo::parse(slo, None).unwrap().bind(&trace.classes).unwrap()
}

#[test]
fn a_closed_form() {
    let fake = Fake::new(&["ttft=300ms", "tpot=40ms"]);
    check_winner(&contest("a closed form", &mut |config, contender, aim| {
        let found = searched(&fake, config, aim, &GO_ON).unwrap();
        Contender { label: contender.label, ..found }
    }));
}

#[test]
fn a_simulation() {
    let trace = trace(120);
    let slo = targets(&trace, &["ttft=50ms"]);
    let shape = Arc::new(ModelShape::load("llama-3.1-8b").unwrap());
    let device = Arc::new(DeviceProfile::load("h100-sxm").unwrap());
    let simulated = Testbed::new(trace, shape, device, slo);
    check_winner(&contest("h100-sxm", &mut |config, contender, aim| {
        let found = searched(&simulated, config, aim, &GO_ON).unwrap();
        Contender { label: contender.label, ..found }
    }));
}

#[test]
fn a_model_computed_here() {
    let trace = trace(24);
    let slo = targets(&trace, &["ttft=1s"]);
    let config = LlamaConfig::tiny();
    let shape = Arc::new(config.shape());
    let mut weights = RandomWeights { config, seed: 1 };
    let machine = Machine::load(&mut weights, Precision::F32, (Isa::all()[0], 1), (1, 1)).unwrap();
    let device = Arc::new(DeviceProfile::load("a100-sxm").unwrap());
    let bed = Testbed::new(trace, shape, device, slo).with_kv_slots(600);
    let computed = bed.computed(Arc::new(machine));
    check(&contest("this machine", &mut |config, contender, aim| {
        let found = searched(&computed, config, aim, &GO_ON).unwrap();
        Contender { label: contender.label, ..found }
    }));
}

#[test]
fn a_server() {
    let trace = trace(60);
    let slo = targets(&trace, &["ttft=100ms"]);
    check_winner(&contest("a server", &mut |config, contender, aim| {
        let options = MockOptions {
            ttft: Duration::from_millis(10),
            itl: Duration::from_millis(2),
            slots: Some(config.max_seqs),
            ..MockOptions::default()
        };
        let mock = Mock::bind("127.0.0.1:0", options, None).unwrap();
        let url = format!("http://{}", mock.address());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| mock.serve(&stop).unwrap());
            let server = Server { url, ..Server::default() };
            let live = Live::assume(&server, "mock", Prompts::Ids).unwrap();
            let mut range = Range::new(&live, &trace, &slo, LiveOptions::default());
            let aim = Aim {
                probe: Some(Duration::from_millis(600)),
                budget: Duration::from_secs(6),
                ..*aim
            };
            let found = range.search(&aim, &mut |_| {}, &mut || true);
            stop.store(true, Ordering::Relaxed);
            found.unwrap().of(contender).0
        })
    }));
}
