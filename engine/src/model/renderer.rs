//! Chat templates at work in a process of their own, which the kernel ends where it takes too much memory or time.
//!
//! A template is a program that came with a model. It may double a text sixty times, nest lists a million deep or compare
//! what is listed in itself over and over, each in a few steps: no count of its steps bounds what they take. Here the
//! server loses the process, and the client is told why its messages cannot be used.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::chat::{ChatTemplate, Compiled, Message};
use super::weights::ModelError;

/// The word that a program is started with to be such a process.
pub const WORD: &str = "--render-chat";

/// Address space of the process, MiB: a stack to compile on is half of it.
const MEMORY: u64 = 512;
/// Processor time for one prompt, seconds: a thousand times what a long conversation needs.
const PATIENCE: u64 = 2;

/// A template that writes prompts.
pub struct Renderer {
    template: ChatTemplate,
    program: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Renderer {
    /// Compiles `template` in a process that runs `program`: one that calls [`work`] where its first word is [`WORD`].
    ///
    /// # Errors
    /// When it is not a template, or cannot be compiled within the limits.
    pub fn start(template: ChatTemplate, program: PathBuf) -> Result<Self, ModelError> {
        let renderer = Self { template, program, process: Mutex::new(None) };
        let process = renderer.process()?;
        *renderer.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(renderer)
    }

    /// The prompt that asks for the next turn after `messages`. Callers at the same time wait for each other.
    ///
    /// # Errors
    /// The template's own words against them; a template that would take more than the limits.
    pub fn render(&self, messages: &[Message]) -> Result<String, ModelError> {
        let mut place = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = place.take().and_then(Process::alive);
        let mut process = alive.map_or_else(|| self.process(), Ok)?;
        let said = process.ask(messages)?;
        // One that did not answer has ended, and stays away.
        *place = Some(process);
        said.map_err(ModelError::Text)
    }

    fn process(&self) -> Result<Process, ModelError> {
        let mut process = Process::start(&self.program).map_err(|e| {
            ModelError::Text(format!("cannot start a process for the chat template: {e}"))
        })?;
        process.ask(&self.template)?.map_err(ModelError::Text)?;
        Ok(process)
    }
}

/// The answer of the process to the template, and then to each conversation: a prompt, or the reason for none.
type Answer = Result<String, String>;

/// The process. It ends when its input is closed.
struct Process {
    child: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn start(program: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(WORD).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // An interrupt is for the server, which still answers the requests inside.
        command.process_group(0);
        let mut child = command.spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (asked, answers) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, asked, answers: BufReader::new(answers) })
    }

    /// Itself, unless it has ended since it was last asked.
    fn alive(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    /// Sends a line and reads one.
    ///
    /// # Errors
    /// When the process ends over it.
    fn ask<T: Serialize + ?Sized>(&mut self, what: &T) -> Result<Answer, ModelError> {
        let mut exchange = || -> io::Result<Answer> {
            let line = serde_json::to_string(what)? + "\n";
            self.asked.write_all(line.as_bytes())?;
            let mut line = String::new();
            self.answers.read_line(&mut line)?;
            Ok(serde_json::from_str(&line)?)
        };
        exchange().map_err(|_| {
            let most = format!("{MEMORY} MiB of memory or {PATIENCE} s of processor time");
            ModelError::Text(format!("the chat template takes more than {most}"))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compiles the template that stands in the first line of standard input and writes a prompt for the conversation in
/// each further line, until there are no more.
///
/// # Errors
/// When its output is closed, or the lines are not of that form.
pub fn work() -> io::Result<()> {
    lower(Resource::As, MEMORY << 20)?;
    lower(Resource::Core, 0)?;
    let (mut lines, mut out) = (io::stdin().lock().lines(), io::stdout().lock());
    let mut answer = |said: Result<String, &ModelError>| {
        serde_json::to_writer(&mut out, &said.map_err(ToString::to_string))?;
        out.write_all(b"\n").and_then(|()| out.flush())
    };
    let Some(template) = lines.next().transpose()? else { return Ok(()) };
    start_the_clock()?;
    let compiled = Compiled::new(serde_json::from_str(&template)?);
    answer(compiled.as_ref().map(|_| String::new()))?;
    let Ok(compiled) = compiled else { return Ok(()) };
    for line in lines {
        start_the_clock()?;
        let messages: Vec<Message> = serde_json::from_str(&line?)?;
        answer(compiled.render(&messages).as_ref().map(String::clone))?;
    }
    Ok(())
}

/// Lets the kernel end this process where it takes more than [`PATIENCE`] from now on.
fn start_the_clock() -> io::Result<()> {
    let taken = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
    lower(Resource::Cpu, taken.unsigned_abs() + 1 + PATIENCE)
}

/// Sets a limit of this process, unless it has a lower one.
fn lower(resource: Resource, most: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    let current = Some(maximum.map_or(most, |before| before.min(most)));
    Ok(setrlimit(resource, Rlimit { current, maximum })?)
}
