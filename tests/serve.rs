//! `knee serve` from outside, over sockets: what clients get, and that nothing is left behind when they go.
//!
//! The built-in model is real (four layers, random weights), so its answers are checked against each other: streamed and
//! whole, alone and in a crowd. One file, because every test talks to the same small client above it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A running server; killed when dropped.
struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        let tiny = ["--model", "tiny", "--kv-memory", "20MiB", "--precision", "f32"];
        Self::of(&[&tiny, flags].concat())
    }

    fn of(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_knee"))
            .args(["serve", "--port", "0", "--cpu-threads", "1"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.unwrap_or_else(|| panic!("it says where it is: {line}")).to_owned();
        Self { child, stdout, address }
    }

    /// A connection on which a request has been sent.
    fn send(&self, method: &str, path: &str, body: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: knee\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        stream
    }

    fn post(&self, path: &str, body: &Value) -> Response {
        Response::read(self.send("POST", path, &body.to_string(), ""))
    }

    fn complete(&self, body: &Value) -> Value {
        let response = self.post("/v1/completions", body);
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    }

    fn get(&self, path: &str) -> Response {
        Response::read(self.send("GET", path, "", ""))
    }

    /// The sum of a metric over its labels.
    fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let named = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        let values = text.lines().filter(named).map(|line| line.rsplit(' ').next().unwrap());
        values.map(|v| v.parse::<f64>().unwrap()).sum()
    }

    /// KV slots of one class.
    fn slots(&self, class: &str) -> f64 {
        let text = self.get("/metrics").body;
        let label = format!("class=\"{class}\"");
        let line = text.lines().find(|l| l.starts_with("knee:kv_slots{") && l.contains(&label));
        line.unwrap_or_else(|| panic!("{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until nobody runs or waits and no slot is held.
    fn comes_to_rest(&self) {
        let held = || ["used", "reserved", "internal", "external"].map(|c| self.slots(c));
        let rests = || {
            held() == [0.0; 4]
                && self.metric("vllm:num_requests_running") == 0.0
                && self.metric("vllm:num_requests_waiting") == 0.0
        };
        eventually("it comes to rest", rests);
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An HTTP response, its chunks put together.
struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("headers: {text}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let head = head.to_ascii_lowercase();
        let body = if head.contains("transfer-encoding: chunked") {
            unchunk(rest)
        } else {
            rest.to_owned()
        };
        Self { status, head, body }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The events of a stream; its last must be `[DONE]`.
    fn events(&self) -> Vec<Value> {
        assert!(self.head.contains("text/event-stream"), "{}", self.head);
        let mut data: Vec<&str> =
            self.body.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.iter().map(|d| serde_json::from_str(d).unwrap()).collect()
    }

    /// The message of an error, which must be in OpenAI's form.
    fn error(&self) -> String {
        let error = &self.json()["error"];
        assert_eq!(error["code"], self.status);
        assert!(error["type"].is_string() && error.get("param").is_some());
        error["message"].as_str().unwrap().to_owned()
    }
}

fn unchunk(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole += &rest[..size];
        text = &rest[size + 2..];
    }
    whole
}

fn asked(prompt: &str, max_tokens: u32) -> Value {
    json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true, "return_token_ids": true})
}

fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("fields, not {more}") };
    body.as_object_mut().unwrap().extend(more);
    body
}

