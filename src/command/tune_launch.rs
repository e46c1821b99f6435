//! `knee tune --launch`: a server per configuration of its flags, started, searched for its capacity, and ended.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use loadgen::{Error, Live};
use reports::{About, LaunchReport, Report};
use serde_json::{Value, json};
use tempfile::TempDir;
use tuner::contest::turns::flags::defaults;
use tuner::contest::turns::{Candidate, Failure, Race, Rules, Seen, Trial, screen};
use tuner::subject::Stop;
use tuner::subject::launched::process::Process;
use tuner::subject::server::{Aim, Found, Held, LiveStudy, Memory, Range, Ready, Searched, Shot};

use super::bench::result;
use super::live::{Measured, Place, launched, options, scenario, server, start_limit, study};
use super::output::{all, typed};
use super::{INTERRUPTED, cancel, measure, secrets};
use crate::cli;
use crate::computing::is_here;
use crate::input::{self, Prepared};

/// The time that a server which may still be starting has for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Lines kept of the log of a server that failed.
const LINES: usize = 20;
/// Servers started after a simulation when nobody says.
const TRIES: usize = 4;

pub(crate) fn run(args: &cli::Tune) -> Result<ExitCode> {
    args.output.check()?;
    let command = check(args)?;
    let prepared = input::prepare(&args.scenario)?;
    if prepared.slo.slo().targets().is_empty() {
        bail!("a capacity needs a target to hold, such as --slo ttft=200ms");
    }
    input::need_rate(&prepared.trace)?;
    let stop = cancel()?;
    let (chosen, rest) = choose(args, &prepared, stop)?;
    let launched = secrets::command(args.server.launch.launch.as_deref().unwrap_or_default());
    let study = study(args, ("launch", launched), &prepared.trace, &prepared.slo)?;
    let logs = Logs::new(args)?;
    let (probe, budget) = (args.server.probe, args.server.budget());
    let rules = Rules { probe, budget, in_full: args.exhaustive };
    let total = chosen.len();
    let mut range = Launcher {
        args,
        command,
        prepared: &prepared,
        study: study.as_ref(),
        logs: logs.folder(),
        stop,
        total,
        best: None,
    };
    let go_on = || !stop.load(Ordering::Relaxed);
    let (mut race, cost) = measure(|| {
        Race::run(chosen, rules, &go_on, &mut |i, candidate, aim| range.measure(i, candidate, aim))
    });
    race.trials.extend(rest);
    let best = range.best.take();
    let (delivered, code) = deliver(args, &prepared, race, best, (cost.wall_s, cost.cpu_s));
    let closed = study.map_or(Ok(()), |study| study.close().map_err(Into::into));
    all([delivered, closed])?;
    Ok(code)
}

/// The command to start, where everything typed makes sense together.
fn check(args: &cli::Tune) -> Result<&str> {
    let command = args.server.launch.launch.as_deref().unwrap_or_default();
    if args.knobs.any() {
        bail!("a server is given its flags by --knob, such as --knob max-num-seqs=16,64");
    }
    if !command.contains("{flags}") {
        bail!("--launch has no place for the flags to try: write {{flags}} in the command");
    }
    if args.server.reach.url.is_none() && !command.contains("{port}") {
        bail!(
            "--launch does not say where the server listens: write {{port}} in the command, or give its --url"
        );
    }
    match &args.device[..] {
        [only] if is_here(only) => bail!("--device cpu is this machine: nothing to simulate"),
        [_] if args.scenario.model.is_none() => {
            bail!("--device simulates first: say which model with --model, such as llama-3.1-8b")
        }
        [] | [_] => {}
        _ => bail!("--launch simulates one device first: name one"),
    }
    Ok(command)
}

