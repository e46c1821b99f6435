//! The operators of a layer: for each its shape, its roofline by the data sheet, and the shapes it is like.
//!
//! An operator's tables are by format: `table_for` finds the device's own, or else that of the most
//! alike format or operator, and says so.

pub mod attention;
pub mod collective;
pub mod delta;
pub mod experts;
pub mod gemm;
pub mod latent;

use super::{DeviceProfile, Peaks, Roof, Table, Times, no_metric};
use crate::config::KvDtype;
use crate::format::{Arithmetic, Format};

/// The name of tables by the format of keys and values.
#[must_use]
pub fn kv_name(kv: KvDtype) -> &'static str {
    match kv {
        KvDtype::Bf16 => "bf16",
        KvDtype::Fp8 => "fp8",
    }
}

/// The name of tables by the formats of weights and of keys and values.
#[must_use]
pub fn block_name(format: Format, kv: KvDtype) -> String {
    match kv {
        KvDtype::Bf16 => format.name().to_owned(),
        KvDtype::Fp8 => format!("{}_kv_fp8", format.name()),
    }
}

impl Peaks {
    /// True where the device computes in this format; else its weights are unpacked and computed with in bf16.
    #[must_use]
    pub fn computes(&self, format: Format) -> bool {
        match format.arithmetic() {
            Arithmetic::Bf16 => format == Format::Bf16,
            Arithmetic::Fp8 => self.fp8 > 0.0,
            Arithmetic::Fp4 | Arithmetic::Fp4ByFp8 => self.fp4 > 0.0,
        }
    }

    /// FLOP/s of products with weights in this format.
    #[must_use]
    pub fn rate(&self, format: Format) -> f64 {
        match format.arithmetic() {
            Arithmetic::Fp8 if self.fp8 > 0.0 => self.fp8,
            Arithmetic::Fp4 if self.fp4 > 0.0 => self.fp4,
            Arithmetic::Fp4ByFp8 if self.fp4 > 0.0 => self.fp8,
            _ => self.flops,
        }
    }

    /// FLOP/s of attention over keys and values in this format.
    #[must_use]
    pub fn attention_rate(&self, kv: KvDtype) -> f64 {
        match kv {
            KvDtype::Fp8 => self.rate(Format::Fp8),
            KvDtype::Bf16 => self.flops,
        }
    }
}

/// A roofline in its own seconds: of operators whose work is not one number.
pub(crate) const SECONDS: Roof =
    Roof { start: 0.0, compute: 1e-6, fixed: 0.0, memory: 0.0, full: 0.0 };

/// A table found for an operator, and the words for its lender, where it is borrowed.
pub(crate) type Found<'a> = (&'a Table, Option<String>);

impl DeviceProfile {
    /// The table of `kind` in `variant`.
    #[must_use]
    pub fn table(&self, kind: &str, variant: &str) -> Option<&Table> {
        match (kind, variant) {
            ("gemm", "bf16") => Some(&self.gemm),
            ("prefill_attention", "bf16") => Some(&self.prefill_attention),
            ("decode_attention", "bf16") => Some(&self.decode_attention),
            _ => self.operators.get(kind)?.get(variant),
        }
    }

    /// The table of `kind` for `format`, or that of the format most like it; None where there is none at all. A format
    /// whose kernels reach less than half of bf16's share of the device lends nothing: engines lack good ones for it.
    pub(crate) fn table_for(&self, kind: &str, format: Format) -> Option<Found<'_>> {
        let native = self.peaks().computes(format);
        let least = self.table(kind, Format::Bf16.name()).map_or(0.0, |bf16| 0.5 * bf16.middle());
        let lends = |f: Format, table: &Table| f == format || table.middle() >= least;
        let (found, table) = format.alike(native).find_map(|f| {
            let table = self.table(kind, f.name())?;
            lends(f, table).then_some((f, table))
        })?;
        let unpacks = !native && format.arithmetic() != Arithmetic::Bf16;
        let plural = kind.replace('_', " ");
        let unpacked = if unpacks {
            " (the device does not compute in this format: weights are unpacked to bf16)"
        } else {
            ""
        };
        let from =
            (found != format).then(|| format!("the efficiency of {plural} in {found}{unpacked}"));
        Some((table, from))
    }

    /// The times of a block of several kernels, by microseconds of its roofline: of `kind` in the first of `variants`
    /// that there is, or at the middle efficiency of the matrix products.
    pub(crate) fn block(
        &self,
        kind: &str,
        variants: &[String],
        (shape, metric): (&[u32], super::Metric),
        kernels: f64,
    ) -> Times {
        let found = variants.iter().find_map(|v| Some((v, self.table(kind, v)?)));
        if let Some((variant, table)) = found {
            let roof = Roof { start: table.start_us * 1e-6, ..SECONDS };
            let from = format!("the efficiency of {} in {variant}", kind.replace('_', " "));
            return table
                .times(shape, metric, roof)
                .borrowed((*variant != variants[0]).then_some(from));
        }
        let start = kernels * self.gemm.start_us;
        let table = Table::constant(start, self.gemm.middle(), "matrix products");
        let roof = Roof { start: start * 1e-6, ..SECONDS };
        let from = format!("the middle efficiency of matrix products, {:.2}", self.gemm.middle());
        table.times(&[], no_metric, roof).borrowed(Some(from))
    }
}
