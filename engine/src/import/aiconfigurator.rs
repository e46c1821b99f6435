//! NVIDIA's AIConfigurator and AISimulate: kernels alone, any shape and format, timed inside engines.
//!
//! Read as the wheel lies, unpacked: SYSTEM/FAMILY/vllm/VERSION/TABLE_perf.parquet somewhere under `systems/data`, the
//! newest version that has the table; or as CSV, SYSTEM/TABLE.vllm-VERSION.csv or all in one folder,
//! SYSTEM.VERSION.TABLE.csv. Times are in milliseconds. The meaning of each table's rows stands in `kernels`.

use std::path::{Path, PathBuf};

use super::folders::{MS, each, folder, folders, name_of};
use super::kernels;
use super::source::{find, find_all};
use super::tables::{Found, ImportError, Row};

/// The places of the systems' data in an unpacked wheel, an installed package or a checkout.
const DATA: [&str; 5] = [
    "data",
    "systems/data",
    "aisimulate_core/systems/data",
    "aiconfigurator_core/systems/data",
    "aic-core/src/aiconfigurator_core/systems/data",
];

/// The engine whose kernels were timed.
const ENGINE: &str = "vllm";

/// The place of one system's tables.
enum Tables {
    /// In folders by operator, engine and version.
    Folders(PathBuf),
    /// Side by side in the system's folder, each named after the engine and its version.
    Tagged(PathBuf),
    /// Side by side in one folder, named after the system.
    Flat(PathBuf, String),
}

/// A table, and the version of the engine that it was timed in.
type Dated = (PathBuf, Option<String>);

impl Tables {
    fn find(&self, name: &str) -> Result<Option<Dated>, ImportError> {
        let dated = |path: PathBuf, version: String| (path, Some(version));
        match self {
            Self::Folders(system) => {
                let found = newest(system, &format!("{name}_perf.parquet"))?;
                Ok(found.map(|path| {
                    let version = path.parent().map(name_of).unwrap_or_default();
                    dated(path, version)
                }))
            }
            Self::Tagged(system) => {
                let mut starts = format!("{name}.{ENGINE}-");
                let mut all = find_all(system, &starts, ".csv", false)?;
                if all.is_empty() {
                    // Not of the engine: a library's version alone.
                    starts = format!("{name}.");
                    all = find_all(system, &starts, ".csv", false)?;
                }
                let version = |path: &PathBuf| {
                    let file = name_of(path);
                    let rest = file.strip_prefix(&starts).unwrap_or_default();
                    rest.trim_end_matches(".gz").trim_end_matches(".csv").to_owned()
                };
                let newest = all.into_iter().max_by_key(|path| version_key(&version(path)));
                Ok(newest.map(|path| {
                    let version = version(&path);
                    dated(path, version)
                }))
            }
            Self::Flat(dir, system) => {
                let starts = format!("{system}.");
                let found = find(dir, &starts, &format!(".{name}.csv"))?;
                Ok(found.map(|path| {
                    let file = name_of(&path);
                    let rest = file.split_once(&format!("{ENGINE}-")).map(|(_, rest)| rest);
                    let version = rest.and_then(|rest| rest.split_once(&format!(".{name}")));
                    (path, version.map(|(version, _)| version.to_owned()))
                }))
            }
        }
    }
}

/// Everything there is of `system`, in one of the family's own folders or straight in the one that was given.
pub(super) fn rows(own: &[&Path], given: &Path, system: &str) -> Result<Found, ImportError> {
    let places: Vec<&Path> = own.iter().copied().chain([given]).collect();
    let of_system = || folder(&places, &DATA, system).or_else(|| folder(&places, &[""], system));
    let tables = match (of_system(), folder(own, &DATA, "")) {
        (Some(folder), _) if folders(&folder)?.is_empty() => Tables::Tagged(folder),
        (Some(folder), _) => Tables::Folders(folder),
        (None, Some(dir)) => {
            let name = format!("of {system}");
            return Err(ImportError::Absent { name, dir, derived: false });
        }
        (None, None) => {
            let there = own.iter().find(|dir| dir.is_dir()).unwrap_or(&own[own.len() - 1]);
            Tables::Flat(there.to_path_buf(), system.to_owned())
        }
    };
    let mut found = Found::default();
    for kernel in kernels::ALL {
        read(&tables, kernel, &mut found)?;
    }
    Ok(found)
}

/// Adds the rows of a table that are wanted, where there is such a table.
fn read(tables: &Tables, kernel: &kernels::Kernel, to: &mut Found) -> Result<(), ImportError> {
    let Some((path, version)) = tables.find(kernel.table)? else { return Ok(()) };
    let mut rows = Vec::new();
    each(&path, |s| {
        let unit = if kernel.microseconds { 1e-6 } else { MS };
        let seconds = s.seconds(if s.has("latency") { "latency" } else { "latency_ms" }, unit)?;
        rows.extend((kernel.row)(s)?.map(|run| Row { run, seconds }));
        Ok(())
    })?;
    to.rows.extend((kernel.together)(rows));
    if let Some(version) = version {
        for kind in kernel.kinds {
            to.timed.insert((*kind).to_owned(), format!("{} {version}", kernel.by));
        }
        to.notes.push(format!("{} is of {} {version}", kernel.table, kernel.by));
    }
    Ok(())
}

/// The table `file` of the newest version among SYSTEM/FAMILY/ENGINE/VERSION that has it.
fn newest(system: &Path, file: &str) -> Result<Option<PathBuf>, ImportError> {
    let mut versions = Vec::new();
    for family in folders(system)? {
        let engine = family.join(ENGINE);
        if engine.is_dir() {
            versions.extend(folders(&engine)?.into_iter().filter(|v| v.join(file).is_file()));
        }
    }
    let newest = versions.into_iter().max_by_key(|v| version_key(&name_of(v)));
    Ok(newest.map(|version| version.join(file)))
}

/// Puts versions in the order of their releases: by numbers, with `dev` and `rc` before and `post` after the release.
fn version_key(version: &str) -> Vec<(i8, u64)> {
    let mut key = Vec::new();
    let mut rest = version;
    while let Some(first) = rest.chars().next() {
        let end = |same: fn(char) -> bool| rest.find(|c| !same(c)).unwrap_or(rest.len());
        let digits = end(|c| c.is_ascii_digit());
        let (part, length) = match digits {
            0 if first.is_alphabetic() => {
                let length = end(char::is_alphabetic);
                let part = match &rest[..length] {
                    "dev" => (-2, 0),
                    "post" => (1, 0),
                    _ => (-1, 0),
                };
                (Some(part), length)
            }
            0 => (None, first.len_utf8()),
            length => (Some((1, rest[..length].parse().unwrap_or(u64::MAX))), length),
        };
        key.extend(part);
        rest = &rest[length..];
    }
    key.push((0, 0));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_of_their_releases() {
        let order = [
            "0.1.dev19262",
            "0.5.6",
            "0.5.6.post2",
            "0.9.0",
            "0.24.0rc3",
            "0.24.0",
            "0.24.1",
            "1.0",
        ];
        assert!(order.is_sorted_by_key(|v| version_key(v)), "{:?}", order.map(version_key));
        let _ = version_key("v1.é-x..99999999999999999999999");
    }
}
