//! Summaries against plain sorting over all requests, the lost ones infinitely late.

use loadgen::{Histogram, Latency, Metric, Outcome, Record, Recording, Slo, Summary};
use proptest::prelude::*;
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn classes() -> Vec<String> {
    ["chat", "code"].map(str::to_owned).to_vec()
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let lost = [Outcome::Rejected, Outcome::Failed, Outcome::Unfinished];
    prop_oneof![9 => Just(Outcome::Completed), 1 => prop::sample::select(lost.to_vec())]
}

/// A request with equal gaps, so that its ITL are known from its record.
fn record() -> impl Strategy<Value = Record> {
    (0..2u16, 0..10_000u64, 1..2_000u64, 0..30u32, 1..100u64, outcome()).prop_map(
        |(class, at, ttft, output, gap, outcome)| {
            let gaps = u64::from(output.saturating_sub(1));
            let some = outcome != Outcome::Rejected;
            let max_itl_ns = if gaps > 0 { gap * 1_000_000 } else { 0 };
            let due = Record::due(0, ms(at), 10);
            let due = Record { max_itl_ns, cached: 1, preemptions: 2, class, ..due };
            let last = ms(at + ttft + gaps * gap);
            let seen = if some { due.answered(ms(at + ttft), last, output) } else { due };
            Record { outcome, ..seen }
        },
    )
}

fn recording(mut records: Vec<Record>) -> Recording {
    let mut itl = vec![Histogram::new(), Histogram::new()];
    for (i, r) in (0..).zip(&mut records) {
        r.request = i;
        itl[usize::from(r.class)]
            .record_n(Duration::from_nanos(r.max_itl_ns), r.output.saturating_sub(1).into());
    }
    Recording { records, itl }
}

/// Nearest rank among `values` (None = infinite), the slow and obvious way.
fn nearest_rank(mut values: Vec<Option<Duration>>, per_mille: u64) -> Latency {
    values.sort_by_key(|v| v.map_or(Duration::MAX, |v| v));
    let rank = (values.len() as u64 * per_mille).div_ceil(1_000);
    match rank.checked_sub(1).map(|i| values[i as usize]) {
        None => Latency::Undefined,
        Some(None) => Latency::Infinite,
        Some(Some(time)) => Latency::Finite(time),
    }
}

/// Every latency that counts for a metric: of completed requests where defined, infinite for each lost one.
fn offered(records: &[Record], metric: Metric) -> Vec<Option<Duration>> {
    let counts = |r: &&Record| !r.completed() || metric.of(r).is_some();
    records.iter().filter(counts).map(|r| metric.of(r).filter(|_| r.completed())).collect()
}

/// Targets of every kind, and an attainment or none.
const SLOS: &[(&[&str], Option<&str>)] = &[
    (&["ttft:p90=1500ms"], None),
    (&["ttft:p50=1s", "ttft:p90=1500ms", "tpot:p97.5=60ms"], None),
    (&["ttft:p90@code=900ms", "e2e:p50=5s"], None),
    (&["ttft:p50@code=900ms"], None),
    (&["itl:p50=60ms", "e2e:p90=8s"], None),
    (&["ttft:mean=1s"], None),
    (&[], None),
    (&["ttft=1500ms", "itl=70ms", "tpot@chat=60ms"], Some("60%")),
];

