//! The finalists of a decision: the configurations that a simulation recommends to the real engine.

use engine::Config;

use crate::result::{Neighbour, TuneResult, config_of};

/// The factor by which one configuration's prediction may be off against another's.
pub(crate) const SLACK: f64 = 1.15;

/// Neighbours of the winner that are finalists, at most, and what they must be expected to carry of its capacity. A knob
/// that does nothing makes no finalist: to measure the winner again under another name finds only noise.
const NEIGHBOURS: usize = 3;
const NEAR: f64 = 0.97;

/// The best of each policy and the winner's best neighbours, each with its predicted capacity, requests/s. Policies differ in kind, and it is kinds that a prediction
/// may be wrong about; neighbours differ by what a machine's noise may hide.
pub(super) fn finalists(screened: &TuneResult) -> Vec<(Config, f64)> {
    let Some(best) = &screened.best else { return Vec::new() };
    let policies = screened.baselines.iter().filter_map(|b| b.best.as_ref());
    let policies = std::iter::once(best).chain(policies);
    let policies = policies.map(|o| (o.config.clone(), o.capacity_rps));
    let mut near: Vec<&Neighbour> = (screened.sensitivity.iter())
        .filter(|n| !n.idle && n.capacity_rps > NEAR * best.capacity_rps)
        .collect();
    near.sort_by(|a, b| b.capacity_rps.total_cmp(&a.capacity_rps));
    let changed = |n: &Neighbour| {
        let mut config = best.config.clone();
        config.insert(n.knob.clone(), n.to.clone());
        config
    };
    // A knob may do nothing because the configuration stays the same.
    let winner = config_of(&best.config).ok();
    let idle = screened.sensitivity.iter().filter(|n| n.idle);
    let idle = idle.filter_map(|n| config_of(&changed(n)).ok());
    let idle: Vec<_> = idle.filter(|same| winner.as_ref() != Some(same)).collect();
    let near = near.into_iter().take(NEIGHBOURS).map(|n| (changed(n), n.capacity_rps));
    let mut finalists: Vec<(Config, f64)> = Vec::new();
    for (knobs, predicted_rps) in policies.chain(near) {
        let Ok(config) = config_of(&knobs) else { continue };
        if finalists.iter().all(|(known, _)| *known != config) && !idle.contains(&config) {
            finalists.push((config, predicted_rps));
        }
    }
    finalists
}
