//! A running server, and a small client that reads what it says to the byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A running server; killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let tiny = ["--model", "tiny", "--kv-memory", "20MiB", "--precision", "f32"];
        Self::of(&[&tiny, flags].concat())
    }

    pub(crate) fn of(flags: &[&str]) -> Self {
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
    pub(crate) fn send(&self, method: &str, path: &str, body: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: knee\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        stream
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        Response::read(self.send("POST", path, &body.to_string(), ""))
    }

    pub(crate) fn complete(&self, body: &Value) -> Value {
        let response = self.post("/v1/completions", body);
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        Response::read(self.send("GET", path, "", ""))
    }

    /// The sum of a metric over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let named = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        let values = text.lines().filter(named).map(|line| line.rsplit(' ').next().unwrap());
        values.map(|v| v.parse::<f64>().unwrap()).sum()
    }

    /// KV slots of one class.
    pub(crate) fn slots(&self, class: &str) -> f64 {
        let text = self.get("/metrics").body;
        let label = format!("class=\"{class}\"");
        let line = text.lines().find(|l| l.starts_with("knee:kv_slots{") && l.contains(&label));
        line.unwrap_or_else(|| panic!("{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until no request runs or waits and no slot is held.
    pub(crate) fn comes_to_rest(&self) {
        let held = || ["used", "reserved", "internal", "external"].map(|c| self.slots(c));
        let rests = || {
            held() == [0.0; 4]
                && self.metric("vllm:num_requests_running") == 0.0
                && self.metric("vllm:num_requests_waiting") == 0.0
        };
        eventually("it comes to rest", rests);
    }

    pub(crate) fn signal(&self, name: &str) {
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

pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An HTTP response, its chunks put together.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn read(mut stream: impl Read) -> Self {
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

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The events of a stream; its last must be `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert!(self.head.contains("text/event-stream"), "{}", self.head);
        let mut data: Vec<&str> =
            self.body.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.iter().map(|d| serde_json::from_str(d).unwrap()).collect()
    }

    /// The message of an error, which must be in OpenAI's form.
    pub(crate) fn error(&self) -> String {
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

pub(crate) fn asked(prompt: &str, max_tokens: u32) -> Value {
    json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true, "return_token_ids": true})
}

pub(crate) fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("fields, not {more}") };
    body.as_object_mut().unwrap().extend(more);
    body
}
