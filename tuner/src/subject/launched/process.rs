//! A server's process that never outlives the process that started it.
//!
//! It runs under a shell in a process group of its own, so that a Ctrl-C meant for us does not
//! reach it and whatever it starts itself is ended with it, in the group or out of it (`Family`):
//! all are asked to end (SIGTERM) and, after a time of grace, made to (SIGKILL), when the value is
//! dropped, thus on errors and panics too. Against an end of ours that runs no code (SIGKILL, a
//! crash) the group has a watcher, which ends it, and every process with its mark, when the pipe
//! from us breaks.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::family::{self, Family};
use super::log;

/// From asking a server to end to making it.
const GRACE: Duration = Duration::from_secs(10);
/// The interval at which the server is looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// The time for which the last words of a server that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// End of a log that is read for its last lines, bytes.
const TAIL: u64 = 16 << 10;
/// Longest line kept of a log, characters.
const LONGEST: usize = 300;

/// Runs the command in `$1` and ends as it ends, whatever comes in between; its watcher waits for
/// standard input to break and then ends the group, and every process outside it with the mark
/// `$2`.
const SCRIPT: &str = r#"
mark=$2
trap : TERM
exec 3<&0
sh -c "$1" </dev/null 3<&- &
server=$!
marked() {
  for file in $(grep -lzsx "KNEE_SERVER=$mark" /proc/[0-9]*/environ); do
    pid=${file#/proc/}; pid=${pid%/environ}
    [ "$pid" = "$own" ] || kill -"$1" "$pid"
  done
}
( trap '' TERM; own=$(sh -c 'echo $PPID'); cat <&3 >/dev/null
  marked TERM; kill -TERM 0; sleep 5; marked KILL; kill -KILL 0 ) >/dev/null 2>&1 &
exec 3<&-
wait $server
code=$?
while kill -0 $server 2>/dev/null; do wait $server; code=$?; done
exit $code
"#;

/// A command under way.
#[derive(Debug)]
pub struct Process {
    child: Child,
    family: Family,
    log: PathBuf,
    /// Writes the log.
    writer: JoinHandle<()>,
    stopped: bool,
}

impl Process {
    /// Starts `command` in a shell; the beginning and the end of what it says go into the file `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the shell not be started.
    pub fn start(command: &str, log: &Path) -> io::Result<Self> {
        let (pipe, said) = io::pipe()?;
        let writer = log::keep(pipe, log)?;
        family::adopt_orphans();
        let mark = family::mark();
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "sh", command, &mark])
            .env(family::MARK, &mark)
            .stdin(Stdio::piped())
            .stdout(said.try_clone()?)
            .stderr(said)
            .process_group(0)
            .spawn()?;
        let family = Family::new(Pid::from_child(&child), mark);
        Ok(Self { child, family, log: log.to_owned(), writer, stopped: false })
    }

    /// The way in which it ended, in words; none while it runs.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(match status.code() {
            Some(code @ 129..=192) => format!("it was ended by signal {}", code - 128),
            Some(code) => format!("it ended with status {code}"),
            None => "it was killed".to_owned(),
        })
    }

    /// The last `most` lines of what it said.
    pub fn last_lines(&mut self, most: usize) -> Vec<String> {
        let asked = Instant::now();
        while self.ended().is_some() && !self.writer.is_finished() && asked.elapsed() < LAST_WORDS {
            std::thread::sleep(GLANCE);
        }
        let tail = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
            let mut bytes = Vec::new();
            file.take(TAIL).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = tail().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let clean = |line: &str| -> String {
            line.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
        };
        let mut lines: Vec<String> =
            text.lines().map(clean).filter(|l| !l.trim().is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(most));
        lines
    }

    /// Ends it and everything it started.
    pub fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        // A signal fails only if there is no process left to get it.
        let group = Pid::from_child(&self.child);
        let _ = kill_process_group(group, Signal::TERM);
        let mut others = self.family.tell(Signal::TERM);
        let asked = Instant::now();
        while (self.ended().is_none() || others) && asked.elapsed() < GRACE {
            std::thread::sleep(GLANCE);
            others = self.family.lives();
        }
        let _ = kill_process_group(group, Signal::KILL);
        let made = Instant::now();
        while self.family.tell(Signal::KILL) && made.elapsed() < GRACE {
            std::thread::sleep(GLANCE);
        }
        let _ = self.child.wait();
        self.family.bury();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True where the process whose id is in `file` is there (and not merely unburied).
    fn lives(file: &Path) -> bool {
        let id = std::fs::read_to_string(file).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
        stat.is_ok_and(|s| !s.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
    }

    fn eventually(what: &str, is: impl Fn() -> bool) {
        let began = Instant::now();
        while !is() {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(GLANCE);
        }
    }

    /// A shell that has written its own id and its child's.
    fn family(dir: &Path, before: &str) -> (Process, PathBuf, PathBuf) {
        let (own, child) = (dir.join("own"), dir.join("child"));
        let (o, c) = (own.display(), child.display());
        let command = format!("{before} sleep 1000 & echo $! > {c}; echo $$ > {o}; echo up; wait");
        let process = Process::start(&command, &dir.join("log")).unwrap();
        let written = |p: &Path| std::fs::read_to_string(p).is_ok_and(|t| t.ends_with('\n'));
        eventually("it starts", || written(&own) && written(&child));
        assert!(lives(&own) && lives(&child));
        (process, own, child)
    }

    #[test]
    fn the_whole_group_ends_with_the_value() {
        let dir = tempfile::tempdir().unwrap();
        let (mut process, own, child) = family(dir.path(), "");
        assert_eq!(process.ended(), None);
        drop(process);
        eventually("both end", || !lives(&own) && !lives(&child));
    }

    #[test]
    fn the_whole_group_ends_on_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let (process, own, child) = family(dir.path(), "");
        let panicking = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _process = process;
            panic!("on purpose");
        }));
        assert!(panicking.is_err() && !lives(&own) && !lives(&child));
    }

    /// Daemons: one in a session of its own, one that has lost its parent too, one without an environment.
    fn daemons(dir: &Path) -> (String, Vec<PathBuf>) {
        let files: Vec<PathBuf> = ["session", "orphan", "bare"].map(|n| dir.join(n)).into();
        let [session, orphan, bare] =
            ["session", "orphan", "bare"].map(|n| dir.join(n).display().to_string());
        let wait = |file: &str| {
            format!("sh -c 'echo $$ > {file}.new; mv {file}.new {file}; exec sleep 1000'")
        };
        let command = format!(
            "setsid {} & (setsid {} &) ; setsid env -i PATH=\"$PATH\" {} &",
            wait(&session),
            wait(&orphan),
            wait(&bare)
        );
        (command, files)
    }

    #[test]
    fn processes_that_left_the_group_end_too() {
        let dir = tempfile::tempdir().unwrap();
        let (command, files) = daemons(dir.path());
        let (process, own, child) = family(dir.path(), &command);
        eventually("they start", || files.iter().all(|file| file.exists()));
        assert!(files.iter().all(|file| lives(file)));
        drop(process);
        let left: Vec<_> = files.iter().filter(|file| lives(file)).collect();
        assert!(!lives(&own) && !lives(&child) && left.is_empty(), "{left:?}");
    }

    #[test]
    fn the_whole_group_ends_when_its_parent_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        // Without the mark a process outside the group could not be told from others.
        let (command, mut files) = daemons(dir.path());
        let marked = files.drain(..2).collect::<Vec<_>>();
        let (mut process, own, child) = family(dir.path(), &command);
        eventually("they start", || marked.iter().all(|file| file.exists()));
        // The system does the same to the pipe of a process that is gone.
        drop(process.child.stdin.take());
        let gone = || !lives(&own) && !lives(&child) && !marked.iter().any(|file| lives(file));
        eventually("the watcher ends it", gone);
        eventually("it is seen", move || !lives(&own));
        assert!(process.ended().is_some() || process.child.wait().is_ok());
    }

    #[test]
    fn its_exit_status_and_last_lines_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let command = "echo one; echo; printf '\\033[31mtwo\\033[0m\\n' >&2; exit 7";
        let mut process = Process::start(command, &dir.path().join("log")).unwrap();
        let began = Instant::now();
        let ended = loop {
            if let Some(ended) = process.ended() {
                break ended;
            }
            assert!(began.elapsed() < Duration::from_secs(20));
        };
        assert_eq!(ended, "it ended with status 7");
        assert_eq!(process.last_lines(9), ["one", "[31mtwo[0m"]);
        assert_eq!(process.last_lines(1).len(), 1);
        assert!(Process::start("true", Path::new("/no/such/folder/log")).is_err());
    }
}
