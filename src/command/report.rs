//! `knee report`: the page of an earlier run, drawn again from what was stored.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;

use super::{print, print_json};
use crate::cli;

pub(crate) fn run(args: &cli::Report) -> Result<ExitCode> {
    let report = reports::load(&args.dir)?;
    report.write(&args.dir)?;
    if args.json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&report.terminal(std::io::stdout().is_terminal()))?;
    print(&format!("\nReport: {}\n", args.dir.join(reports::PAGE).display()))?;
    Ok(ExitCode::SUCCESS)
}
