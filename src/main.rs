//! `knee`: parses the command line, calls the library, prints what came out.

mod cli;
mod command;
mod input;
mod knobs;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match command::run(cli) {
        Ok(code) => code,
        Err(error) => {
            // One line: the chain of causes, outermost first.
            eprintln!("knee: {error:#}");
            ExitCode::FAILURE
        }
    }
}
