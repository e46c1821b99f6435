//! The descriptions of engines, and the effect of their times.

use proptest::prelude::*;

use super::*;
use crate::config::{Config, KNOBS, Knob, Policy};
use crate::profile::DeviceProfile;

fn load(text: &str) -> EngineProfile {
    EngineProfile::load(text).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(text: &str) -> String {
    EngineProfile::load(text).unwrap_err().to_string()
}

#[test]
fn every_engine_that_ships_can_be_used_at_every_version() {
    let device = DeviceProfile::load("h100").unwrap();
    for Listed { engine, versions } in EngineProfile::listed() {
        assert_eq!(Some(&engine), versions.last());
        for version in versions {
            let config = version.config(&device);
            assert_eq!(config.policy(), version.policy, "{}", version.label());
            crate::deployment::check(&config).unwrap();
            let host = version.host_time(&device, &config);
            assert!(host.shown[0] > 0.0 && !version.outside.front_end.is_nothing());
            assert!(!version.sources.is_empty());
        }
    }
}

#[test]
fn a_version_inherits_and_says_whose_times_it_takes() {
    let times = |text: &str| load(text).times_of;
    assert_eq!(times("vllm@0.15"), None);
    assert_eq!(times("vllm@0.15.1"), None, "a release of what was measured");
    assert_eq!(times("vllm@0.16").as_deref(), Some("vllm@0.15"));
    assert_eq!(times("vllm@0.13.2").as_deref(), Some("vllm@0.11"));
    assert_eq!(times("vllm@0.14").as_deref(), Some("vllm@0.15"), "it schedules as that does");
    assert_eq!(times("sglang").as_deref(), Some("vllm@0.15"));
    assert_eq!(load("vllm@0.14").outside, load("vllm@0.15").outside);
    assert_eq!(load("vllm@0.12").outside, load("vllm@0.11").outside);
    assert_eq!(load("vllm@0.99").outside, load("vllm").outside);
    assert!(load("vllm").note().unwrap().contains("was not measured"));
    assert_eq!(load("vllm@0.15").note(), None);
}

#[test]
fn kernels_are_launched_as_the_version_does() {
    let launch = |text: &str| load(text).outside.launch;
    assert_eq!(launch("vllm@0"), Launch::default(), "not measured");
    assert_eq!(launch("vllm@0.15"), launch("vllm@0.11"));
    assert!(launch("vllm").kernel_us > 0.0 && launch("vllm").pieces);
    assert_eq!(EngineProfile::bare().outside.launch, Launch::default());
    let twice = load("vllm").outside.with_host_times(2.0).launch;
    assert_eq!(twice.kernel_us, 2.0 * launch("vllm").kernel_us);
    let mut broken = load("vllm").outside;
    broken.launch.kernel_us = -1.0;
    assert!(broken.fault().unwrap().contains("launch.kernel_us"));
}

#[test]
fn defaults_are_those_of_the_version_and_the_device() {
    let on =
        |engine: &str, device: &str| load(engine).config(&DeviceProfile::load(device).unwrap());
    let seats = |c: &Config| (c.max_seqs, c.max_batch_tokens);
    assert_eq!(seats(&on("vllm@0.11", "h100")), (1024, 8192));
    assert_eq!(seats(&on("vllm@0.11", "a100")), (256, 2048), "left out by name");
    assert_eq!(seats(&on("vllm@0.11", "rtx4090")), (256, 2048));
    assert_eq!(seats(&on("vllm@0", "h100")), (256, 2048));
    assert_eq!(seats(&on("vllm@0.32", "b200")), (1024, 16_384));
    assert_eq!(seats(&on("vllm@0.32", "h100")), (1024, 8192));
    assert_eq!(on("vllm@0", "h100").policy(), Policy::Paged);
    assert!(!on("vllm@0", "h100").prefix_cache && on("vllm@0.8", "h100").prefix_cache);
    assert!(!on("vllm@0.13", "h100").async_scheduling && on("vllm@0.14", "h100").async_scheduling);
}

#[test]
fn mistakes_are_named() {
    assert_eq!(
        refused("vlm"),
        "unknown engine `vlm`: did you mean vllm? expected vllm, sglang, tensorrt-llm, knee, with or without @VERSION, or \
         the path of a .toml file"
    );
    assert!(refused("vllm@newest").contains("`newest` is no version: expected numbers"));
    assert!(refused("sglang@0.1").contains("known from version 0.5 on"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.toml");
    let of = |text: &str| {
        std::fs::write(&path, text).unwrap();
        EngineProfile::load(path.to_str().unwrap())
    };
    let head = "like = \"vllm@0.15\"\nname = \"here\"\n";
    let front = "[front_end]\nrequest_ms = 9.0\ntoken_us = 1.5\nspread = 0.0\nsource = \"us\"\n";
    let own = of(&format!("{head}{front}")).unwrap();
    assert_eq!((own.label().as_str(), own.name.as_str()), ("here", "vllm"));
    assert_eq!(own.outside.front_end.time(0, 1000).as_micros(), 10_500);
    assert_eq!(own.outside.host, load("vllm@0.15").outside.host);
    let say = |text: &str| of(text).unwrap_err().to_string();
    assert!(say("name = \"x\"").contains("like = "));
    assert!(say(&format!("{head}nonsense = 1\n")).contains("own.toml:3: not an engine"));
    assert!(say(&format!("{head}{}", front.replace("9.0", "-1.0"))).contains("request_ms"));
    assert!(say(&format!("version = \"1\"\n{head}")).contains("are those of like"));
    let knob = format!("{head}[defaults]\nmax-seqs = \"0\"\n");
    assert!(say(&knob).contains("max-seqs = `0`"));
}

#[test]
fn every_default_is_what_its_knob_prints() {
    // Else "at its default" would be missed.
    for name in EngineProfile::names() {
        let engine = EngineProfile::newest(name);
        let mut config = Config::default();
        for knob in KNOBS {
            if let Some(value) = engine.default_of(knob.name) {
                config.set(knob.name, value).unwrap();
                assert_eq!(config.value(Knob::named(knob.name).unwrap()), value, "{name}");
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_hidden_never_costs_more_than_the_sum(
        (step, seq, part) in (0.0..2e3_f64, 0.0..50.0_f64, 0.0..=1.0_f64), gpu in 0.0..1e8_f64, seqs in 0u32..2000,
    ) {
        let host = |f: f64| Host {
            ranks: vec![Ranked { tp: 1, step_us: step * f, seq_us: seq * f }],
            source: String::new(),
        };
        let outside = Outside { host: host(1.0), unhidden: host(part), ..Outside::default() };
        let time = |ahead| outside.host_time(1, ahead).around(gpu, f64::from(seqs));
        let all = (step + seq * f64::from(seqs)) * 1e3;
        prop_assert!((time(false) - gpu - all).abs() < 1e-3);
        prop_assert!(time(true) <= time(false) + 1e-3);
        prop_assert!((time(true) - (gpu + part * all).max(all)).abs() < 1e-3, "the longer of both");
    }

    #[test]
    fn front_ends_draw_the_same_for_the_same_request(index: u32, input in 0u32..100_000) {
        let front_end = load("vllm@0.15").outside.front_end;
        prop_assert_eq!(front_end.time(index, input), front_end.time(index, input));
    }
}

#[test]
fn front_ends_have_the_median_and_spread_that_they_say() {
    let front_end = FrontEnd { request_ms: 5.0, token_us: 2.0, spread: 0.4, source: String::new() };
    let mut times: Vec<f64> =
        (0..10_000).map(|i| front_end.time(i, 500).as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[(share * 1e4) as usize];
    assert!((at(0.5) / 6.0 - 1.0).abs() < 0.02, "{}", at(0.5));
    let spread = (at(0.8413) / at(0.1587)).ln() / 2.0;
    assert!((spread - 0.4).abs() < 0.02, "{spread}");
}
