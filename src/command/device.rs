//! `knee devices` and `knee device add`: the devices that are known, and how one more is described.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use engine::DeviceProfile;
use engine::profile::DataSheet;
use serde_json::{Value, json};

use super::{print, print_json};
use crate::cli::Add;

/// Lists the shipped devices.
pub(crate) fn list(as_json: bool) -> Result<ExitCode> {
    let all = DeviceProfile::names().map(DeviceProfile::load).collect::<Result<Vec<_>, _>>()?;
    if as_json {
        print_json(&all.iter().map(described).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = format!(
        "{:<14}{:>7}{:>10}{:>8}{:>8}{:>8}{:>6}{:>8}   {}\n",
        "device", "memory", "bandwidth", "bf16", "fp8", "fp4", "node", "price", "operators"
    );
    out += &format!(
        "{:<14}{:>7}{:>10}{:>8}{:>8}{:>8}{:>6}{:>8}\n",
        "", "GB", "TB/s", "TFLOPS", "TFLOPS", "TFLOPS", "GPUs", "$/h"
    );
    for d in &all {
        let peak = |flops: f64| match flops {
            0.0 => "–".to_owned(),
            _ => format!("{:.0}", flops / 1e12),
        };
        let _ = writeln!(
            out,
            "{:<14}{:>7.0}{:>10.2}{:>8}{:>8}{:>8}{:>6}{:>8.2}   {}",
            d.name,
            d.memory_bytes as f64 / 1e9,
            d.memory_bandwidth / 1e12,
            peak(d.peak_flops),
            peak(d.peak_fp8_flops),
            peak(d.peak_fp4_flops),
            d.gpus_per_node,
            d.price.per_gpu_hour,
            origin(d)
        );
    }
    out += "\nPrices are assumed: give yours with --price DEVICE=USD. Another device: knee device add --help\n";
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// The origin of its operators' times, in a few words.
fn origin(d: &DeviceProfile) -> String {
    match (&d.like, d.timed_under()) {
        (Some(like), _) => format!("borrowed from {like}"),
        (None, Some(engine)) => format!("measured, {engine}"),
        (None, None) => "measured".to_owned(),
    }
}

fn described(d: &DeviceProfile) -> Value {
    json!({
        "name": d.name,
        "memory_bytes": d.memory_bytes,
        "memory_bandwidth": d.memory_bandwidth,
        "peak_flops": d.peak_flops,
        "peak_fp8_flops": d.peak_fp8_flops,
        "peak_fp4_flops": d.peak_fp4_flops,
        "gpus_per_node": d.gpus_per_node,
        "usd_per_gpu_hour": d.price.per_gpu_hour,
        "measured": d.like.is_none(),
        "borrowed_from": d.like,
        "timed_under": d.timed_under(),
        "provenance": d.provenance,
    })
}

/// Writes the data sheet of a device.
pub(crate) fn add(args: &Add) -> Result<ExitCode> {
    let name = args.name.trim().to_ascii_lowercase();
    let fine = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || !name.chars().all(fine) {
        bail!("{:?} is no name: use letters, digits, - . and _", args.name);
    }
    if DeviceProfile::load(&name).is_ok() {
        bail!("{name} is a shipped device: choose another name (see `knee devices`)");
    }
    let (fp8, fp4) = (args.fp8.unwrap_or(0.0), args.fp4.unwrap_or(0.0));
    let like = match &args.like {
        Some(like) => DeviceProfile::load(like)?.name,
        None => {
            DeviceProfile::most_alike([args.bf16, fp8, fp4, args.bandwidth], &name)
                .context("no measured device to borrow from")?
                .name
        }
    };
    let sheet = DataSheet {
        name: name.clone(),
        like,
        source: args.source.clone(),
        memory_bytes: args.memory as u64,
        memory_bandwidth: args.bandwidth,
        peak_flops: args.bf16,
        peak_fp8_flops: fp8,
        peak_fp4_flops: fp4,
        gpus_per_node: args.gpus_per_node,
        link_bandwidth: args.link,
        network_bandwidth: args.network,
        price_per_gpu_hour: args.price,
    };
    let path = args.to.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.toml")));
    let place = path.display().to_string();
    if path.exists() {
        bail!("{place} exists: remove it first, or name another file with --to");
    }
    std::fs::write(&path, toml::to_string(&sheet)?)
        .with_context(|| format!("cannot write {place}"))?;
    // A file that cannot be used is not left behind.
    if let Err(why) = DeviceProfile::load(&place) {
        std::fs::remove_file(&path)?;
        return Err(why.into());
    }
    print(&format!(
        "Wrote {place}: efficiencies borrowed from {}. Use it with --device {place}\n",
        sheet.like
    ))?;
    Ok(ExitCode::SUCCESS)
}
