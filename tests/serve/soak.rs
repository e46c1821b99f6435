//! Mixed load for as long as wanted: patient and impatient clients, slow readers, oversized prompts, bad JSON, all at once.
//!
//!     cargo test --release --test serve -- --ignored --nocapture soak     # half an hour, or SOAK_SECONDS
//!
//! Every whole answer is compared with what the same prompt got when it was alone, so that a lost, doubled or foreign
//! token is found; at the end no KV slot is held, memory has not grown, and the server's counters are the clients' own.
//! (Memory needs some minutes to settle: a run of seconds takes that for growth.)

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Response, Server, asked, eventually, with};

/// Clients at once: more than the server has seats.
const CLIENTS: u64 = 16;
/// Prompts that are asked for, again and again.
const PROMPTS: usize = 24;
/// Longest context the server takes.
const CONTEXT: usize = 512;

/// The clients' counts.
#[derive(Default)]
struct Told {
    /// Whole answers, each with all the tokens it should have.
    whole: AtomicU64,
    /// Their tokens.
    tokens: AtomicU64,
    /// Requests begun and left while they were answered.
    left: AtomicU64,
    /// Tokens that those had asked for.
    asked: AtomicU64,
    /// Requests turned away for what is wrong with them.
    refused: AtomicU64,
    /// Requests turned away because too many waited.
    later: AtomicU64,
    /// Requests that never were whole.
    cut: AtomicU64,
}

fn add(to: &AtomicU64, n: usize) {
    to.fetch_add(n as u64, Ordering::Relaxed);
}

/// A prompt, how many tokens it asks for, and what they are.
struct Known {
    prompt: String,
    answer: Vec<Value>,
}

impl Known {
    fn body(&self, stream: bool) -> Value {
        with(asked(&self.prompt, self.answer.len() as u32), json!({"stream": stream}))
    }
}

/// Numbers that look random, the same in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

#[test]
#[ignore = "half an hour; see the module"]
fn soak() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(1800, |s| s.parse().expect("seconds"));
    assert!(seconds > 0, "some time");
    let context = CONTEXT.to_string();
    let server =
        Server::start(&["--max-model-len", &context, "--max-seqs", "8", "--max-queue", "6"]);
    let known: Vec<Known> = (0..PROMPTS).map(|at| alone(&server, at)).collect();
    let before = known.iter().map(|k| k.answer.len() as u64).sum::<u64>();
    let (told, over) = (Told::default(), AtomicBool::new(false));
    let mut memory = Vec::new();
    std::thread::scope(|scope| {
        let _closing = Closing(&over);
        for client in 0..CLIENTS {
            let (server, known, told, over) = (&server, &known, &told, &over);
            scope.spawn(move || {
                let mut dice = Dice(client);
                while !over.load(Ordering::Relaxed) {
                    visit(server, &known[dice.below(PROMPTS)], &mut dice, told);
                }
            });
        }
        let begin = Instant::now();
        while begin.elapsed().as_secs() < seconds {
            std::thread::sleep(Duration::from_secs((seconds / 60).clamp(1, 60)));
            memory.push(resident_kib(&server));
            println!(
                "{:5} s: {} KiB resident, {} running, {} waiting, {} KV slots used, {told:?}",
                begin.elapsed().as_secs(),
                memory[memory.len() - 1],
                server.metric("vllm:num_requests_running"),
                server.metric("vllm:num_requests_waiting"),
                server.slots("used"),
            );
        }
    });
    server.comes_to_rest();
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    for (what, n) in [("whole", &told.whole), ("left", &told.left), ("refused", &told.refused)] {
        assert!(count(n) > 0, "{what}: there were some");
    }
    // Every request that was let in ended once, whole or given up; a client that left may have been
    // answered to the end before the server saw that.
    let begun = PROMPTS as u64 + count(&told.whole) + count(&told.left);
    let ended = || ["stop", "length", "abort"].map(|why| finished(&server, why));
    eventually("all are counted", || ended().iter().sum::<u64>() >= begun);
    let ended = ended();
    println!("ended by stop, length, abort: {ended:?}; begun by clients: {begun}");
    assert_eq!(ended.iter().sum::<u64>(), begun);
    assert!(ended[2] <= count(&told.left), "nobody else was given up");
    let generated = server.metric("vllm:generation_tokens_total") as u64;
    let read = before + count(&told.tokens);
    println!("tokens: {generated} generated, {read} read in whole answers");
    assert!((read..=read + count(&told.asked)).contains(&generated));
    assert_eq!(server.metric("vllm:admission_rejections_total") as u64, count(&told.later));
    // Flat: in the last third of the time it holds as much as in the first, but for a little.
    let third = memory.len().div_ceil(3);
    let (early, late) = (median(&memory[..third]), median(&memory[memory.len() - third..]));
    println!("resident, median: {early} KiB in the first third, {late} KiB in the last");
    assert!(late <= early + early / 10, "memory grew: {memory:?}");
}

