//! Sustainability judged against servers whose capacity is known exactly.

mod common;

use common::{Arrivals, Server, record, run};
use loadgen::{Outcome, Replay, ReplayOptions, Sustain};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp};
use std::time::Duration;
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

const SERVERS: [Server; 5] = [
    Server::Fifo(10_000.0),
    Server::Shared(10_000.0),
    Server::Batch { seats: 256, fixed: 0.008, seat: 0.000_1, token: 0.000_05 },
    Server::Batch { seats: 64, fixed: 0.008, seat: 0.000_1, token: 0.000_03 },
    Server::Batch { seats: 16, fixed: 0.02, seat: 0.000_2, token: 0.000_1 },
];

const ARRIVALS: [Arrivals; 6] = [
    Arrivals::Poisson,
    Arrivals::Gamma(2.0),
    Arrivals::Gamma(3.0),
    Arrivals::OnOff(10),
    Arrivals::OnOff(30),
    Arrivals::Drift,
];

/// Share of runs called sustainable, over all servers, arrivals and two seeds.
fn accepted(n: usize, loads: &[f64]) -> f64 {
    let (mut runs, mut accepted) = (0, 0);
    for server in SERVERS {
        for arrivals in ARRIVALS {
            for &load in loads {
                for seed in 0..2 {
                    let (trace, records) = run(server, arrivals, n, load, seed);
                    runs += 1;
                    accepted += u32::from(Sustain::new(&trace, &records).sustained);
                }
            }
        }
    }
    let share = f64::from(accepted) / f64::from(runs);
    println!("{n} requests at loads {loads:?}: {:.1} % of {runs} runs accepted", 100.0 * share);
    share
}

#[test]
fn a_server_that_keeps_up_is_told_from_one_that_does_not() {
    for (n, least_stable, most_overloaded) in
        [(1_000, 0.94, 0.02), (2_000, 0.95, 0.01), (5_000, 0.97, 0.01)]
    {
        assert!(accepted(n, &[0.5]) == 1.0);
        assert!(accepted(n, &[0.7, 0.8, 0.9]) >= least_stable);
        assert!(accepted(n, &[1.1, 1.2]) <= most_overloaded);
        assert!(accepted(n, &[1.5]) == 0.0);
    }
}

#[test]
fn short_traces_have_a_wider_grey_zone() {
    assert!(accepted(500, &[0.5, 0.7]) >= 0.93);
    assert!(accepted(500, &[1.2, 1.5]) <= 0.04);
}

/// The bound the definition rests on: no server can hide more than the share it cannot serve.
#[test]
fn a_trace_within_a_lifetime_offers_no_steady_load() {
    for n in [500, 1000, 2000] {
        for load in [2.0, 4.0, 10.0, 100.0, 1000.0] {
            assert!(accepted(n, &[load]) == 0.0, "{n} requests at {load}");
        }
    }
}

#[test]
fn an_overload_leaves_its_share_undone() {
    for server in SERVERS {
        for arrivals in ARRIVALS {
            for load in [1.1, 1.5, 2.0] {
                let (trace, records) = run(server, arrivals, 600, load, 7);
                let s = Sustain::new(&trace, &records);
                assert!(
                    s.backlog >= 0.9 * (1.0 - 1.0 / load),
                    "{server:?} {arrivals:?} {load}: {s:?}"
                );
                assert!(s.drain_s.unwrap() >= 0.999 * s.span_s * (load - 1.0));
            }
        }
    }
}

#[test]
fn a_steady_overload_grows_at_its_rate() {
    let (trace, records) = run(Server::Fifo(10_000.0), Arrivals::Poisson, 5_000, 1.25, 3);
    let s = Sustain::new(&trace, &records);
    assert!((s.growth - 0.2).abs() < 0.03 && !s.sustained, "{s:?}");
    assert!(s.reason.starts_with("falls behind"), "{}", s.reason);
}

#[test]
fn a_run_cut_short_is_judged_by_the_work_it_left() {
    let (trace, mut records) = run(Server::Fifo(10_000.0), Arrivals::Poisson, 2_000, 1.5, 1);
    let cut = records[1_499].scheduled;
    records.truncate(1_500);
    for r in records.iter_mut().filter(|r| r.last_token > Some(cut)) {
        (r.outcome, r.output) = (Outcome::Unfinished, 0);
        (r.first_token, r.last_token) = (r.first_token.filter(|&t| t <= cut), None);
    }
    let s = Sustain::new(&trace, &records);
    assert!(!s.sustained && s.drain_s.is_none() && s.backlog > 0.3, "{s:?}");
}

#[test]
fn shed_load_is_no_backlog() {
    let (trace, mut records) = run(Server::Fifo(10_000.0), Arrivals::Poisson, 2_000, 0.8, 1);
    for r in records.iter_mut().step_by(3) {
        (r.outcome, r.first_token, r.last_token, r.output) = (Outcome::Rejected, None, None, 0);
    }
    assert!(Sustain::new(&trace, &records).sustained);
}

/// Of twenty requests one is 5 % of the work: two that never caught up are bad luck, three are not.
#[test]
fn few_requests_may_be_unlucky() {
    let judge = |late: usize| {
        let times: Vec<f64> = (0..20).map(f64::from).collect();
        let end = |i: usize| times[i] + if (10..10 + late).contains(&i) { 30.0 } else { 0.5 };
        let ends: Vec<(f64, f64)> = (0..20).map(|i| (times[i] + 0.1, end(i))).collect();
        let (trace, records) = record(&times, &[(100, 10); 20], &ends);
        Sustain::new(&trace, &records)
    };
    assert!(judge(0).sustained && judge(2).sustained, "{:?}", judge(2));
    assert!(!judge(3).sustained, "{:?}", judge(3));
}

