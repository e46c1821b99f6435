//! Gated delta nets, of prompts and of decodes.

use super::{Origin, Rows, Work};
use crate::import::rows::{octaves, sample, shapes_of};
use crate::import::tables::{ImportError, Row, Run};
use crate::profile::operators::SECONDS;
use crate::profile::operators::delta::delta_metric;
use crate::profile::{Metric, Roof};

/// Tokens of prompts in a batch; beyond them no engine goes.
const MOST_TOKENS: f64 = 65_536.0;

impl Work<'_> {
    pub(super) fn delta(&mut self) -> Result<(), ImportError> {
        for (kind, decodes) in [("delta_prefill", false), ("delta_decode", true)] {
            let has = |run: &Run| matches!(run, Run::Delta { decode, .. } if *decode == decodes);
            if let Some(origin) = self.own(kind, has) {
                self.delta_of(&origin, kind, decodes)?;
            }
        }
        Ok(())
    }

    fn delta_of(
        &mut self,
        origin: &Origin<'_>,
        kind: &str,
        decodes: bool,
    ) -> Result<(), ImportError> {
        let peaks = origin.part.limits.peaks();
        let has = |run: &Run| matches!(run, Run::Delta { decode, .. } if *decode == decodes);
        let wanted = |row: &Row| match row.run {
            Run::Delta { delta, seqs, tokens, .. } if seqs * tokens <= MOST_TOKENS => {
                let roof = delta.roofline(&peaks, seqs * tokens, seqs);
                Some(sample(&delta.shape(), 1e6 * roof, seqs, row.seconds))
            }
            _ => None,
        };
        let rows = Rows::select(origin.part, has, wanted);
        let roof = |_: &[u32], start: f64| Roof { start, ..SECONDS };
        let x = octaves(rows.samples.iter().map(|(s, _)| s.x));
        let y = if decodes {
            Vec::new()
        } else {
            octaves(rows.samples.iter().map(|(s, _)| s.y)).into_iter().step_by(2).collect()
        };
        let layout = (shapes_of(&rows.samples), x, y, delta_metric as Metric, [0.1, 0.05]);
        self.table((kind, Some("bf16")), origin, layout, &roof, rows)
    }
}
