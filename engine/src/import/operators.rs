//! Which rows an operator's table is fitted to, and what fills the gaps.
//!
//! Longer than most files: one method for each operator, and what they share.

use super::fit::{Form, Sample, error, ratios, unseen};
use super::rows::{
    COARSE_TOKENS, Layout, chunk_sample, chunk_shape, distinct, fine_tokens, grid, octaves, sample,
    select, served, shapes_of, starts_us, whole,
};
use super::tables::{Family, Fitted, ImportError, Limits, Part, Point, Row, Run, Sheet, Tables};
use crate::profile::{Law, MOST_OF_WORK, Metric, Roof, Table, gemm_metric, moved_roof};
use crate::shape::{Shape, TILE};

/// The roofline of prompt chunks, by query heads x pairs.
fn chunk_roof(limits: Limits) -> impl Fn([u32; 2], f64) -> Roof {
    let pair = 4.0 * limits.head_dim / limits.peak_flops;
    move |_, start| Roof { start, compute: pair, fixed: 0.0, memory: 0.0 }
}

/// True where mixed batches were measured.
fn mixes(part: &Part) -> bool {
    let mixed = |run: &Run| matches!(run, Run::Attention { chunks, decodes, .. } if *chunks > 0.0 && *decodes > 0.0);
    part.rows.iter().any(|row| mixed(&row.run))
}

/// Rows of prompt chunks in the variables of their kernel, and how many are not wanted.
fn chunk_samples(rows: &[(Row, Option<Shape>)], law: Law, limits: &Limits) -> Vec<(Sample, Row)> {
    let wanted = rows.iter().filter_map(|(row, shape)| Some((row, shape.as_ref()?)));
    let sample = |(row, shape)| Some((chunk_sample(row, shape, law, limits)?, *row));
    wanted.filter_map(sample).collect()
}

fn chunk_rows(part: &Part) -> Vec<(Row, Option<Shape>)> {
    let chunks = |row: &&Row| matches!(row.run, Run::Attention { chunks, .. } if chunks > 0.0);
    part.rows.iter().filter(chunks).map(|row| (*row, chunk_shape(row, &part.limits))).collect()
}

/// How chunks share a kernel: of some candidates, what makes the table fit best. Tiles without rows show in mixed
/// batches only; `idle_tokens` holds where none was measured.
fn chunk_law(part: &Part, idle_tokens: f64) -> Law {
    let roof = chunk_roof(part.limits);
    let mixed = mixes(part);
    let idle: &[f64] = if mixed { &[0.0, 4.0, 8.0, 12.0, 16.0] } else { &[idle_tokens] };
    let mut rows = chunk_rows(part);
    // Every seventh row tells as much: there are up to tens of thousands.
    if rows.len() > 8000 {
        rows = rows.into_iter().step_by(7).collect();
    }
    let decode_rows = if mixed { f64::from(TILE) } else { 0.0 };
    // What we time ourselves may be a processor, whose decodes never share a kernel with prompts.
    let ours = part.from.family == Family::Knee && !mixed;
    let fine: &[bool] = if ours { &[false, true] } else { &[false] };
    let mut best = (f64::INFINITY, Law { idle_tokens, ..Law::default() });
    for tile_tokens in [0.0, 64.0, 128.0, 192.0, 256.0, 384.0, 512.0, 768.0] {
        let idle = idle.iter().copied().filter(|t| *t <= tile_tokens);
        for (idle_tokens, &fine_tiles) in idle.flat_map(|i| fine.iter().map(move |f| (i, f))) {
            let law = Law { tile_tokens, decode_rows, idle_tokens, fine_tiles };
            let samples = chunk_samples(&rows, law, &part.limits);
            let plain: Vec<Sample> = samples.iter().map(|(s, _)| *s).collect();
            for start in starts_us(&samples, &roof) {
                let at_start = |shape| roof(shape, start * 1e-6);
                let layout = chunk_grid(&samples);
                let form = whole(layout, start, String::new(), &at_start, MOST_OF_WORK);
                let loss = super::fit::spread(&ratios(&form.fit(&plain).0, &form, &plain))[0];
                if loss < best.0 {
                    best = (loss, law);
                }
            }
        }
    }
    best.1
}