proptest! {
    #[test]
    fn percentiles_are_over_all_requests_offered(records in prop::collection::vec(record(), 0..120)) {
        let slo = Slo::parse(&["ttft:p90@code=900ms", "tpot:p97.5=40ms", "e2e:p50=1s"], None).unwrap();
        let run = recording(records);
        let summary = Summary::new(&run, &slo.bind(&classes()).unwrap());
        for metric in [Metric::Ttft, Metric::Tpot, Metric::E2e] {
            let values = offered(&run.records, metric);
            let stats = summary.stats(metric);
            for (got, per_mille) in
                [(stats.p50, 500), (stats.p90, 900), (stats.p95, 950), (stats.p99, 990), (stats.p999, 999), (stats.max, 1000)]
            {
                prop_assert_eq!(got, nearest_rank(values.clone(), per_mille), "{:?} {}", metric, per_mille);
            }
            let finite: Vec<_> = values.iter().flatten().collect();
            let mean = finite.iter().map(|v| v.as_nanos()).sum::<u128>().checked_div(finite.len() as u128);
            prop_assert_eq!(stats.mean.finite().map(|m| m.as_nanos()), mean);
        }
        let code: Vec<_> = run.records.iter().copied().filter(|r| r.class == 1).collect();
        let expected = [
            nearest_rank(offered(&code, Metric::Ttft), 900),
            nearest_rank(offered(&run.records, Metric::Tpot), 975),
            nearest_rank(offered(&run.records, Metric::E2e), 500),
        ];
        let mut all = true;
        for ((judged, expected), limit) in summary.verdict.targets.iter().zip(expected).zip([900, 40, 1_000]) {
            prop_assert_eq!(judged.value, expected);
            prop_assert_eq!(judged.met, expected <= Latency::Finite(ms(limit)));
            all &= judged.met;
        }
        prop_assert_eq!(summary.verdict.met, all);
        prop_assert_eq!(summary.completed + summary.rejected + summary.failed + summary.unfinished, summary.requests);
        let json = serde_json::to_string(&summary).unwrap();
        prop_assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), summary);
    }

    /// A broken SLO stays broken with any number of requests yet to come, also of classes without
    /// targets.
    #[test]
    fn a_broken_slo_stays_broken(
        records in prop::collection::vec(record(), 1..120),
        of in 0..120usize,
        (targets, attainment) in prop::sample::select(SLOS),
    ) {
        let slo = Slo::parse(targets, attainment).unwrap().bind(&classes()).unwrap();
        let run = recording(records);
        let (seen, rest) = run.records.split_at(of.min(run.records.len()));
        let missed = seen.iter().filter(|r| !slo.meets(r)).count() as u64;
        if missed > slo.allowance(run.records.len() as u64) {
            prop_assert!(!Summary::new(&run, &slo).verdict.met, "{} are to come", rest.len());
        }
    }

    /// Under an attainment a target's value is within its limit exactly when enough requests meet that target,
    /// and the verdict counts requests that meet all of them.
    #[test]
    fn attainment_counts_requests(records in prop::collection::vec(record(), 1..120), percent in 1..=100usize) {
        let typed = ["ttft=900ms", "itl=70ms", "tpot@chat=60ms"];
        let share = format!("{percent}%");
        let classes = classes();
        let slo = Slo::parse(&typed, Some(&share)).unwrap().bind(&classes).unwrap();
        let run = recording(records);
        let summary = Summary::new(&run, &slo);
        let n = run.records.len();
        let good = run.records.iter().filter(|r| slo.meets(r)).count();
        prop_assert_eq!(summary.good as usize, good);
        prop_assert_eq!(summary.verdict.met, good * 100 >= n * percent);
        for (target, judged) in typed.iter().zip(&summary.verdict.targets) {
            let alone = Slo::parse(&[target], None).unwrap().bind(&classes).unwrap();
            let concerned: Vec<_> = run
                .records
                .iter()
                .filter(|r| judged.target.class.is_none() || r.class == 0)
                .filter(|r| !r.completed() || judged.target.metric.of(r).is_some())
                .collect();
            let met = concerned.iter().filter(|r| alone.meets(r)).count();
            prop_assert_eq!(judged.met, met * 100 >= concerned.len() * percent, "{} {}", target, judged.value);
        }
    }
}

/// A completed request: arrives, first token after 100 ms, then gaps of 10 ms.
fn plain(at: u64, output: u32) -> Record {
    let last = at + 100 + 10 * u64::from(output - 1);
    let record = Record::due(0, ms(at), 50).answered(ms(at + 100), ms(last), output);
    let admitted = Some(ms(at));
    Record { admitted, max_itl_ns: 10_000_000, cached: 16, preemptions: 1, ..record }
}

