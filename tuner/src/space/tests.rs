//! The space enumerated.

use super::*;
use proptest::prelude::*;

fn scope(gpus: u32) -> Scope {
    Scope { gpus, fewer_gpus: false, shared_prefixes: true, allow_lossy_kv: false, experts: false }
}

#[test]
fn the_default_space_is_a_few_hundred_distinct_configurations() {
    let space = Space::new(scope(1));
    let found = space.enumerate();
    // 56 pairs of budget and seats less 3 with budget < seats, times static, continuous and two paged policies
    // with and without prefix cache.
    assert_eq!(found.configs.len(), 53 * 6);
    assert_eq!(found.refused.iter().map(|r| r.1).sum::<usize>(), 3 * 6);
    let keys: BTreeSet<_> = found.configs.iter().map(key).collect();
    assert_eq!(keys.len(), found.configs.len());
    assert_eq!(found, space.enumerate());
    let eight = Space::new(scope(8)).enumerate();
    assert!((300..2500).contains(&eight.configs.len()), "{}", eight.configs.len());
    assert!(eight.configs.iter().all(|c| c.gpus() <= 8));
    assert!(eight.configs.iter().any(|c| c.policy() == Policy::Disagg && c.tp == 2));
}

#[test]
fn the_grid_is_made_of_the_rows_that_say_so() {
    let of_grid = |k: &&Knob| matches!(k.tries, Tries::Grid(_) | Tries::Powers { .. });
    let rows: BTreeSet<&str> = KNOBS.iter().filter(of_grid).map(|k| k.name).collect();
    assert_eq!(GRID.iter().copied().collect::<BTreeSet<_>>(), rows);
    for knob in KNOBS {
        if let Tries::Grid(values) | Tries::Around(values) = knob.tries {
            values.iter().for_each(|value| Config::default().set(knob.name, value).unwrap());
        }
    }
}

#[test]
fn a_pin_that_does_nothing_anywhere_is_refused() {
    let refused = |pins: &[(&str, &str)]| {
        let mut space = Space::new(scope(2));
        pins.iter().for_each(|(knob, value)| space.pin(knob, value).unwrap());
        space.check().err().map(|e| e.to_string())
    };
    assert_eq!(
        refused(&[("policy", "continuous"), ("block-size", "32")]).unwrap(),
        "block-size 32 does nothing without the paged allocator: leave it at 16"
    );
    assert!(refused(&[("policy", "chunked"), ("mix", "on")]).is_some());
    assert!(refused(&[("replicas", "1"), ("router", "round-robin")]).is_some());
    // It does something in a part of the space, or is where it rests.
    assert_eq!(refused(&[("block-size", "32")]), None);
    assert_eq!(refused(&[("policy", "continuous"), ("block-size", "16")]), None);
    assert_eq!(refused(&[("policy", "static"), ("prefix-cache", "off")]), None);
}

#[test]
fn a_pin_is_kept_wherever_it_does_something() {
    let mut space = Space::new(scope(2));
    space.pin("policy", "disagg").unwrap();
    space.pin("prompt-kv", "chunk").unwrap();
    space.check().unwrap();
    let found = space.enumerate().configs;
    assert!(!found.is_empty());
    assert!(found.iter().all(|c| c.prompt_kv == engine::config::PromptKv::Chunk));
}

#[test]
fn the_queue_is_searched_only_on_request() {
    let lengths = |space: &Space| -> BTreeSet<u32> {
        space.enumerate().configs.iter().map(|c| c.max_queue).collect()
    };
    let mut space = Space::new(scope(1));
    assert_eq!(lengths(&space), BTreeSet::from([0]));
    assert!(space.neighbours(&Config::default()).iter().all(|(knob, _)| *knob != "max-queue"));
    space.search("max-queue", &["8", "64"]).unwrap();
    assert_eq!(lengths(&space), BTreeSet::from([8, 64]));
    space.pin("max-queue", "32").unwrap();
    assert_eq!(lengths(&space), BTreeSet::from([32]));
}

#[test]
fn a_pin_fixes_its_knob_even_against_the_policy() {
    let mut space = Space::new(scope(1));
    space.pin("prefix-cache", "off").unwrap();
    space.pin("max-seqs", "48").unwrap();
    let found = space.enumerate().configs;
    assert!(found.iter().all(|c| !c.prefix_cache && c.max_seqs == 48));
    assert_eq!(found.len(), 4 * 7);
    assert!(space.neighbours(&found[0]).iter().all(|(_, c)| c.max_seqs == 48));
    space.pin("policy", "chunked").unwrap();
    let found = space.enumerate().configs;
    assert!(found.iter().all(|c| c.policy() == Policy::Chunked && c.max_seqs == 48));
    assert!(space.pin("max-seqs", "0").is_err());
}

#[test]
fn neighbours_differ_in_one_knob() {
    let space = Space::new(scope(1));
    let c = Config::default();
    let near = space.neighbours(&c);
    let of = |name: &str| near.iter().filter(|(k, _)| *k == name).count();
    assert_eq!((of("max-seqs"), of("max-batch-tokens"), of("policy")), (2, 2, 3));
    assert_eq!((of("block-size"), of("kv-fraction"), of("mix"), of("prefix-cache")), (3, 2, 0, 1));
    assert!(near.iter().all(|(_, n)| key(n) != key(&c)));
}

