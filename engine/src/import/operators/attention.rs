//! Attention of prompt chunks, alone or with decodes, and of decodes alone; whole and within windows.

use super::{Origin, Rows, Work, usable};
use crate::config::KvDtype;
use crate::import::fit::{Sample, error, ratios, spread};
use crate::import::rows::{
    Layout, Sparse, chunk_sample, chunk_shape, decode_sample, grid, shapes_of, starts_us, whole,
};
use crate::import::tables::{Family, ImportError, Part, Point, Row, Run};
use crate::profile::operators::attention::{decode_roof, prefill_roof};
use crate::profile::operators::kv_name;
use crate::profile::{Heads, Law, MOST_OF_WORK, Roof};
use crate::shape::{Shape, TILE};

/// Of decodes: few tokens take no less than a start, and no rank has more sequences.
const DECODES: Sparse = Sparse { work: 64.0, every: 3, range: [1.0, 32_768.0] };

/// Of prompt chunks.
const CHUNKS: Sparse = Sparse { work: 1.0, every: 2, range: [1.0, 16_384.0] };

/// The heads that a shape's numbers stand for.
fn heads_of(shape: &[u32]) -> Heads {
    Heads { query: shape[0], kv: shape[1], dim: shape[2], window: shape[3] }
}

/// True where mixed batches were measured.
fn mixes(part: &Part) -> bool {
    let mixed = |run: &Run| matches!(run, Run::Attention { chunks, decodes, .. } if *chunks > 0.0 && *decodes > 0.0);
    part.rows.iter().any(|row| mixed(&row.run))
}

/// True for rows of chunks over keys and values of a format.
fn chunks_in(run: &Run, format: KvDtype) -> bool {
    matches!(run, Run::Attention { chunks, kv, .. } if *chunks > 0.0 && *kv == format)
}

/// True for rows of decodes alone over keys and values of a format.
fn decodes_in(run: &Run, format: KvDtype) -> bool {
    matches!(run, Run::Attention { chunks, kv, .. } if *chunks == 0.0 && *kv == format)
}

/// Rows of prompt chunks and their work for the device; nothing where a row is not wanted.
fn chunk_rows(part: &Part, kv: KvDtype) -> Vec<(Row, Option<Shape>)> {
    let rows = part.rows.iter().filter(|row| chunks_in(&row.run, kv));
    rows.map(|row| (*row, chunk_shape(row, &part.limits))).collect()
}

/// The same in the variables of their kernel.
fn chunk_samples(rows: &[(Row, Option<Shape>)], law: Law, part: &Part) -> Vec<(Sample, Row)> {
    let wanted = rows.iter().filter_map(|(row, shape)| Some((row, shape.as_ref()?)));
    let sample = |(row, shape)| Some((chunk_sample(row, shape, law, &part.limits)?, *row));
    wanted.filter_map(sample).collect()
}

/// A grid of many shapes knows a knot from its neighbours; a few models' shapes need more knots.
fn chunk_grid(samples: &[(Sample, Row)]) -> Layout {
    grid(samples, shapes_of(samples).len() <= 4, &CHUNKS)
}

/// The way in which chunks share a kernel: of some candidates, the one that makes the table fit best. Tiles without
/// rows show in mixed batches only; `idle_tokens` holds where none was measured.
fn chunk_law(part: &Part, idle_tokens: f64) -> Law {
    let peaks = part.limits.peaks();
    let roof = |shape: &[u32], start| Roof {
        start,
        ..prefill_roof(&peaks, heads_of(shape), KvDtype::Bf16)
    };
    let mixed = mixes(part);
    let idle: &[f64] = if mixed { &[0.0, 4.0, 8.0, 12.0, 16.0] } else { &[idle_tokens] };
    let mut rows = chunk_rows(part, KvDtype::Bf16);
    // The law is one for all heads: those of most models tell it, whole contexts alone.
    let plain = |run: &Run| matches!(run, Run::Attention { heads, .. } if heads.dim == 128 && heads.window == 0);
    if rows.iter().any(|(row, _)| plain(&row.run)) {
        rows.retain(|(row, _)| plain(&row.run));
    }
    // Every seventh row tells as much: there are up to tens of thousands.
    if rows.len() > 8000 {
        rows = rows.into_iter().step_by(7).collect();
    }
    let decode_rows = if mixed { f64::from(TILE) } else { 0.0 };
    // Our own timings may be of a processor, whose decodes never share a kernel with prompts.
    let ours = part.from.family == Family::Knee && !mixed;
    let fine: &[bool] = if ours { &[false, true] } else { &[false] };
    let mut best = (f64::INFINITY, Law { idle_tokens, ..Law::default() });
    for tile_tokens in [0.0, 64.0, 128.0, 192.0, 256.0, 384.0, 512.0, 768.0, 1024.0, 1536.0, 2048.0]
    {
        let idle = idle.iter().copied().filter(|t| *t <= tile_tokens);
        for (idle_tokens, &fine_tiles) in idle.flat_map(|i| fine.iter().map(move |f| (i, f))) {
            let law = Law { tile_tokens, decode_rows, idle_tokens, fine_tiles };
            let samples = chunk_samples(&rows, law, part);
            let plain: Vec<Sample> = samples.iter().map(|(s, _)| s.clone()).collect();
            for start in starts_us(&samples, &roof) {
                let at_start = |shape: &[u32]| roof(shape, start * 1e-6);
                let form =
                    whole(chunk_grid(&samples), start, String::new(), &at_start, MOST_OF_WORK);
                let loss = spread(&ratios(&form.fit(&plain).0, &form, &plain))[0];
                if loss < best.0 {
                    best = (loss, law);
                }
            }
        }
    }
    best.1
}