fn median(of: &[u64]) -> u64 {
    let mut of = of.to_vec();
    of.sort_unstable();
    of[of.len() / 2]
}

/// The answer to the prompt with number `at`, while there is no other.
fn alone(server: &Server, at: usize) -> Known {
    let prompt = format!("{at}: {}", "go on, ".repeat(at * at % 29));
    let answer = server.complete(&asked(&prompt, (1 + at * at * 7 % 220) as u32));
    let answer = answer["choices"][0]["token_ids"].as_array().unwrap().clone();
    Known { prompt, answer }
}

/// One request, in one of the ways that clients have.
fn visit(server: &Server, known: &Known, dice: &mut Dice, told: &Told) {
    let post = |body: &str| server.send("POST", "/v1/completions", body, "");
    let refused = |response: &Response, status: u16| {
        assert_eq!(response.status, status, "{}", response.body);
        assert!(!response.error().is_empty());
        add(&told.refused, 1);
    };
    match dice.below(10) {
        0 | 1 => {
            let response = Response::read(post(&known.body(false).to_string()));
            if let Some(response) = let_in(response, told) {
                whole(&[response.json()], known, told);
            }
        }
        2 | 3 => {
            let response = Response::read(post(&known.body(true).to_string()));
            if let Some(response) = let_in(response, told) {
                whole(&response.events(), known, told);
            }
        }
        // A slow reader: little by little, and later than the server would like.
        4 => {
            let stream = post(&known.body(true).to_string());
            let response = Response::read(Slowly { stream, left: 20 });
            if let Some(response) = let_in(response, told) {
                whole(&response.events(), known, told);
            }
        }
        // A client that leaves after some events.
        5 | 6 => {
            let mut reader = BufReader::new(post(&known.body(true).to_string()));
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.starts_with("HTTP/1.1 429") {
                add(&told.later, 1);
                return;
            }
            assert!(line.starts_with("HTTP/1.1 200"), "{line}");
            for _ in 0..dice.below(40) {
                line.clear();
                if reader.read_line(&mut line).unwrap() == 0 {
                    break;
                }
            }
            add(&told.left, 1);
            add(&told.asked, known.answer.len());
        }
        // A client that leaves before it has said all.
        7 => {
            let stream = TcpStream::connect(&server.address).unwrap();
            let body = known.body(true).to_string();
            let head = format!(
                "POST /v1/completions HTTP/1.1\r\nHost: knee\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let all = head + &body;
            (&stream).write_all(&all.as_bytes()[..dice.below(all.len())]).unwrap();
            let _ = stream.shutdown(Shutdown::Both);
            add(&told.cut, 1);
        }
        8 => {
            let body = asked(&"x".repeat(CONTEXT + dice.below(100_000)), 4).to_string();
            if let Some(response) = unless_later(Response::read(post(&body)), told) {
                refused(&response, 400);
            }
        }
        _ => {
            let body = known.body(true).to_string();
            refused(&Response::read(post(&body[..body.len() - 1 - dice.below(20)])), 400);
        }
    }
}

/// A response that is no 429; after a 429 the client comes again later.
fn unless_later(response: Response, told: &Told) -> Option<Response> {
    if response.status == 429 {
        add(&told.later, 1);
        std::thread::sleep(Duration::from_millis(20));
        return None;
    }
    Some(response)
}

/// An answer.
fn let_in(response: Response, told: &Told) -> Option<Response> {
    let response = unless_later(response, told)?;
    assert_eq!(response.status, 200, "{}", response.body);
    Some(response)
}

/// Ends every client when dropped.
struct Closing<'a>(&'a AtomicBool);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All tokens of the answer are there, once, in their order.
fn whole(events: &[Value], known: &Known, told: &Told) {
    let ids = |event: &Value| event["choices"][0]["token_ids"].as_array().cloned();
    let tokens: Vec<Value> = events.iter().filter_map(ids).flatten().collect();
    assert_eq!(tokens, known.answer, "{}", known.prompt);
    add(&told.whole, 1);
    add(&told.tokens, tokens.len());
}

/// A socket read in small pieces, the first `left` of them with pauses between.
struct Slowly {
    stream: TcpStream,
    left: u32,
}

impl Read for Slowly {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        if self.left > 0 {
            self.left -= 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        let most = to.len().min(64);
        self.stream.read(&mut to[..most])
    }
}

/// Requests that ended for this reason.
fn finished(server: &Server, why: &str) -> u64 {
    let text = server.get("/metrics").body;
    let label = format!("finished_reason=\"{why}\"");
    let of = |l: &&str| l.starts_with("vllm:request_success_total{") && l.contains(&label);
    text.lines().find(of).unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = |of: &AtomicU64| of.load(Ordering::Relaxed);
        write!(
            f,
            "{} whole, {} left, {} refused, {} to come later, {} cut",
            n(&self.whole),
            n(&self.left),
            n(&self.refused),
            n(&self.later),
            n(&self.cut)
        )
    }
}
