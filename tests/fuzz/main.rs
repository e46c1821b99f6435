//! Files that were damaged in every way, through the real readers: no panic, abort, hang or unbounded allocation, and
//! every refusal one line.
//!
//! Each target is a folder of sound files that are made here. A child process with a limit on its memory damages one of
//! them at a time, has it read as the program reads it, and tells how far it has come; whatever it dies of, or hangs
//! at, is a fault of that file, and another child goes on with the next. `cargo test` tries some of each;
//! `scripts/fuzz` many. One file again:
//!
//! ```text
//! cargo test --test fuzz -- --target trace-csv --from 417 --files 1 --keep FOLDER
//! ```

mod child;
mod models;
mod mutate;
mod packed;
mod seeds;
mod targets;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use targets::{TARGETS, Target};

/// A file is read in less processor time than this,
const PATIENCE: Duration = Duration::from_secs(20);
/// and works on within this time by the clock, however many others use the machine.
const LONGEST: Duration = Duration::from_secs(180);
/// Files of a target in the tests: half a minute for all.
const FEW: u64 = 45;
/// Faults of a target after which it is given up.
const ENOUGH: usize = 40;

/// The options on the command line.
struct Options {
    files: u64,
    from: u64,
    seed: u64,
    target: Option<String>,
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == child::FLAG) {
        child::run(&words[1..]);
        return ExitCode::SUCCESS;
    }
    let Some(options) = options(&words) else {
        println!("fuzz: skipped, by the arguments {words:?}");
        return ExitCode::SUCCESS;
    };
    let ground = tempfile::tempdir().expect("a folder for temporary files");
    let wanted = |t: &&Target| options.target.as_ref().is_none_or(|name| t.name == name);
    let wanted: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    println!(
        "{:<14}{:>8}{:>8}{:>9}{:>8}{:>7}",
        "target", "files", "read", "refused", "faults", "s"
    );
    let (next, files, faults) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(target) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            let began = Instant::now();
            let dir = ground.path().join(target.name);
            seeds::make(target, &dir.join("seeds"));
            let tally = Tally::of(target, &dir, &options);
            println!("{}", tally.line(target, began.elapsed()));
            files.fetch_add(tally.files, Ordering::Relaxed);
            faults.fetch_add(tally.faults.len(), Ordering::Relaxed);
        }
    };
    // Not as many as there are processors: a bomb takes some gigabytes to find out.
    let hands = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    std::thread::scope(|all| {
        for _ in 0..hands {
            all.spawn(work);
        }
    });
    let (files, faults) = (files.into_inner(), faults.into_inner());
    println!("{files} files, {} targets, {faults} faults (seed {})", wanted.len(), options.seed);
    if faults == 0 && !wanted.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// None where the words choose other tests than this one, which is called `fuzz`. They are this test's own and those of
/// the usual harness: a test runs if its name contains one of the filters, or there is none, and it is not to be skipped.
fn options(words: &[String]) -> Option<Options> {
    let mut options = Options { files: FEW, from: 0, seed: 1, target: None, keep: None };
    let (mut filters, mut skipped, mut exact) = (Vec::new(), Vec::new(), false);
    let words: Vec<&str> = words.iter().flat_map(|word| split(word)).collect();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("no number: {text}"));
        match word {
            "--files" => options.files = number(value()),
            "--from" => options.from = number(value()),
            "--seed" => options.seed = number(value()),
            "--target" => options.target = Some(value().to_owned()),
            "--keep" => options.keep = Some(value().into()),
            "--list" | "--ignored" => return None,
            "--skip" => skipped.push(value()),
            "--exact" => exact = true,
            "--test-threads" | "--format" | "--color" | "--logfile" | "--shuffle-seed" | "-Z" => {
                value();
            }
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter),
        }
    }
    let meant = |name: &&str| if exact { *name == "fuzz" } else { "fuzz".contains(*name) };
    let chosen = filters.is_empty() || filters.iter().any(meant);
    (chosen && !skipped.iter().any(meant)).then_some(options)
}

/// `--name=value` as two words.
fn split(word: &str) -> Vec<&str> {
    match word.split_once('=') {
        Some((name, value)) if name.starts_with("--") => vec![name, value],
        _ => vec![word],
    }
}

