//! `knee calibrate`: constants that no table contains, from a run that really happened.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tuner::evidence::calibrate::{Calibration, Scope, from_requests, from_steps, read_steps};

use super::validate::{recorded, setup};
use super::{print, print_json};
use crate::cli;

pub(crate) fn run(args: &cli::Calibrate) -> Result<ExitCode> {
    let setup = setup(&args.setup)?;
    if setup.correction.is_some() {
        bail!("{} is calibrated already: give the profile it belongs to", setup.device.name);
    }
    let scope = match args.fit.as_deref() {
        Some("host") => Scope::Host,
        Some("all") => Scope::All,
        Some(other) => bail!("unknown --fit `{other}`: expected host or all"),
        None if args.steps.is_some() => Scope::All,
        None => Scope::Host,
    };
    let (input, found) = match (&args.steps, &args.requests) {
        (Some(path), None) => {
            let file = path.display().to_string();
            let bytes = tuner::evidence::validate::read::bytes(path)?;
            let steps = read_steps(&file, &bytes)?;
            let found =
                from_steps(&steps, &setup.model, &setup.device, &setup.config, scope, args.seed)?;
            (file, found)
        }
        (None, Some(path)) => {
            if scope == Scope::All {
                bail!("--fit all needs --steps: requests tell nothing about single operators");
            }
            let runs =
                recorded(path, args.recorded.run.as_deref(), args.recorded.prompts.as_deref())?;
            let [run] = &runs[..] else {
                let names: Vec<&str> = runs.iter().map(|r| r.name.as_str()).collect();
                bail!(
                    "{} holds several runs: choose one with --run: {}",
                    path.display(),
                    names.join(", ")
                );
            };
            (path.display().to_string(), from_requests(run, &setup, args.seed)?)
        }
        _ => bail!("give either --steps FILE or --requests FILE"),
    };
    let overlay = found.overlay(&args.setup.device, &input);
    if let Some(to) = &args.to {
        std::fs::write(to, overlay.text())
            .with_context(|| format!("cannot write {}", to.display()))?;
    }
    if args.print.json {
        print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&said(&found))?;
    match &args.to {
        Some(to) => print(&format!(
            "\nWritten: {}  (use it with --calibration or --device)\n",
            to.display()
        ))?,
        None => print("\nNothing written: give --to FILE.toml\n")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Errors before and after, and every constant with its source; 100 columns at most.
fn said(c: &Calibration) -> String {
    let mut text = format!(
        "Fitted to {} {}, judged on {} held out (seed {}).\n\n  error, %          bias    mean     p50     p90     p99\n",
        c.fitted, c.rows, c.held_out, c.seed
    );
    for (name, m) in [("before", &c.before), ("after", &c.after)] {
        text += &format!(
            "  {name:<12}  {:>+8.2}{:>8.2}{:>8.2}{:>8.2}{:>8.2}\n",
            m.bias, m.mean, m.p50, m.p90, m.p99
        );
    }
    text += "\n  constant               before     after         ±  source\n";
    for k in &c.coefficients {
        let error = k.error.map_or_else(|| "–".to_owned(), |e| format!("{e:.3}"));
        let line = format!(
            "  {:<20} {:>8.3} {:>9.3} {error:>9}  {} {}",
            k.name, k.before, k.after, k.unit, k.source
        );
        text += &format!("{line:.99}\n");
    }
    text
}