/// The configurations to start, in order, and those left out, each with its reason.
fn choose(
    args: &cli::Tune,
    prepared: &Prepared,
    stop: &AtomicBool,
) -> Result<(Vec<Candidate>, Vec<Trial>)> {
    let launch = &args.server.launch;
    let usual = launch.flags.usual();
    let values = if launch.knob.is_empty() { &usual } else { &launch.knob };
    let listed = launch.flags.candidates(values).map_err(|e| anyhow!("--knob: {e}"))?;
    let (mut ranked, mut rest, tries) = match args.device.first() {
        None => (listed, Vec::new(), launch.tries.unwrap_or(usize::MAX)),
        Some(device) => {
            let bed =
                prepared.on(input::hardware(device, None, &args.scenario.host)?, &args.scenario)?;
            let screened = screen(listed, launch.flags, &bed, stop).ok_or(Stop::Cancelled)?;
            if !screened.strange.is_empty() {
                let names = screened.strange.join(", ");
                say(args, &format!("The simulation does not know {names}: it ranks by the rest."));
            }
            let refused = screened.refused.into_iter().map(|(c, why)| Trial::untried(c, why));
            (screened.ranked, refused.collect(), launch.tries.unwrap_or(TRIES))
        }
    };
    let after = ranked.split_off(tries.min(ranked.len()));
    let why = format!("{tries} others come before it");
    rest.extend(after.into_iter().map(|c| Trial::untried(c, why.clone())));
    ranked.insert(0, defaults());
    Ok((ranked, rest))
}

/// The folder of servers' logs: the report's, else one that goes with us.
enum Logs {
    Kept(PathBuf),
    Lost(TempDir),
}

impl Logs {
    fn new(args: &cli::Tune) -> Result<Self> {
        Ok(match args.output.folder() {
            Some(dir) => Self::Kept(dir),
            None => Self::Lost(TempDir::new().context("no folder for the servers' logs")?),
        })
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Kept(dir) => dir,
            Self::Lost(dir) => dir.path(),
        }
    }
}

/// The run at the best rate of the best configuration.
struct Best {
    held: Held,
    place: Place,
}

/// Starts servers and searches them.
struct Launcher<'a> {
    args: &'a cli::Tune,
    command: &'a str,
    prepared: &'a Prepared,
    study: Option<&'a LiveStudy>,
    logs: &'a Path,
    stop: &'a AtomicBool,
    total: usize,
    best: Option<Best>,
}

impl<'a> Launcher<'a> {
    fn measure(&mut self, i: usize, candidate: &Candidate, aim: &Aim) -> Seen {
        say(self.args, &format!("{} of {}: {}", i + 1, self.total, candidate.label));
        let name = format!("server-{:02}.log", i + 1);
        let log = self.logs.join(&name);
        if let Some(seen) = self.remembered(candidate, aim) {
            say(self.args, "  measured before");
            return Seen { log: log.exists().then_some(name), ..seen };
        }
        let (mut ready_s, mut shots) = (None, Vec::new());
        let searched = self.start(candidate, &log).and_then(|(mut process, url)| {
            let searched =
                self.search(candidate, &mut process, &url, aim, &mut ready_s, &mut shots);
            // Its last words, before it was told to end.
            searched.map_err(|why| Failure { why, last_lines: process.last_lines(LINES) })
        });
        // A server may say what it was started with.
        let secret = secrets::values(self.command);
        let mut searched = searched.map_err(|Failure { why, last_lines }| Failure {
            why: secrets::without(&why, &secret),
            last_lines: last_lines.iter().map(|line| secrets::without(line, &secret)).collect(),
        });
        if let Ok(Searched { found: Found { note: Some(note), .. }, .. }) = &mut searched {
            *note = secrets::without(note, &secret);
        }
        if let Err(failure) = &searched
            && !self.stop.load(Ordering::Relaxed)
        {
            say(self.args, &format!("  FAILED: {}", failure.why));
        }
        let log = self.args.output.folder().is_some().then_some(name);
        Seen { searched, ready_s, log, shots }
    }

