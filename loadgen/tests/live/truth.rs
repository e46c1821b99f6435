//! The client's report agrees with the mock's own log, on the clock that both read.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use loadgen::{Live, LiveOptions, LiveRun, MockOptions, Outcome, Prompts, Summary, Truth};
use serde_json::Value;
use workloads::{Arrival, Trace};

use crate::fixture::{Rig, index, load, run, server, slo, speak};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn clockwork(ttft: u64, itl: u64) -> MockOptions {
    MockOptions { ttft: ms(ttft), itl: ms(itl), ..MockOptions::default() }
}

/// Holds every record against the server's truth: nothing is lost, nothing is early, every token is counted.
fn agree(run: &LiveRun, truths: &[Truth]) {
    let truths: HashMap<u32, &Truth> = truths.iter().map(|t| (index(t), t)).collect();
    assert_eq!(truths.len(), run.recording.records.len());
    for (record, sent) in run.recording.records.iter().zip(&run.from_send.records) {
        let truth = truths[&record.request];
        let at = |time: Duration| run.origin_ns + time.as_nanos() as u64;
        assert_eq!(u64::from(record.output), truth.output_tokens());
        assert_eq!(record.input, truth.prompt_tokens);
        let (first, last) = (at(record.first_token.unwrap()), at(record.last_token.unwrap()));
        assert!(first >= truth.first_ns.unwrap(), "seen before it was written");
        assert!(last >= truth.last_ns().unwrap());
        assert!(at(sent.scheduled) <= truth.arrived_ns, "arrived before it was sent");
        assert!(sent.scheduled >= record.scheduled, "sent before it was due");
        assert!(record.e2e().unwrap() >= sent.e2e().unwrap());
    }
    let gaps: u64 = run.recording.records.iter().map(|r| u64::from(r.output) - 1).sum();
    assert_eq!(run.recording.itl_of_all().count(), gaps);
}

#[test]
fn open_loop() {
    let rig = Rig::start(clockwork(20, 3));
    let mut trace = load(60, 5, 30, 8);
    for (i, request) in trace.requests.iter_mut().enumerate() {
        (request.input, request.output) = (1 + 37 * i as u32, 1 + (i as u32 * 7) % 13);
    }
    let run = run(&rig.url(), &trace, &LiveOptions::default());
    let (served, truths) = rig.end();
    agree(&run, &truths);
    assert_eq!((served.requests, served.completed), (60, 60));
    for (record, asked) in run.recording.records.iter().zip(&trace.requests) {
        assert_eq!((record.input, record.output), (asked.input, asked.output));
        assert_eq!(Arrival::At(record.scheduled), asked.arrival);
        assert!(record.ttft().unwrap() >= ms(20));
    }
    assert!(run.failures.is_empty() && run.audit.reasons.iter().all(|r| !r.contains("sent of")));
}

#[test]
fn a_closed_loop_holds_its_streams_and_no_more() {
    let rig = Rig::start(clockwork(5, 1));
    let trace = load(64, 0, 8, 6);
    let options = LiveOptions { streams: Some(8), ..LiveOptions::default() };
    let run = run(&rig.url(), &trace, &options);
    let (served, truths) = rig.end();
    agree(&run, &truths);
    assert_eq!((served.peak_streams, run.audit.streams_peak), (8, 8));
    assert_eq!(served.completed, 64);
}

#[test]
fn tokens_in_one_write_are_counted_and_flagged() {
    let rig = Rig::start(clockwork(0, 0));
    let run = run(&rig.url(), &load(20, 2, 8, 32), &LiveOptions::default());
    let (_, truths) = rig.end();
    agree(&run, &truths);
    assert!(run.wires.iter().all(|w| w.chunks == 32 && w.coalesced > 0));
    assert!(run.audit.coalesced_share > 0.5);
}

#[test]
fn slots_queue_first_come_first_served() {
    let options = MockOptions { slots: Some(2), ..clockwork(10, 2) };
    let rig = Rig::start(options);
    let run = run(&rig.url(), &load(12, 1, 8, 5), &LiveOptions::default());
    let (served, mut truths) = rig.end();
    agree(&run, &truths);
    assert_eq!(served.peak_streams, 2);
    truths.sort_by_key(|t| t.request);
    assert!(truths.windows(2).all(|w| w[0].started_ns <= w[1].started_ns));
    for t in &truths {
        let inside =
            |at: u64| truths.iter().filter(move |o| o.started_ns.unwrap() <= at && at < o.end_ns);
        assert!(inside(t.started_ns.unwrap()).count() <= 2);
    }
}

#[test]
fn a_turn_waits_for_the_answer_and_the_thought() {
    let rig = Rig::start(clockwork(5, 1));
    let mut trace = load(3, 0, 8, 4);
    for i in 1..3 {
        trace.requests[i].arrival = Arrival::After { previous: i as u32 - 1, think: ms(30) };
    }
    let run = run(&rig.url(), &trace, &LiveOptions::default());
    let (_, truths) = rig.end();
    agree(&run, &truths);
    for pair in run.recording.records.windows(2) {
        assert!(pair[1].scheduled >= pair[0].last_token.unwrap() + ms(30));
    }
}

