//! The grammar of targets, word for word, and what a target means for one request.

use loadgen::{Error, Metric, Outcome, Percentile, Record, Slo, Statistic, Target};
use proptest::prelude::*;
use std::time::Duration;

fn refused(target: &str) -> String {
    target.parse::<Target>().unwrap_err().to_string()
}

fn classes() -> Vec<String> {
    ["chat", "code"].map(str::to_owned).to_vec()
}

#[test]
fn accepted() {
    let of = |text: &str| text.parse::<Target>().unwrap();
    let p99 = Statistic::Percentile(Percentile::P99);
    let plain = of("ttft=200ms");
    assert_eq!((plain.metric, plain.statistic, &plain.class), (Metric::Ttft, p99, &None));
    assert_eq!(plain.limit, Duration::from_millis(200));
    for (typed, canonical) in [
        ("ttft=200ms", "ttft:p99=200ms"),
        ("tpot:p90@chat=40ms", "tpot:p90@chat=40ms"),
        ("itl@a:b=1500us", "itl:p99@a:b=1500us"),
        ("e2e:mean=1.5s", "e2e:mean=1500ms"),
        ("e2e:p50=2min", "e2e:p50=120s"),
        ("itl:p99.9=.5ms", "itl:p99.9=500us"),
        ("ttft:p99.90=1s", "ttft:p99.9=1s"),
        ("ttft=33.3333ms", "ttft:p99=33333300ns"),
    ] {
        assert_eq!(of(typed).to_string(), canonical);
    }
}