/// Each of two ranks sums half of the products, so logits differ in their last bits; the likeliest tokens do not.
#[test]
fn tensor_parallel_ranks_say_what_one_says() {
    let said = |flags: &[&str]| {
        let server = Server::start(flags);
        let choice = server.complete(&asked("To be, or not to be", 48))["choices"][0].clone();
        server.comes_to_rest();
        choice["token_ids"].clone()
    };
    let one = said(&[]);
    assert_eq!(one.as_array().unwrap().len(), 48);
    assert_eq!(said(&["--tp", "2"]), one);
    let refused = Command::new(env!("CARGO_BIN_EXE_knee"))
        .args(["serve", "--model", "tiny", "--tp", "3"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("3 ranks"), "{why}");
}

/// Stages hand on what they computed as it is, and replicas are copies: several clients at once get the tokens of one model
/// in one piece.
#[test]
fn pipeline_stages_and_replicas_say_what_one_says() {
    let said = |flags: &[&str]| {
        let server = Server::start(flags);
        let ids = std::thread::scope(|scope| {
            let ask = |i: usize| {
                let prompt = &"To be, or not to be"[i..];
                server.complete(&asked(prompt, 40))["choices"][0]["token_ids"].clone()
            };
            let clients: Vec<_> = (0..5).map(|i| scope.spawn(move || ask(i))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        server.comes_to_rest();
        ids
    };
    let one = said(&[]);
    assert!(one.iter().all(|ids| ids.as_array().unwrap().len() == 40));
    assert_eq!(said(&["--pp", "2"]), one);
    assert_eq!(said(&["--pp", "4", "--policy", "continuous"]), one);
    assert_eq!(said(&["--tp", "2", "--pp", "2"]), said(&["--tp", "2"]));
    assert_eq!(said(&["--replicas", "3", "--router", "round-robin"]), one);
    assert_eq!(said(&["--replicas", "2", "--pp", "2"]), one);
}

#[test]
fn an_answer_is_the_same_streamed_and_whole() {
    let server = Server::start(&[]);
    let body = asked("Once upon a time", 40);
    let whole = server.complete(&body);
    let choice = &whole["choices"][0];
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(
        whole["usage"],
        json!({"prompt_tokens": 16, "completion_tokens": 40, "total_tokens": 56,
        "prompt_tokens_details": {"cached_tokens": 0}})
    );
    assert_eq!(
        (choice["finish_reason"].as_str(), choice["token_ids"].as_array().unwrap().len()),
        (Some("length"), 40)
    );
    let streamed =
        with(body.clone(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let mut events = server.post("/v1/completions", &streamed).events();
    let usage = events.pop().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(40)));
    // The same prompt again: the prefix cache is on, and holds all but the last block.
    assert_eq!(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(events.len(), 40, "an event per token");
    let joined = |field: fn(&Value) -> String| events.iter().map(field).collect::<String>();
    assert_eq!(
        joined(|e| e["choices"][0]["text"].as_str().unwrap().to_owned()),
        choice["text"].as_str().unwrap()
    );
    let tokens: Vec<Value> = events
        .iter()
        .flat_map(|e| e["choices"][0]["token_ids"].as_array().unwrap().clone())
        .collect();
    assert_eq!(json!(tokens), choice["token_ids"]);
    let (last, others) = events.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(others.iter().all(|e| e["choices"][0]["finish_reason"].is_null()));
    // Tokens instead of text.
    let ids: Vec<u32> = "Once upon a time".bytes().map(u32::from).collect();
    assert_eq!(
        server.complete(&with(body, json!({"prompt": ids})))["choices"][0]["text"],
        choice["text"]
    );
    server.comes_to_rest();
}

#[test]
fn a_crowd_does_not_change_an_answer() {
    let server =
        Server::start(&["--max-seqs", "6", "--max-batch-tokens", "32", "--max-model-len", "512"]);
    let alone: Vec<Value> = (0..6)
        .map(|i| server.complete(&asked(&"ab ".repeat(3 + 5 * i), 30))["choices"].clone())
        .collect();
    std::thread::scope(|scope| {
        for i in 0..18 {
            let (server, alone) = (&server, &alone);
            scope.spawn(move || {
                let crowd = server.complete(&asked(&"ab ".repeat(3 + 5 * (i % 6)), 30));
                assert_eq!(crowd["choices"], alone[i % 6]);
            });
        }
    });
    server.comes_to_rest();
    assert_eq!(server.metric("vllm:request_success_total"), 24.0);
    assert_eq!(server.metric("vllm:generation_tokens_total"), 24.0 * 30.0);
    assert_eq!(server.metric("vllm:time_to_first_token_seconds_count"), 24.0);
    assert_eq!(server.metric("vllm:inter_token_latency_seconds_count"), 24.0 * 29.0);
    assert_eq!(server.metric("vllm:request_generation_tokens_sum"), 24.0 * 30.0);
}

#[test]
fn every_policy_gives_the_same_tokens() {
    let policies: [&[&str]; 4] = [
        &["--policy", "static"],
        &["--policy", "continuous"],
        &["--policy", "paged", "--block-size", "1"],
        &["--policy", "disagg"],
    ];
    let text = |flags: &[&str]| {
        let server = Server::start(
            &[flags, &["--max-model-len", "512", "--max-seqs", "8", "--max-batch-tokens", "64"]]
                .concat(),
        );
        let token_ids =
            server.complete(&asked("the same for all of them", 25))["choices"][0]["token_ids"]
                .clone();
        server.comes_to_rest();
        token_ids
    };
    let chunked = text(&["--policy", "chunked"]);
    for policy in policies {
        assert_eq!(text(policy), chunked, "{policy:?}");
    }
}

#[test]
fn stops_seeds_and_several_completions() {
    let server = Server::start(&[]);
    let body = asked("In the beginning", 60);
    let whole = server.complete(&body)["choices"][0].clone();
    let tokens: Vec<u64> =
        whole["token_ids"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect();
    // The first token of its kind ends it, is counted, and is not shown.
    let at = (5..60).find(|&i| !tokens[..i].contains(&tokens[i])).expect("some token is new");
    let stopped = server.complete(&with(body.clone(), json!({"stop_token_ids": [tokens[at]]})));
    assert_eq!(stopped["usage"]["completion_tokens"], at + 1);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert!(
        whole["text"].as_str().unwrap().starts_with(
            stopped["choices"][0]["text"].as_str().unwrap().trim_end_matches('\u{fffd}')
        )
    );
    // A stop string that spans tokens: two neighbouring characters.
    let text = whole["text"].as_str().unwrap();
    let letters: Vec<char> = text.chars().collect();
    let pair = letters
        .windows(2)
        .skip(8)
        .find(|w| w.iter().all(char::is_ascii))
        .map(|w| w.iter().collect::<String>());
    if let Some(pair) = pair {
        let stopped = server.complete(&with(body.clone(), json!({"stop": [pair]})));
        assert_eq!(
            stopped["choices"][0]["text"].as_str().unwrap(),
            &text[..text.find(&pair).unwrap()]
        );
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    }
    // Sampling: repeatable with a seed, and branches of one request differ.
    let warm =
        with(body, json!({"temperature": 1.5, "seed": 7, "n": 3, "max_tokens": 20, "logprobs": 2}));
    let (first, second) = (server.complete(&warm), server.complete(&warm));
    assert_eq!(first["choices"], second["choices"]);
    let choices = first["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(
        choices[0]["token_ids"] != choices[1]["token_ids"]
            && choices[1]["token_ids"] != choices[2]["token_ids"]
    );
    assert_eq!(first["usage"]["completion_tokens"], 60);
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(choices[2]["logprobs"][list].as_array().unwrap().len(), 20, "{list}");
    }
    server.comes_to_rest();
}

/// The likeliest completions, best first, whatever runs beside them and however; and nothing is held afterwards.
#[test]
fn beam_search() {
    let beams = |n: u32| {
        with(asked("In the beginning", 12), json!({"use_beam_search": true, "n": n, "logprobs": 2}))
    };
    let server = Server::start(&[]);
    let four = server.complete(&beams(4));
    let choices = four["choices"].as_array().unwrap();
    let sum = |choice: &Value| -> f64 {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        assert_eq!(logprobs.len(), 12);
        logprobs.iter().map(|l| l.as_f64().unwrap()).sum()
    };
    let sums: Vec<f64> = choices.iter().map(sum).collect();
    assert!(sums.len() == 4 && sums.is_sorted_by(|a, b| a >= b), "best first: {sums:?}");
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(i), &json!("length")));
        assert!(choices[..i].iter().all(|c| c["token_ids"] != choice["token_ids"]));
    }
    assert_eq!(four["usage"]["completion_tokens"], 48);
    assert_eq!(server.metric("vllm:generation_tokens_total"), 48.0);
    assert_eq!(server.metric("vllm:inter_token_latency_seconds_count"), 0.0, "all came at once");
    // One beam that nothing ends is greedy; of four, the best two may be asked for.
    let greedy = server.complete(&asked("In the beginning", 12))["choices"][0]["token_ids"].clone();
    assert_eq!(server.complete(&beams(1))["choices"][0]["token_ids"], greedy);
    let two = server.complete(&with(beams(2), json!({"best_of": 4, "temperature": 0})));
    assert_eq!(two["choices"].as_array().unwrap()[..], choices[..2]);
    // A token that ends it makes an answer that is shorter.
    let end = choices[0]["token_ids"][5].clone();
    let ended = server.complete(&with(beams(4), json!({"stop_token_ids": [end]})));
    let stopped = |c: &&Value| c["finish_reason"] == "stop";
    assert!(ended["choices"].as_array().unwrap().iter().any(|c| stopped(&c)), "{ended}");
    server.comes_to_rest();
    let limits = ["--max-model-len", "256", "--max-seqs", "8", "--max-batch-tokens", "32"];
    let policies: [&[&str]; 5] = [
        &["--policy", "static"],
        &["--policy", "continuous"],
        &["--policy", "paged", "--block-size", "1"],
        &["--pp", "2"],
        &["--replicas", "2"],
    ];
    for policy in policies {
        let server = Server::start(&[policy, &limits].concat());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    assert_eq!(
                        server.complete(&beams(4))["choices"],
                        four["choices"],
                        "{policy:?}"
                    );
                });
                scope.spawn(|| {
                    let tokens = &server.complete(&asked("In the beginning", 12))["choices"][0];
                    assert_eq!(tokens["token_ids"], greedy, "{policy:?}");
                });
            }
        });
        // Who goes away in the middle leaves nothing behind.
        let long = with(beams(4), json!({"max_tokens": 200})).to_string();
        let client = server.send("POST", "/v1/completions", &long, "");
        eventually("it runs", || server.metric("vllm:num_requests_running") > 0.0);
        drop(client);
        server.comes_to_rest();
    }
}

