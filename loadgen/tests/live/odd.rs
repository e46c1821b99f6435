//! Servers with a quirk, for tests here and of the program: each is a function from a request to bytes.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

/// A request as a server sees it.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    #[allow(dead_code, reason = "the program's tests do not look at them")]
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Value,
}

impl Asked {
    /// Tokens asked for.
    pub(crate) fn output(&self) -> u64 {
        let member = |name: &str| self.body[name].as_u64();
        member("max_tokens").or_else(|| member("max_completion_tokens")).unwrap_or(4)
    }

    /// True where it is for a completion or a chat.
    pub(crate) fn posts(&self) -> bool {
        self.method == "POST"
    }
}

/// A server that answers every request by `handle`, as long as that does not fail.
pub(crate) fn serve(
    handle: impl Fn(&Asked, &mut TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let handle = handle.clone();
            std::thread::spawn(move || {
                let mut rest = Vec::new();
                while let Ok(asked) = read(&mut stream, &mut rest) {
                    if handle(&asked, &mut stream).is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

fn read(stream: &mut TcpStream, rest: &mut Vec<u8>) -> io::Result<Asked> {
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(rest).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
            let header = |line: &str| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            };
            let headers: HashMap<_, _> = lines.filter_map(header).collect();
            let length = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
            if body.len() >= length {
                let asked = Asked {
                    method: first.next().unwrap_or_default(),
                    path: first.next().unwrap_or_default(),
                    body: serde_json::from_str(&body[..length]).unwrap_or_default(),
                    headers,
                };
                rest.drain(..head.len() + 4 + length);
                return Ok(asked);
            }
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => rest.extend_from_slice(&piece[..n]),
        }
    }
}

/// A whole answer; `headers` are lines with their ends.
pub(crate) fn reply(
    stream: &mut TcpStream,
    status: u16,
    headers: &str,
    body: &str,
) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes())
}

/// An event with one choice.
pub(crate) fn event(choice: &Value) -> String {
    format!("data: {}\n\n", json!({"choices": [choice]}))
}

/// The event of a token, in either API.
pub(crate) fn token(asked: &Asked, text: &str) -> String {
    event(&if asked.path.contains("chat") {
        json!({"index": 0, "delta": {"content": text}, "finish_reason": null})
    } else {
        json!({"index": 0, "text": text, "finish_reason": null})
    })
}

/// The end of a stream of so many tokens.
pub(crate) fn finale(output: u64) -> String {
    let usage = json!({"prompt_tokens": 32, "completion_tokens": output});
    let end = event(&json!({"index": 0, "text": "", "finish_reason": "length"}));
    format!("{end}data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": usage}))
}

/// A stream of `pieces`, each after so many ms, as a body that ends with the connection.
pub(crate) fn stream(to: &mut TcpStream, pieces: &[(u64, String)]) -> io::Result<()> {
    to.set_nodelay(true)?;
    to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")?;
    for (ms, piece) in pieces {
        std::thread::sleep(Duration::from_millis(*ms));
        to.write_all(piece.as_bytes())?;
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// A server without a fault, for one request: a token a millisecond.
pub(crate) fn good(asked: &Asked, to: &mut TcpStream) -> io::Result<()> {
    match (asked.method.as_str(), asked.path.ends_with("/models")) {
        ("GET", true) => reply(to, 200, "", r#"{"data":[{"id":"m"}]}"#),
        ("GET", false) => reply(to, 404, "", "{}"),
        _ if asked.body["stream"] != true => reply(to, 200, "", r#"{"choices":[{"text":"x"}]}"#),
        _ => {
            let output = asked.output();
            let mut pieces: Vec<_> = (0..output).map(|_| (1, token(asked, " w"))).collect();
            pieces.push((0, finale(output)));
            stream(to, &pieces)
        }
    }
}