#[test]
fn refused_with_one_clear_line() {
    for (typed, says) in [
        (
            "tfft=1s",
            r#"unknown metric "tfft" in target "tfft=1s": did you mean ttft? valid metrics are ttft, tpot, itl, e2e"#,
        ),
        (
            "ttft=200",
            r#""200" has no unit in target "ttft=200": is it 200 s or 200 ms? Write ttft=200s or ttft=200ms"#,
        ),
        ("ttft=-1ms", r#"target "ttft=-1ms" can never be met: a latency limit must be above zero"#),
        ("ttft=0ms", r#"target "ttft=0ms" can never be met: a latency limit must be above zero"#),
        ("ttft=0", r#"target "ttft=0" can never be met: a latency limit must be above zero"#),
        (
            "ttft=0.2ns",
            r#"target "ttft=0.2ns" can never be met: a latency limit must be above zero"#,
        ),
        (
            "ttft:p101=1s",
            r#""p101" is not a percentile in target "ttft:p101=1s"; write p50 to p99.9, or mean"#,
        ),
    ] {
        assert_eq!(refused(typed), says);
    }
    for typed in
        ["ttft:p49=1s", "ttft:p100=1s", "ttft:99=1s", "ttft:p=1s", "ttft:p99.=1s", "ttft:median=1s"]
    {
        assert!(refused(typed).contains("is not a percentile"), "{}", refused(typed));
    }
    for typed in ["ttft", "", "ttft@=1s"] {
        assert!(
            refused(typed).contains("is not METRIC[:pNN][@CLASS]=DURATION"),
            "{}",
            refused(typed)
        );
    }
    for typed in [
        "ttft=",
        "ttft=ms",
        "ttft=1.2.3s",
        "ttft=1e3ms",
        "ttft=1 s",
        "ttft=1d",
        "ttft=99999999999h",
        "ttft=inf",
    ] {
        assert!(refused(typed).contains("is not a duration"), "{}", refused(typed));
    }
}

#[test]
fn an_slo_as_a_whole() {
    let parse =
        |targets: &[&str], attainment| Slo::parse(targets, attainment).map_err(|e| e.to_string());
    assert_eq!(
        parse(&["ttft=1s", "tpot=1s", "ttft:p99=2s"], None),
        Err("ttft:p99 has two targets, 1s and 2s; keep one".to_owned())
    );
    assert!(parse(&["ttft=2s", "ttft:p50=1s", "ttft@chat=1s"], None).is_ok());
    assert!(parse(&["ttft=2s", "ttft:p50=1s"], Some("99%")).unwrap_err().contains("two targets"));
    assert!(parse(&["ttft:mean=2s"], Some("99%")).unwrap_err().contains("about a mean"));
    assert!(parse(&[], Some("99%")).unwrap_err().contains("an attainment of 99% needs"));
    for bad in ["99", "0%", "101%", "-1%", "x", "", "%", "0", "1.1", "NaN"] {
        let says = format!(
            "{bad:?} is not an attainment; write a percentage above 0% and up to 100%, such as 99%"
        );
        assert_eq!(parse(&["ttft=1s"], Some(bad)), Err(says));
    }
    for (typed, shown) in [("99%", "99%"), ("0.99", "99%"), ("99.95%", "99.95%"), ("1", "100%")] {
        let slo = parse(&["ttft=1s", "tpot=40ms"], Some(typed)).unwrap();
        assert_eq!(slo.to_string(), format!("ttft:p99=1s tpot:p99=40ms attainment={shown}"));
        let json = serde_json::to_string(&slo).unwrap();
        assert_eq!(serde_json::from_str::<Slo>(&json).unwrap(), slo);
    }
}

#[test]
fn classes_are_checked_against_the_trace() {
    let slo = Slo::parse(&["ttft@batch=1s"], None).unwrap();
    assert_eq!(
        slo.bind(&classes()).unwrap_err().to_string(),
        r#"unknown class "batch" in target ttft:p99@batch=1s; the workload's classes are chat, code"#
    );
    assert!(matches!(slo.bind(&[]), Err(Error::Class { .. })));
}

/// A completed request of class 0 with TTFT 100 ms, gaps of 10 ms but one of 30 ms, and 11 tokens.
fn request() -> Record {
    let ms = Duration::from_millis;
    let record = Record::due(0, ms(1_000), 5).answered(ms(1_100), ms(1_220), 11);
    Record { max_itl_ns: 30_000_000, ..record }
}

#[test]
fn one_request_meets() {
    let meets = |targets: &[&str], record: Record| {
        Slo::parse(targets, None).unwrap().bind(&classes()).unwrap().meets(&record)
    };
    for (target, met) in [
        ("ttft=100ms", true),
        ("ttft=99.999ms", false),
        ("tpot=12ms", true),
        ("tpot=11ms", false),
        ("itl=30ms", true),
        ("itl:p50=29ms", false),
        ("e2e=220ms", true),
        ("e2e:mean=219ms", false),
        ("ttft@code=1ms", true),
        ("ttft@chat=1ms", false),
    ] {
        assert_eq!(meets(&[target], request()), met, "{target}");
    }
    assert!(
        meets(&["ttft:p50=1ms", "ttft:p90=100ms"], request()),
        "p50 binds half of the requests, not each"
    );
    assert!(
        !meets(&["ttft@chat=1ms", "ttft:p90=100ms"], request()),
        "a class's target stands beside the general one"
    );
    assert!(
        meets(&["tpot=1ns", "itl=1ns"], Record { output: 1, ..request() }),
        "one token has neither"
    );
    for outcome in [Outcome::Rejected, Outcome::Failed, Outcome::Unfinished] {
        assert!(!meets(&[], Record { outcome, ..request() }));
    }
}

proptest! {
    #[test]
    fn display_round_trips(
        metric in prop::sample::select(&Metric::ALL[..]),
        thousandths in prop::option::of(50_000..=99_900u32),
        class in prop::option::of("[^@=]+"),
        ns in 1..u64::MAX / 4,
        scale in 0..4u32,
    ) {
        let statistic = thousandths.map_or(Statistic::Mean, |t| Statistic::Percentile(Percentile::new(t).unwrap()));
        // A double holds 15 digits exactly; finer targets do not exist.
        let limit = Duration::from_nanos((ns >> 12).max(1) / 1_000u64.pow(scale) * 1_000u64.pow(scale) + 1_000u64.pow(scale));
        let target = Target { metric, statistic, class, limit };
        prop_assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
    }

    #[test]
    fn no_text_panics(text in ".*", attainment in ".*") {
        let _ = Slo::parse(&[&text], Some(&attainment));
        let _ = Slo::parse(&[format!("ttft:{text}=1s"), format!("e2e={text}ms"), format!("itl=1{text}")], None);
        let _ = format!("ttft=1{text}").parse::<Target>();
    }
}

#[test]
fn several_targets_stand_between_commas_in_any_case() {
    let of = |typed: &[&str]| Slo::parse(typed, None).map(|slo| slo.to_string());
    let apart = of(&["ttft=200ms", "tpot:p50@a,b=40ms"]);
    assert!(apart.is_ok());
    assert_eq!(of(&["TTFT=200ms, Tpot:P50@a,b=40ms"]), apart);
    assert_eq!(of(&["ttft=200ms,"]), Err(Error::Grammar(String::new())));
}
