//! Oracles: a run of our own simulator is its own prediction, and one with stretched times is off by the stretch.

use super::recorded::Row;
use super::*;
use crate::subject::observation::KvShares;

fn setup() -> Setup {
    Setup {
        model: Arc::new(ModelShape::load("llama-3.1-8b").unwrap()),
        device: Arc::new(DeviceProfile::load("h100").unwrap()),
        engine: Arc::new(EngineProfile::bare()),
        config: Config { max_seqs: 32, max_batch_tokens: 512, ..Config::default() },
        correction: None,
        kv_blocks: Some(1200),
        in_flight: None,
    }
}

fn load(n: u32, gap_ms: u64) -> Vec<Row> {
    let row = |i: u32| Row {
        arrival: Duration::from_millis(u64::from(i) * gap_ms),
        admitted: None,
        first_token: None,
        last_token: None,
        input: 100 + 37 * (i % 11),
        output: 1 + 29 * (i % 7),
        prompt: Some(u64::from(i % 20)),
        failed: false,
    };
    (0..n).map(row).collect()
}

/// The simulator's run of `rows`, recorded; latencies longer by `stretch`.
fn recorded(rows: Vec<Row>, setup: &Setup, stretch: f64) -> Recorded {
    let plan = Recorded::new("own", None, rows);
    let run = rerun(&plan, setup, &mut |_| ()).unwrap();
    let longer = |at: Duration, t: Option<Duration>| t.map(|t| at + (t - at).mul_f64(stretch));
    let rows = plan.rows.iter().zip(&run.records).map(|(row, r)| Row {
        admitted: r.admitted,
        first_token: longer(r.scheduled, r.first_token),
        last_token: longer(r.scheduled, r.last_token),
        ..*row
    });
    Recorded::new("own", None, rows.collect())
}

fn all(e: &Errors) -> Vec<f64> {
    let named = [e.ttft, e.tpot, e.e2e].map(|f| f.named().map(|(_, x)| x.unwrap()));
    named.concat().into_iter().collect()
}

#[test]
fn its_own_run_is_predicted_to_the_nanosecond() {
    for (gap, blocks, prefix_cache) in
        [(60, Some(1200), true), (5, Some(150), true), (5, Some(150), false)]
    {
        let mut setup = setup();
        (setup.kv_blocks, setup.config.prefix_cache) = (blocks, prefix_cache);
        let v = validate(&recorded(load(120, gap), &setup, 1.0), &setup).unwrap();
        assert_eq!((v.requests, v.compared), (120, 120));
        assert!(all(&v.errors).iter().all(|e| *e == 0.0), "{:?}", v.errors);
        assert_eq!(v.errors.throughput, Some(0.0));
        // A small pool under load keeps no prompt long enough to be met again.
        assert_eq!(v.cached > 0.0, prefix_cache && blocks == Some(1200));
    }
}

#[test]
fn latencies_a_tenth_longer_than_predicted_are_an_error_of_minus_a_tenth() {
    let setup = setup();
    // Measured 1.1 times as long: predicted / measured − 1 = −9.09 %; and the other way round +10 %.
    for (stretch, error) in [(1.1, 100.0 * (1.0 / 1.1 - 1.0)), (1.0 / 1.1, 10.0)] {
        let v = validate(&recorded(load(120, 60), &setup, stretch), &setup).unwrap();
        for e in all(&v.errors) {
            assert!((e - error).abs() < 1e-3, "{e} for {error}");
        }
    }
}

#[test]
fn a_cap_in_flight_is_the_clients_own_restraint() {
    let mut setup = setup();
    let free = rerun(&Recorded::new("x", None, load(200, 1)), &setup, &mut |_| ()).unwrap();
    setup.in_flight = Some(40);
    let capped = rerun(&Recorded::new("x", None, load(200, 1)), &setup, &mut |_| ()).unwrap();
    let most = |run: &Detailed| {
        let mut edges: Vec<(Duration, i32)> = Vec::new();
        for r in &run.records {
            edges.push((r.scheduled, 1));
            edges.push((r.last_token.unwrap(), -1));
        }
        // A request that leaves makes room for one that comes at the same instant.
        edges.sort_by_key(|e| (e.0, e.1));
        edges
            .iter()
            .scan(0, |open, e| {
                *open += e.1;
                Some(*open)
            })
            .max()
            .unwrap()
    };
    assert!(most(&free) > 100);
    assert_eq!(most(&capped), 40);
    let mean = |run: &Detailed| side(&run.records).ttft.mean.unwrap();
    assert!(mean(&capped) < mean(&free) / 2.0);
}

#[test]
fn failures_are_replayed_but_not_compared() {
    let setup = setup();
    let mut run = recorded(load(50, 60), &setup, 1.0);
    run.rows[7].failed = true;
    let v = validate(&run, &setup).unwrap();
    assert_eq!((v.requests, v.compared), (50, 49));
    assert!(all(&v.errors).iter().all(|e| *e == 0.0), "the rest is still exact");
}