#[test]
fn a_request_held_back_is_late_by_its_schedule_only() {
    let options = MockOptions { stalls: vec![(ms(300), ms(400))], ..clockwork(10, 1) };
    let rig = Rig::start(options);
    let options = LiveOptions { most_in_flight: Some(2), ..LiveOptions::default() };
    let run = run(&rig.url(), &load(80, 10, 8, 4), &options);
    rig.end();
    let over = |records: &[loadgen::Record]| {
        records.iter().filter(|r| r.ttft().unwrap() > ms(200)).count()
    };
    let (scheduled, sent) = (over(&run.recording.records), over(&run.from_send.records));
    assert!(scheduled >= 15, "the stall is in the figures: {scheduled}");
    assert!(sent <= 2, "only what was under way waited on the wire: {sent}");
    assert!(run.audit.held_back > 10);
}

#[test]
fn warm_up_is_sent_and_not_counted() {
    let rig = Rig::start(clockwork(1, 1));
    let options = LiveOptions { warmup: ms(100), ..LiveOptions::default() };
    let run = run(&rig.url(), &load(40, 5, 8, 4), &options);
    let (served, _) = rig.end();
    assert_eq!((served.requests, run.recording.records.len()), (40, 20));
    assert!(run.recording.records.iter().all(|r| r.scheduled >= ms(100)));
    assert_eq!(run.recording.itl_of_all().count(), 20 * 3);
}

#[test]
fn sending_ends_with_the_duration_and_requests_under_way_finish() {
    let rig = Rig::start(clockwork(200, 1));
    let options = LiveOptions { duration: Some(ms(100)), ..LiveOptions::default() };
    let run = run(&rig.url(), &load(1_000, 10, 8, 4), &options);
    rig.end();
    assert_eq!(run.recording.records.len(), 10);
    assert!(run.recording.records.iter().all(loadgen::Record::completed));
}

#[test]
fn an_interrupted_run_keeps_its_measurements() {
    let rig = Rig::start(clockwork(50, 20));
    let trace = load(1_000, 10, 8, 20);
    let live = Live::assume(&server(&rig.url()), "mock", Prompts::Ids).unwrap();
    let bound = slo(&["ttft=1s"], &trace);
    let run = live.run(&trace, &LiveOptions::default(), &bound, |p| p.completed < 20).unwrap();
    rig.end();
    let summary = Summary::new(&run.recording, &bound);
    assert!(run.interrupted && summary.completed >= 20 && summary.requests < 1_000);
    assert_eq!(summary.unfinished, run.failures["cancelled"].count);
    assert!(!summary.verdict.met, "what did not end counts against the targets");
}

#[test]
fn probing_finds_the_model_and_how_it_counts() {
    let rig = Rig::start(MockOptions { model: "a \"model\"".to_owned(), ..clockwork(0, 0) });
    let find = |api| {
        let server = loadgen::Server { api, ..server(&rig.url()) };
        Live::find(&server, Duration::from_secs(5)).unwrap()
    };
    let ids = find(loadgen::Api::Completions);
    assert_eq!((ids.model(), ids.prompts()), ("a \"model\"", Prompts::Ids));
    let chat = find(loadgen::Api::Chat);
    assert!(matches!(chat.prompts(), Prompts::Text { .. }));
    let trace = load(10, 1, 500, 3);
    let run = chat.run(&trace, &LiveOptions::default(), &slo(&[], &trace), |_| true).unwrap();
    for record in &run.recording.records {
        assert_eq!(record.outcome, Outcome::Completed);
        // The mock counts bytes, and words differ in length: a prompt is right to within that.
        assert!(record.input.abs_diff(500) <= 75, "{} tokens by the server's count", record.input);
    }
    rig.end();
}

#[test]
fn the_mock_survives_any_bytes() {
    let rig = Rig::start(clockwork(0, 0));
    for (bytes, expected) in [
        (&b"GET /health HTTP/1.1\r\n\r\n"[..], "200"),
        (b"GET /nowhere HTTP/1.1\r\n\r\n", "404"),
        (b"DELETE /v1/models HTTP/1.1\r\n\r\n", "405"),
        (b"\x16\x03\x01\x02\x00\x01", "400"),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", "413"),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: x\r\n\r\n", "413"),
        (b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", "501"),
        (b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", "400"),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 1\r\n\r\n{", "400"),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}", "400"),
        (
            b"POST /v1/completions HTTP/1.1\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n",
            "100",
        ),
    ] {
        let said = speak(rig.address, bytes);
        assert!(said.starts_with(&format!("HTTP/1.1 {expected}")), "{said}");
    }
    // Two requests in one packet are two answers.
    let twice = speak(rig.address, &b"GET /health HTTP/1.1\r\n\r\n".repeat(2));
    assert_eq!(twice.matches("200 OK").count(), 2);
    rig.end();
}

