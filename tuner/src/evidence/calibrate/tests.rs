//! Logs made by the simulated engine, with constants that are known.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::evidence::validate::recorded::Row as Request;

fn device(host: [f64; 2]) -> DeviceProfile {
    let mut device = DeviceProfile::load("h100").unwrap();
    let source = String::new();
    device.host = Some(engine::profile::Host { step_us: host[0], seq_us: host[1], source });
    device
}

fn setup(host: [f64; 2], factors: &[(&str, f64)]) -> Setup {
    let factors: BTreeMap<String, f64> =
        factors.iter().map(|(n, f)| ((*n).to_owned(), *f)).collect();
    Setup {
        model: Arc::new(ModelShape::load("llama-3.1-8b").unwrap()),
        device: Arc::new(device(host)),
        engine: Arc::new(EngineProfile::bare()),
        config: Config { max_seqs: 48, max_batch_tokens: 512, ..Config::default() },
        correction: Some(Arc::new(engine::exec::Correction::new(&factors).unwrap())),
        kv_blocks: None,
        in_flight: None,
    }
}

/// Requests of mixed lengths, some in bursts, from a small congruential sequence.
fn load(n: u32) -> Recorded {
    let mut x = 12345u64;
    let mut next = |below: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % below
    };
    let row = |i: u32| Request {
        arrival: Duration::from_millis(u64::from(i / 3) * 90 + next(60)),
        admitted: None,
        first_token: None,
        last_token: None,
        input: 20 + next(900) as u32,
        output: 2 + next(200) as u32,
        prompt: None,
        failed: false,
    };
    Recorded::new("load", None, (0..n).map(row).collect())
}

fn log(setup: &Setup) -> Vec<Step> {
    let mut steps = Vec::new();
    rerun(&load(150), setup, &mut |it| steps.extend(steps_of(it))).unwrap();
    steps
}

const HOST_TIME: [f64; 2] = [700.0, 11.0];
const FACTORS: [(&str, f64); 3] =
    [("dense", 1.1), ("decode attention", 0.9), ("prefill attention", 1.3)];

fn expected(name: &str) -> f64 {
    match name {
        "host per iteration" => HOST_TIME[0],
        "host per sequence" => HOST_TIME[1],
        other => FACTORS.iter().find(|f| f.0 == other).map_or(1.0, |f| f.1),
    }
}

#[test]
fn a_log_without_noise_gives_back_its_coefficients() {
    // Times as exact as the model: not rounded to the nanosecond of the virtual clock.
    let truth = setup(HOST_TIME, &FACTORS);
    let cost = |device: &DeviceProfile| {
        CostModel::new(&truth.model, device, 1, 1, truth.config.kv_dtype, 512)
    };
    let (real, names) = (cost(&truth.device), part_names());
    let exact = |step: &Step| {
        let parts = parts(&real, &step.shape).into_iter().zip(&names);
        let seconds: f64 = parts.map(|(p, name)| p * expected(name)).sum();
        let host = HOST_TIME[0] + HOST_TIME[1] * sequences(&step.shape);
        Step { seconds: seconds + host * 1e-6, ..*step }
    };
    let steps: Vec<Step> = log(&truth).iter().map(exact).collect();
    let rough = device([450.0, 8.0]);
    let found = from_steps(&steps, &truth.model, &rough, &truth.config, Scope::All, 1).unwrap();
    for c in &found.coefficients {
        let want = expected(&c.name);
        assert!((c.after / want - 1.0).abs() < 1e-6, "{}: {} for {want}", c.name, c.after);
    }
    assert!(found.after.p99 < 1e-6 && found.before.mean > 3.0, "{found:?}");
    let share = found.held_out as f64 / steps.len() as f64;
    assert!((0.25..0.35).contains(&share), "{share}");
}

#[test]
fn the_engines_own_log_is_exact_to_its_clock() {
    let truth = setup(HOST_TIME, &FACTORS);
    let steps = log(&truth);
    let found =
        from_steps(&steps, &truth.model, &device([450.0, 8.0]), &truth.config, Scope::All, 1)
            .unwrap();
    assert!(found.after.p99 < 1e-3, "{:?}", found.after);
}

#[test]
fn a_noisy_log_is_fitted_within_its_noise() {
    let truth = setup(HOST_TIME, &FACTORS);
    // ±2 %, evenly spread, from a hash.
    let noisy = |(i, s): (usize, &Step)| {
        let u = (mix(9, i as u64) >> 11) as f64 / (1u64 << 53) as f64;
        Step { seconds: s.seconds * (1.0 + 0.04 * (u - 0.5)), ..*s }
    };
    let steps: Vec<Step> = log(&truth).iter().enumerate().map(noisy).collect();
    let found =
        from_steps(&steps, &truth.model, &device([450.0, 8.0]), &truth.config, Scope::All, 1)
            .unwrap();
    // The mean size of an even ±2 % is 1 %; nothing can do better, and more would be misfit.
    assert!((0.8..1.2).contains(&found.after.mean), "{:?}", found.after);
    assert!(found.after.mean < found.before.mean);
    let mut near = 0;
    for c in &found.coefficients {
        let off = (c.after - expected(&c.name)).abs();
        near += usize::from(c.error.is_none_or(|e| off <= 4.0 * e));
    }
    assert_eq!(near, found.coefficients.len(), "{:#?}", found.coefficients);
}

#[test]
fn the_seed_chooses_the_rows_held_out_and_nothing_else() {
    let truth = setup(HOST_TIME, &[]);
    let steps = log(&truth);
    let of = |seed| {
        from_steps(&steps, &truth.model, &device([450.0, 8.0]), &truth.config, Scope::Host, seed)
            .unwrap()
    };
    assert_eq!(of(3), of(3));
    assert_ne!(of(3).held_out, 0);
    assert!((of(3).coefficients[0].after / of(4).coefficients[0].after - 1.0).abs() < 1e-3);
}

#[test]
fn host_time_is_found_from_requests_alone() {
    let truth = setup(HOST_TIME, &[]);
    let run = rerun(&load(150), &truth, &mut |_| ()).unwrap();
    let rows = run.records.iter().map(|r| Request {
        arrival: r.scheduled,
        admitted: None,
        first_token: r.first_token,
        last_token: r.last_token,
        input: r.input,
        output: r.output,
        prompt: None,
        failed: false,
    });
    let recorded = Recorded::new("own", None, rows.collect());
    let guess = Setup { device: Arc::new(device([300.0, 4.0])), ..truth };
    let found = from_requests(&recorded, &guess, 1).unwrap();
    let after: Vec<f64> = found.coefficients[..2].iter().map(|c| c.after).collect();
    assert!((after[0] / HOST_TIME[0] - 1.0).abs() < 0.05, "{after:?}");
    assert!((after[1] / HOST_TIME[1] - 1.0).abs() < 0.15, "{after:?}");
    assert!(found.after.mean < 0.5 && found.before.mean > 3.0, "{found:?}");
}

#[test]
fn too_little_to_fit_to_is_said() {
    let truth = setup(HOST_TIME, &[]);
    let steps = &log(&truth)[..5];
    let error =
        from_steps(steps, &truth.model, &truth.device, &truth.config, Scope::Host, 1).unwrap_err();
    assert_eq!(error.to_string(), "5 rows are too few to fit 2 coefficients: give at least 20");
    let many = Setup { config: Config { replicas: 2, ..truth.config.clone() }, ..truth };
    assert!(from_requests(&load(50), &many, 1).unwrap_err().to_string().contains("2 workers"));
}
