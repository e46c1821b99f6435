//! `knee tune --launch`: a server per configuration of its flags, started, searched for its capacity, and ended.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use loadgen::{Error, Live};
use tempfile::TempDir;
use tuner::contest::turns::flags::defaults;
use tuner::contest::turns::{self, Rules, screen};
use tuner::result::{Contender, Failure, Standing, Tried};
use tuner::subject::Stop;
use tuner::subject::launched::process::Process;
use tuner::subject::server::{Aim, LiveStudy, Memory, Range, Ready, Searched};

use super::live::{Place, launched, options, server, start_limit, study};
use super::output::all;
use super::served::{Best, deliver, line};
use super::{cancel, measure, secrets};
use crate::cli;
use crate::computing::is_here;
use crate::devices;
use crate::input::{self, Prepared};

/// The time that a server which may still be starting has for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Lines kept of the log of a server that failed.
const LINES: usize = 20;
/// Servers started after a simulation, by default.
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
    let (mut answer, cost) = measure(|| {
        turns::run("launched servers", chosen, rules, &go_on, &mut |i, contender, aim| {
            range.measure(i, contender, aim)
        })
    });
    answer.contenders.extend(rest);
    let best = range.best.take();
    let command = Some(secrets::command(command));
    let (delivered, code) =
        deliver(&args.output, &prepared, (command, None), (answer, best), &cost);
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
) -> Result<(Vec<Contender>, Vec<Contender>)> {
    let launch = &args.server.launch;
    let usual = launch.flags.usual();
    let values = if launch.knob.is_empty() { &usual } else { &launch.knob };
    let listed = launch.flags.contenders(values).map_err(|e| anyhow!("--knob: {e}"))?;
    let (mut ranked, mut rest, tries) = match args.device.first() {
        None => (listed, Vec::new(), launch.tries.unwrap_or(usize::MAX)),
        Some(device) => {
            let bed = prepared
                .on(devices::hardware(device, None, &args.scenario.instead)?, &args.scenario)?;
            let screened = screen(listed, launch.flags, &bed, stop).ok_or(Stop::Cancelled)?;
            if !screened.strange.is_empty() {
                let names = screened.strange.join(", ");
                say(args, &format!("The simulation does not know {names}: it ranks by the rest."));
            }
            (screened.ranked, screened.refused, launch.tries.unwrap_or(TRIES))
        }
    };
    let after = ranked.split_off(tries.min(ranked.len()));
    let why = format!("{tries} others come before it");
    rest.extend(after.into_iter().map(|c| c.left_out(why.clone())));
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
    /// `contender` as its server showed it.
    fn measure(&mut self, i: usize, contender: Contender, aim: &Aim) -> Contender {
        say(self.args, &format!("{} of {}: {}", i + 1, self.total, contender.label));
        let name = format!("server-{:02}.log", i + 1);
        let log = self.logs.join(&name);
        if let Some(seen) = self.remembered(&contender, aim) {
            say(self.args, "  measured before");
            return Contender { log: log.exists().then_some(name), ..seen };
        }
        let (mut ready_s, mut tried) = (None, Vec::new());
        let searched = self.start(&contender, &log).and_then(|(mut process, url)| {
            let searched =
                self.search(&contender, &mut process, &url, aim, &mut ready_s, &mut tried);
            // Its last words, before it was told to end.
            searched.map_err(|why| Failure { why, last_lines: process.last_lines(LINES) })
        });
        // A server may say what it was started with.
        let secret = secrets::values(self.command);
        let log = self.args.output.folder().is_some().then_some(name);
        let seen = match searched {
            Ok(seen) => seen,
            Err(Failure { why, last_lines }) => {
                let clean = |line: &String| secrets::without(line, &secret);
                let last_lines = last_lines.iter().map(clean).collect();
                let failure = Failure { why: secrets::without(&why, &secret), last_lines };
                if !self.stop.load(Ordering::Relaxed) {
                    say(self.args, &format!("  FAILED: {}", failure.why));
                }
                Contender { standing: Standing::Failed(failure), tried, ..contender }
            }
        };
        let note = seen.note.as_deref().map(|note| secrets::without(note, &secret));
        Contender { ready_s, log, note, ..seen }
    }

    fn memory(&self, contender: &Contender) -> Option<Memory<'a>> {
        Some(Memory::new(self.study?, flags(contender)))
    }

    /// An earlier measurement of a configuration, made to its end.
    fn remembered(&mut self, contender: &Contender, aim: &Aim) -> Option<Contender> {
        let memory = self.memory(contender)?;
        let Ready { url, model, prompts, ready_s } = memory.ready()?;
        let (reach, slo) = (&self.args.server.reach, &self.prepared.slo);
        let range = Range::of(&self.prepared.trace, slo, options(reach, slo));
        let go_on = &mut || !self.stop.load(Ordering::Relaxed);
        let searched = range.remembering(Some(memory)).search(aim, &mut |_| {}, go_on).ok()?;
        let seen = self.take_best(searched, contender, &Place { url, model, prompts });
        Some(Contender { ready_s: Some(ready_s), ..seen })
    }

    /// `contender` as `searched` found it; its run is kept if it is the best so far.
    fn take_best(&mut self, searched: Searched, contender: &Contender, place: &Place) -> Contender {
        let (contender, held) = searched.of(contender.clone());
        let best = self.best.as_ref().map_or(0.0, |b| b.held.rate_rps);
        if let Some(held) = held.filter(|held| held.rate_rps > best) {
            self.best = Some(Best { held, place: place.clone() });
        }
        contender
    }

    /// A process of the command with everything filled in, and where it will listen.
    fn start(&self, contender: &Contender, log: &Path) -> Result<(Process, String), Failure> {
        let failed = |why: String| Failure::of(why);
        let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr());
        let port = free.map_err(|e| failed(format!("no free port: {e}")))?.port().to_string();
        let fill = |text: &str| text.replace("{flags}", flags(contender)).replace("{port}", &port);
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
        contender: &Contender,
        process: &mut Process,
        url: &str,
        aim: &Aim,
        ready_s: &mut Option<f64>,
        tried: &mut Vec<Tried>,
    ) -> Result<Contender, String> {
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
        let memory = self.memory(contender);
        if let Some(memory) = &memory {
            let Place { url, model, prompts } = place.clone();
            memory.keep_ready(Ready { url, model, prompts, ready_s: took });
        }
        let mut range = Range::new(&live, trace, slo, options).remembering(memory);
        let mut watch = || !self.stop.load(Ordering::Relaxed) && process.ended().is_none();
        let mut told = |rate: &Tried| {
            say(self.args, &format!("  {}", line(rate)));
            tried.push(rate.clone());
        };
        let searched = range.search(aim, &mut told, &mut watch);
        if let Some(ended) = process.ended() {
            return Err(format!("{ended} while it was measured"));
        }
        drop(range);
        Ok(self.take_best(searched?, contender, &place))
    }

    /// The server as soon as it takes requests.
    fn wait(&self, process: &mut Process, url: &str) -> Result<Live, String> {
        let (reach, mut last) = (&self.args.server.reach, String::new());
        let mut watch = |error: &Error| {
            let why = error.to_string();
            // A server that does not listen yet is expected, so that is not told.
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

/// Its flags, for a shell.
fn flags(contender: &Contender) -> &str {
    contender.flags.as_deref().unwrap_or_default()
}