    fn memory(&self, candidate: &Candidate) -> Option<Memory<'a>> {
        Some(Memory::new(self.study?, &candidate.flags))
    }

    /// An earlier measurement of a configuration, made to its end.
    fn remembered(&mut self, candidate: &Candidate, aim: &Aim) -> Option<Seen> {
        let memory = self.memory(candidate)?;
        let Ready { url, model, prompts, ready_s } = memory.ready()?;
        let (reach, slo) = (&self.args.server.reach, &self.prepared.slo);
        let range = Range::of(&self.prepared.trace, slo, options(reach, slo));
        let go_on = &mut || !self.stop.load(Ordering::Relaxed);
        let searched = range.remembering(Some(memory)).search(aim, &mut |_| {}, go_on);
        let searched = self.take_best(searched.ok()?, &Place { url, model, prompts });
        Some(Seen { searched: Ok(searched), ready_s: Some(ready_s), log: None, shots: Vec::new() })
    }

    /// Keeps the run of a search if it is the best so far.
    fn take_best(&mut self, mut searched: Searched, place: &Place) -> Searched {
        let best = self.best.as_ref().map_or(0.0, |b| b.held.rate_rps);
        if let Some(held) = searched.best.take().filter(|held| held.rate_rps > best) {
            self.best = Some(Best { held, place: place.clone() });
        }
        searched
    }

    /// A process of the command with everything filled in, and where it will listen.
    fn start(&self, candidate: &Candidate, log: &Path) -> Result<(Process, String), Failure> {
        let failed = |why: String| Failure { why, last_lines: Vec::new() };
        let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr());
        let port = free.map_err(|e| failed(format!("no free port: {e}")))?.port().to_string();
        let fill = |text: &str| text.replace("{flags}", &candidate.flags).replace("{port}", &port);
        let url = match &self.args.server.reach.url {
            Some(url) => fill(url),
            None => format!("http://127.0.0.1:{port}"),
        };
        let served = server(&self.args.server.reach, &url, None);
        if Live::is_there(&served, PATIENCE).map_err(|e| failed(e.to_string()))? {
            let url = secrets::url(&url);
            return Err(failed(format!("another server answers at {url}: end it first")));
        }
        let process = Process::start(&fill(self.command), log);
        Ok((process.map_err(|e| failed(format!("it could not be started: {e}")))?, url))
    }

    /// Waits for the server and searches it; an error says why it failed.
    fn search(
        &mut self,
        candidate: &Candidate,
        process: &mut Process,
        url: &str,
        aim: &Aim,
        ready_s: &mut Option<f64>,
        shots: &mut Vec<Shot>,
    ) -> Result<Searched, String> {
        let (reach, slo) = (&self.args.server.reach, &self.prepared.slo);
        let began = Instant::now();
        let live = self.wait(process, url)?;
        let took = began.elapsed().as_secs_f64();
        *ready_s = Some(took);
        say(self.args, &format!("  ready after {took:.1} s"));
        for what in live.given_up() {
            say(self.args, &format!("  the server does not take {what}"));
        }
        let (trace, options) = (&*self.prepared.trace, options(reach, slo));
        let place = Place::of(&live, url);
        let memory = self.memory(candidate);
        if let Some(memory) = &memory {
            let Place { url, model, prompts } = place.clone();
            memory.keep_ready(Ready { url, model, prompts, ready_s: took });
        }
        let mut range = Range::new(&live, trace, slo, options).remembering(memory);
        let mut watch = || !self.stop.load(Ordering::Relaxed) && process.ended().is_none();
        let mut told = |shot: &Shot| {
            say(self.args, &format!("  {}", super::tune_url::line(shot)));
            shots.push(shot.clone());
        };
        let searched = range.search(aim, &mut told, &mut watch);
        if let Some(ended) = process.ended() {
            return Err(format!("{ended} while it was measured"));
        }
        drop(range);
        Ok(self.take_best(searched?, &place))
    }

    /// The server as soon as it takes requests.
    fn wait(&self, process: &mut Process, url: &str) -> Result<Live, String> {
        let (reach, mut last) = (&self.args.server.reach, String::new());
        let mut watch = |error: &Error| {
            let why = error.to_string();
            // That nobody listens yet is what everybody expects.
            if why != last && matches!(error, Error::NotReady(_)) {
                say(self.args, &format!("  not ready yet: {why}"));
                last = why;
            }
            process.ended().is_none() && !self.stop.load(Ordering::Relaxed)
        };
        launched(reach, url, &self.prepared.trace, &mut watch).map_err(|error| {
            let waited =
                matches!(error.downcast_ref(), Some(Error::NotReady(_) | Error::Nobody(_)));
            if let Some(ended) = process.ended() {
                format!("{ended} before it took requests")
            } else if self.stop.load(Ordering::Relaxed) {
                "interrupted".to_owned()
            } else if waited {
                let s = start_limit(reach).as_secs_f64();
                format!("it took no requests within {s} s (--ready-timeout): {error}")
            } else {
                error.to_string()
            }
        })
    }
}