impl<'a> Work<'a> {
    pub(super) fn decode_attention(&mut self) -> Result<(), ImportError> {
        let alone = |run: &Run| decodes_in(run, KvDtype::Bf16);
        if let Some(origin) = self.origin("decode_attention", alone)? {
            self.decodes(&origin, KvDtype::Bf16, None)?;
        }
        if let Some(origin) = self.own("decode_attention", |run| decodes_in(run, KvDtype::Fp8)) {
            self.decodes(&origin, KvDtype::Fp8, Some(kv_name(KvDtype::Fp8)))?;
        }
        Ok(())
    }

    fn decodes(
        &mut self,
        origin: &Origin<'_>,
        kv: KvDtype,
        variant: Option<&str>,
    ) -> Result<(), ImportError> {
        let limits = origin.part.limits;
        let roof = move |shape: &[u32], start| Roof {
            start,
            ..decode_roof(&limits.peaks(), heads_of(shape), kv)
        };
        let wanted = |row: &Row| decode_sample(row, &limits);
        let rows = Rows::select(origin.part, |run| decodes_in(run, kv), wanted);
        let layout = grid(&rows.samples, false, &DECODES);
        self.table(("decode_attention", variant), origin, layout, &roof, rows)
    }

    pub(super) fn prefill_attention(&mut self) -> Result<(), ImportError> {
        let chunks = |run: &Run| chunks_in(run, KvDtype::Bf16);
        let Some(origin) = self.origin("prefill_attention", chunks)? else { return Ok(()) };
        let mut source = origin.source();
        let other = if mixes(origin.part) { None } else { self.mixed_elsewhere() };
        for part in other.iter().map(|o| o.part).chain([origin.part]) {
            let none = Law::default();
            let rows = chunk_rows(part, KvDtype::Bf16);
            usable("prefill_attention", &chunk_samples(&rows, none, part), rows.len())?;
        }
        let theirs = other.as_ref().map(|other| chunk_law(other.part, 0.0));
        let mut law = chunk_law(origin.part, theirs.map_or(0.0, |law| law.idle_tokens));
        if let (Some(other), Some(theirs)) = (other, theirs) {
            law.decode_rows = theirs.decode_rows;
            source = format!("{source}; mixed batches {}", other.source());
            self.fitted.composed.push(format!("mixed batches: {}", other.source()));
        } else if !mixes(origin.part) {
            source += "; mixed batches not measured: taken as the sum of both kinds";
        }
        let skew = self.skew(self.skewed(&origin).part);
        let mut attention = toml::Table::new();
        attention.insert("tile_tokens".to_owned(), law.tile_tokens.into());
        attention.insert("decode_rows".to_owned(), law.decode_rows.into());
        attention.insert("idle_tokens".to_owned(), law.idle_tokens.into());
        if law.fine_tiles {
            attention.insert("fine_tiles".to_owned(), true.into());
        }
        attention.insert("skew".to_owned(), skew.into());
        attention.insert("source".to_owned(), source.into());
        self.fitted.entries.insert("attention".to_owned(), attention.into());
        self.chunks(&origin, KvDtype::Bf16, law, None)?;
        self.split_mixed();
        let fp8 = |run: &Run| chunks_in(run, KvDtype::Fp8);
        if let Some(origin) = self.own("prefill_attention", fp8) {
            self.chunks(&origin, KvDtype::Fp8, law, Some(kv_name(KvDtype::Fp8)))?;
        }
        Ok(())
    }

