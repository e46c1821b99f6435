//! Everything that can go wrong has a name, a count and a cause, and counts against goodput.

use std::time::Duration;

use loadgen::{Live, LiveOptions, LiveRun, MockOptions, Prompts, Server, Summary, Tokens};

use crate::fixture::{Rig, canned, load, run, server, silent, slo};

fn faulty(faults: &[&str]) -> MockOptions {
    let faults = faults.iter().map(|f| f.parse().unwrap()).collect();
    let ms = Duration::from_millis;
    MockOptions { ttft: ms(5), itl: ms(1), faults, ..MockOptions::default() }
}

fn quick() -> LiveOptions {
    LiveOptions { timeout: Duration::from_millis(700), ..LiveOptions::default() }
}

/// That all 20 requests failed as `kind`, and what the cause says.
fn all_failed(run: &LiveRun, kind: &str) -> String {
    let trace = load(1, 1, 1, 1);
    let summary = Summary::new(&run.recording, &slo(&[], &trace));
    assert_eq!((summary.requests, summary.good, summary.completed), (20, 0, 0));
    assert_eq!(run.failures.keys().collect::<Vec<_>>(), [kind]);
    assert_eq!(run.failures[kind].count, 20);
    let cause = run.failures[kind].cause.clone();
    assert!(!cause.is_empty() && !cause.contains('\n'));
    cause
}

fn against(faults: &[&str]) -> LiveRun {
    let rig = Rig::start(faulty(faults));
    let run = run(&rig.url(), &load(20, 2, 8, 6), &quick());
    rig.end();
    run
}

#[test]
fn by_name() {
    for (fault, kind, cause) in [
        ("429", "status_429", "asked for"),
        ("500", "status_500", "asked for"),
        ("cut", "cut", "in the middle"),
        ("hang", "timeout", "within 700ms"),
        ("drip", "timeout", "within 700ms"),
        ("not-sse", "not_sse", "doctype"),
    ] {
        let said = all_failed(&against(&[fault]), kind);
        assert!(said.contains(cause), "{fault}: {said}");
    }
}

#[test]
fn a_share_of_failures_is_that_share_of_requests() {
    let rig = Rig::start(faulty(&["429=30%", "cut=20%"]));
    let trace = load(200, 1, 8, 6);
    let run = run(&rig.url(), &trace, &quick());
    let (served, truths) = rig.end();
    let summary = Summary::new(&run.recording, &slo(&[], &trace));
    let of = |outcome: &str| truths.iter().filter(|t| t.outcome == outcome).count() as u64;
    assert_eq!((summary.rejected, summary.failed), (of("429"), of("cut")));
    assert_eq!((summary.completed, summary.good), (served.completed, served.completed));
    assert!(summary.rejected > 30 && summary.failed > 20);
}

#[test]
fn no_usage_is_counted_and_chunks_stand_in() {
    let run = against(&["no-usage"]);
    assert!(run.failures.is_empty());
    assert_eq!(run.audit.without_usage, 20);
    assert!(run.recording.records.iter().all(|r| r.completed() && r.output == 6));
}

#[test]
fn a_tokenizer_counts_if_the_server_does_not() {
    let rig = Rig::start(faulty(&["no-usage=50%"]));
    let by_words = Some(Tokens::new(|text| Some(3 * text.split_whitespace().count())));
    let server = Server { tokenizer: by_words, ..server(&rig.url()) };
    // A word is three tokens to it in every text: prompts cannot be made, answers counted they can.
    assert!(Live::assume(&server, "mock", Prompts::Ids).is_err());
    let by_words = Some(Tokens::new(|text| Some(text.split_whitespace().count())));
    let server = Server { tokenizer: by_words, ..server };
    let trace = load(20, 2, 8, 6);
    let text = Prompts::Text { per_word: 1.0, overhead: 0.0 };
    let live = Live::assume(&server, "mock", text).unwrap();
    let run = live.run(&trace, &quick(), &slo(&[], &trace), |_| true).unwrap();
    assert_eq!(run.audit.without_usage, 0);
    assert!(run.recording.records.iter().all(|r| r.completed() && r.output == 6));
    let tokenized = run.wires.iter().filter(|w| w.tokenized == Some(6)).count();
    assert!((1..20).contains(&tokenized), "{tokenized}");
    assert!(run.wires.iter().all(|w| w.tokenized.is_none() != w.completion_tokens.is_none()));
    // The mock counts four bytes a token, so this is not its tokenizer.
    let error = Live::find(&server, Duration::from_secs(5)).err().unwrap().to_string();
    assert!(error.contains("one token by --tokenizer is 1."), "{error}");
    rig.end();
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let url = silent();
    all_failed(&run(&url, &load(20, 2, 8, 6), &quick()), "refused");
    let error = Live::find(&server(&url), Duration::from_secs(1)).err().unwrap().to_string();
    assert!(error.contains("refused"), "{error}");
    let nowhere = Server { url: "http://no-such-host.invalid".to_owned(), ..Server::default() };
    let error = Live::find(&nowhere, Duration::from_secs(1)).err().unwrap().to_string();
    assert!(error.contains("dns"), "{error}");
}

