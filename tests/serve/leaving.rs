//! Clients that go away, clients that are turned away, and clients inside when the server ends:
//! nothing is left behind.

use std::io::Read as _;
use std::net::TcpStream;

use serde_json::json;

use crate::client::{Response, Server, asked, eventually, with};

#[test]
fn a_client_that_goes_away_gives_everything_back() {
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
fn a_server_told_to_end_answers_requests_under_way() {
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
