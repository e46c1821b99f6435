//! Requests that are not as HTTP has them: each gets the status that RFC 9110 and 9112 have for it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::client::{Response, Server};

/// The answer to `sent`; the client has no more to say.
fn answer(server: &Server, sent: &str) -> Response {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    Response::read(stream)
}

const HEAD: &str = "POST /v1/completions HTTP/1.1\r\nHost: k\r\nConnection: close\r\n";
const BODY: &str = r#"{"prompt": "a", "max_tokens": 1}"#;

#[test]
fn every_malformed_request_has_its_status() {
    let server = Server::start(&[]);
    let post = |more: &str| format!("{HEAD}{more}");
    let whole = |more: &str| post(&format!("Content-Length: {}\r\n{more}\r\n{BODY}", BODY.len()));
    let chunk = |size: &str| {
        post(&format!("Transfer-Encoding: chunked\r\n\r\n{size}\r\n{BODY}\r\n0\r\n\r\n"))
    };
    let size = format!("{:x}", BODY.len());
    let cases = [
        (whole(""), 200),
        (chunk(&size), 200),
        (whole("Expect: 100-continue\r\n"), 100),
        // No body, one of unknown length, one of a length that is none, one that is too long.
        (post("\r\n"), 411),
        (post("Content-Length: 0\r\n\r\n"), 400),
        (post("Content-Length: -1\r\n\r\n"), 400),
        (post("Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 400),
        (post("Content-Length: 9000000\r\n\r\n"), 413),
        // Chunks that are none; codings that are not known, or not the last.
        (chunk("zz"), 400),
        (post("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501),
        (post("Transfer-Encoding: gzip\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"), 400),
        (whole("Content-Encoding: gzip\r\n"), 415),
        (whole("Expect: the unexpected\r\n"), 417),
        // Hosts, methods, versions, addresses.
        (
            format!(
                "POST /v1/completions HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{BODY}",
                BODY.len()
            ),
            400,
        ),
        (whole("Host: another\r\n"), 400),
        (whole("X y: z\r\n"), 400),
        ("BREW /v1/completions HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n".to_owned(), 501),
        ("DELETE /v1/completions HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n".to_owned(), 405),
        ("GET /health HTTP/2.0\r\nHost: k\r\n\r\n".to_owned(), 505),
        (format!("GET /{} HTTP/1.1\r\nHost: k\r\n\r\n", "x".repeat(100_000)), 414),
        (format!("GET /health HTTP/1.1\r\nHost: k\r\n{}\r\n", "X: y\r\n".repeat(1000)), 431),
    ];
    for (sent, status) in cases {
        let shown: String = sent.chars().take(120).collect();
        let said = answer(&server, &sent);
        assert_eq!(said.status, status, "{shown:?}: {}{}", said.head, said.body);
    }
    let wrong = answer(&server, "DELETE /health HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n");
    assert!(wrong.head.contains("\r\nallow: get"), "{}", wrong.head);
    assert_eq!(server.get("/health").status, 200);
}

/// A client that sends an unwanted body reads the answer all the same: the connection is not cut
/// under it.
#[test]
fn a_refusal_is_read_while_its_body_is_still_sent() {
    let server = Server::start(&["--max-model-len", "256"]);
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let head = format!("{HEAD}Content-Length: 9000000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![b'x'; 9_000_000]).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    }
}
