//! Replay against a plain restatement: every request exactly once, at the time its trace says.

use loadgen::{Due, Error, Replay, ReplayOptions};
use proptest::prelude::*;
use std::time::Duration;
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn trace(requests: &[(Arrival, Option<u32>)], cap: Option<u32>) -> Trace {
    let request = |&(arrival, session): &(Arrival, Option<u32>)| TraceRequest {
        arrival,
        input: 10,
        output: 10,
        blocks: BlockSpan::default(),
        class: 0,
        session,
    };
    Trace {
        requests: requests.iter().map(request).collect(),
        max_concurrent_sessions: cap,
        classes: vec!["all".to_owned()],
        ..Trace::default()
    }
}

fn after(previous: u32, think: u64) -> Arrival {
    Arrival::After { previous, think: ms(think) }
}

/// Serves each request in its own time (`service`), all in parallel. Returns what was sent and the most sessions
/// that were open at once.
fn drive(replay: &mut Replay, trace: &Trace, service: &[Duration]) -> (Vec<Due>, usize) {
    let (mut sent, mut running): (Vec<Due>, Vec<(Duration, u32)>) = (vec![], vec![]);
    let mut left: std::collections::BTreeMap<u32, u32> = Default::default();
    trace.requests.iter().filter_map(|r| r.session).for_each(|s| *left.entry(s).or_default() += 1);
    let mut open = std::collections::BTreeSet::new();
    let mut most = 0;
    loop {
        let ending = running.iter().map(|r| r.0).min();
        let Some(now) = [replay.peek(), ending].into_iter().flatten().min() else { break };
        running.sort_unstable();
        while running.first().is_some_and(|r| r.0 <= now) {
            let (_, request) = running.remove(0);
            if let Some(session) = trace.requests[request as usize].session {
                let left = left.get_mut(&session).unwrap();
                *left -= 1;
                if *left == 0 {
                    open.remove(&session);
                }
            }
            replay.completed(request, now);
        }
        while let Some(due) = replay.next(now) {
            assert_eq!(due.at, now, "virtual time stops at every due time");
            open.extend(trace.requests[due.request as usize].session);
            running.push((now + service[due.request as usize], due.request));
            sent.push(due);
        }
        most = most.max(open.len());
    }
    (sent, most)
}

/// Sessions of up to 5 requests: the first open-loop, the others open-loop or waiting for any earlier one of theirs.
fn sessions() -> impl Strategy<Value = Vec<(Arrival, Option<u32>)>> {
    let turn = (0..400u64, prop::option::of((any::<prop::sample::Index>(), 0..200u64)));
    prop::collection::vec((0..500u64, prop::collection::vec(turn, 0..4)), 1..8).prop_map(
        |sessions| {
            let mut requests: Vec<(Arrival, Option<u32>)> = vec![];
            for (session, (start, turns)) in (0..).zip(sessions) {
                let first = requests.len();
                requests.push((Arrival::At(ms(start)), Some(session * 17)));
                for (later, waits) in turns {
                    let arrival = waits.map_or(Arrival::At(ms(start + later)), |(which, think)| {
                        after((first + which.index(requests.len() - first)) as u32, think)
                    });
                    requests.push((arrival, Some(session * 17)));
                }
            }
            requests
        },
    )
}

proptest! {
    #[test]
    fn each_request_once_at_its_time(
        requests in sessions(),
        service in prop::collection::vec(1..300u64, 40),
        scale in prop_oneof![Just(1.0), 0.1..10.0f64, Just(f64::INFINITY)],
        cap in prop::option::of(1..4u32),
        lift_session_cap: bool,
    ) {
        let trace = trace(&requests, cap);
        let service: Vec<_> = service.into_iter().map(ms).collect();
        let mut replay = Replay::new(&trace, scale, ReplayOptions { lift_session_cap }).unwrap();
        let (sent, most) = drive(&mut replay, &trace, &service);
        prop_assert!(replay.is_done() && replay.peek().is_none());
        prop_assert!(sent.windows(2).all(|w| w[0].at <= w[1].at));
        let mut at = vec![None; requests.len()];
        for due in &sent {
            prop_assert_eq!(at[due.request as usize].replace(due.at), None, "sent twice");
        }
        let capped = cap.filter(|_| !lift_session_cap);
        if let Some(cap) = capped {
            prop_assert!(most <= cap as usize);
        }
        for (i, &(arrival, _)) in requests.iter().enumerate() {
            let at = at[i].expect("every request is sent");
            match arrival {
                Arrival::At(t) => {
                    let scaled = Duration::from_nanos((t.as_nanos() as f64 / scale).round() as u64);
                    prop_assert!(at == scaled || (capped.is_some() && at > scaled));
                }
                Arrival::After { previous, think } => {
                    let p = previous as usize;
                    prop_assert_eq!(at, sent.iter().find(|d| d.request == previous).unwrap().at + service[p] + think);
                }
            }
        }
    }
}

#[test]
fn a_seat_goes_to_the_first_in_line() {
    let t = trace(
        &[
            (Arrival::At(ms(0)), Some(7)),
            (after(0, 50), Some(7)),
            (Arrival::At(ms(10)), Some(8)),
            (Arrival::At(ms(20)), Some(9)),
            (Arrival::At(ms(30)), None),
            (Arrival::At(ms(40)), Some(8)),
        ],
        Some(1),
    );
    let due = |request, at| Due { request, at: ms(at) };
    let service = vec![ms(100); 6];
    let run = |lift_session_cap| {
        let mut replay = Replay::new(&t, 1.0, ReplayOptions { lift_session_cap }).unwrap();
        drive(&mut replay, &t, &service).0
    };
    // Session 7 holds the seat to 250 ms, 8 (both its requests) to 350 ms; what has no session needs no seat.
    assert_eq!(
        run(false),
        [due(0, 0), due(4, 30), due(1, 150), due(2, 250), due(5, 250), due(3, 350)]
    );
    assert_eq!(run(true), [due(0, 0), due(2, 10), due(3, 20), due(4, 30), due(5, 40), due(1, 150)]);
}

#[test]
fn a_late_client_still_learns_the_intended_time() {
    let t = trace(&[(Arrival::At(ms(10)), None), (Arrival::At(ms(20)), None)], None);
    let mut replay = Replay::new(&t, 1.0, ReplayOptions::default()).unwrap();
    assert_eq!((replay.peek(), replay.next(ms(9))), (Some(ms(10)), None));
    assert_eq!(replay.next(ms(500)), Some(Due { at: ms(10), request: 0 }));
    assert!(!replay.is_done());
    assert_eq!(replay.next(ms(500)), Some(Due { at: ms(20), request: 1 }));
    assert!(replay.is_done());
}

#[test]
fn refused() {
    let t = trace(&[(after(0, 1), None)], None);
    let new = |scale| Replay::new(&t, scale, ReplayOptions::default()).map(|_| ());
    for scale in [0.0, -1.0, f64::NAN] {
        assert!(matches!(new(scale), Err(Error::RateScale(_))));
    }
    assert_eq!(new(1.0), Err(Error::Order { request: 0, previous: 0 }));
}
