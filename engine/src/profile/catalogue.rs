//! The devices that ship, and files of one's own.

use super::borrowed::DataSheet;
use super::device::DeviceProfile;
use crate::model::{Catalogue, SpecError, parse, text_of};

const DEVICES: Catalogue = &[
    ("h100-sxm", &["h100", "h100-80g"], include_str!("../../profiles/h100-sxm.toml")),
    ("h200-sxm", &["h200"], include_str!("../../profiles/h200-sxm.toml")),
    ("b200", &["b200-sxm"], include_str!("../../profiles/b200.toml")),
    ("gb200", &["gb200-nvl72"], include_str!("../../profiles/gb200.toml")),
    ("b300", &["b300-sxm"], include_str!("../../profiles/b300.toml")),
    ("l40s", &["l40s-48g"], include_str!("../../profiles/l40s.toml")),
    (
        "rtx-pro-6000",
        &["rtxpro6000", "rtx-pro-6000-blackwell"],
        include_str!("../../profiles/rtx-pro-6000.toml"),
    ),
    ("a100-sxm", &["a100", "a100-80g"], include_str!("../../profiles/a100-sxm.toml")),
    ("a40", &["a40-48g"], include_str!("../../profiles/a40.toml")),
    ("rtx4090", &["rtx-4090", "4090"], include_str!("../../profiles/rtx4090.toml")),
    ("mi300x", &[], include_str!("../../profiles/borrowed/mi300x.toml")),
    ("mi355x", &[], include_str!("../../profiles/borrowed/mi355x.toml")),
    ("h20", &["h20-sxm"], include_str!("../../profiles/borrowed/h20.toml")),
    ("h100-pcie", &[], include_str!("../../profiles/borrowed/h100-pcie.toml")),
    ("l4", &[], include_str!("../../profiles/borrowed/l4.toml")),
    ("a10g", &["a10"], include_str!("../../profiles/borrowed/a10g.toml")),
    ("rtx-5090", &["rtx5090", "5090"], include_str!("../../profiles/borrowed/rtx-5090.toml")),
];

impl DeviceProfile {
    /// Names of the embedded profiles.
    pub fn names() -> impl Iterator<Item = &'static str> {
        DEVICES.iter().map(|(name, _, _)| *name)
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
