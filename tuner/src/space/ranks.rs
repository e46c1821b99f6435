//! Other ways for the ranks of a replica to share a model with experts, on the same GPUs.

use engine::Config;

/// True where ranks of attention can meet: within one stage of one worker.
fn meet(config: &Config) -> bool {
    config.pp == 1 && !config.scheduler.traits().disaggregates
}

/// `config` with attention split by sequence over all of its ranks, and its experts shared out whole. Only of schedulers
/// that mix chunks of prompts with decodes, as the engines do that split so: with others a rank with a long prompt holds
/// up all, and they are tried around a good configuration alone ([`moves`]).
pub(super) fn by_sequence(config: &Config) -> Option<Config> {
    let ranks = config.tp;
    let split = || Config { tp: 1, dp: ranks, ep: ranks, ..config.clone() };
    (ranks > 1 && config.dp == 1 && config.scheduler.traits().mixes && meet(config)).then(split)
}

/// `config` with its experts shared out whole or by width (`ep`), and with its attention split by sequence instead of by
/// heads over some or all of its ranks (`dp`, which takes from `tp`). With the knob that says so.
pub(super) fn moves(config: &Config) -> Vec<(&'static str, Config)> {
    let ranks = config.tp * config.dp;
    if ranks == 1 {
        return Vec::new();
    }
    let ep = if config.ep == 1 { ranks } else { 1 };
    let mut found = vec![("ep", Config { ep, ..config.clone() })];
    if meet(config) {
        let even = |dp: &u32| ranks.is_multiple_of(*dp) && *dp != config.dp;
        let split = |dp| Config { tp: ranks / dp, dp, ep: ranks, ..config.clone() };
        let powers = (0..).map(|p| 1_u32 << p).take_while(|dp| *dp <= ranks).filter(even);
        found.extend(powers.map(|dp| ("dp", split(dp))));
    }
    found
}
