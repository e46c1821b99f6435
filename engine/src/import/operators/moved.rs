//! Kernels that only move bytes: norms and activations, and the choice of tokens from logits.

use super::{Rows, Work};
use crate::import::rows::{distinct, octaves, sample};
use crate::import::tables::{Family, ImportError, Limits, Run};
use crate::profile::{moved_roof, no_metric};

impl Work<'_> {
    /// An operator that only moves bytes.
    pub(super) fn moved(
        &mut self,
        operator: &'static str,
        bytes: impl Fn(&Run) -> Option<f64>,
    ) -> Result<(), ImportError> {
        let Some(origin) = self.origin(operator, |run| bytes(run).is_some())? else {
            return Ok(());
        };
        let Limits { memory_bandwidth, cache_bytes, .. } = origin.part.limits;
        let cache = if operator == "elementwise" { cache_bytes } else { 0.0 };
        let roof = move |_: &[u32], start| moved_roof(start, memory_bandwidth, cache);
        let of_operator = |run: &Run| bytes(run).is_some();
        let rows = Rows::select(origin.part, of_operator, |row| {
            bytes(&row.run).map(|b| sample(&[1], b, 0.0, row.seconds))
        });
        let x = if origin.part.from.family == Family::Knee {
            distinct(&rows.samples)
        } else {
            octaves(rows.samples.iter().map(|(s, _)| s.x))
        };
        let layout = (vec![vec![1]], x, Vec::new(), no_metric as _, [0.0, 0.1]);
        self.table((operator, None), &origin, layout, &roof, rows)
    }
}
