//! Devices as they are asked for: a profile, a calibration laid over it, and what is said otherwise.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::DeviceProfile;
use engine::exec::Correction;
use engine::files::{LONGEST_SETTINGS, read_text};
use engine::profile::{Price, PriceBasis};
use tuner::evidence::calibrate::Overlay;

use crate::cli::Instead;

/// A device, and what calibration found about it.
#[derive(PartialEq)]
pub(crate) struct Hardware {
    pub(crate) profile: Arc<DeviceProfile>,
    pub(crate) correction: Option<Arc<Correction>>,
}

/// The device `name` stands for: a profile's name or file, or the file of a calibration, which names its profile.
/// `calibration` is laid over it, then what is said `instead`.
pub(crate) fn hardware(
    name: &str,
    calibration: Option<&Path>,
    instead: &Instead,
) -> Result<Hardware> {
    let device = named(name, calibration, instead)?;
    all_used(instead, std::slice::from_ref(&device), &[name.to_owned()])?;
    Ok(device)
}

fn named(name: &str, calibration: Option<&Path>, instead: &Instead) -> Result<Hardware> {
    let is_overlay = |path: &Path| {
        let text = read_text(path, LONGEST_SETTINGS).unwrap_or_default();
        text.lines().any(|l| l.trim_start().starts_with("calibrates"))
    };
    let overlay = match calibration {
        Some(path) => Some(Overlay::read(path)?),
        None if name.ends_with(".toml") && is_overlay(Path::new(name)) => {
            Some(Overlay::read(Path::new(name))?)
        }
        None => None,
    };
    let base = match &overlay {
        Some(overlay) if calibration.is_none() => overlay.device.clone(),
        _ => name.to_owned(),
    };
    let mut profile = DeviceProfile::load(&base)?;
    let mut correction = None;
    if let Some(overlay) = overlay {
        let same = DeviceProfile::load(&overlay.device).is_ok_and(|p| p.name == profile.name);
        if overlay.device != base && !same {
            bail!("this calibration belongs to {}, not to {base}", overlay.device);
        }
        correction = overlay.correction().map_err(anyhow::Error::msg)?;
        profile = overlay.apply(&profile);
    }
    if let Some(usd) = price(name, &profile, instead)? {
        profile.price = Price {
            per_gpu_hour: usd,
            currency: "USD".to_owned(),
            basis: PriceBasis::Quoted,
            source: "given with --price".to_owned(),
            ..profile.price
        };
    }
    Ok(Hardware { profile: Arc::new(profile), correction })
}

/// The devices called `names`, each once.
pub(crate) fn devices(names: &[String], instead: &Instead) -> Result<Vec<Hardware>> {
    let asked = names.iter().map(|name| named(name, None, instead));
    let asked = asked.collect::<Result<Vec<Hardware>>>()?;
    all_used(instead, &asked, names)?;
    let mut all: Vec<Hardware> = Vec::new();
    for device in asked {
        match all.iter().find(|d| d.profile.name == device.profile.name) {
            None => all.push(device),
            Some(same) if *same == device => {}
            Some(_) => {
                bail!("two devices are called {}: give one another name", device.profile.name)
            }
        }
    }
    Ok(all)
}

/// The price given for the device `name`, whose profile is `profile`: on the command line, or else in a file.
fn price(name: &str, profile: &DeviceProfile, instead: &Instead) -> Result<Option<f64>> {
    let of = |(device, _): &&(String, f64)| is(device, name, profile);
    if let Some((_, usd)) = instead.price.iter().find(of) {
        return Ok(Some(*usd));
    }
    let Some(path) = &instead.prices else { return Ok(None) };
    let place = path.display();
    let text = read_text(path, LONGEST_SETTINGS).with_context(|| format!("cannot read {place}"))?;
    let table: BTreeMap<String, f64> =
        toml::from_str(&text).with_context(|| format!("{place}: expected lines DEVICE = USD"))?;
    for (device, usd) in &table {
        if !(usd.is_finite() && *usd > 0.0) {
            bail!("{place}: {device} = {usd} is no price: expected US dollars above 0");
        }
    }
    Ok(table.into_iter().find(|entry| of(&entry)).map(|(_, usd)| usd))
}

/// True if `device` is what the device `name` was asked for as, its profile's name, or another name of that.
fn is(device: &str, name: &str, profile: &DeviceProfile) -> bool {
    device.eq_ignore_ascii_case(name)
        || device.eq_ignore_ascii_case(&profile.name)
        || DeviceProfile::load(device).is_ok_and(|d| d.name == profile.name)
}

/// Refuses a price of a device that was not asked for. A file may price others as well.
fn all_used(instead: &Instead, devices: &[Hardware], typed: &[String]) -> Result<()> {
    for (device, _) in &instead.price {
        let used = devices.iter().zip(typed).any(|(d, name)| is(device, name, &d.profile));
        if !used {
            let asked = typed.join(", ");
            bail!("--price names {device}, which is none of the devices asked for: {asked}");
        }
    }
    Ok(())
}