#[test]
fn occupancy_is_known_if_admissions_were_recorded() {
    let setup = setup();
    let run = recorded(load(300, 5), &setup, 1.0);
    let v = validate(&run, &setup).unwrap();
    assert!(!v.measured_load.is_empty());
    assert_eq!(
        v.measured_load, v.predicted_from_records,
        "counted alike, the same run is the same"
    );
    for (m, p) in v.measured_load.iter().zip(&v.predicted_load) {
        assert_eq!(m.at_s, p.at_s);
        // A thinned series may be one iteration older than the instant.
        assert!(
            m.running.abs_diff(p.running) <= 4 && m.waiting.abs_diff(p.waiting) <= 20,
            "{m:?} {p:?}"
        );
    }
    let mut silent = run;
    silent.rows[0].admitted = None;
    assert!(validate(&silent, &setup).unwrap().measured_load.is_empty());
}

#[test]
fn capacity_is_validated_across_a_knee_and_only_there() {
    let setup = setup();
    let at = |gap: u64| {
        let run = recorded(load(300, gap), &setup, 1.0);
        let v = validate(&run, &setup).unwrap();
        (run, v)
    };
    let runs: Vec<_> = [60, 30, 12, 6].map(at).into();
    let knee::Capacity::Validated { measured_rps, predicted_rps, error, rates, .. } =
        knee::capacity(&runs, &setup, None).unwrap()
    else {
        panic!("four rates across the knee");
    };
    assert_eq!((rates, error, measured_rps), (4, 0.0, predicted_rps));
    let knee::Capacity::NotNearTheKnee { reason, sensitivity } =
        knee::capacity(&runs[..1], &setup, None).unwrap()
    else {
        panic!("one rate is no knee");
    };
    assert_eq!(reason, "recorded at 1 of the 3 rates it takes");
    let s = sensitivity.unwrap();
    assert!((0.0..2.0).contains(&s.of_limit) && s.capacity_rps > 10.0, "{s:?}");
}

#[test]
fn residuals_of_validations_make_a_spread() {
    let setup = setup();
    let mut u = crate::evidence::accuracy::Uncertainty::new("h100");
    for stretch in [0.95, 1.0, 1.05] {
        u.add(&[&validate(&recorded(load(60, 60), &setup, stretch), &setup).unwrap()]);
    }
    let s = u.spread("e2e:p50").unwrap();
    assert!(s.bias.abs() < 0.01 && (0.04..0.08).contains(&s.sigma), "{s:?}");
    assert!((0.4..0.6).contains(&s.p_within(100.0, 100.0)));
}

/// The numbers of requests running and waiting at `second`, by looking at every record.
fn counted(records: &[Record], second: f64) -> (u32, u32) {
    let t = Duration::from_secs_f64(second);
    let admitted = |r: &&Record| r.admitted.is_some_and(|a| a <= t);
    let runs = |r: &&Record| admitted(r) && r.last_token.is_some_and(|e| e > t);
    let waits = |r: &&Record| r.scheduled <= t && !admitted(r);
    (records.iter().filter(runs).count() as u32, records.iter().filter(waits).count() as u32)
}

#[test]
fn a_run_of_decades_is_looked_at_some_thousand_times() {
    let mut records = recorded(load(40, 300), &setup(), 1.0).records();
    let short = occupancy(&records);
    assert!(short.len() > 10);
    let decades = Duration::from_secs(1_760_428_258);
    for r in &mut records[25..] {
        r.scheduled += decades;
        for time in [&mut r.admitted, &mut r.first_token, &mut r.last_token] {
            *time = time.map(|t| t + decades);
        }
    }
    let long = occupancy(&records);
    assert!((10_000..=20_000).contains(&long.len()), "{}", long.len());
    let samples =
        short.iter().map(|o| (&records[..25], o)).chain(long.iter().map(|o| (&records[..], o)));
    for (records, o) in samples.filter(|(r, o)| r.len() == 40 || o.at_s < 7.0) {
        assert_eq!((o.running, o.waiting), counted(records, o.at_s), "{}", o.at_s);
    }
    let sample = |at_s: f64| KvSample {
        at_s,
        slots: KvShares {
            used: 0.0,
            reserved: 0.0,
            internal: 0.0,
            external: 0.0,
            idle: 1.0,
            cached: 0.0,
        },
        running: 1,
        waiting: 0,
    };
    assert_eq!(each_second(&[sample(0.5), sample(3.0)]).len(), 3);
    assert!(each_second(&[sample(0.5), sample(1e18)]).len() <= 20_000);
}

#[test]
fn requests_far_beyond_the_models_context_are_refused() {
    let mut rows = load(3, 60);
    rows[1].output = 2_000_000;
    let said = validate(&Recorded::new("long", None, rows), &setup()).unwrap_err().reason;
    assert_eq!(
        said,
        "long: a request has 2000137 tokens, llama-3.1-8b takes at most 131072: give the --model of the recorded run"
    );
}

#[test]
fn recorded_blocks_decide_the_length_that_fits() {
    let config = Config { max_model_len: 100_000, ..Config::default() };
    let plan = Recorded::new("own", None, load(3, 60));
    let start = |kv_blocks| {
        let device = Arc::new(DeviceProfile::load("rtx4090").unwrap());
        let setup = Setup { device, config: config.clone(), kv_blocks, ..setup() };
        deployment(&simulator(&plan, &setup), &setup)
    };
    assert_eq!(start(Some(8000)).unwrap().kv_slots, 8000 * config.block_size);
    for too_few in [None, Some(10)] {
        let told = start(too_few).unwrap_err().reason;
        assert!(told.starts_with("max-model-len 100000 does not fit KV memory"), "{told}");
    }
}