/// Refuses an operator of which no row can be fitted to.
fn usable<T>(operator: &str, samples: &[T], left_out: usize) -> Result<(), ImportError> {
    if samples.is_empty() {
        return Err(ImportError::Unusable { operator: operator.to_owned(), rows: left_out });
    }
    Ok(())
}

/// A grid of many shapes knows a knot from its neighbours; a few models' shapes need more knots.
fn chunk_grid(samples: &[(Sample, Row)]) -> Layout {
    grid(samples, shapes_of(samples).len() <= 4)
}

/// Rows of one operator, ready to fit.
struct Job<'a> {
    operator: &'a str,
    form: Form<'a>,
    samples: Vec<(Sample, Row)>,
    left_out: usize,
}

/// Whose rows are fitted.
struct Origin<'a> {
    part: &'a Part,
    composed: bool,
}

impl Origin<'_> {
    fn source(&self) -> String {
        let Tables { family, system, links, of, .. } = &self.part.from;
        let links = links.as_ref().map_or_else(String::new, |l| format!(", {l}"));
        let of = of.as_ref().map_or_else(String::new, |of| format!("; efficiencies of {of}"));
        let composed = if self.composed { "composed: " } else { "" };
        format!("{composed}{}, {system}{links}{of}", family.name())
    }
}

pub(super) fn fit_all(sheet: &Sheet, parts: &[Part], seed: u64) -> Result<Fitted, ImportError> {
    let mut fitted = Fitted::default();
    let mut work = Work { sheet, parts, seed, fitted: &mut fitted };
    work.gemm()?;
    work.prefill_attention()?;
    work.decode_attention()?;
    work.bytes("elementwise", |run| match run {
        Run::Move { bytes } => Some(*bytes),
        _ => None,
    })?;
    work.bytes("sampler", |run| match run {
        Run::Choose { bytes } => Some(*bytes),
        _ => None,
    })?;
    work.all_reduce()?;
    work.link("node", false)?;
    work.link("network", true)?;
    Ok(fitted)
}

struct Work<'a> {
    sheet: &'a Sheet,
    parts: &'a [Part],
    seed: u64,
    fitted: &'a mut Fitted,
}

