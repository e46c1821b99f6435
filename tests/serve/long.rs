//! Requests that are far too long cost next to nothing and hold up no other request.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::client::{Response, Server, asked};

/// Bytes of a body.
const LONG: usize = 8_000_000;

/// The answer to a body that is sent as fast as it is taken.
fn answer(server: &Server, path: &str, body: &[u8]) -> Response {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: k\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A refusal may come before all of it is sent.
    let _ = stream.write_all(body);
    Response::read(stream)
}

/// Peak and present memory, MB.
#[cfg(target_os = "linux")]
fn memory(server: &Server) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1000
    };
    (of("VmHWM:"), of("VmRSS:"))
}

/// Bodies of 8 MB of many shapes, 24 at once, against a model whose context would take some of them as numbers.
#[test]
#[cfg(target_os = "linux")]
fn long_bodies_take_little_memory() {
    let shape = r#"
        name = "roomy"
        source = "made up"
        hidden = 32
        layers = 1
        heads = 2
        kv_heads = 1
        head_dim = 16
        ffn = 32
        gated = true
        vocab = 258
        tied_embeddings = true
        dtype_bytes = 2
        max_context = 200000
    "#;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("roomy.toml");
    std::fs::write(&path, shape).unwrap();
    let model = path.to_str().unwrap();
    let server = Server::of(&["--model", model, "--weights", "random", "--kv-memory", "100MB"]);
    let (before, _) = memory(&server);
    let filled = |open: &str, item: &str, close: &str| {
        let times = (LONG - open.len() - close.len()) / item.len();
        format!("{open}{}{close}", item.repeat(times)).into_bytes()
    };
    let completions = [
        filled("{\"prompt\": \"", "x ", "\"}"),
        filled("{\"prompt\": \"", "\\u0041", "\"}"),
        filled("{\"prompt\": [", "1,", "1]}"),
        filled("{\"prompt\": \"a\", \"junk\": [", "[],", "[]]}"),
        filled("{\"prompt\": \"a\", \"stop\": [", "\"\",", "\"\"]}"),
        filled("{\"prompt\": \"a\", \"tools\": [", "{},", "{}]}"),
    ];
    let chats = [
        filled("{\"messages\": [{\"role\": \"user\", \"content\": \"", "x ", "\"}]}"),
        filled("{\"messages\": [", "{\"role\": \"\"},", "{\"role\": \"\"}]}"),
    ];
    let bodies = completions.iter().map(|body| ("/v1/completions", body));
    let bodies: Vec<_> =
        bodies.chain(chats.iter().map(|body| ("/v1/chat/completions", body))).collect();
    let post = |(path, body): &(&str, &Vec<u8>)| {
        let said = answer(&server, path, body);
        let start = String::from_utf8_lossy(&body[..40]);
        // Those that wait too long for room for their body are told so.
        let fine = [200, 400, 408, 429].contains(&said.status);
        assert!(fine, "{start}: {} {}", said.status, said.body);
        [200, 400].contains(&said.status)
    };
    let post = &post;
    let read = std::thread::scope(|scope| {
        let all = bodies.iter().cycle().take(24).map(|body| scope.spawn(move || post(body)));
        let all: Vec<_> = all.collect();
        all.into_iter().map(|one| one.join().unwrap()).filter(|read| *read).count()
    });
    assert!(read > 0, "no body was read");
    let (peak, _) = memory(&server);
    assert!(peak < before + 400, "{before} MB before, {peak} MB at most");
    assert_eq!(server.complete(&asked("still here", 5))["usage"]["completion_tokens"], 5);
}

#[test]
fn a_text_beyond_the_context_is_refused_by_its_length() {
    let server = Server::start(&["--max-model-len", "256"]);
    let body = json!({"prompt": "x ".repeat(400_000)}).to_string();
    let said = answer(&server, "/v1/completions", body.as_bytes());
    assert_eq!(
        (said.status, said.error()),
        (400, "a text of 800000 bytes exceeds max-model-len 256 tokens".to_owned())
    );
    let turn = json!({"role": "user", "content": "x ".repeat(200_000)});
    let chat = json!({"messages": [turn, turn]}).to_string();
    let said = answer(&server, "/v1/chat/completions", chat.as_bytes());
    assert_eq!(
        (said.status, said.error()),
        (400, "a text of 800000 bytes exceeds max-model-len 256 tokens".to_owned())
    );
    let turns = json!({"messages": vec![json!({"role": "user", "content": ""}); 257]}).to_string();
    let said = answer(&server, "/v1/chat/completions", turns.as_bytes());
    assert_eq!(
        (said.status, said.error()),
        (400, "257 messages exceed max-model-len 256".to_owned())
    );
    server.comes_to_rest();
}
