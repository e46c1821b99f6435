//! Blocks of latent attention, whole and sparse, by format.

use super::{Origin, Rows, Work};
use crate::config::KvDtype;
use crate::format::Format;
use crate::import::fit::Sample;
use crate::import::rows::{Layout, octaves, sample, shapes_of, thinned};
use crate::import::tables::{ImportError, Row, Run};
use crate::profile::operators::SECONDS;
use crate::profile::operators::block_name;
use crate::profile::operators::latent::latent_metric;
use crate::profile::{Metric, Roof};
use crate::shape::Shape;

/// A kind of block: whole or sparse, prompts or decodes, in formats.
#[derive(Clone, Copy)]
struct Kind {
    sparse: bool,
    decode: bool,
    format: Format,
    kv: KvDtype,
}

impl Kind {
    fn has(self, run: &Run) -> bool {
        matches!(run, Run::Latent { latent, format, kv, decode, .. }
            if latent.index.is_some() == self.sparse && *decode == self.decode && *format == self.format && *kv == self.kv)
    }

    /// Prompts attend to keys and values in bf16, whatever they are kept in; sparse attention is served with its cache
    /// in fp8 and its projections in fp8 by block or in fp4. The rest is told by these.
    fn is_wanted(self) -> bool {
        if self.sparse {
            self.kv == KvDtype::Fp8 && matches!(self.format, Format::Fp8Block | Format::Nvfp4)
        } else {
            self.decode || self.kv == KvDtype::Bf16
        }
    }

    fn name(self) -> &'static str {
        match (self.sparse, self.decode) {
            (false, false) => "latent_prefill",
            (false, true) => "latent_decode",
            (true, false) => "sparse_prefill",
            (true, true) => "sparse_decode",
        }
    }
}

/// Heads on a rank of the widest split that engines serve.
const FEWEST_HEADS: u32 = 8;

/// Tokens of prompts in a batch; beyond them no engine goes.
const MOST_TOKENS: f64 = 32_768.0;

impl Work<'_> {
    pub(super) fn latent(&mut self) -> Result<(), ImportError> {
        for (sparse, decode) in [(false, false), (false, true), (true, false), (true, true)] {
            for format in Format::ALL {
                for kv in [KvDtype::Bf16, KvDtype::Fp8] {
                    let kind = Kind { sparse, decode, format, kv };
                    if !kind.is_wanted() {
                        continue;
                    }
                    if let Some(origin) = self.own(kind.name(), |run| kind.has(run)) {
                        self.latent_of(&origin, kind)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn latent_of(&mut self, origin: &Origin<'_>, kind: Kind) -> Result<(), ImportError> {
        let peaks = origin.part.limits.peaks();
        let wanted = |row: &Row| {
            let Run::Latent { latent, seqs, tokens, history, .. } = row.run else { return None };
            if seqs * tokens > MOST_TOKENS || latent.heads < FEWEST_HEADS {
                return None;
            }
            let mut shape = Shape::default();
            (0..seqs as u32)
                .for_each(|_| shape.add(history as u32, tokens as u32, kind.decode, false));
            let roof = if kind.decode {
                latent.decode_roofline(&peaks, kind.format, kind.kv, &shape)
            } else {
                latent.prefill_roofline(&peaks, kind.format, kind.kv, &shape)
            };
            let y = if kind.decode { seqs } else { seqs * tokens };
            Some(sample(&latent.shape(), 1e6 * roof, y, row.seconds))
        };
        let rows = Rows::select(origin.part, |run| kind.has(run), wanted);
        let roof = |_: &[u32], start: f64| Roof { start, ..SECONDS };
        let variant = block_name(kind.format, kind.kv);
        let layout = layout(&rows.samples);
        self.table((kind.name(), Some(&variant)), origin, layout, &roof, rows)
    }
}

/// Knots at octaves of the work and at every third octave of the tokens; heads at octaves.
fn layout(samples: &[(Sample, Row)]) -> Layout {
    let mut shapes = shapes_of(samples);
    // Of 64 heads there is no rank with more.
    let most = |s: &[u32]| if s[1] == 6144 { 64 } else { 128 };
    shapes.retain(|s| s[0].is_power_of_two() && s[0] <= most(s));
    let x = octaves(samples.iter().map(|(s, _)| s.x));
    let y = thinned(octaves(samples.iter().map(|(s, _)| s.y)), 3);
    (shapes, x, y, latent_metric as Metric, [0.1, 0.05])
}