#[test]
fn degenerate_runs() {
    let judge = |times: &[f64], ends: &[(f64, f64)]| {
        let lengths = vec![(100, 10); times.len()];
        let (trace, records) = record(times, &lengths, ends);
        Sustain::new(&trace, &records)
    };
    let one = judge(&[2.0], &[(2.5, 3.0)]);
    assert!(one.sustained && one.drain_s == Some(1.0), "{one:?}");
    let burst = judge(&[0.0, 0.0], &[(0.5, 1.0), (1.0, 1.5)]);
    assert!(!burst.sustained && burst.reason.contains("one instant"), "{burst:?}");
    let none = judge(&[], &[]);
    assert!(none.sustained && none.span_s == 0.0);
    let (trace, mut records) = record(&[0.0, 1.0], &[(1, 1); 2], &[(9.0, 9.0); 2]);
    records.iter_mut().for_each(|r| r.outcome = Outcome::Failed);
    let s = Sustain::new(&trace, &records);
    assert!(!s.sustained && s.reason == "no request completed");
    let json = serde_json::to_string(&s).unwrap();
    assert_eq!(serde_json::from_str::<Sustain>(&json).unwrap(), s);
}

/// Sessions of five turns with pauses, served one request at a time. A closed loop holds back the turns of a slow
/// server, so its issued requests alone would look like a backlog a fifth of what it is.
fn closed_loop(load: f64) -> Sustain {
    const SESSIONS: u32 = 400;
    const SERVICE_S: f64 = 0.1;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let gap = Exp::new(load / (5.0 * SERVICE_S)).unwrap();
    let (mut clock, mut requests) = (0.0, vec![]);
    for session in 0..SESSIONS {
        clock += gap.sample(&mut rng);
        for turn in 0..5 {
            let think = Duration::from_millis(700);
            let arrival = match turn {
                0 => Arrival::At(Duration::from_secs_f64(clock)),
                _ => Arrival::After { previous: session * 5 + turn - 1, think },
            };
            let blocks = BlockSpan::default();
            requests.push(TraceRequest {
                arrival,
                input: 90,
                output: 10,
                blocks,
                class: 0,
                session: Some(session),
            });
        }
    }
    let trace = Trace { requests, classes: vec!["all".to_owned()], ..Trace::default() };
    let mut replay = Replay::new(&trace, 1.0, ReplayOptions::default()).unwrap();
    let (mut times, mut ends) = (vec![0.0; 2_000], vec![(0.0, 0.0); 2_000]);
    let mut free = Duration::ZERO;
    while let Some(at) = replay.peek() {
        let due = replay.next(free.max(at)).unwrap();
        free = free.max(at) + Duration::from_secs_f64(SERVICE_S);
        times[due.request as usize] = due.at.as_secs_f64();
        ends[due.request as usize] = (free.as_secs_f64() - 0.009, free.as_secs_f64());
        replay.completed(due.request, free);
    }
    let (_, records) = record(&times, &vec![(90, 10); 2_000], &ends);
    Sustain::new(&trace, &records)
}

#[test]
fn a_closed_loop_cannot_excuse_itself() {
    for load in [0.6, 0.85] {
        assert!(closed_loop(load).sustained, "{load}: {:?}", closed_loop(load));
    }
    for load in [1.15, 1.4] {
        assert!(!closed_loop(load).sustained, "{load}: {:?}", closed_loop(load));
    }
}

type Load = (Vec<f64>, Vec<(u32, u32)>);

/// Arrivals (seconds of the day) and lengths of a real trace; none where the shared folder is absent.
fn azure(kind: &str) -> Option<Load> {
    let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/traces/azure-2023");
    let path = format!("{shared}/AzureLLMInferenceTrace_{kind}.first2400s.csv");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: the real traces are not here");
        return None;
    };
    let row = |line: &str| {
        let cells: Vec<_> = line.split(',').collect();
        let clock =
            cells[0].split(' ').nth(1).unwrap().split(':').map(|s| s.parse::<f64>().unwrap());
        let tokens = |i: usize| cells[i].parse::<u32>().unwrap().max(1);
        (clock.fold(0.0, |acc, part| acc * 60.0 + part), (tokens(1), tokens(2)))
    };
    Some(text.lines().skip(1).map(row).unzip())
}

/// Bursts of tens of seconds (code) and a rate that rises (conv): loads of the whole trace, and of its first 3,000.
#[test]
fn real_arrivals() {
    let server = Server::Batch { seats: 256, fixed: 0.008, seat: 0.000_1, token: 0.000_05 };
    for (kind, highest) in [("conv", 0.9), ("code", 0.85)] {
        let Some((times, lengths)) = azure(kind) else { return };
        for n in [3_000, times.len()] {
            let (times, lengths) = (&times[..n], &lengths[..n]);
            let span = times[n - 1] - times[0];
            let judge = |load: f64| {
                let scale = server.least_time(lengths) / load / span;
                let times: Vec<_> = times.iter().map(|t| (t - times[0]) * scale).collect();
                let (trace, records) = record(&times, lengths, &server.serve(&times, lengths));
                Sustain::new(&trace, &records)
            };
            for (load, sustained) in [
                (0.5, true),
                (0.8, true),
                (highest, true),
                (1.1, false),
                (1.2, false),
                (2.0, false),
            ] {
                let s = judge(load);
                assert_eq!(s.sustained, sustained, "{kind} {n} at {load}: {s:?}");
            }
        }
    }
}