#[test]
fn losing_requests_is_not_rewarded() {
    let slo =
        Slo::parse(&["ttft=1s", "tpot=1s", "itl=1s", "e2e=9s", "ttft:mean=1s", "itl:p90=1s"], None)
            .unwrap();
    let slo = slo.bind(&classes()).unwrap();
    let lose = |lost: usize| {
        let mut records = vec![plain(0, 11); 200];
        records[..lost].iter_mut().for_each(|r| {
            (r.outcome, r.first_token, r.last_token, r.output) = (Outcome::Rejected, None, None, 0);
        });
        Summary::new(&recording(records), &slo)
    };
    let met = |s: &Summary| s.verdict.targets.iter().map(|t| t.met).collect::<Vec<_>>();
    assert_eq!(met(&lose(0)), [true; 6]);
    let two = lose(2);
    assert_eq!(
        met(&two),
        [true, true, true, true, false, true],
        "1 % lost is just allowed by p99, never by a mean"
    );
    let three = lose(3);
    assert_eq!(met(&three), [false, false, false, false, false, true]);
    assert_eq!(
        (
            three.stats(Metric::Ttft).p99,
            three.stats(Metric::Itl).p99,
            three.stats(Metric::Itl).p50.millis().map(f64::round)
        ),
        (Latency::Infinite, Latency::Infinite, Some(10.0))
    );
    assert_eq!(
        (three.verdict.targets[0].margin, three.stats(Metric::Ttft).mean),
        (None, Latency::Finite(ms(100)))
    );
    assert_eq!(lose(200).stats(Metric::Itl).p50, Latency::Infinite);
}

#[test]
fn rates_and_flat_keys() {
    // Arrivals over 9 s; the last completes at 9.2 s, after the last arrival.
    let records: Vec<_> = (0..10).map(|i| plain(i * 1_000, 11)).collect();
    let slo = Slo::parse(&["ttft=200ms"], None).unwrap().bind(&classes()).unwrap();
    let s = Summary::new(&recording(records), &slo);
    assert_eq!((s.duration_s, s.good, s.verdict.targets[0].margin), (9.2, 10, Some(0.5)));
    assert_eq!((s.request_throughput_rps(), s.output_tokens_per_s()), (10.0 / 9.2, 110.0 / 9.2));
    let window = s.offered.unwrap();
    assert_eq!((window.duration_s, window.request_rate_rps), (9.0, 1.0));
    assert_eq!((window.request_throughput_rps, window.output_tokens_per_s), (1.0, 11.0));

    let flat = s.flat();
    for (key, value) in [
        ("requests", 10.0),
        ("completed", 10.0),
        ("duration_s", 9.2),
        ("goodput_rps", 10.0 / 9.2),
        ("attainment", 1.0),
        ("mean_ttft_ms", 100.0),
        ("p99_tpot_ms", 10.0),
        ("p50_e2e_ms", 200.0),
        ("mean_itl_ms", 10.0),
        ("preemptions", 10.0),
        ("cached_tokens", 160.0),
    ] {
        assert_eq!(flat[key].as_f64(), Some(value), "{key}");
    }
    assert!((flat["p90_itl_ms"].as_f64().unwrap() / 10.0 - 1.0).abs() < 1e-3);
    for metric in ["ttft", "tpot", "itl", "e2e"] {
        for statistic in ["mean", "p50", "p90", "p99"] {
            assert!(flat[&format!("{statistic}_{metric}_ms")].is_f64());
        }
    }
}

#[test]
fn nothing_at_all_is_not_an_error() {
    let slo = Slo::default().bind(&classes()).unwrap();
    let s = Summary::new(&Recording { records: vec![], itl: vec![] }, &slo);
    assert_eq!((s.requests, s.request_throughput_rps(), s.attainment()), (0, 0.0, None));
    assert_eq!(
        (s.stats(Metric::Ttft).p99, s.stats(Metric::Itl).mean, s.offered),
        (Latency::Undefined, Latency::Undefined, None)
    );
    // One request, one token: no TPOT, no ITL, no window of arrivals.
    let one = Summary::new(&recording(vec![Record { max_itl_ns: 0, ..plain(5, 1) }]), &slo);
    assert_eq!(
        (one.duration_s, one.stats(Metric::Ttft).p99, one.stats(Metric::Tpot).p50),
        (0.1, Latency::Finite(ms(100)), Latency::Undefined)
    );
    assert!(one.flat()["p99_tpot_ms"].is_null() && one.offered.is_none() && one.verdict.met);
}
