//! The cost of a mixture of experts, by tokens.
//!
//! Tables are of tokens that are spread evenly. Real tokens choose as if at random: few of them go through fewer experts
//! than as many choices, and less is read. And routers prefer some experts: a factor that was measured by load
//! ([`Routing`](crate::profile::Routing)).

use std::cell::Cell;

use crate::format::Format;
use crate::model::operators::Pool;
use crate::profile::{Basis, DeviceProfile, Experts, Line, Times};

/// The experts of one layer on one rank.
#[derive(Debug, Clone)]
pub(super) struct ExpertTimes {
    line: Line,
    knots: Vec<f64>,
    basis: Basis,
}

/// Loads (choices per expert) up to which the number of experts that are hit is followed, and steps of it.
const LOADS: u32 = 6;
const STEPS: u32 = 8;

impl ExpertTimes {
    /// Those of `pool` on `tp` ranks, of which `ep` share the experts and the others the width of each, with weights in
    /// `format`.
    pub(super) fn new(
        device: &DeviceProfile,
        pool: &Pool,
        (tp, ep): (u32, u32),
        format: Format,
    ) -> Self {
        let experts = Experts {
            hidden: pool.outer,
            inter: pool.inner.div_ceil((tp / ep).max(1)),
            held: pool.experts.div_ceil(ep),
            total: pool.experts,
            top_k: pool.top_k,
            gated: pool.gated,
        };
        let times = device.experts(experts, format);
        let followed = (1..=LOADS * STEPS)
            .map(|i| experts.tokens_per_load() * f64::from(i) / f64::from(STEPS));
        let native = device.peaks().computes(format);
        let uneven = |tokens: f64| {
            let load = tokens / experts.tokens_per_load();
            device.routing.as_ref().map_or(1.0, |law| law.factor(format, native, load))
        };
        let loads = device.routing.iter().flat_map(|law| &law.x);
        let turns = loads.map(|load| load * experts.tokens_per_load());
        let knots: Vec<f64> = times.knots().chain(followed).chain(turns).collect();
        let most = Cell::new(0.0_f64);
        let line = Line::new(knots.clone(), |tokens| {
            // More tokens never take less, where one knot of a table is rounded below another.
            let busiest = busiest(&experts, f64::from(ep), tokens);
            let time = at_random(&times, &experts, busiest) * uneven(busiest);
            most.set(most.get().max(time));
            most.get()
        });
        Self { line, knots, basis: times.basis().clone() }
    }

    /// The evidence for its times.
    pub(super) fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Seconds of `tokens` tokens.
    pub(super) fn at(&self, tokens: f64) -> f64 {
        self.line.at(tokens)
    }

    /// Tokens at which the slope changes.
    pub(super) fn knots(&self) -> impl Iterator<Item = f64> {
        self.knots.iter().copied()
    }
}

/// Tokens that would keep every one of `ranks` ranks as busy as the busiest of them is with `tokens` that choose at
/// random: choices on a rank vary as a Poisson count does, and the largest of several lies above the mean by
/// sqrt(2 mean ln ranks); a token gives a rank no more choices than it makes or the rank has experts.
fn busiest(experts: &Experts, ranks: f64, tokens: f64) -> f64 {
    let per_token = f64::from(experts.top_k) / ranks;
    let mean = tokens * per_token;
    let most = tokens * f64::from(experts.top_k.min(experts.held));
    (mean + (2.0 * mean * ranks.ln()).sqrt()).min(most) / per_token
}

/// Seconds of `tokens` tokens that choose at random: beyond one token's time, the share that is read.
fn at_random(times: &Times, experts: &Experts, tokens: f64) -> f64 {
    let one = times.at(1.0, 0.0);
    one + (times.at(tokens, 0.0) - one).max(0.0) * experts.share_at_random(tokens)
}
