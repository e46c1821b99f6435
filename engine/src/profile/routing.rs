//! The cost of uneven routing: tables of experts are of tokens that are dealt evenly, and real routers prefer some
//! experts.
//!
//! Where few tokens come, fewer experts are read; where many come, the experts that most of them want take longest. The
//! published tables hold each layer under both kinds of routing, the uneven one with expert loads by a power law
//! (exponent 1.01): the factor between them, by load.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::format::Format;

/// Factors on the time of experts whose tokens choose at random, all experts being liked as well.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// The source of the figures.
    pub source: String,
    /// Knots of the load (choices per expert), rising.
    pub x: Vec<f64>,
    /// Factors at them by format, thousandths.
    pub per_mille: BTreeMap<String, Vec<u16>>,
}

impl Routing {
    /// The factor at `load` for weights in `format`, or in the format most like it; straight in the logarithm of the
    /// load.
    #[must_use]
    pub fn factor(&self, format: Format, native: bool, load: f64) -> f64 {
        let found = format.alike(native).find_map(|f| self.per_mille.get(f.name()));
        let Some(factors) = found else { return 1.0 };
        let at = |i: usize| f64::from(factors[i]) * 1e-3;
        let above = self.x.partition_point(|knot| *knot <= load);
        if above == 0 {
            return at(0);
        }
        if above == self.x.len() {
            return at(above - 1);
        }
        let (low, high) = (self.x[above - 1], self.x[above]);
        let share = (load / low).ln() / (high / low).ln();
        at(above - 1) + share * (at(above) - at(above - 1))
    }

    /// The fault in it, if there is one.
    pub(super) fn fault(&self) -> Option<String> {
        let positive = self.x.iter().all(|x| x.is_finite() && *x > 0.0);
        if self.x.is_empty() || !positive || !self.x.is_sorted_by(|a, b| a < b) {
            return Some("routing.x must have knots that rise and are positive".to_owned());
        }
        let broken = |factors: &Vec<u16>| factors.len() != self.x.len() || factors.contains(&0);
        let broken = self.per_mille.iter().find(|(_, factors)| broken(factors));
        broken.map(|(format, _)| {
            format!("routing.per_mille.{format} must have a positive factor for each knot")
        })
    }
}
