//! `knee diff` and `knee check`: results that are there, beside each other and beside requirements.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use reports::between::{Difference, Facts, Requirements, checked_lines, difference_page, junit};
use serde_json::json;

use super::output::{all, file};
use super::{print_as_is, print_json, terminal};
use crate::cli;

pub(crate) fn diff(args: &cli::Diff) -> Result<ExitCode> {
    let (before, after) = (facts(&args.before)?, facts(&args.after)?);
    let name = |path: &Path| path.display().to_string();
    let (first, second) = (name(&args.before), name(&args.after));
    let difference = Difference::new((&first, &before), (&second, &after));
    let printed = match args.json {
        true => print_json(&difference),
        false => print_as_is(&difference.terminal(terminal())),
    };
    let page = args.html.iter().map(|path| write(path, &difference_page(&difference)));
    all(std::iter::once(printed).chain(page))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn check(args: &cli::Require) -> Result<ExitCode> {
    if args.min_rps.is_none() && args.max.is_empty() && args.against.is_none() {
        bail!("nothing is required: give --min-rps 7, --max ttft=200ms or --against DIR");
    }
    let asked =
        Requirements { min_rps: args.min_rps, max: args.max.clone(), tolerance: args.tolerance };
    let baseline = args.against.as_deref().map(facts).transpose()?;
    let checked = asked.check(&facts(&args.result)?, baseline.as_ref()).map_err(|e| anyhow!(e))?;
    let passed = checked.iter().all(|c| c.passed);
    let printed = match args.json {
        true => print_json(&json!({ "passed": passed, "requirements": checked })),
        false => print_as_is(&checked_lines(&checked, terminal())),
    };
    let suite = args.result.display().to_string();
    let report = args.junit.iter().map(|path| write(path, &junit(&checked, &suite)));
    all(std::iter::once(printed).chain(report))?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The facts of the result at `path`: its folder, or a file in that.
fn facts(path: &Path) -> Result<Facts> {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let facts = Facts::of(&reports::load(folder)?);
    facts.ok_or_else(|| anyhow!("{}: a validation has no answer to compare", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let name = path.file_name().ok_or_else(|| anyhow!("{} is no file", path.display()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    file(folder.unwrap_or(Path::new(".")), &name.to_string_lossy(), text.as_bytes())
}