#[test]
fn the_mock_repeats_no_word_and_answers_the_same_request_alike() {
    let rig = Rig::start(clockwork(0, 0));
    let ask = |path: &str, prompt: &str, stream: bool| -> Vec<Value> {
        let body = format!(
            r#"{{{prompt},"max_tokens":300,"stream":{stream},"return_token_ids":true,"stream_options":{{"include_usage":true}}}}"#
        );
        let head = format!("POST /v1/{path} HTTP/1.0\r\ncontent-length: {}", body.len());
        let said = speak(rig.address, format!("{head}\r\n\r\n{body}").as_bytes());
        let (_, said) = said.split_once("\r\n\r\n").unwrap();
        let events = said.lines().map(|l| l.strip_prefix("data: ").unwrap_or(l));
        events.filter_map(|event| serde_json::from_str(event).ok()).collect()
    };
    let words = |events: &[Value]| -> (Vec<String>, Vec<u64>) {
        let choices = events.iter().map(|e| &e["choices"][0]);
        let texts = choices.clone().filter_map(|c| {
            let text = [&c["text"], &c["delta"]["content"], &c["message"]["content"]];
            text.into_iter().find_map(Value::as_str).filter(|t| !t.is_empty())
        });
        let ids = choices.filter_map(|c| c["token_ids"].as_array()).flatten();
        (texts.map(str::to_owned).collect(), ids.map(|id| id.as_u64().unwrap()).collect())
    };
    for (path, prompt, other) in [
        ("completions", r#""prompt":[1,2,3]"#, r#""prompt":[1,2,4]"#),
        (
            "chat/completions",
            r#""messages":[{"role":"user","content":"a"}]"#,
            r#""messages":[{"role":"user","content":"b"}]"#,
        ),
    ] {
        let events = ask(path, prompt, true);
        let (texts, ids) = words(&events);
        assert_eq!((texts.len(), ids.len()), (300, 300));
        assert!(texts.iter().all(|t| t.len() == 4), "a token is four bytes");
        let distinct = |texts: &[String]| texts.iter().collect::<HashSet<_>>().len();
        assert_eq!((distinct(&texts), ids.iter().collect::<HashSet<_>>().len()), (300, 300));
        let usage = &events.last().unwrap()["usage"];
        assert_eq!(usage["completion_tokens"], 300);
        assert_eq!(words(&ask(path, prompt, true)), (texts.clone(), ids.clone()));
        assert_ne!(words(&ask(path, other, true)).0, texts);
        let whole = ask(path, prompt, false);
        assert_eq!(
            (words(&whole).0[0].len(), whole[0]["usage"]["completion_tokens"].as_u64()),
            (1_200, Some(300))
        );
        assert_eq!(words(&whole), words(&ask(path, prompt, false)));
    }
    rig.end();
}

#[test]
fn the_mock_speaks_every_http_1() {
    let rig = Rig::start(clockwork(1, 1));
    let body = r#"{"prompt":[1,2,3],"max_tokens":3,"stream":true}"#;
    let (length, half) = (body.len(), body.len() / 2);
    let post = |version: &str, headers: &str, body: &str| {
        speak(
            rig.address,
            format!("POST /v1/completions HTTP/{version}\r\n{headers}\r\n\r\n{body}").as_bytes(),
        )
    };
    let plain = post("1.0", &format!("content-length: {length}"), body);
    let (head, stream) = plain.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && !head.contains("chunked"), "{head}");
    assert!(stream.starts_with("data: {") && stream.ends_with("data: [DONE]\n\n"), "{stream}");
    assert_eq!(stream.matches("data: ").count(), 4);
    let (one, two) = body.split_at(half);
    let chunks =
        format!("{half:x}\r\n{one}\r\n{:x};a=b\r\n{two}\r\n0\r\nx: y\r\n\r\n", length - half);
    let next = "GET /health HTTP/1.1\r\n\r\n";
    let said = post("1.1", "transfer-encoding: Chunked", &format!("{chunks}{next}"));
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("[DONE]"), "{said}");
    assert_eq!(
        said.matches("HTTP/1.1 200").count(),
        2,
        "what follows a chunked body is the next request: {said}"
    );
    let (served, _) = rig.end();
    assert_eq!(served.completed, 2);
}

#[test]
fn requests_of_a_shared_workload_hold_shared_tokens() {
    // The server's count is all that is visible from outside; the tokens themselves are checked where they are made.
    let rig = Rig::start(clockwork(0, 0));
    let trace: Trace =
        workloads::synthesise(&workloads::preset("rag-long").unwrap(), None).unwrap().head(12);
    let run = run(&rig.url(), &trace, &LiveOptions { rate_scale: 1e6, ..LiveOptions::default() });
    rig.end();
    let asked = |r: &loadgen::Record| trace.requests[r.request as usize].input.max(1);
    assert!(run.recording.records.iter().all(|r| r.input == asked(r)));
}
