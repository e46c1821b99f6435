//! Matrix products, by format.

use super::{Origin, Rows, Work};
use crate::format::Format;
use crate::import::rows::{COARSE_TOKENS, Layout, distinct, fine_tokens, sample, shapes_of};
use crate::import::tables::{Family, ImportError, Row, Run};
use crate::profile::{Metric, Roof, gemm_metric, gemm_roof};

/// Products with fewer rows or columns are of no layer.
const LEAST: u32 = 128;

/// True for rows in a format.
fn gemm_in(run: &Run, wanted: Format) -> bool {
    matches!(run, Run::Gemm { format, .. } if *format == wanted)
}

/// True for widths that keep knots of a large grid: octaves and their halves. Others are predicted from them.
fn keeps(n: u32) -> bool {
    let odd = n >> n.trailing_zeros();
    odd == 1 || odd == 3
}

impl Work<'_> {
    pub(super) fn gemm(&mut self) -> Result<(), ImportError> {
        if let Some(origin) = self.origin("gemm", |run| gemm_in(run, Format::Bf16))? {
            self.gemm_of(&origin, Format::Bf16)?;
        }
        for format in Format::ALL.into_iter().filter(|f| *f != Format::Bf16) {
            if let Some(origin) = self.own("gemm", |run| gemm_in(run, format)) {
                self.gemm_of(&origin, format)?;
            }
        }
        Ok(())
    }

    fn gemm_of(&mut self, origin: &Origin<'_>, format: Format) -> Result<(), ImportError> {
        let limits = origin.part.limits;
        let roof = move |shape: &[u32], start: f64| {
            let widths = [f64::from(shape[0]), f64::from(shape[1])];
            Roof { start, ..gemm_roof(&limits.peaks(), widths, format, format.element_bytes()) }
        };
        // Layers of models, whole or split; beyond 16k tokens no engine goes.
        let wanted = |row: &Row| match row.run {
            Run::Gemm { m, n, k, .. } if (n.min(k) >= LEAST || !limits.large) && m <= 16_384.0 => {
                Some(sample(&[n, k], m, 0.0, row.seconds))
            }
            _ => None,
        };
        let rows = Rows::select(origin.part, |run| gemm_in(run, format), wanted);
        let layout = layout(origin, &rows);
        let variant = (format != Format::Bf16).then(|| format.name());
        self.table(("gemm", variant), origin, layout, &roof, rows)
    }
}

fn layout(origin: &Origin<'_>, rows: &Rows) -> Layout {
    let samples = &rows.samples;
    let mut shapes = shapes_of(samples);
    let most = samples.iter().map(|(s, _)| s.x).fold(1.0, f64::max);
    let (x, prior) = if origin.part.from.family == Family::Knee {
        // The very shapes that will be asked for, and batches all over: nothing is learnt from others.
        (distinct(samples), [0.0, 0.01])
    } else if shapes.len() <= 40 {
        (fine_tokens(samples), [0.3, 0.01])
    } else {
        // A grid of hundreds of shapes knows a knot from its neighbours; a few models' shapes need more knots.
        shapes.retain(|s| s.iter().all(|n| keeps(*n)));
        (COARSE_TOKENS.to_vec(), [0.3, 0.02])
    };
    let x = x.into_iter().filter(|m| *m <= most).collect();
    (shapes, x, Vec::new(), gemm_metric as Metric, prior)
}
