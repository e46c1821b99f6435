//! From published operator tables to a device profile.
//!
//! A *sheet* holds everything that no table can: the data sheet, prices, constants with their sources, and the family
//! that measured the device. Rows of that family are fitted to knots of efficiency; a gap is filled from another one
//! only where the caller allows it, else from a constant of the sheet that names its source, else the import fails:
//! nothing is ever taken for zero. The same tables and sheet give the same file to the byte.

mod aiconfigurator;
mod families;
mod fit;
mod folders;
mod kernels;
mod llmservingsim;
mod operators;
mod outliers;
mod parquet;
mod rows;
mod source;
mod tables;
mod vidur;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use crate::profile::DeviceProfile;
use tables::{Found, Limits, Part, Sheet};

pub use fit::spread;
pub use tables::{Family, ImportError, Imported, Place, Point, Row, Run, SEED};

/// Fits the tables in `dir` by `sheet` (its name and text), and fills their gaps from the families in `compose` that
/// the sheet knows.
///
/// # Errors
/// On tables that are broken, doubtful or missing, and on a sheet that does not make a profile.
pub fn import(
    dir: &Path,
    (name, text): (&str, &str),
    compose: &[Family],
    seed: u64,
) -> Result<Imported, ImportError> {
    let sheet = Sheet::parse(name, text)?;
    let (mut parts, mut read) = (Vec::new(), Vec::new());
    let wanted = sheet.tables.compose.iter().filter(|t| compose.contains(&t.family));
    for from in std::iter::once(&sheet.tables).chain(wanted) {
        let Found { rows, timed, notes } = from.family.rows(dir, from)?;
        read.extend(notes);
        let limits = match &from.of {
            Some(other) => Sheet::shipped(other)?.limits,
            None => sheet.limits,
        };
        parts.push(Part { from: from.clone(), limits, rows, timed });
    }
    let mut imported = fit(&sheet, &parts, seed)?;
    imported.notes.splice(0..0, read);
    Ok(imported)
}

/// Fits rows that were measured on this machine as `sheet` (its name and text, with an `[import]` that names the
/// machine) says.
///
/// # Errors
/// As [`import`]'s.
pub fn measured(
    (name, text): (&str, &str),
    rows: Vec<Row>,
    seed: u64,
) -> Result<Imported, ImportError> {
    let sheet = Sheet::parse(name, text)?;
    let limits = Limits { large: false, ..sheet.limits };
    let part = Part { from: sheet.tables.clone(), limits, rows, timed: BTreeMap::new() };
    fit(&sheet, &[part], seed)
}

fn fit(sheet: &Sheet, parts: &[Part], seed: u64) -> Result<Imported, ImportError> {
    let mut fitted = operators::fit_all(sheet, parts, seed)?;
    for part in parts.iter().filter(|p| p.from.family == Family::Vidur) {
        fitted.notes.extend(part.from.vidur.notes(&part.rows));
    }
    let toml = write::profile(&sheet.rest, &fitted);
    let profile: DeviceProfile = toml::from_str(&toml).map_err(|e| ImportError::Sheet {
        sheet: sheet.name.clone(),
        reason: e.to_string().trim_end().to_owned(),
    })?;
    profile.check()?;
    Ok(Imported { toml, profile, points: fitted.points, notes: fitted.notes })
}