#[test]
fn beams_that_cannot_be() {
    let server = Server::start(&["--max-seqs", "8"]);
    let told = |more: Value| {
        let body = with(asked("abc", 4), json!({"use_beam_search": true, "n": 2}));
        let response = server.post("/v1/completions", &with(body, more));
        (response.status, response.error())
    };
    let no_meaning =
        |field| (400, format!("`{field}` has no meaning in beam search: leave it out"));
    assert_eq!(
        told(json!({"stream": true})),
        (400, "beam search cannot be streamed: nothing is certain before its end".to_owned())
    );
    assert_eq!(told(json!({"temperature": 0.7})), no_meaning("temperature"));
    assert_eq!(told(json!({"top_p": 0.5})), no_meaning("top_p"));
    assert_eq!(told(json!({"stop": ["x"]})), no_meaning("stop"));
    assert_eq!(
        told(json!({"best_of": 1})),
        (400, "best_of = 1 must be between 2 and 128".to_owned())
    );
    assert_eq!(
        told(json!({"length_penalty": 1e9})),
        (400, "length_penalty = 1000000000 must be between -100 and 100".to_owned())
    );
    assert_eq!(
        told(json!({"n": 9})),
        (400, "n = 9 branches cannot run side by side here".to_owned())
    );
    let plain = with(asked("abc", 4), json!({"n": 1, "best_of": 2}));
    let refused = server.post("/v1/completions", &plain);
    assert_eq!((refused.status, refused.error()), (400, "`best_of` is not supported".to_owned()));
    server.comes_to_rest();
}