#[test]
fn the_wrong_key_and_the_wrong_model() {
    let rig = Rig::start(MockOptions { api_key: Some("secret".to_owned()), ..faulty(&[]) });
    all_failed(&run(&rig.url(), &load(20, 2, 8, 6), &quick()), "status_401");
    let error =
        |server: &Server| Live::find(server, Duration::from_secs(5)).err().unwrap().to_string();
    assert!(error(&server(&rig.url())).contains("key"));
    let keyed = Server { api_key: Some("secret".to_owned()), ..server(&rig.url()) };
    assert!(Live::find(&keyed, Duration::from_secs(5)).is_ok());
    let other = Server { model: Some("other".to_owned()), ..keyed.clone() };
    assert!(error(&other).contains("does not exist"));
    let live = Live::assume(&keyed, "other", Prompts::Ids).unwrap();
    let trace = load(20, 2, 8, 6);
    let run = live.run(&trace, &quick(), &slo(&[], &trace), |_| true).unwrap();
    all_failed(&run, "status_404");
    rig.end();
}

#[test]
fn not_ready_yet() {
    let rig = Rig::start(MockOptions { ready_after: Duration::from_secs(60), ..faulty(&[]) });
    all_failed(&run(&rig.url(), &load(20, 2, 8, 6), &quick()), "status_503");
    rig.end();
}

#[test]
fn servers_worse_than_the_mock() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let of = |answer: String| {
        let answer: &'static [u8] = answer.leak().as_bytes();
        run(&canned(answer), &load(20, 2, 8, 6), &quick())
    };
    let event = |json: &str| of(format!("{HEAD}data: {json}\n\n"));
    let token = r#"{"choices":[{"index":0,"text":"a","finish_reason":null}]}"#;
    let end = r#"{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#;
    assert!(
        all_failed(&event(r#"{"error":{"message":"no KV"}}"#), "server_error").contains("no KV")
    );
    all_failed(&event("{\"choices\":[{\"text\""), "malformed");
    all_failed(&event(token), "cut");
    all_failed(&event("[DONE]"), "empty");
    all_failed(&of("220 smtp.example ESMTP\r\n".to_owned()), "malformed");
    all_failed(&of(String::new()), "cut");
    let chunked =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    all_failed(&of(format!("{chunked}zz\r\n")), "malformed");
    // The end of the connection is a legal end of a body without a length, and a finish reason a legal end of a stream.
    let fine = of(format!("{HEAD}data: {token}\n\ndata: {end}\n\n"));
    assert!(fine.failures.is_empty() && fine.recording.records.iter().all(|r| r.output == 1));
}

#[test]
fn an_idle_connection_closed_by_the_server_costs_no_request() {
    // It promises to keep the connection and closes it: the next request on it goes out again on another.
    let end = r#"data: {"choices":[{"text":"a","finish_reason":"stop"}]}"#;
    let body = format!("{end}\n\n");
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let url = canned(answer.leak().as_bytes());
    let options = LiveOptions { streams: Some(2), ..quick() };
    let run = run(&url, &load(40, 0, 8, 1), &options);
    assert!(run.failures.is_empty(), "{:?}", run.failures);
    assert!(run.audit.connections >= 40);
}
