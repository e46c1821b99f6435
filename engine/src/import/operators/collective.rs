//! Sums over ranks and other collectives, and links.

use super::{Rows, Work};
use crate::import::fit::fold;
use crate::import::rows::{octaves, sample, shapes_of};
use crate::import::tables::{ImportError, Point, Row, Run};
use crate::profile::operators::collective::{
    Collective, collective_roof, exchange_metric, exchange_roof, ranks_metric,
};
use crate::profile::{Exchange, Roof, no_metric};

impl Work<'_> {
    pub(super) fn all_reduce(&mut self) -> Result<(), ImportError> {
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
            let roof = move |_: &[u32], start| Roof {
                start,
                compute: 0.0,
                fixed: 0.0,
                memory: 1.0 / bandwidth,
                full: 0.0,
            };
            let rows = Rows::select(origin.part, of_ranks, |row| match row.run {
                Run::AllReduce { bytes, .. } => Some(sample(&[1], bytes, 0.0, row.seconds)),
                _ => None,
            });
            let x = octaves(rows.samples.iter().map(|(s, _)| s.x));
            let layout = (vec![vec![1]], x, Vec::new(), no_metric as _, [0.0, 0.01]);
            let name = format!("all_reduce_{wanted}");
            let timed_under = origin.part.timed.get("all_reduce").cloned();
            let table = self.fit(&name, &origin, layout, &roof, rows)?;
            law.extend(timed_under.map(|t| ("timed_under".to_owned(), t.into())));
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
    pub(super) fn link(
        &mut self,
        operator: &'static str,
        network: bool,
    ) -> Result<(), ImportError> {
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
                let out = fold(i, self.seed);
                let others = solve(&|j| fold(j, self.seed) != out);
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

    /// Gathers, scatters and exchanges by ranks, and the exchanges of experts by their layers.
    pub(super) fn collectives(&mut self) -> Result<(), ImportError> {
        let Some(bandwidth) = self.link_bandwidth() else { return Ok(()) };
        for wanted in Collective::ALL {
            let has = |run: &Run| matches!(run, Run::Collective { of, .. } if *of == wanted);
            let Some(origin) = self.own(wanted.name(), has) else { continue };
            let rows = Rows::select(origin.part, has, |row| match row.run {
                Run::Collective { bytes, ranks, .. } if ranks > 1 => {
                    Some(sample(&[ranks], bytes, 0.0, row.seconds))
                }
                _ => None,
            });
            let roof = move |shape: &[u32], start| Roof {
                start,
                ..collective_roof(f64::from(shape[0]), bandwidth)
            };
            let x = octaves(rows.samples.iter().map(|(s, _)| s.x));
            let shapes = shapes_of(&rows.samples);
            let layout = (shapes, x, Vec::new(), ranks_metric as _, [0.02, 0.01]);
            self.table((wanted.name(), Some("bf16")), &origin, layout, &roof, rows)?;
        }
        for (kind, there) in [("dispatch", true), ("combine", false)] {
            for kernels in [Exchange::LowLatency, Exchange::HighThroughput] {
                let has = |run: &Run| matches!(run, Run::Exchange { by, dispatch, .. } if *by == kernels && *dispatch == there);
                let Some(origin) = self.own(kind, has) else { continue };
                let of = (origin.part.rows.iter()).find_map(|row| match row.run {
                    Run::Exchange { ranks, .. } => Some(f64::from(ranks)),
                    _ => None,
                });
                let ranks = of.unwrap_or(1.0);
                let rows = Rows::select(origin.part, has, |row| match row.run {
                    Run::Exchange { shape, tokens, .. } => {
                        Some(sample(&shape, tokens, 0.0, row.seconds))
                    }
                    _ => None,
                });
                let roof = move |shape: &[u32], start| {
                    let [hidden, top_k] = [0, 1].map(|i| f64::from(shape[i]));
                    Roof { start, ..exchange_roof(hidden, top_k, ranks, bandwidth) }
                };
                let x = octaves(rows.samples.iter().map(|(s, _)| s.x));
                let shapes = shapes_of(&rows.samples);
                let layout = (shapes, x, Vec::new(), exchange_metric as _, [0.02, 0.01]);
                self.table((kind, Some(kernels.name())), &origin, layout, &roof, rows)?;
            }
        }
        Ok(())
    }

    /// Bytes/s of the links within a node, by the sheet: that of its largest sum.
    fn link_bandwidth(&self) -> Option<f64> {
        let sums = self.sheet.rest.get("all_reduce")?.as_array()?;
        let bandwidth = sums.last()?.get("bandwidth")?;
        bandwidth.as_float().or_else(|| bandwidth.as_integer().map(|i| i as f64))
    }
}