#[test]
fn a_conversation() {
    let server = Server::start(&[]);
    let body = json!({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_completion_tokens": 12, "temperature": 0, "ignore_eos": true, "logprobs": true, "top_logprobs": 3});
    let whole = server.post("/v1/chat/completions", &body).json();
    // Around each turn two control tokens and two line ends; a byte a token.
    let said = ["system", "Be brief.", "user", "Hi", "assistant"].concat().len();
    assert_eq!(whole["usage"]["prompt_tokens"], said + 2 * 4 + 2);
    let choice = &whole["choices"][0];
    assert_eq!(
        (whole["object"].as_str(), choice["message"]["role"].as_str()),
        (Some("chat.completion"), Some("assistant"))
    );
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert!(
        content.len() == 12
            && content.iter().all(|t| t["top_logprobs"].as_array().unwrap().len() == 3)
    );
    assert!(
        content.iter().all(|t| t["logprob"] == t["top_logprobs"][0]["logprob"]),
        "greedy takes the best"
    );
    let events = server.post("/v1/chat/completions", &with(body, json!({"stream": true}))).events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String =
        events.iter().map(|e| e["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, choice["message"]["content"].as_str().unwrap());
    assert!(
        events.iter().all(|e| e["object"] == "chat.completion.chunk" && e.get("usage").is_none())
    );
}

#[test]
fn who_goes_away_gives_everything_back() {
    for (flags, replicas) in [(vec![], 1), (vec!["--pp", "2"], 1), (vec!["--replicas", "2"], 2)] {
        let seats = (4 / replicas).to_string();
        go_away(&[&["--max-seqs", &seats, "--max-queue", "100"], flags.as_slice()].concat());
    }
}

fn go_away(flags: &[&str]) {
    let server = Server::start(flags);
    let long = with(asked("go on and on", 4000), json!({"stream": true}));
    for (streamed, sent) in [(true, 8.0), (false, 16.0)] {
        let body = with(long.clone(), json!({"stream": streamed, "n": 2}));
        let clients: Vec<TcpStream> =
            (0..8).map(|_| server.send("POST", "/v1/completions", &body.to_string(), "")).collect();
        eventually("all are in, some run and some wait", || {
            server.metric("vllm:prompt_tokens_total") == sent * "go on and on".len() as f64
                && server.metric("vllm:num_requests_running") > 0.0
                && server.metric("vllm:num_requests_waiting") > 0.0
        });
        assert!(server.slots("used") > 0.0);
        drop(clients);
        server.comes_to_rest();
    }
    let aborted =
        "vllm:request_success_total{model_name=\"tiny\",engine=\"0\",finished_reason=\"abort\"} 16";
    eventually("all are counted", || server.get("/metrics").body.lines().any(|l| l == aborted));
    assert_eq!(server.complete(&asked("still here", 5))["usage"]["completion_tokens"], 5);
}

#[test]
fn too_many_are_turned_away_and_may_come_again() {
    let server = Server::start(&["--max-seqs", "1", "--max-queue", "2"]);
    let long = with(asked("x", 4000), json!({"stream": true})).to_string();
    let clients: Vec<TcpStream> =
        (0..2).map(|_| server.send("POST", "/v1/completions", &long, "")).collect();
    eventually("one runs, one waits", || server.metric("vllm:num_requests_waiting") == 1.0);
    let third = server.send("POST", "/v1/completions", &long, "");
    eventually("the queue is full", || server.metric("vllm:num_requests_waiting") == 2.0);
    let refused = server.post("/v1/completions", &asked("y", 1));
    assert_eq!(
        (refused.status, refused.error()),
        (429, "2 requests are waiting already; try again later".to_owned())
    );
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    assert_eq!(server.metric("vllm:admission_rejections_total"), 1.0);
    drop((clients, third));
    server.comes_to_rest();
    assert_eq!(server.complete(&asked("y", 1))["usage"]["completion_tokens"], 1);
}

#[test]
fn mistakes_are_told() {
    let server = Server::start(&["--max-model-len", "256", "--max-seqs", "8"]);
    let refused = |path: &str, body: &str| {
        let response = Response::read(server.send("POST", path, body, ""));
        (response.status, response.error())
    };
    let told = |body: Value| refused("/v1/completions", &body.to_string());
    assert_eq!(
        told(asked("abc", 254)),
        (400, "prompt and output of 257 tokens exceed max-model-len 256".to_owned())
    );
    assert_eq!(
        told(with(asked("abc", 4), json!({"n": 9}))),
        (400, "n = 9 branches cannot run side by side here".to_owned())
    );
    assert_eq!(
        told(with(asked("abc", 4), json!({"n": 0}))),
        (400, "n = 0 must be between 1 and 128".to_owned())
    );
    assert_eq!(
        told(json!({"prompt": [1, 999]})),
        (400, "token 999 is not one of the model's 258".to_owned())
    );
    assert_eq!(
        told(json!({"prompt": ["a", "b"]})),
        (400, "one prompt per request, please".to_owned())
    );
    assert_eq!(
        told(json!({"prompt": ""})),
        (400, "the prompt must have at least one token".to_owned())
    );
    assert_eq!(
        told(with(asked("a", 4), json!({"echo": true}))),
        (400, "`echo` is not supported".to_owned())
    );
    assert_eq!(
        told(with(asked("a", 4), json!({"temperature": -1}))),
        (400, "temperature = -1 must be between 0 and 100".to_owned())
    );
    assert_eq!(
        told(with(asked("a", 4), json!({"model": "gpt-5"}))),
        (404, "the model `gpt-5` does not exist; this is `tiny`".to_owned())
    );
    let (status, message) = refused("/v1/completions", "{\"prompt\": ");
    assert!(
        status == 400 && message.starts_with("not a valid request: EOF while parsing"),
        "{message}"
    );
    assert_eq!(refused("/v1/completions", &"[".repeat(100_000)).0, 400);
    assert_eq!(
        refused("/v1/chat/completions", "{\"messages\": []}"),
        (400, "`messages` must not be empty".to_owned())
    );
    assert_eq!(
        refused("/v1/embeddings", "{}"),
        (404, "there is no POST /v1/embeddings".to_owned())
    );
    let wrong = Response::read(server.send("DELETE", "/v1/models", "", ""));
    assert_eq!((wrong.status, wrong.error()), (405, "/v1/models does not take DELETE".to_owned()));
    // Headers and bodies of any size do not get in.
    assert_eq!(
        Response::read(server.send(
            "GET",
            "/health",
            "",
            &format!("X: {}\r\n", "y".repeat(300_000))
        ))
        .status,
        431
    );
    let length = "Content-Length: 9000000\r\n";
    let head =
        format!("POST /v1/completions HTTP/1.1\r\nHost: knee\r\nConnection: close\r\n{length}\r\n");
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // The server may end the connection before it has read all of it.
    let _ = stream.write_all(&vec![b'x'; 9_000_000]);
    let mut answer = [0; 12];
    if stream.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 413");
    }
    assert_eq!(server.get("/health").status, 200);
    server.comes_to_rest();
}

#[test]
fn a_key_opens_what_answers() {
    let server = Server::start(&["--api-key", "secret"]);
    let get = |path: &str, headers: &str| Response::read(server.send("GET", path, "", headers));
    assert_eq!(get("/v1/models", "").error(), "the API key is missing or wrong");
    assert_eq!(get("/v1/models", "Authorization: Bearer wrong\r\n").status, 401);
    let models = get("/v1/models", "Authorization: Bearer secret\r\n").json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["max_model_len"]),
        (&json!("tiny"), &json!(4096))
    );
    assert_eq!((get("/health", "").status, get("/metrics", "").status), (200, 200));
}

/// What is answered is what the document says is answered.
#[test]
fn answers_are_those_of_the_document() {
    let server = Server::start(&[]);
    let document = server.get("/openapi.json").json();
    let check = |name: &str, value: &Value| {
        let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": document["components"]});
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?} in {value}");
    };
    let completion = with(
        asked("hello", 5),
        json!({"logprobs": 1, "stop": "never", "seed": 3, "top_k": -1, "user": "me"}),
    );
    check("CompletionRequest", &completion);
    check("Completion", &server.complete(&completion));
    let chat =
        json!({"messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 5});
    check("ChatRequest", &chat);
    check("ChatCompletion", &server.post("/v1/chat/completions", &chat).json());
    check("Models", &server.get("/v1/models").json());
    check("Error", &server.post("/v1/completions", &json!({})).json());
    assert_eq!(document["paths"].as_object().unwrap().len(), 6);
}

#[test]
fn told_to_end_it_answers_who_is_inside() {
    for flags in [&[][..], &["--pp", "3"], &["--replicas", "2"]] {
        end(flags);
    }
}

fn end(flags: &[&str]) {
    let mut server = Server::start(flags);
    let body = with(asked("to the end", 600), json!({"stream": true}));
    let inside = server.send("POST", "/v1/completions", &body.to_string(), "");
    eventually("it runs", || server.metric("vllm:num_requests_running") == 1.0);
    server.signal("-TERM");
    eventually("nobody else gets in", || TcpStream::connect(&server.address).is_err());
    assert_eq!(Response::read(inside).events().len(), 600);
    let status = server.child.wait().unwrap();
    assert!(status.success(), "{status}");
    let mut rest = String::new();
    server.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

/// The model that `scripts/fetch-model` fetches, where it has.
#[test]
fn a_real_model_answers() {
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
    let path = format!("{cache}/knee/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !std::path::Path::new(&path).exists() {
        eprintln!("skipped: {path} is not there (scripts/fetch-model fetches it)");
        return;
    }
    let cases = [
        ("bf16", "What is the capital of France?", "The capital of France is Paris."),
        ("int8", "Name three colours.", "1. Red"),
    ];
    for (precision, question, answer) in cases {
        let flags = ["--model", &path, "--precision", precision, "--max-model-len", "512"];
        let server = Server::of(&flags);
        let messages = [json!({"role": "user", "content": question})];
        let body = json!({"messages": messages, "temperature": 0, "max_completion_tokens": 10});
        let choice = server.post("/v1/chat/completions", &body).json()["choices"][0].clone();
        let said = choice["message"]["content"].as_str().unwrap();
        assert!(said.starts_with(answer), "{precision}: {said}");
        let ends = said == answer;
        assert_eq!(choice["finish_reason"], if ends { "stop" } else { "length" }, "{precision}");
    }
}

#[test]
fn what_cannot_be_served_is_told_on_one_line() {
    let told = |flags: &[&str]| {
        let out =
            Command::new(env!("CARGO_BIN_EXE_knee")).arg("serve").args(flags).output().unwrap();
        assert!(!out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    assert_eq!(
        told(&["--model", "llama-3.1-8b"]),
        "knee: llama-3.1-8b: unsupported model: expected tiny, a Hugging Face folder, a .gguf file, hf:ORG/NAME, or a shape with random weights\n"
    );
    assert_eq!(
        told(&["--model", "tiny", "--pp", "5"]),
        "knee: model tiny: layers = 4 do not fill 5 pipeline stages\n"
    );
    assert_eq!(
        told(&["--model", "tiny", "--replicas", "2", "--policy", "disagg"]),
        "knee: the workers of one replica take turns, those of several do not: leave replicas at 1\n"
    );
    assert_eq!(
        told(&["--model", "tiny", "--max-model-len", "5000"]),
        "knee: max-model-len 5000 is beyond the model's 4096 tokens\n"
    );
    assert_eq!(
        told(&["--model", "tiny", "--kv-memory", "1MiB"]),
        "knee: --kv-memory holds 1024 tokens per worker, but one request may need 4096: raise it, or lower max-model-len\n"
    );
    assert!(
        told(&["--model", "nowhere.gguf"])
            .starts_with("knee: cannot read nowhere.gguf: No such file")
    );
}