/// Counts of a target's files by outcome.
#[derive(Default)]
struct Tally {
    files: u64,
    read: u64,
    refused: u64,
    faults: Vec<(u64, String)>,
}

impl Tally {
    fn of(target: &Target, dir: &Path, options: &Options) -> Self {
        let mut tally = Self::default();
        let end = options.from + options.files;
        let mut next = options.from;
        while next < end && tally.faults.len() < ENOUGH {
            let run = Run::start(target, dir, options, next..end);
            next = tally.follow(run, next);
        }
        tally.files = next - options.from;
        tally
    }

    /// The target's line of the table, and one for each fault.
    fn line(&self, target: &Target, took: Duration) -> String {
        let (read, refused, bad) = (self.read, self.refused, self.faults.len());
        let (name, files, seconds) = (target.name, self.files, took.as_secs_f64());
        let mut line = format!("{name:<14}{files:>8}{read:>8}{refused:>9}{bad:>8}{seconds:>7.1}");
        for (file, what) in &self.faults {
            line += &format!("\n    {name} {file}: {what}");
        }
        line
    }

    /// Counts what a child says until it ends; returns the file that the next one begins with.
    fn follow(&mut self, mut run: Run, first: u64) -> u64 {
        let mut at = first;
        let (mut since, mut spent) = (Instant::now(), Duration::ZERO);
        let (mut idle, mut worked) = (since, Duration::ZERO);
        loop {
            let line = match run.lines.recv_timeout(PATIENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    let cpu = run.cpu().saturating_sub(spent);
                    if cpu > worked {
                        (worked, idle) = (cpu, Instant::now());
                    }
                    if idle.elapsed() < LONGEST && cpu < PATIENCE {
                        continue;
                    }
                    let wall = since.elapsed();
                    self.faults
                        .push((at, format!("still reading after {wall:.0?}, {cpu:.0?} of work")));
                    return at + 1;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = run.child.wait().expect("a child that was started");
                    if status.success() {
                        return at;
                    }
                    self.faults.push((at, format!("the process died ({status})")));
                    return at + 1;
                }
            };
            let mut words = line.splitn(3, ' ');
            let (ticks, what) = (words.next().and_then(|t| t.parse().ok()), words.next());
            match what {
                Some("read") => self.read += 1,
                Some("refused") => self.refused += 1,
                Some("fault") => {
                    self.faults.push((at, words.next().unwrap_or_default().to_owned()));
                }
                _ => continue,
            }
            at += 1;
            (since, spent) = (Instant::now(), time(ticks.unwrap_or(0)));
            (idle, worked) = (since, Duration::ZERO);
            if self.faults.len() >= ENOUGH {
                return at;
            }
        }
    }
}

/// A child at work, ended with the value and all that it started.
struct Run {
    child: Child,
    lines: Receiver<String>,
}

impl Run {
    fn start(target: &Target, dir: &Path, options: &Options, files: std::ops::Range<u64>) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.args([child::FLAG, target.name]).arg(dir).arg(options.seed.to_string());
        command.args([files.start.to_string(), files.end.to_string()]);
        command.args(&options.keep).process_group(0).stdin(Stdio::null());
        let quiet = if options.keep.is_some() { Stdio::inherit() } else { Stdio::null() };
        let mut child =
            command.stdout(Stdio::piped()).stderr(quiet).spawn().expect("a child starts");
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("it was piped"));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }
}

impl Run {
    /// Processor time of the child and of all that it has started.
    fn cpu(&self) -> Duration {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let stats = processes.filter_map(|p| std::fs::read_to_string(p.path().join("stat")).ok());
        let of_group = |stat: String| ticks(&stat).filter(|(group, _)| *group == self.child.id());
        time(stats.filter_map(of_group).map(|(_, ticks)| ticks).sum())
    }
}

/// A process's group, and the processor time of it and of the children that it waited for, from its `stat` in /proc.
pub(crate) fn ticks(stat: &str) -> Option<(u32, u64)> {
    // The name may have anything in it. After it come state, parent, group, and from the 12th on times.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let times = fields.get(11..15)?.iter().filter_map(|t| t.parse::<u64>().ok());
    Some((fields[2].parse().ok()?, times.sum()))
}

/// Ticks are hundredths of a second on every Linux.
fn time(ticks: u64) -> Duration {
    Duration::from_millis(10 * ticks)
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
