//! Clients that are slow, rude or ahead of their time.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::TcpStream as Client;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::stream;

use super::*;

/// Set when it is dropped.
struct Watched(Arc<AtomicBool>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

const QUICK: Times = Times {
    head: Duration::from_millis(200),
    body: Duration::from_millis(200),
    pause: Duration::from_millis(200),
    write: Duration::from_millis(200),
};

/// A client of a server with an endless answer at `/`, and a flag that is set when that answer is dropped.
fn connected() -> (Client, Arc<AtomicBool>) {
    let dropped = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&dropped);
    let endless = async move || {
        let pieces = stream::unfold(Watched(Arc::clone(&watched)), |watched| async move {
            Some((Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 4096])), watched))
        });
        Body::from_stream(pieces)
    };
    let router = Router::new().route("/", get(endless)).route("/short", get(async || "short"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            serve(listener, router, QUICK, std::future::pending(), Duration::ZERO).await
        })
    });
    (Client::connect(address).unwrap(), dropped)
}

/// The reply to `sent`, to the end of the connection.
fn answer(sent: &[u8]) -> String {
    let (mut client, _) = connected();
    client.write_all(sent).unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn an_answer_that_is_not_read_is_given_up() {
    let (mut client, dropped) = connected();
    client.write_all(b"GET / HTTP/1.1\r\nHost: k\r\n\r\n").unwrap();
    let begun = std::time::Instant::now();
    while !dropped.load(Ordering::SeqCst) {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is kept for ever");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn headers_that_do_not_come_are_not_waited_for() {
    let late = answer(b"GET /short HTTP/1.1\r\nHost: k\r\nX-Slow: ");
    assert!(late.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{late}");
    assert!(late.ends_with("\"type\":\"invalid_request_error\"}}"), "{late}");
    assert_eq!(answer(b""), "", "no request, no answer");
    let kept = answer(b"GET /short HTTP/1.1\r\nHost: k\r\n\r\n");
    assert!(
        kept.ends_with("\r\n\r\nshort"),
        "an idle kept-alive connection is closed without a 408: {kept}"
    );
}

#[test]
fn first_lines_get_the_status_that_the_standard_has_for_them() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: k\r\n\r\n", "x".repeat(200_000));
    let blank = "\n".repeat(64 << 10) + "GET / HTTP/2.0\r\nHost: k\r\n\r\n";
    let cases = [
        (blank.as_str(), "505 HTTP Version Not Supported"),
        ("GET / HTTP/2.0\r\nHost: k\r\n\r\n", "505 HTTP Version Not Supported"),
        ("\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 HTTP Version Not Supported"),
        (&long, "414 URI Too Long"),
        ("G@T / HTTP/1.1\r\nHost: k\r\n\r\n", "400 Bad Request"),
        ("GET /\r\n\r\n", "400 Bad Request"),
        ("GET /short HTTP/1.1\r\nHost: k\r\nContent-Length: x\r\n\r\n", "400 Bad Request"),
    ];
    for (sent, status) in cases {
        let said = answer(sent.as_bytes());
        let shown: String = sent.chars().take(60).collect();
        assert!(said.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{shown:?}: {said}");
    }
}
