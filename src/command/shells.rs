//! `knee completions` and `knee man`: the command line as shells and manuals know it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};

use super::output::{all, file};
use super::{print, print_as_is};
use crate::cli::{Cli, Completions, Man};

pub(crate) fn completions(args: &Completions) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "knee", &mut script);
    print_as_is(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &Man) -> Result<ExitCode> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot write to {}", args.dir.display()))?;
    let mut command = Cli::command();
    command.build();
    let written = pages(&command, "knee", &args.dir)?;
    print(&format!("{written} pages in {}\n", args.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of `command`, called `name`, and of each command inside it; returns their number.
fn pages(command: &Command, name: &str, dir: &Path) -> Result<usize> {
    let mut page = Vec::new();
    let titled = command.clone().name(name.to_owned()).display_name(name.to_owned());
    clap_mangen::Man::new(titled).render(&mut page)?;
    all([file(dir, &format!("{name}.1"), &page)])?;
    let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help");
    let inner = inner.map(|inner| pages(inner, &format!("{name}-{}", inner.get_name()), dir));
    Ok(1 + inner.sum::<Result<usize>>()?)
}
