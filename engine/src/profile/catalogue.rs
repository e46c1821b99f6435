//! The GPUs that ship: one row each, and files of one's own.

use super::borrowed::DataSheet;
use super::device::DeviceProfile;
use crate::model::{Catalogue, Shipped, SpecError, parse, text_of};

/// A device whose operators were timed: its profile, and the sheet that published tables are fitted by
/// (`profiles/NAME.toml`, `profiles/sheets/NAME.toml`).
macro_rules! measured {
    ($name:literal, $aliases:expr) => {
        Shipped {
            name: $name,
            aliases: $aliases,
            text: include_str!(concat!("../../profiles/", $name, ".toml")),
            sheet: Some(include_str!(concat!("../../profiles/sheets/", $name, ".toml"))),
        }
    };
}

/// A device of which only the data sheet is known (`profiles/borrowed/NAME.toml`).
macro_rules! by_data_sheet {
    ($name:literal, $aliases:expr) => {
        Shipped {
            name: $name,
            aliases: $aliases,
            text: include_str!(concat!("../../profiles/borrowed/", $name, ".toml")),
            sheet: None,
        }
    };
}

const DEVICES: Catalogue = &[
    measured!("h100-sxm", &["h100", "h100-80g"]),
    measured!("h200-sxm", &["h200"]),
    measured!("b200", &["b200-sxm"]),
    measured!("gb200", &["gb200-nvl72"]),
    measured!("b300", &["b300-sxm"]),
    measured!("l40s", &["l40s-48g"]),
    measured!("rtx-pro-6000", &["rtxpro6000", "rtx-pro-6000-blackwell"]),
    measured!("a100-sxm", &["a100", "a100-80g"]),
    measured!("a40", &["a40-48g"]),
    measured!("rtx4090", &["rtx-4090", "4090"]),
    by_data_sheet!("mi300x", &[]),
    by_data_sheet!("mi355x", &[]),
    by_data_sheet!("h20", &["h20-sxm"]),
    by_data_sheet!("h100-pcie", &[]),
    by_data_sheet!("l4", &[]),
    by_data_sheet!("a10g", &["a10"]),
    by_data_sheet!("rtx-5090", &["rtx5090", "5090"]),
];

/// Names of the measured devices, and the sheets by which published tables become their profiles ([`crate::import`]).
pub fn import_sheets() -> impl Iterator<Item = (&'static str, &'static str)> {
    DEVICES.iter().filter_map(|device| Some((device.name, device.sheet?)))
}

impl DeviceProfile {
    /// Names of the embedded profiles.
    pub fn names() -> impl Iterator<Item = &'static str> {
        DEVICES.iter().map(|device| device.name)
    }

    /// The embedded profile called `name` (or an alias), or the one in the TOML file at that path: a profile, or a data
    /// sheet that borrows from one ([`DataSheet`]).
    pub fn load(name: &str) -> Result<Self, SpecError> {
        let text = text_of("device", DEVICES, name)?;
        if !DataSheet::is_one(&text) {
            let device: Self = parse("device", name, &text)?;
            device.check()?;
            return Ok(device);
        }
        let sheet: DataSheet = parse("device", name, &text)?;
        let base = Self::load(&sheet.like)?;
        if base.like.is_some() || base.name == sheet.name {
            let reason = format!("like = {:?} must name a measured device", sheet.like);
            return Err(SpecError::Impossible { what: "device", name: sheet.name, reason });
        }
        let device = sheet.onto(&base);
        device.check()?;
        Ok(device)
    }

    /// The measured device that is most like one of such figures (`[peak_flops, peak_fp8_flops, peak_fp4_flops,
    /// memory_bandwidth]`): that computes in the same formats, and is nearest in its rates and in their ratio.
    #[must_use]
    pub fn most_alike(figures: [f64; 4], not: &str) -> Option<Self> {
        let place = |[flops, fp8, fp4, bandwidth]: [f64; 4]| {
            let format = |peak: f64| if peak > 0.0 { 1.0 } else { 0.0 };
            [bandwidth.ln(), (flops / bandwidth).ln(), format(fp8), format(fp4)]
        };
        let here = place(figures);
        let measured = Self::names().filter(|name| *name != not).map(Self::load);
        let measured = measured.filter_map(Result::ok).filter(|d| d.like.is_none());
        let far = |d: &Self| -> f64 {
            let there =
                place([d.peak_flops, d.peak_fp8_flops, d.peak_fp4_flops, d.memory_bandwidth]);
            here.iter().zip(there).map(|(a, b)| (a - b) * (a - b)).sum()
        };
        measured.min_by(|a, b| far(a).total_cmp(&far(b)))
    }
}