fn say(args: &cli::Tune, line: &str) {
    if !args.output.json {
        super::tell(line);
    }
}

/// Everything found, as report, page and JSON.
fn deliver(
    args: &cli::Tune,
    prepared: &Prepared,
    race: Race,
    best: Option<Best>,
    cost: (f64, f64),
) -> (Result<()>, ExitCode) {
    let (trace, slo, seed) = (&*prepared.trace, &prepared.slo, prepared.seed);
    let command = secrets::command(args.server.launch.launch.as_deref().unwrap_or_default());
    let about = About { command: typed(), assumptions: Vec::new() };
    let place = best.as_ref().map(|best| &best.place);
    let mut scenario = scenario(place, trace, slo, seed, cost);
    scenario.device.name = "a launched server".to_owned();
    if scenario.model.is_empty() {
        scenario.model = "model unknown".to_owned();
    }
    let report = LaunchReport {
        about,
        command,
        attainment: slo.slo().attainment().map(|share| share.fraction()),
        scenario: scenario.clone(),
        best: best.map(|Best { held, .. }| {
            let label = race.best().map_or_else(String::new, |(t, _)| t.candidate.label.clone());
            let (run, sent, rate_rps) = (&held.run, &held.sent, Some(held.rate_rps));
            Measured { run, sent, slo, scenario, label, rate_rps }.report()
        }),
        race,
    };
    let flat = flat(&report);
    let code = match (&report.best, report.race.interrupted) {
        (_, true) => ExitCode::from(INTERRUPTED),
        (None, false) => ExitCode::from(2),
        (Some(_), false) => ExitCode::SUCCESS,
    };
    (args.output.deliver(&Report::Launch(Box::new(report)), &flat), code)
}

/// The result for scripts: the figures at the best rate, as of any measurement, and every configuration.
fn flat(report: &LaunchReport) -> Value {
    let race = &report.race;
    let mut flat = report.best.as_ref().map_or_else(|| json!({}), result);
    let best = race.best();
    flat["launch"] = json!(report.command);
    flat["capacity_rps"] = json!(best.map(|(_, rps)| rps));
    flat["fails_at_rps"] = json!(best.and_then(|(t, _)| t.fails_at_rps));
    flat["winner"] = json!(best.map(|(t, _)| json!({
        "label": t.candidate.label,
        "knobs": t.candidate.knobs,
        "flags": t.candidate.flags,
        "command": report.command_of(&t.candidate),
    })));
    flat["configurations"] = json!(race.trials);
    flat["residual"] = json!(race.residual);
    flat["load_s"] = json!(race.load_s);
    flat["interrupted"] = json!(race.interrupted);
    flat["simulated"] = json!(false);
    flat
}
