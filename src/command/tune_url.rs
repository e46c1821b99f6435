//! `knee tune --url`: the highest rate at which a server holds its targets.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Result, anyhow, bail};
use tuner::result::{Answer, Contender, Source, Tried};
use tuner::subject::Stop;
use tuner::subject::server::{Aim, Memory, Range};

use super::live::{Place, find, options, study};
use super::output::all;
use super::served::{Best, deliver, line};
use super::{cancel, measure, secrets};
use crate::cli;
use crate::input;

pub(crate) fn run(args: &cli::Tune) -> Result<ExitCode> {
    args.output.check()?;
    args.scenario.instead.by.none_beside("the server")?;
    if args.knobs.any() {
        bail!("a server has its own configuration: leave the engine's flags out with --url");
    }
    let prepared = input::prepare(&args.scenario)?;
    let (trace, slo) = (&*prepared.trace, &prepared.slo);
    if slo.slo().targets().is_empty() {
        bail!("a capacity needs a target to hold, such as --slo ttft=200ms");
    }
    input::need_rate(trace)?;
    let (live, url) = find(&args.server.reach, args.scenario.model.as_deref(), trace)?;
    let options = options(&args.server.reach, slo);
    let stop = cancel()?;
    let mut go_on = || !stop.load(Ordering::Relaxed);
    let study = study(args, ("server", secrets::url(&url)), trace, slo)?;
    let memory = study.as_ref().map(|study| Memory::new(study, live.model()));
    let mut range = Range::new(&live, trace, slo, options).remembering(memory);
    let (probe, budget) = (args.server.probe, args.server.budget());
    let aim = Aim { probe, budget, beat: None, expected: None };
    let mut say = |tried: &Tried| {
        if !args.output.json {
            super::tell(&line(tried));
        }
    };
    let (searched, cost) = measure(|| range.search(&aim, &mut say, &mut go_on));
    drop(range);
    let close = || study.map_or(Ok(()), |study| study.close().map_err(anyhow::Error::from));
    let searched = match searched {
        Ok(searched) => searched,
        Err(_) if stop.load(Ordering::Relaxed) => {
            close()?;
            return Err(Stop::Cancelled.into());
        }
        Err(why) => return all([Err(anyhow!(why)), close()]).map(|()| ExitCode::FAILURE),
    };
    let place = Place::of(&live, &url);
    let own = Contender::new("the server as it is".to_owned(), BTreeMap::new());
    let (contender, held) = searched.of(own);
    let winner = contender.standing.carries().map(|_| 0);
    let source = Source { simulated: false, on: secrets::url(&url) };
    let interrupted = stop.load(Ordering::Relaxed);
    let answer = Answer { interrupted, ..Answer::new(source, vec![contender], winner) };
    let best = held.map(|held| Best { held, place: place.clone() });
    let (delivered, code) =
        deliver(&args.output, &prepared, (None, Some(place)), (answer, best), &cost);
    all([delivered, close()])?;
    Ok(code)
}
