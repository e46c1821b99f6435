//! The mock in a child process, loads to offer it, and what its log says.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use loadgen::{
    BoundSlo, Live, LiveOptions, LiveRun, Mock, MockOptions, Prompts, Server, Slo, Truth,
    parse_duration,
};
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

/// The child: serves until its standard input ends.
pub(crate) fn serve(words: &[String]) -> super::Outcome {
    let [ttft, itl, stall, log] = words else { return Err("serve TTFT ITL STALL|- LOG|-".into()) };
    let mut options = MockOptions {
        ttft: parse_duration(ttft)?,
        itl: parse_duration(itl)?,
        ..MockOptions::default()
    };
    if let Some((at, lasts)) = stall.split_once(':') {
        options.stalls.push((parse_duration(at)?, parse_duration(lasts)?));
    }
    let to: Option<Box<dyn std::io::Write + Send>> = match log.as_str() {
        "-" => None,
        path => Some(Box::new(BufWriter::with_capacity(1 << 20, File::create(path)?))),
    };
    let mock = Mock::bind("127.0.0.1:0", options, to)?;
    println!("{}", mock.address());
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        seen.store(true, Ordering::Relaxed);
    });
    mock.serve(&stop)?;
    Ok(())
}

/// A mock under way.
pub(crate) struct Rig {
    child: Child,
    pub(crate) address: String,
    log: Option<PathBuf>,
}

impl Rig {
    /// Starts a mock with these times; `logged` keeps the truth.
    pub(crate) fn start(
        ttft: &str,
        itl: &str,
        stall: &str,
        logged: bool,
    ) -> Result<Self, Box<dyn Error>> {
        let name = format!("knee-client-accuracy-{}.jsonl", std::process::id());
        let log = logged.then(|| std::env::temp_dir().join(name));
        let path = log.as_ref().map_or_else(|| "-".into(), |p| p.clone().into_os_string());
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", ttft, itl, stall])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        let out = child.stdout.take().ok_or("no output")?;
        BufReader::new(out).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().to_owned(), log })
    }

    /// One run against it.
    pub(crate) fn run(
        &self,
        trace: &Trace,
        options: &LiveOptions,
        slo: &[&str],
    ) -> Result<LiveRun, Box<dyn Error>> {
        let server = Server { url: format!("http://{}", self.address), ..Server::default() };
        let live = Live::assume(&server, "mock", Prompts::Ids)?;
        Ok(live.run(trace, options, &bound(trace, slo)?, |_| true)?)
    }

    /// CPU seconds that the mock has used so far (Linux).
    pub(crate) fn cpu_s(&self) -> f64 {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default();
        let field =
            |n: usize| after.split(' ').nth(n).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
        (field(11) + field(12)) / 100.0
    }

    /// Ends it and reads what it knows, by request.
    pub(crate) fn end(mut self) -> Result<HashMap<u32, Truth>, Box<dyn Error>> {
        drop(self.child.stdin.take());
        self.child.wait()?;
        let Some(path) = self.log.take() else { return Ok(HashMap::new()) };
        let mut truths = HashMap::new();
        for line in BufReader::new(File::open(&path)?).lines() {
            let truth: Truth = serde_json::from_str(&line?)?;
            let index = truth
                .id
                .as_ref()
                .and_then(|id| u32::from_str_radix(id.rsplit('-').next()?, 16).ok());
            truths.insert(index.ok_or("a request without a name")?, truth);
        }
        std::fs::remove_file(path)?;
        Ok(truths)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Targets bound to a trace.
pub(crate) fn bound(trace: &Trace, slo: &[&str]) -> Result<BoundSlo, Box<dyn Error>> {
    Ok(Slo::parse(slo, None)?.bind(&trace.classes)?)
}

/// `n` equal requests, `gap` apart.
pub(crate) fn load(n: u32, gap: Duration, input: u32, output: u32) -> Trace {
    let request = |i: u32| TraceRequest {
        arrival: Arrival::At(gap * i),
        input,
        output,
        blocks: BlockSpan::default(),
        class: 0,
        session: None,
    };
    Trace {
        name: "equal".to_owned(),
        requests: (0..n).map(request).collect(),
        classes: vec!["all".to_owned()],
        ..Trace::default()
    }
}

/// Nearest-rank percentile of ns, in ms.
pub(crate) fn rank(values: &mut [i64], percent: f64) -> f64 {
    values.sort_unstable();
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).map_or(f64::NAN, |&ns| ns as f64 / 1e6)
}
