//! Servers for the tests, each on a free port of the loopback, and loads to offer them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use loadgen::{
    Api, BoundSlo, Live, LiveOptions, LiveRun, Mock, MockOptions, Prompts, Served, Server, Slo,
    Truth,
};
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

/// A mock serving in a thread of its own.
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    server: JoinHandle<Served>,
    log: Arc<Mutex<Vec<u8>>>,
}

/// Bytes written by one thread and read by another.
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Rig {
    pub(crate) fn start(options: MockOptions) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let to = Box::new(Shared(Arc::clone(&log)));
        let mock = Mock::bind("127.0.0.1:0", options, Some(to)).unwrap();
        let (address, stop) = (mock.address(), Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&stop);
        let server = std::thread::spawn(move || mock.serve(&seen).unwrap());
        Self { address, stop, server, log }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops the server. Returns its counts and its log.
    pub(crate) fn end(self) -> (Served, Vec<Truth>) {
        self.stop.store(true, Ordering::Relaxed);
        let served = self.server.join().unwrap();
        let log = self.log.lock().unwrap();
        let truths = serde_json::Deserializer::from_slice(&log).into_iter().map(Result::unwrap);
        (served, truths.collect())
    }
}

/// The index of the request that a truth is about, from the name its client gave it.
pub(crate) fn index(truth: &Truth) -> u32 {
    let id = truth.id.as_ref().unwrap();
    u32::from_str_radix(id.rsplit('-').next().unwrap(), 16).unwrap()
}

/// `n` requests every `gap_ms`, of `input` and `output` tokens.
pub(crate) fn load(n: u32, gap_ms: u64, input: u32, output: u32) -> Trace {
    let request = |i: u32| TraceRequest {
        arrival: Arrival::At(Duration::from_millis(gap_ms * u64::from(i))),
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

pub(crate) fn slo(targets: &[&str], trace: &Trace) -> BoundSlo {
    Slo::parse(targets, None).unwrap().bind(&trace.classes).unwrap()
}

pub(crate) fn server(url: &str) -> Server {
    Server { url: url.to_owned(), api: Api::Completions, ..Server::default() }
}

/// One run against whatever listens at `url`, nothing asked beforehand.
pub(crate) fn run(url: &str, trace: &Trace, options: &LiveOptions) -> LiveRun {
    let live = Live::assume(&server(url), "mock", Prompts::Ids).unwrap();
    live.run(trace, options, &slo(&[], trace), |_| true).unwrap()
}

/// A server that reads one request per connection, answers `answer` and closes.
pub(crate) fn canned(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                if read_request(&mut stream).is_ok() {
                    let _ = stream.write_all(answer);
                }
            });
        }
    });
    format!("http://{address}")
}

/// Reads a request to the end of its body.
pub(crate) fn read_request(stream: &mut impl Read) -> io::Result<()> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut piece)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |l| l.parse().unwrap()) {
            return Ok(());
        }
    }
}

/// A port on which no server listens.
pub(crate) fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Raw bytes to a server, and all it says.
pub(crate) fn speak(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}