impl<'a> Work<'a> {
    /// The first family that has rows of `operator`. None where a constant of the sheet stands in.
    fn origin(
        &mut self,
        operator: &str,
        has: impl Fn(&Run) -> bool,
    ) -> Result<Option<Origin<'a>>, ImportError> {
        for (i, part) in self.parts.iter().enumerate() {
            let asked =
                part.from.operators.is_empty() || part.from.operators.iter().any(|o| o == operator);
            if asked && part.rows.iter().any(|row| has(&row.run)) {
                let origin = Origin { part, composed: i > 0 };
                if i > 0 {
                    self.fitted.composed.push(format!("{operator}: {}", origin.source()));
                    self.fitted.notes.push(format!("{operator} is {}", origin.source()));
                }
                return Ok(Some(origin));
            }
        }
        let constant = self.sheet.rest.get(operator);
        if let Some(source) = constant.and_then(|c| c.get("source")).and_then(|s| s.as_str()) {
            self.fitted.notes.push(format!("{operator} is a constant of the sheet: {source}"));
            return Ok(None);
        }
        let tables = &self.sheet.tables;
        let other = tables.compose.iter().find(|t| t.operators.iter().any(|o| o == operator));
        Err(ImportError::Missing {
            operator: operator.to_owned(),
            family: tables.family.name(),
            system: tables.system.clone(),
            compose: other.map(|t| t.family.name()),
        })
    }

    fn gemm(&mut self) -> Result<(), ImportError> {
        let Some(origin) = self.origin("gemm", |run| matches!(run, Run::Gemm { .. }))? else {
            return Ok(());
        };
        let limits = origin.part.limits;
        let roof = move |[n, k]: [u32; 2], start: f64| {
            let (n, k) = (f64::from(n), f64::from(k));
            Roof {
                start,
                compute: 2.0 * n * k / limits.peak_flops,
                fixed: 2.0 * n * k / limits.memory_bandwidth,
                memory: 2.0 * (n + k) / limits.memory_bandwidth,
            }
        };
        // Layers of dense models, whole or split; beyond 16k tokens no engine goes.
        let wanted = |row: &Row| match row.run {
            Run::Gemm { m, n, k } if (n.min(k) >= 512 || !limits.large) && m <= 16_384.0 => {
                Some(sample([n, k], m, 0.0, row.seconds))
            }
            _ => None,
        };
        let of_operator = |run: &Run| matches!(run, Run::Gemm { .. });
        let (samples, left_out) = select(origin.part, of_operator, wanted);
        let shapes = shapes_of(&samples);
        let most = samples.iter().map(|(s, _)| s.x).fold(1.0, f64::max);
        let (x, prior) = if origin.part.from.family == Family::Knee {
            // The very shapes that will be asked for, and batches all over: nothing is learnt from others.
            (distinct(&samples), [0.0, 0.01])
        } else if shapes.len() <= 40 {
            (fine_tokens(&samples), [0.3, 0.01])
        } else {
            // A grid of hundreds of shapes knows a knot from its neighbours; a few models' shapes need more knots.
            (COARSE_TOKENS.to_vec(), [0.3, 0.02])
        };
        let x = x.into_iter().filter(|m| *m <= most).collect();
        let form = (shapes, x, Vec::new(), gemm_metric as Metric, prior);
        self.table("gemm", &origin, form, &roof, samples, left_out)
    }

    fn decode_attention(&mut self) -> Result<(), ImportError> {
        let alone = |run: &Run| matches!(run, Run::Attention { chunks, .. } if *chunks == 0.0);
        let Some(origin) = self.origin("decode_attention", alone)? else { return Ok(()) };
        let limits = origin.part.limits;
        let roof = move |_, start| Roof {
            start,
            compute: 0.0,
            fixed: 0.0,
            memory: 4.0 * limits.head_dim / limits.memory_bandwidth,
        };
        let wanted = |row: &Row| match row.run {
            Run::Attention { heads, decodes, length, .. } if served(heads) || !limits.large => {
                let kv = f64::from(heads[1]);
                Some(sample(heads, kv * decodes * length, kv * decodes, row.seconds))
            }
            _ => None,
        };
        let (samples, left_out) = select(origin.part, alone, wanted);
        let form = grid(&samples, false);
        self.table("decode_attention", &origin, form, &roof, samples, left_out)
    }

    fn prefill_attention(&mut self) -> Result<(), ImportError> {
        let chunks = |run: &Run| matches!(run, Run::Attention { chunks, .. } if *chunks > 0.0);
        let Some(origin) = self.origin("prefill_attention", chunks)? else { return Ok(()) };
        let limits = origin.part.limits;
        let roof = chunk_roof(limits);
        let mut source = origin.source();
        let other = if mixes(origin.part) { None } else { self.mixed_elsewhere() };
        for part in other.iter().map(|o| o.part).chain([origin.part]) {
            let none = Law::default();
            let rows = chunk_rows(part);
            usable("prefill_attention", &chunk_samples(&rows, none, &part.limits), rows.len())?;
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
        let rows = chunk_rows(origin.part);
        let mut samples = chunk_samples(&rows, law, &limits);
        let left_out = rows.len() - samples.len();
        if mixes(origin.part) {
            // Chunks alone are what a prompt waits for, and few among the rows of mixed tables.
            for (sample, row) in &mut samples {
                let alone = matches!(row.run, Run::Attention { decodes: 0.0, .. });
                sample.weight = if alone { 4.0 } else { 1.0 };
            }
        }
        let form = chunk_grid(&samples);
        let skew = self.skew(&origin);
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
        self.table("prefill_attention", &origin, form, &roof, samples, left_out)?;
        self.split_mixed();
        Ok(())
    }

    /// A family that measured mixed batches and may be asked, where the device's own did not.
    fn mixed_elsewhere(&self) -> Option<Origin<'a>> {
        let asked = |part: &&Part| part.from.operators.iter().any(|o| o == "mixed") && mixes(part);
        self.parts.iter().skip(1).find(asked).map(|part| Origin { part, composed: true })
    }

    /// The share of the way from mean to longest that fits batches of unequal lengths best, least squares of relative
    /// errors; and what it buys.
    fn skew(&mut self, origin: &Origin<'_>) -> f64 {
        let rows: Vec<(f64, f64, f64)> = (origin.part.rows.iter())
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
        // Where nothing is longer than the mean, nothing is skewed.
        let share = if down > 0.0 { (1e3 * up / down).round().clamp(0.0, 1e3) / 1e3 } else { 0.0 };
        let off = |share: f64| {
            super::fit::spread(
                &rows.iter().map(|(m, l, t)| (m + share * (l - m)) / t).collect::<Vec<_>>(),
            )
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

    /// An operator that only moves bytes.
    fn bytes(
        &mut self,
        operator: &'static str,
        bytes: impl Fn(&Run) -> Option<f64>,
    ) -> Result<(), ImportError> {
        let Some(origin) = self.origin(operator, |run| bytes(run).is_some())? else {
            return Ok(());
        };
        let Limits { memory_bandwidth, cache_bytes, .. } = origin.part.limits;
        let cache = if operator == "elementwise" { cache_bytes } else { 0.0 };
        let roof = move |_, start| moved_roof(start, memory_bandwidth, cache);
        let wanted = |row: &Row| bytes(&row.run).map(|b| sample([1, 1], b, 0.0, row.seconds));
        let mut samples = Vec::new();
        for row in &origin.part.rows {
            samples.extend(wanted(row).map(|s| (s, *row)));
        }
        let x = if origin.part.from.family == Family::Knee {
            distinct(&samples)
        } else {
            octaves(samples.iter().map(|(s, _)| s.x))
        };
        let form = (vec![[1, 1]], x, Vec::new(), gemm_metric as Metric, [0.0, 0.1]);
        self.table(operator, &origin, form, &roof, samples, 0)
    }

    fn all_reduce(&mut self) -> Result<(), ImportError> {
        let bad = |reason: &str| ImportError::Sheet {
            sheet: self.sheet.name.clone(),
            reason: reason.to_owned(),
        };
        let mut laws: Vec<toml::Table> = match self.sheet.rest.get("all_reduce") {
            Some(v) => {
                v.clone().try_into().map_err(|_| bad("all_reduce must be a list of tables"))?
            }
            None => {
                return Err(bad("has no [[all_reduce]] with ranks, bandwidth and buffer_bytes"));
            }
        };
        for law in &mut laws {
            if law.contains_key("source") {
                continue; // a constant
            }
            let number = |key: &str| {
                law.get(key).and_then(|v| v.as_float().or_else(|| v.as_integer().map(|i| i as f64)))
            };
            let (Some(wanted), Some(bandwidth)) = (number("ranks"), number("bandwidth")) else {
                return Err(bad("[[all_reduce]] needs ranks and bandwidth"));
            };
            let of_ranks = |run: &Run| matches!(run, Run::AllReduce { ranks, .. } if f64::from(*ranks) == wanted);
            let Some(origin) = self.origin("all_reduce", of_ranks)? else { continue };
            let roof =
                move |_, start| Roof { start, compute: 0.0, fixed: 0.0, memory: 1.0 / bandwidth };
            let samples: Vec<(Sample, Row)> = (origin.part.rows.iter())
                .filter(|row| of_ranks(&row.run))
                .filter_map(|row| match row.run {
                    Run::AllReduce { bytes, .. } => {
                        Some((sample([1, 1], bytes, 0.0, row.seconds), *row))
                    }
                    _ => None,
                })
                .collect();
            let x = octaves(samples.iter().map(|(s, _)| s.x));
            let form = (vec![[1, 1]], x, Vec::new(), gemm_metric as Metric, [0.0, 0.01]);
            let name = format!("all_reduce_{wanted}");
            let table = self.fit(&name, &origin, form, &roof, samples, 0)?;
            law.insert("start_us".to_owned(), table.start_us.into());
            law.insert("source".to_owned(), table.source.into());
            law.insert("x".to_owned(), table.x.into());
            let knots: Vec<i64> = table.per_mille[0].iter().map(|e| i64::from(*e)).collect();
            law.insert("per_mille".to_owned(), knots.into());
        }
        self.fitted.entries.insert("all_reduce".to_owned(), laws.into());
        Ok(())
    }

    /// Start and bandwidth of a link: least squares of relative errors.
    fn link(&mut self, operator: &'static str, network: bool) -> Result<(), ImportError> {
        let over = |run: &Run| matches!(run, Run::Send { network: n, .. } if *n == network);
        let Some(origin) = self.origin(operator, over)? else { return Ok(()) };
        let rows: Vec<(f64, Row)> = (origin.part.rows.iter())
            .filter(|row| over(&row.run))
            .filter_map(|row| match row.run {
                Run::Send { bytes, .. } => Some((bytes, *row)),
                _ => None,
            })
            .collect();
        let solve = |keep: &dyn Fn(usize) -> bool| {
            let (mut a, mut b, mut c, mut d, mut e) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for (_, (bytes, row)) in rows.iter().enumerate().filter(|(i, _)| keep(*i)) {
                let (u, v) = (1.0 / row.seconds, bytes / row.seconds);
                (a, b, c, d, e) = (a + u * u, b + u * v, c + v * v, d + u, e + v);
            }
            let det = a * c - b * b;
            [(d * c - e * b) / det, (a * e - b * d) / det]
        };
        let [start, per_byte] = solve(&|_| true);
        let round = |x: f64, digits: i32| (x * 10f64.powi(digits)).round() / 10f64.powi(digits);
        let (start_us, bandwidth) = (round(start.max(0.0) * 1e6, 2), round(1.0 / per_byte, -8));
        let at = |[start, per_byte]: [f64; 2], bytes: f64| start + per_byte * bytes;
        let points: Vec<Point> = (rows.iter().enumerate())
            .map(|(i, (bytes, row))| {
                let out = super::fit::fold(i, self.seed);
                let others = solve(&|j| super::fit::fold(j, self.seed) != out);
                let fitted = at([start_us * 1e-6, 1.0 / bandwidth], *bytes);
                Point { run: row.run, measured: row.seconds, fitted, unseen: at(others, *bytes) }
            })
            .collect();
        let mut link = toml::Table::new();
        link.insert("start_us".to_owned(), start_us.into());
        link.insert("bandwidth".to_owned(), bandwidth.into());
        link.insert("source".to_owned(), origin.source().into());
        self.fitted.entries.insert(operator.to_owned(), link.into());
        self.state(operator, points, 0, 0.0);
        Ok(())
    }

    fn state(&mut self, operator: &str, points: Vec<Point>, left_out: usize, isotonic: f64) {
        let seen: Vec<f64> = points.iter().map(|p| p.fitted / p.measured).collect();
        let unseen: Vec<f64> = points.iter().map(|p| p.unseen / p.measured).collect();
        self.fitted.fit.insert(operator.to_owned(), error(&seen, &unseen, left_out, isotonic));
        self.fitted.points.insert(operator.to_owned(), points);
    }

    fn table(
        &mut self,
        operator: &'static str,
        origin: &Origin<'_>,
        form: Layout,
        roof: &dyn Fn([u32; 2], f64) -> Roof,
        samples: Vec<(Sample, Row)>,
        left_out: usize,
    ) -> Result<(), ImportError> {
        let table = self.fit(operator, origin, form, roof, samples, left_out)?;
        let mut entry = toml::Table::new();
        entry.insert("start_us".to_owned(), table.start_us.into());
        entry.insert("source".to_owned(), table.source.into());
        let shapes = table.shapes.iter().map(|s| s.map(i64::from).to_vec()).collect::<Vec<_>>();
        for (key, axis) in [("x", table.x), ("y", table.y)] {
            if !axis.is_empty() {
                entry.insert(key.to_owned(), axis.into());
            }
        }
        if !shapes.is_empty() {
            entry.insert("shapes".to_owned(), shapes.into());
        }
        let knots: Vec<Vec<i64>> =
            table.per_mille.iter().map(|r| r.iter().map(|e| i64::from(*e)).collect()).collect();
        entry.insert("per_mille".to_owned(), knots.into());
        self.fitted.entries.insert(operator.to_owned(), entry.into());
        Ok(())
    }

    fn fit(
        &mut self,
        operator: &str,
        origin: &Origin<'_>,
        layout: Layout,
        roof: &dyn Fn([u32; 2], f64) -> Roof,
        samples: Vec<(Sample, Row)>,
        left_out: usize,
    ) -> Result<Table, ImportError> {
        usable(operator, &samples, left_out)?;
        let plain: Vec<Sample> = samples.iter().map(|(s, _)| *s).collect();
        let most = if operator == "prefill_attention" { MOST_OF_WORK } else { 1000 };
        let loss = |start: f64| {
            let at_start = move |shape| roof(shape, start * 1e-6);
            let form = whole(layout.clone(), start, String::new(), &at_start, most);
            super::fit::spread(&ratios(&form.fit(&plain).0, &form, &plain))[0]
        };
        let [a, b] = starts_us(&samples, roof);
        let start = if a == b || loss(a) <= loss(b) { a } else { b };
        let at_start = move |shape| roof(shape, start * 1e-6);
        let form = whole(layout, start, origin.source(), &at_start, most);
        let job = Job { operator, form, samples, left_out };
        job.doubts(origin)?;
        // Faster than memory allows: served from the cache, which in a model other layers have flushed.
        let from_memory = matches!(operator, "gemm" | "decode_attention");
        let cached =
            |s: &Sample| from_memory && s.seconds < at_start(s.shape).at(s.x) - start * 1e-6;
        let kept: Vec<usize> = (0..plain.len()).filter(|i| !cached(&plain[*i])).collect();
        let dropped = plain.len() - kept.len();
        let samples: Vec<Sample> = kept.iter().map(|i| plain[*i]).collect();
        usable(operator, &samples, job.left_out + dropped)?;
        let (table, isotonic) = job.form.fit(&samples);
        let seen = ratios(&table, &job.form, &samples);
        let unseen = unseen(&job.form, &samples, self.seed);
        let points: Vec<Point> = (kept.iter().zip(&samples).zip(seen.iter().zip(&unseen)))
            .map(|((i, s), (seen, unseen))| Point {
                run: job.samples[*i].1.run,
                measured: s.seconds,
                fitted: seen * s.seconds,
                unseen: unseen * s.seconds,
            })
            .collect();
        self.state(operator, points, job.left_out + dropped, isotonic);
        Ok(table)
    }
}

impl Job<'_> {
    /// Refuses times that no hardware shows.
    fn doubts(&self, origin: &Origin<'_>) -> Result<(), ImportError> {
        let roof = |s: &Sample| (self.form.roof)(s.shape).at(s.x) - self.form.start_us * 1e-6;
        let middle = |of: &dyn Fn(&Sample) -> bool| {
            let mut found: Vec<f64> = (self.samples.iter())
                .filter(|(s, _)| of(s))
                .map(|(s, _)| s.seconds / roof(s))
                .collect();
            found.sort_by(f64::total_cmp);
            found.get(found.len() / 2).copied()
        };
        let quick = middle(&|_| true).filter(|ratio| *ratio < 0.2);
        // Where the work is worth a tenth of a millisecond, starting does not count.
        let slow = middle(&|s| roof(s) > 1e-4).filter(|ratio| *ratio > 100.0);
        match quick.or(slow) {
            Some(ratio) => Err(ImportError::Units {
                operator: self.operator.to_owned(),
                family: origin.part.from.family.name(),
                system: origin.part.from.system.clone(),
                ratio,
            }),
            None => Ok(()),
        }
    }
}
