//! `knee`: parses the command line, calls the library, prints what came out.

mod cli;
mod command;
mod computing;
mod devices;
mod engines;
mod input;
mod knobs;
mod settings;
mod shape;
mod tell;

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory as _, FromArgMatches as _};
use engine::model::renderer;
use settings::Settings;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == renderer::WORD) {
        return renderer::work().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let settings = Settings::read();
    let command = cli::Cli::command();
    let command = settings.as_ref().map_or_else(|_| command.clone(), |s| s.over(command.clone()));
    // Help is coloured by the rule of every other answer; clap's own rule also counts `CI` as a terminal with colours.
    let colours = if command::terminal().colour { ColorChoice::Always } else { ColorChoice::Never };
    let parsed = command
        .color(colours)
        .try_get_matches()
        .and_then(|matches| cli::Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(help) if help.kind() == HELP_INSTEAD => return helped(&help),
        Err(help) if !help.use_stderr() => help.exit(),
        Err(error) => return failed(&misspelt(&error), mistaken()),
    };
    tell::speak(cli.voice());
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return failed(&chain(&error), mistaken()),
    };
    settings.note(&matches);
    command::ask(&matches);
    match command::run(cli, &settings) {
        Ok(code) => code,
        Err(error) if command::was_interrupted(&error) => {
            failed(&chain(&error), command::INTERRUPTED)
        }
        Err(error) => {
            let mistake = chain(&error);
            failed(&format!("{mistake}{}", settings::blamed(&mistake)), mistaken())
        }
    }
}

/// The status after a mistake: 1, but for `knee check`, where that says that a requirement is not met.
fn mistaken() -> u8 {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    if words.next().as_deref() == Some("check") { 2 } else { 1 }
}

/// `knee` alone: what it can do instead of what was missing.
const HELP_INSTEAD: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// Help where a command was left out: nothing went wrong.
fn helped(help: &clap::Error) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{}", help.render());
    ExitCode::SUCCESS
}

/// Says on one line of standard error what went wrong. A closed standard error changes nothing.
fn failed(what: &str, code: u8) -> ExitCode {
    let line = reports::plain(&what.split_whitespace().collect::<Vec<_>>().join(" "));
    let _ = writeln!(std::io::stderr(), "knee: {line}");
    ExitCode::from(code)
}

/// The chain of causes, outermost first. A library error may already quote its cause: it is not said twice.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.is_empty() => cause,
        cause if said.contains(&cause) => said,
        cause => format!("{said}: {cause}"),
    })
}

/// A message of clap's in one line: the mistake, and its tip if it has one.
fn misspelt(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let mistake = paragraphs.next().unwrap_or_default();
    let mistake = mistake.strip_prefix("error: ").unwrap_or(mistake).trim();
    let tip = paragraphs.find_map(|p| p.trim().strip_prefix("tip: "));
    tip.map_or_else(|| format!("{mistake} (see --help)"), |tip| format!("{mistake}; {tip}"))
}
