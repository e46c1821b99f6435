//! With planning one iteration ahead of the device, requests that come or leave during an iteration count for the one
//! after the next.

use std::sync::Arc;
use std::time::Duration;

use engine::config::Config;
use engine::deployment::{DeployError, Deployment};
use engine::request::Content;
use engine::{DeviceProfile, EngineProfile, Fleet, ModelShape, Next, Request, Shape, wiring};

fn deployment(config: Config) -> Result<Deployment, DeployError> {
    let model = Arc::new(ModelShape::load("llama-3.1-8b").unwrap());
    let device = Arc::new(DeviceProfile::load("h100").unwrap());
    Deployment::new(config, model, device, 4096)
}

fn request(id: u32, output: u32) -> Request {
    Request {
        id,
        input: 100,
        limit: output,
        fate: Some(output),
        width: 1,
        priority: 0,
        content: Content::Private,
    }
}

/// The requests that got a token at the end of each step, from requests that arrive at given times.
fn steps(config: Config, requests: &[(Duration, u32)]) -> Vec<(Duration, Vec<u32>)> {
    played(config, requests).0
}

/// The same, and the number of plans.
fn played(config: Config, requests: &[(Duration, u32)]) -> (Vec<(Duration, Vec<u32>)>, usize) {
    let mut fleet: Fleet = wiring::simulated(&deployment(config).unwrap(), false);
    let (mut next, mut steps, mut plans) = (0, Vec::new(), 0);
    loop {
        match fleet.advance(requests.get(next).map(|r| r.0)) {
            Next::Arrival => {
                let (at, output) = requests[next];
                fleet.add_request(request(next as u32, output), at).unwrap();
                next += 1;
            }
            Next::Iteration(i) => {
                plans += 1;
                let it = fleet.iteration(i);
                let mut who = it.emitted.clone();
                who.sort_unstable();
                steps.extend(it.ends.iter().map(|end| (*end, who.clone())));
            }
            Next::Idle | Next::Broken => return (steps, plans),
        }
    }
}

/// The step (from 0) in which `request` got its first token.
fn first(steps: &[(Duration, Vec<u32>)], request: u32) -> usize {
    steps.iter().position(|s| s.1.contains(&request)).unwrap()
}

fn config(seqs: u32, ahead: bool) -> Config {
    Config { max_seqs: seqs, async_scheduling: ahead, ..Config::default() }
}

#[test]
fn a_newcomer_waits_one_iteration_longer() {
    let zero = Duration::ZERO;
    let met = |ahead| {
        let alone = steps(config(8, ahead), &[(zero, 40)]);
        assert_eq!(alone.len(), 40, "an idle engine plans at once");
        // In the middle of step 20.
        let middle = (alone[19].0 + alone[20].0) / 2;
        first(&steps(config(8, ahead), &[(zero, 40), (middle, 5)]), 1)
    };
    assert_eq!((met(false), met(true)), (21, 22));
}

#[test]
fn planning_ahead_takes_no_more_plans() {
    let zero = Duration::ZERO;
    let plans = |ahead| {
        let alone = steps(config(8, ahead), &[(zero, 400)]);
        // The second and third come during the same step, the fourth during a later one.
        let within =
            |step: usize, nth: u32| alone[step].0 + (alone[step + 1].0 - alone[step].0) * nth / 4;
        let load = [(zero, 400), (within(19, 1), 50), (within(19, 3), 60), (within(40, 2), 30)];
        played(config(8, ahead), &load).1
    };
    assert_eq!(plans(true), plans(false));
}

#[test]
fn a_seat_is_taken_one_iteration_after_it_is_free() {
    let zero = Duration::ZERO;
    // Two seats: the first leaves after 10 tokens, the third waits for it.
    let load = [(zero, 10), (zero, 40), (zero, 5)];
    let (now, later) = (steps(config(2, false), &load), steps(config(2, true), &load));
    assert_eq!((first(&now, 2), first(&later, 2)), (10, 11));
    // One seat: no sequence runs when it is free, so that the plan is made then.
    let load = [(zero, 10), (zero, 5)];
    let (now, later) = (steps(config(1, false), &load), steps(config(1, true), &load));
    assert_eq!((first(&now, 1), first(&later, 1)), (10, 10));
}

#[test]
fn it_needs_a_scheduler_that_can_plan_ahead() {
    let mut config = config(8, true);
    config.set("policy", "static").unwrap();
    let pipeline = Config { pp: 2, async_scheduling: true, ..Config::default() };
    for config in [config, pipeline] {
        assert_eq!(
            deployment(config.clone()).unwrap_err().to_string(),
            "async-scheduling on does nothing without the continuous or chunked scheduler and pp 1: leave it at off"
        );
        // As a default it is at rest there.
        deployment(config.settled(&[])).unwrap();
    }
}

/// The time of a decode iteration under `engine`, in ms, planned ahead or not.
fn step_ms(engine: &EngineProfile, ahead: bool) -> f64 {
    let model = Arc::new(ModelShape::load("llama-3.1-8b").unwrap());
    let device = Arc::new(DeviceProfile::load("h100").unwrap());
    let config = config(8, ahead);
    let deployment = Deployment::under(engine, config, model, device, 4096, |own| own).unwrap();
    let shape = Shape {
        decode_seqs: 8,
        decode_context: 8000,
        decode_longest: 1000,
        sampled: 8,
        ..Shape::default()
    };
    deployment.cost.stage_ns(&shape) as f64 / 1e6
}

#[test]
fn planning_ahead_hides_host_time_behind_the_device() {
    let any = EngineProfile::any();
    let device = step_ms(&EngineProfile::bare(), false);
    let shown = |of: &engine::engines::Host| {
        let [step, seq] = of.at(1);
        (step + 8.0 * seq) / 1e3
    };
    let (all, rest) = (shown(&any.outside.host), shown(&any.outside.unhidden));
    assert!((step_ms(&any, false) - device - all).abs() < 1e-3, "the sum");
    assert!((step_ms(&any, true) - device - rest).abs() < 1e-3, "the device is the longer of both");
    // A host that is slower than the device decides.
    let mut slow = any;
    slow.outside.host.ranks[0].step_us = 1e5;
    assert!((step_ms(&slow, true) - shown(&slow.outside.host)).abs() < 1e-3);
}
