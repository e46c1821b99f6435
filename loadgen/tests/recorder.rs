//! Recording by stretches against recording token by token, and both against a list of every token.

use loadgen::{Histogram, Outcome, Recorder, Recording};
use proptest::prelude::*;
use std::time::Duration;

const REQUESTS: u32 = 8;
const CLASSES: u16 = 3;

/// One stretch: which requests, a pause before it (µs), and its iterations' lengths (ns).
#[derive(Debug, Clone)]
struct Stretch {
    members: Vec<u32>,
    pause_us: u64,
    lengths_ns: Vec<u64>,
}

fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
    let length = prop_oneof![Just(20_000_000u64), 0..50_000_000u64];
    let one = (
        prop::sample::subsequence((0..REQUESTS).collect::<Vec<_>>(), 0..=REQUESTS as usize),
        prop_oneof![3 => Just(0u64), 1 => 0..100_000u64],
        prop::collection::vec(length, 0..6),
    );
    let one =
        one.prop_map(|(members, pause_us, lengths_ns)| Stretch { members, pause_us, lengths_ns });
    prop::collection::vec(one, 0..12)
}

fn arrived(classes: &[u16]) -> Recorder {
    let mut recorder = Recorder::new(classes.len(), CLASSES.into());
    for (request, &class) in (0..).zip(classes) {
        recorder.arrive(request, class, 10 + request, Duration::from_micros(request.into()));
    }
    recorder
}

/// Feeds the stretches; `split` cuts each into single tokens of single requests.
fn play(classes: &[u16], stretches: &[Stretch], split: bool) -> (Recording, Vec<Vec<Duration>>) {
    let mut recorder = arrived(classes);
    let mut tokens = vec![Vec::new(); classes.len()];
    let mut now = Duration::from_millis(1);
    for stretch in stretches {
        now += Duration::from_micros(stretch.pause_us);
        let start = now;
        let ends: Vec<_> = stretch
            .lengths_ns
            .iter()
            .map(|&ns| {
                now += Duration::from_nanos(ns);
                now
            })
            .collect();
        stretch.members.iter().for_each(|&m| tokens[m as usize].extend(&ends));
        if split {
            let mut before = start;
            for &end in &ends {
                stretch.members.iter().for_each(|&m| recorder.emit(&[m], before, &[end]));
                before = end;
            }
        } else {
            recorder.emit(&stretch.members, start, &ends);
        }
    }
    for request in 0..classes.len() as u32 {
        recorder.finish(request, now, Outcome::Completed);
    }
    (recorder.into_recording(), tokens)
}

proptest! {
    #[test]
    fn stretches_equal_tokens_equal_the_plain_list(
        classes in prop::collection::vec(0..CLASSES, REQUESTS as usize),
        stretches in stretches(),
    ) {
        let (by_stretch, tokens) = play(&classes, &stretches, false);
        let (by_token, _) = play(&classes, &stretches, true);
        prop_assert_eq!(&by_stretch, &by_token);

        let mut itl = vec![Histogram::new(); CLASSES.into()];
        for (record, tokens) in by_stretch.records.iter().zip(&tokens) {
            let gaps: Vec<_> = tokens.windows(2).map(|w| w[1] - w[0]).collect();
            gaps.iter().for_each(|&gap| itl[usize::from(record.class)].record_n(gap, 1));
            prop_assert_eq!(record.output as usize, tokens.len());
            prop_assert_eq!(record.max_itl(), gaps.iter().max().copied());
            if let (Some(&first), Some(&last)) = (tokens.first(), tokens.last()) {
                prop_assert_eq!((record.first_token, record.last_token), (Some(first), Some(last)));
                let sum: Duration = gaps.iter().sum();
                prop_assert_eq!(sum + record.ttft().unwrap(), record.e2e().unwrap());
            } else {
                prop_assert_eq!(record.ttft(), record.e2e());
            }
        }
        prop_assert_eq!(&by_stretch.itl, &itl);
        let all: u128 = by_stretch.records.iter().map(|r| (r.e2e().unwrap() - r.ttft().unwrap()).as_nanos()).sum();
        prop_assert_eq!(by_stretch.itl_of_all().sum().as_nanos(), all);
    }
}

#[test]
fn outcomes() {
    let ms = Duration::from_millis;
    let mut recorder = Recorder::new(5, 1);
    for request in [0, 1, 2, 4] {
        recorder.arrive(request, 0, 100, ms(10));
    }
    recorder.admit(0, ms(20), 64);
    recorder.emit(&[0], ms(20), &[ms(30)]);
    recorder.preempt(0);
    recorder.admit(0, ms(50), 96);
    recorder.emit(&[0], ms(50), &[ms(80), ms(90)]);
    recorder.finish(0, ms(91), Outcome::Completed);
    recorder.finish(1, ms(40), Outcome::Rejected);
    recorder.finish(4, ms(70), Outcome::Completed);
    assert_eq!(recorder.unfinished().collect::<Vec<_>>(), [2]);

    let records = recorder.into_recording().records;
    assert_eq!(
        records.iter().map(|r| r.request).collect::<Vec<_>>(),
        [0, 1, 2, 4],
        "3 never arrived"
    );
    let [preempted, rejected, unfinished, no_output] = records[..] else { panic!() };
    assert_eq!(
        (preempted.queued(), preempted.cached, preempted.preemptions),
        (Some(ms(10)), 64, 1)
    );
    assert_eq!(
        (preempted.output, preempted.max_itl()),
        (3, Some(ms(50))),
        "a gap spans the preemption"
    );
    assert_eq!((preempted.e2e(), preempted.tpot()), (Some(ms(80)), Some(ms(30))));
    assert_eq!(
        (rejected.outcome, rejected.ttft(), rejected.e2e()),
        (Outcome::Rejected, None, None)
    );
    assert_eq!(unfinished.outcome, Outcome::Unfinished);
    assert_eq!(
        (no_output.ttft(), no_output.e2e(), no_output.tpot()),
        (Some(ms(60)), Some(ms(60)), None)
    );
}