    fn chunks(
        &mut self,
        origin: &Origin<'_>,
        kv: KvDtype,
        law: Law,
        variant: Option<&str>,
    ) -> Result<(), ImportError> {
        let limits = origin.part.limits;
        let roof = move |shape: &[u32], start| Roof {
            start,
            ..prefill_roof(&limits.peaks(), heads_of(shape), kv)
        };
        let rows = chunk_rows(origin.part, kv);
        let mut samples = chunk_samples(&rows, law, origin.part);
        let left_out = rows.len() - samples.len();
        if mixes(origin.part) {
            // Prompts wait for chunks alone, which are few among the rows of mixed tables.
            for (sample, row) in &mut samples {
                let alone = matches!(row.run, Run::Attention { decodes: 0.0, .. });
                sample.weight = if alone { 4.0 } else { 1.0 };
            }
        }
        let layout = chunk_grid(&samples);
        self.table(
            ("prefill_attention", variant),
            origin,
            layout,
            &roof,
            Rows { samples, left_out },
        )
    }

    /// The rows that show the cost of unequal lengths: another family's, where it is asked for them.
    fn skewed(&self, origin: &Origin<'a>) -> Origin<'a> {
        let asked = |part: &&Part| part.from.operators.iter().any(|o| o == "skew");
        let other = self.parts.iter().skip(1).find(asked);
        other.map_or(Origin { part: origin.part, composed: false }, |part| Origin {
            part,
            composed: true,
        })
    }

    /// A family that measured mixed batches and may be asked, where the device's own did not.
    fn mixed_elsewhere(&self) -> Option<Origin<'a>> {
        let asked = |part: &&Part| part.from.operators.iter().any(|o| o == "mixed") && mixes(part);
        self.parts.iter().skip(1).find(asked).map(|part| Origin { part, composed: true })
    }

    /// The share of the way from mean to longest that fits batches of unequal lengths best, by least squares of
    /// relative errors; a note tells the gain.
    fn skew(&mut self, part: &Part) -> f64 {
        let rows: Vec<(f64, f64, f64)> = (part.rows.iter())
            .filter_map(|r| match r.run {
                Run::Skew { mean, longest } if r.seconds > 0.0 => Some((mean, longest, r.seconds)),
                _ => None,
            })
            .collect();
        if rows.is_empty() {
            return 0.0;
        }
        let (mut up, mut down) = (0.0, 0.0);
        for (mean, longest, t) in &rows {
            up += (longest - mean) * (t - mean) / (t * t);
            down += ((longest - mean) / t).powi(2);
        }
        // Lengths without any above the mean are not skewed.
        let share = if down > 0.0 { (1e3 * up / down).round().clamp(0.0, 1e3) / 1e3 } else { 0.0 };
        let off = |share: f64| {
            spread(&rows.iter().map(|(m, l, t)| (m + share * (l - m)) / t).collect::<Vec<_>>())
        };
        let ([mean, _, p95], [mean_with, _, p95_with]) = (off(0.0), off(share));
        self.fitted.notes.push(format!(
            "unequal decode lengths: skew {share} takes the error of {} batches from {:.1} % (p95 {:.1} %) to {:.1} % \
             (p95 {:.1} %)",
            rows.len(), 1e2 * mean, 1e2 * p95, 1e2 * mean_with, 1e2 * p95_with
        ));
        share
    }

    /// States the error of mixed batches apart from that of prompt chunks alone.
    fn split_mixed(&mut self) {
        let Some(points) = self.fitted.points.remove("prefill_attention") else { return };
        let Some(all) = self.fitted.fit.get("prefill_attention").copied() else { return };
        let mixed = |p: &Point| matches!(p.run, Run::Attention { decodes, .. } if decodes > 0.0);
        let (both, alone): (Vec<_>, Vec<_>) = points.into_iter().partition(mixed);
        for (name, points, left_out) in
            [("prefill_attention", alone, all.left_out), ("mixed_attention", both, 0)]
        {
            if points.is_empty() {
                continue;
            }
            let seen: Vec<f64> = points.iter().map(|p| p.fitted / p.measured).collect();
            let unseen: Vec<f64> = points.iter().map(|p| p.unseen / p.measured).collect();
            self.fitted.fit.insert(name.to_owned(), error(&seen, &unseen, left_out, all.isotonic));
            self.fitted.points.insert(name.to_owned(), points);
        }
    }
}
