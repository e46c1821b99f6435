//! What a mixture of experts costs, by tokens.
//!
//! Without a table of its own a mixture is priced by the matrix products of its experts side by side: as many experts
//! are read as the tokens choose, and each computes its share of them.

use crate::model::operators::Pool;
use crate::profile::{DeviceProfile, Times};

/// The experts of one layer on one rank.
#[derive(Debug, Clone)]
pub(super) struct ExpertTimes {
    experts: f64,
    top_k: f64,
    /// The products of all experts, by tokens of each.
    products: [Times; 2],
}

impl ExpertTimes {
    /// Those of `pool` shared over `tp` ranks; weights of `element_bytes`.
    pub(super) fn new(device: &DeviceProfile, pool: &Pool, tp: u32, element_bytes: f64) -> Self {
        let (experts, outer) = (f64::from(pool.experts), f64::from(pool.outer));
        let inner = f64::from(pool.inner) / f64::from(tp);
        let up = if pool.gated { 2.0 * inner } else { inner };
        Self {
            experts,
            top_k: f64::from(pool.top_k),
            products: [
                device.gemm(experts * up, outer, element_bytes),
                device.gemm(experts * outer, inner, element_bytes),
            ],
        }
    }

    /// Experts that `tokens` tokens go through, each choosing at random.
    fn hit(&self, tokens: f64) -> f64 {
        let missed = (1.0 - self.top_k / self.experts).powf(tokens);
        self.experts * (1.0 - missed)
    }

    /// Seconds of `tokens` tokens.
    pub(super) fn at(&self, tokens: f64) -> f64 {
        let hit = self.hit(tokens);
        if hit <= 0.0 {
            return 0.0;
        }
        let each = (tokens * self.top_k / hit).max(1.0);
        let share = hit / self.experts;
        self.products.iter().map(|product| share * product.at(each, 0.0)).sum()
    }

    /// Tokens at which the slope changes, or the number of experts hit does.
    pub(super) fn knots(&self) -> impl Iterator<Item = f64> {
        let busy = self.experts / self.top_k;
        let growing = (0..64).map(move |i| busy * f64::from(i) / 8.0);
        let each = self.products.iter().flat_map(Times::knots);
        growing.chain(each.map(move |x| x * busy))
    }
}