proptest! {
    #[test]
    fn canonical_form_is_stable_and_keys_tell_configurations_apart(
        a in arbitrary(), b in arbitrary()
    ) {
        let (a, b) = (canonical(&a), canonical(&b));
        prop_assert!(canonical(&a) == a);
        prop_assert_eq!(key(&a) == key(&b), a == b);
    }
}

fn arbitrary() -> impl Strategy<Value = Config> {
    let typed = |k: &'static Knob| -> BoxedStrategy<(&'static str, String)> {
        let values: Vec<String> = match k.domain {
            engine::config::Domain::Choice(names) => {
                names.iter().map(|s| (*s).to_owned()).collect()
            }
            engine::config::Domain::Count { min, .. } => {
                vec![min.to_string(), (min + 3).to_string()]
            }
            engine::config::Domain::Fraction { min, .. } => {
                vec![min.to_string(), "0.31".into()]
            }
            engine::config::Domain::Switch => vec!["on".into(), "off".into()],
            engine::config::Domain::Time => vec!["0s".into(), "50ms".into()],
            engine::config::Domain::Lengths => vec!["auto".into(), "1.8/2.4".into()],
        };
        proptest::sample::select(values).prop_map(move |v| (k.name, v)).boxed()
    };
    KNOBS.iter().map(typed).collect::<Vec<_>>().prop_map(|typed| {
        let mut c = Config::default();
        typed.iter().for_each(|(k, v)| c.set(k, v).unwrap());
        c
    })
}

#[test]
fn ranks_share_a_model_with_experts_in_every_way_on_the_same_gpus() {
    let moves = |experts, pins: &[(&str, &str)], config: &Config| {
        let mut space = Space::new(Scope { experts, ..scope(8) });
        pins.iter().for_each(|(knob, value)| space.pin(knob, value).unwrap());
        let near = space.neighbours(config).into_iter();
        let of_ranks = near.filter(|(knob, _)| ["dp", "ep"].contains(knob));
        of_ranks.map(|(_, c)| (c.tp, c.dp, c.ep, c.gpus())).collect::<Vec<_>>()
    };
    let four = Config { tp: 4, ..Config::default() };
    assert_eq!(moves(false, &[], &four), []);
    assert_eq!(moves(true, &[], &four), [(4, 1, 4, 4), (2, 2, 4, 4), (1, 4, 4, 4)]);
    assert_eq!(moves(true, &[("tp", "4")], &four), [(4, 1, 4, 4)]);
    assert_eq!(moves(true, &[("ep", "1")], &four), []);
    assert_eq!(moves(true, &[], &Config::default()), []);
    let stages = Config { pp: 2, ..four };
    assert_eq!(moves(true, &[], &stages), [(4, 1, 4, 8)]);
}

#[test]
fn the_grid_splits_attention_by_sequence_where_there_are_experts() {
    let ranks = |experts, pins: &[(&str, &str)]| {
        let mut space = Space::new(Scope { experts, ..scope(8) });
        pins.iter().for_each(|(knob, value)| space.pin(knob, value).unwrap());
        let found = space.enumerate().configs;
        assert!(found.iter().all(|c| c.gpus() <= 8));
        let split = found.iter().filter(|c| c.dp > 1);
        assert!(split.clone().all(|c| c.scheduler.traits().mixes));
        let all: BTreeSet<_> = split.map(|c| (c.tp, c.dp, c.ep, c.replicas)).collect();
        all.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(ranks(true, &[]), [(1, 2, 2, 4), (1, 4, 4, 2), (1, 8, 8, 1)]);
    assert_eq!(ranks(false, &[]), []);
    assert_eq!(ranks(true, &[("ep", "1")]), []);
    assert_eq!(ranks(true, &[("policy", "disagg")]), []);
}

#[test]
fn a_named_engine_leaves_what_it_can_be_told() {
    use engine::DeviceProfile;
    use engine::EngineProfile;
    let scope = Scope {
        gpus: 1,
        fewer_gpus: false,
        shared_prefixes: true,
        allow_lossy_kv: true,
        experts: false,
    };
    let device = DeviceProfile::load("h100").unwrap();
    for name in ["vllm", "vllm@0", "sglang", "tensorrt-llm", "knee"] {
        let engine = std::sync::Arc::new(EngineProfile::load(name).unwrap());
        let space =
            Space::new(scope).from(engine.config(&device)).told_to(std::sync::Arc::clone(&engine));
        let configs = space.enumerate().configs;
        assert!(!configs.is_empty(), "{name}");
        let near = space.neighbours(&configs[0]).into_iter().map(|(_, config)| config);
        for config in configs.iter().cloned().chain(near) {
            let lacks = export::lacks(&engine, &config);
            assert!(lacks.is_empty(), "{name}: {lacks:?}");
            engine::deployment::check(&config).unwrap();
        }
        let ahead = engine.default_of("async-scheduling") == Some("on");
        assert!(configs.iter().any(|c| c.async_scheduling) == ahead, "{name}");
        let all = Space::new(scope).enumerate().configs.len();
        assert_eq!(name == "knee", configs.len() == all, "{name}: {} of {all}", configs.len());
    }
}
