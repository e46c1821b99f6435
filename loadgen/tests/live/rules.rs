//! Six rules of a client that is not to be fooled, each over servers of its kind.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loadgen::{
    Api, Error, Live, LiveOptions, LiveRun, Metric, Patience, Prompts, Proxies, Server, Trust,
    export,
};
use serde_json::json;

use crate::fixture::{load, server, slo};
use crate::odd::{Asked, event, finale, good, reply, serve, stream, token};

const TIMEOUT: Duration = Duration::from_secs(5);

fn options() -> LiveOptions {
    LiveOptions { timeout: Duration::from_secs(3), keep_gaps: true, ..LiveOptions::default() }
}

/// Ten requests of 8 tokens after the questions before them.
fn measured(server: &Server) -> (Live, LiveRun) {
    let live = Live::find(server, TIMEOUT).unwrap_or_else(|e| panic!("{e}"));
    let trace = load(10, 3, 32, 8);
    let run = live.run(&trace, &options(), &slo(&[], &trace), |_| true).unwrap();
    (live, run)
}

/// Ten requests of 8 tokens, nothing asked beforehand.
fn run(url: &str, api: Api) -> LiveRun {
    let server = Server { api, ..server(url) };
    let live = Live::assume(&server, "m", Prompts::WORDS).unwrap();
    let trace = load(10, 3, 32, 8);
    live.run(&trace, &options(), &slo(&[], &trace), |_| true).unwrap()
}

fn all_completed(run: &LiveRun) -> bool {
    run.recording.records.len() == 10
        && run.failures.is_empty()
        && run.recording.records.iter().all(|r| r.completed() && r.output == 8)
}

/// Of a chat whose stream begins with an event and says its first token 60 ms later.
#[test]
fn an_event_without_a_token_does_not_count() {
    for odd in [
        event(&json!({"index": 0, "delta": {}})),
        event(
            &json!({"index": 0, "delta": {"role": "assistant", "content": "", "tool_calls": []}}),
        ),
        event(&json!({"index": 0, "content_filter_results": {"hate": {"filtered": false}}})),
        event(&json!({"index": 0, "delta": null})),
        format!("data: {}\n\n", json!({"choices": [], "prompt_filter_results": [{}]})),
    ] {
        let url = serve(move |asked: &Asked, to: &mut TcpStream| {
            let mut pieces = vec![(0, odd.clone()), (60, token(asked, " w"))];
            pieces.extend((1..8).map(|_| (1, token(asked, " w"))));
            pieces.extend([(60, odd.clone()), (0, finale(8))]);
            stream(to, &pieces)
        });
        let run = run(&url, Api::Chat);
        assert!(all_completed(&run), "{:?}", run.failures);
        for (record, wire) in run.from_send.records.iter().zip(&run.wires) {
            assert_eq!(wire.chunks, 8);
            assert!(record.ttft().unwrap() >= Duration::from_millis(60));
            let after = record.e2e().unwrap() - record.ttft().unwrap();
            assert!(after < Duration::from_millis(1_000), "{after:?}");
        }
    }
}

/// Tokens follow counts that stand alone, or a finish reason, after more than the second that an ended stream may stay
/// open.
#[test]
fn tokens_after_an_apparent_end_are_waited_for() {
    let counts = json!({"choices": [], "usage": {"completion_tokens": 4}});
    let finish = json!({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]});
    for early in [counts, finish] {
        let early = format!("data: {early}\n\n");
        let url = serve(move |asked: &Asked, to: &mut TcpStream| {
            let mut pieces: Vec<_> = (0..4).map(|_| (1, token(asked, " w"))).collect();
            pieces.push((0, early.clone()));
            pieces.extend([1, 1_200, 1, 1].map(|ms| (ms, token(asked, " w"))));
            pieces.push((0, finale(8)));
            stream(to, &pieces)
        });
        let run = run(&url, Api::Completions);
        assert!(all_completed(&run), "{:?}", run.failures);
    }
}

#[test]
fn an_odd_member_fails_nothing() {
    for odd in [
        json!({"index": 0, "delta": {"content": [{"type": "text", "text": " w"}]}}),
        json!({"index": 0, "delta": {"content": [{"type": "thinking", "thinking": [{"text": " w"}]}]}}),
        json!({"index": "0", "delta": {"content": " w", "role": 7}, "finish_reason": ""}),
        json!({"index": 0.0, "delta": {"reasoning": " w", "content": null}, "message": null}),
        json!({"delta": {"tool_calls": [{"function": {"arguments": {"a": 1.5, "b": "x"}}}]}}),
        json!({"text": " w", "delta": null, "logprobs": [[]], "finish_reason": null}),
    ] {
        let odd = event(&odd);
        let url = serve(move |_: &Asked, to: &mut TcpStream| {
            let mut pieces: Vec<_> = (0..8).map(|_| (0, odd.clone())).collect();
            pieces.push((0, event(&json!({"delta": {}, "finish_reason": "a reason of tomorrow"}))));
            let usage =
                r#"{"choices":null,"usage":{"completion_tokens":"8","prompt_tokens":32.0}}"#;
            pieces.push((0, format!("data: {usage}\n\ndata: [DONE]\n\n")));
            stream(to, &pieces)
        });
        let run = run(&url, Api::Chat);
        assert!(all_completed(&run), "{:?}", run.failures);
        assert!(run.recording.records.iter().all(|r| r.input == 32));
    }
    let half = "data: {\"choices\":[{\"text\":\"\\ud83d\"}]}\n\n";
    let url = serve(move |_: &Asked, to: &mut TcpStream| {
        stream(to, &[(0, half.repeat(8)), (0, finale(8))])
    });
    assert!(all_completed(&run(&url, Api::Completions)), "half a surrogate pair");
}

/// The bodies that may follow the head of a 2xx answer, by a server that then keeps the connection.
fn bodies() -> Vec<(&'static str, String, String)> {
    let events = |end: &str| {
        let token = format!(r#"data: {{"choices":[{{"index":0,"text":" w"}}]}}{end}{end}"#);
        let finish =
            format!(r#"data: {{"choices":[{{"text":"","finish_reason":"stop"}}]}}{end}{end}"#);
        token.repeat(8) + &finish + &format!("data: [DONE]{end}{end}")
    };
    let plain = events("\n");
    let sized = |body: &str| format!("content-length: {}\r\n\r\n{body}", body.len());
    let sse = "content-type: text/event-stream\r\n";
    let chunk = |body: &str| format!("{:x}\r\n{body}\r\n", body.len());
    let chunked = format!("{sse}transfer-encoding: chunked\r\n\r\n{}", chunk(&plain));
    let spread = plain.replace("{\"choices\":", "{\"choices\":\ndata: ");
    vec![
        ("CR LF", "200 OK".to_owned(), format!("{sse}{}", sized(&events("\r\n")))),
        ("CR", "200 OK".to_owned(), format!("{sse}{}", sized(&events("\r")))),
        ("several data lines", "200 OK".to_owned(), format!("{sse}{}", sized(&spread))),
        (
            "comments",
            "200 OK".to_owned(),
            format!("{sse}{}", sized(&plain.replace("\n\n", "\n\n: still here\n\n"))),
        ),
        (
            "a blank after [DONE]",
            "200 OK".to_owned(),
            format!("{sse}{}", sized(&plain.replace("[DONE]", " [DONE] "))),
        ),
        (
            "a mark of UTF-8",
            "200 OK".to_owned(),
            format!("{sse}{}", sized(&format!("\u{feff}{plain}"))),
        ),
        ("201", "201 Created".to_owned(), format!("{sse}{}", sized(&plain))),
        ("no content type", "200 OK".to_owned(), sized(&plain)),
        (
            "another content type",
            "200 OK".to_owned(),
            format!("content-type: application/json\r\n{}", sized(&plain)),
        ),
        ("a line end too many", "200 OK".to_owned(), format!("{chunked}0\r\n\r\n\r\n")),
        ("bytes after the end", "200 OK".to_owned(), format!("{chunked}0\r\n\r\nwhatever")),
        ("no end after [DONE]", "200 OK".to_owned(), chunked),
        (
            "no end after the last token",
            "200 OK".to_owned(),
            format!(
                "{sse}transfer-encoding: chunked\r\n\r\n{}",
                chunk(&plain.replace("data: [DONE]\n\n", ""))
            ),
        ),
    ]
}

#[test]
fn events_and_answers_are_read_as_the_standards_have_them() {
    for (what, status, rest) in bodies() {
        let url = serve(move |_: &Asked, to: &mut TcpStream| {
            to.write_all(format!("HTTP/1.1 {status}\r\n{rest}").as_bytes())
        });
        let began = Instant::now();
        let run = run(&url, Api::Completions);
        assert!(all_completed(&run), "{what}: {:?}", run.failures);
        assert!(began.elapsed() < TIMEOUT, "{what}");
    }
}

#[test]
fn an_answer_that_breaks_off_has_failed_and_its_message_is_kept() {
    for bad in [
        event(&json!({"text": "", "finish_reason": "abort", "error": "no memory"})),
        "data: {\"object\":\"error\",\"message\":\"no memory\",\"code\":500}\n\n".to_owned(),
        "event: error\ndata: {\"message\":\"no memory\"}\n\n".to_owned(),
        "error: {\"message\":\"no memory\"}\n\n".to_owned(),
        "{\"error\":{\"message\":\"no memory\"}}\n".to_owned(),
    ] {
        let asked = Arc::new(AtomicU32::new(0));
        let url = serve(move |a: &Asked, to: &mut TcpStream| {
            if !asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) {
                return good(a, to);
            }
            stream(to, &[(0, token(a, " w")), (0, bad.clone()), (0, "data: [DONE]\n\n".to_owned())])
        });
        let run = run(&url, Api::Completions);
        assert_eq!(run.failures.keys().collect::<Vec<_>>(), ["server_error"]);
        assert_eq!(run.failures["server_error"].count, 2);
        assert_eq!(run.failures["server_error"].cause, "no memory");
    }
}

/// Some servers break a stream off for another request and end it like any other: what is missing is the finish reason.
#[test]
fn an_end_without_its_reason_is_none_where_the_server_gives_reasons() {
    let done = "data: [DONE]\n\n".to_owned();
    let url = |reasons: bool| {
        let done = done.clone();
        serve(move |asked: &Asked, to: &mut TcpStream| {
            let output = asked.output();
            if !asked.posts() || asked.body["stream"] != true {
                return good(asked, to);
            }
            // The questions before the run ask for more.
            let short = output == 8;
            let mut pieces: Vec<_> =
                (0..output - 3 * u64::from(short)).map(|_| (1, token(asked, " w"))).collect();
            if reasons && !short {
                pieces
                    .push((0, event(&json!({"index": 0, "text": "", "finish_reason": "length"}))));
            }
            pieces.push((0, done.clone()));
            stream(to, &pieces)
        })
    };
    let (_, run) = measured(&server(&url(true)));
    assert!(run.is_empty() && run.failures["cut"].count == 10, "{:?}", run.failures);
    assert!(run.failures["cut"].cause.contains("after 5 of 8 tokens"), "{:?}", run.failures);
    let (_, run) = measured(&server(&url(false)));
    assert!(run.failures.is_empty() && run.recording.records.iter().all(|r| r.output == 5));
}

#[test]
fn refusals_have_names_and_say_how_long_to_wait() {
    let asked = Arc::new(AtomicU32::new(0));
    let url =
        serve(move |a: &Asked, to: &mut TcpStream| match asked.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => reply(
                to,
                429,
                "connection: close\r\nretry-after: 2\r\n",
                r#"{"error":{"message":"too many"}}"#,
            ),
            2 => reply(to, 503, "connection: close\r\n", "busy"),
            3 => {
                // Closing with bytes unread resets the connection.
                let _ = to.set_linger_zero();
                Err(io::ErrorKind::Other.into())
            }
            _ => good(a, to),
        });
    let run = run(&url, Api::Completions);
    let lost = run.lost().unwrap();
    assert_eq!(run.failures["status_429"].retry_after_s, Some(2.0));
    assert_eq!((lost.refused, lost.failed, lost.retry_after), (4, 0, Some(Duration::from_secs(2))));
    assert!(lost.words.contains("2 of 10 refused with 429 (too many)"), "{}", lost.words);
    assert!(lost.words.contains("1 of 10 refused with 503 (busy)"), "{}", lost.words);
    assert!(lost.words.contains("1 of 10 refused by a reset"), "{}", lost.words);
}

/// A socket that says goodbye with a reset.
trait Reset {
    fn set_linger_zero(&self) -> io::Result<()>;
}

impl Reset for TcpStream {
    fn set_linger_zero(&self) -> io::Result<()> {
        let zero = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(self, nix::sys::socket::sockopt::Linger, &zero)?;
        Ok(())
    }
}

#[test]
fn a_server_that_is_not_ready_is_waited_for_and_heard() {
    let patience = |ready| Patience { ready, there: Duration::ZERO, answer: TIMEOUT };
    for (what, says) in [
        ("503", "Loading model"),
        ("429", "Loading model"),
        ("an empty list", "lists no model"),
        ("health", "warming up"),
    ] {
        let began = Instant::now();
        let young = move || began.elapsed() < Duration::from_millis(700);
        let url = serve(move |asked: &Asked, to: &mut TcpStream| match what {
            "503" | "429" if young() && asked.posts() => {
                reply(to, what.parse().unwrap(), "", r#"{"error":{"message":"Loading model"}}"#)
            }
            "an empty list" if young() && !asked.posts() => reply(to, 200, "", r#"{"data":[]}"#),
            "health" if young() && asked.path == "/health" => reply(to, 500, "", "warming up"),
            _ => good(asked, to),
        });
        let mut heard = Vec::new();
        let mut watch = |error: &Error| {
            heard.push(error.to_string());
            true
        };
        let found = Live::find_when_ready(&server(&url), patience(TIMEOUT), &mut watch);
        assert!(found.is_ok() && !heard.is_empty(), "{what}");
        assert!(heard.iter().all(|said| said.contains(says)), "{what}: {heard:?}");
    }
    let never =
        serve(
            |asked: &Asked, to: &mut TcpStream| {
                if asked.posts() { reply(to, 503, "", "not today") } else { good(asked, to) }
            },
        );
    let error = Live::find_when_ready(&server(&never), patience(Duration::ZERO), &mut |_| true);
    let error = error.err().unwrap();
    assert!(
        matches!(error, Error::NotReady(_)) && error.to_string().contains("not today"),
        "{error}"
    );
    let sick =
        serve(
            |asked: &Asked, to: &mut TcpStream| {
                if asked.path == "/health" { reply(to, 500, "", "sick") } else { good(asked, to) }
            },
        );
    let found = Live::find_when_ready(&server(&sick), patience(Duration::ZERO), &mut |_| true);
    assert!(found.is_ok(), "it answers whatever its /health says");
}

#[test]
fn a_run_without_measurements_is_not_valid() {
    let url = serve(|_: &Asked, to: &mut TcpStream| reply(to, 422, "", r#"{"detail":"no"}"#));
    let run = run(&url, Api::Completions);
    assert!(run.is_empty() && run.audit.verdict == Trust::Invalid);
    let why = "10 of 10 requests failed (status_422: no)";
    assert!(run.audit.reasons.iter().any(|r| r.contains(why)), "{:?}", run.audit.reasons);
    let whole = serve(|asked: &Asked, to: &mut TcpStream| {
        if asked.posts() {
            reply(to, 200, "", r#"{"choices":[{"text":"x"}]}"#)
        } else {
            good(asked, to)
        }
    });
    let (live, run) = measured(&server(&whole));
    assert!(live.given_up()[0].starts_with("streams"), "{:?}", live.given_up());
    assert!(run.is_empty() && run.failures["not_sse"].count == 10);
}

#[test]
fn an_answer_in_one_piece_has_no_pace() {
    let url = serve(|asked: &Asked, to: &mut TcpStream| {
        stream(to, &[(30, token(asked, " w").repeat(8) + &finale(8))])
    });
    let run = run(&url, Api::Completions);
    assert!(all_completed(&run) && run.audit.paceless && run.audit.verdict > Trust::Valid);
    assert!(
        run.audit.reasons.iter().any(|r| r.contains("came in one piece")),
        "{:?}",
        run.audit.reasons
    );
    let began = std::time::SystemTime::now();
    let summary = run.summary(&slo(&[], &load(1, 1, 1, 1)));
    let mut log = Vec::new();
    export::hdr(&run, began, &mut log).unwrap();
    for (exported, there) in [
        (export::aiperf_records(&run, began), "request_latency"),
        (export::aiperf(&run, &summary, began, "knee").to_string(), "request_latency"),
        (export::vllm(&run, &summary, "m", None).to_string(), "mean_e2el_ms"),
        (String::from_utf8(log).unwrap(), "Tag=e2e"),
    ] {
        assert!(exported.contains(there), "{exported}");
        for pace in [
            "inter_token_latency",
            "inter_chunk_latency",
            "time_to_second_token",
            "throughput_per_user",
            "itl",
            "tpot",
        ] {
            assert!(!exported.contains(pace), "{pace} in {exported}");
        }
    }
    let trace = load(1, 1, 1, 1);
    let of = |targets: &[&str]| run.summary(&slo(targets, &trace));
    let summary = of(&["tpot=20ms", "ttft=1s"]);
    let pace = [summary.stats(Metric::Tpot).p50, summary.stats(Metric::Itl).p99];
    assert_eq!(pace.map(|latency| latency.millis()), [None, None]);
    assert!(
        !summary.verdict.met && !summary.verdict.targets[0].met && summary.verdict.targets[1].met
    );
    assert!(of(&["ttft=1s"]).verdict.met);
}

#[test]
fn the_fullest_form_that_a_server_takes_is_found_by_trying() {
    type Refuses = fn(&Asked) -> bool;
    let cases: [(&str, Api, Refuses, &[&str]); 8] = [
        ("nothing", Api::Completions, |_| false, &[]),
        ("ids", Api::Completions, |a| a.body["prompt"].is_array(), &["token ids"]),
        (
            "ignore_eos",
            Api::Completions,
            |a| !a.body["ignore_eos"].is_null(),
            &["ignore_eos (min_tokens"],
        ),
        (
            "all but the standard",
            Api::Completions,
            |a| {
                a.body["prompt"].is_array()
                    || ["ignore_eos", "min_tokens"].iter().any(|m| !a.body[m].is_null())
            },
            &["token ids", "ignore_eos (answers may end"],
        ),
        (
            "max_tokens",
            Api::Chat,
            |a| !a.body["max_tokens"].is_null(),
            &["max_tokens (max_completion"],
        ),
        ("greed", Api::Chat, |a| a.body["temperature"] == 0, &["temperature 0"]),
        ("counts", Api::Chat, |a| !a.body["stream_options"].is_null(), &["stream_options"]),
        (
            "few tokens, and what does not stream",
            Api::Chat,
            |a| a.output() < 8 || a.body["stream"] != true,
            &[],
        ),
    ];
    // The ways in which it refuses.
    let ways: [fn(&mut TcpStream) -> io::Result<()>; 4] = [
        |to| reply(to, 400, "", "no"),
        |to| reply(to, 500, "", "no"),
        |to| reply(to, 404, "", "no"),
        |_| Err(io::ErrorKind::Other.into()),
    ];
    for (what, api, refuses, gives_up) in cases {
        for way in ways {
            let url =
                serve(
                    move |asked: &Asked, to: &mut TcpStream| {
                        if asked.posts() && refuses(asked) { way(to) } else { good(asked, to) }
                    },
                );
            let (live, run) = measured(&Server { api, ..server(&url) });
            assert!(all_completed(&run), "{what}: {:?}", run.failures);
            let given_up = live.given_up();
            assert_eq!(given_up.len(), gives_up.len(), "{what}: {given_up:?}");
            let said = given_up.iter().zip(gives_up).all(|(said, is)| said.starts_with(is));
            assert!(said, "{what}: {given_up:?}");
        }
    }
}

#[test]
fn a_refusal_says_the_way_out() {
    let only = |refused: fn(&Asked) -> bool| {
        let url = serve(
            move |asked: &Asked, to: &mut TcpStream| {
                if refused(asked) { reply(to, 404, "", "no") } else { good(asked, to) }
            },
        );
        Live::find(&server(&url), TIMEOUT).err().unwrap().to_string()
    };
    let chat = only(|a| a.path == "/v1/completions" || a.path == "/completions");
    assert!(chat.contains("--api chat"), "{chat}");
    let nameless = only(|a| a.path.ends_with("/models"));
    assert!(nameless.contains("--model"), "{nameless}");
    let bare = serve(|asked: &Asked, to: &mut TcpStream| {
        if asked.posts() { good(asked, to) } else { reply(to, 200, "", r#"[{"id":"first"}]"#) }
    });
    assert_eq!(Live::find(&server(&bare), TIMEOUT).ok().unwrap().model(), "first");
}

#[test]
fn base_urls_and_endpoints_lead_to_the_right_path() {
    let only = |paths: &'static [&'static str]| {
        serve(move |asked: &Asked, to: &mut TcpStream| {
            if !paths.contains(&asked.path.as_str()) {
                return reply(to, 404, "", "no such path");
            }
            let path = asked.path.split('?').next().unwrap().to_owned();
            let Asked { method, headers, body, .. } = asked;
            let (method, headers, body) = (method.clone(), headers.clone(), body.clone());
            good(&Asked { method, path, headers, body }, to)
        })
    };
    for (paths, more) in [
        (&["/v1/models", "/v1/chat/completions"][..], "/v1/chat/completions"),
        (&["/openai/chat/completions?api-version=1"], "/openai/chat/completions?api-version=1"),
        (&["/openai/v1/chat/completions?v=1", "/openai/v1/models?v=1"], "/openai/v1?v=1"),
        (&["/api/v3/models", "/api/v3/chat/completions"], "/api/v3"),
        (&["/chat/completions", "/models"], ""),
        (&["/v1/models", "/v1/chat/completions"], "/v1/models"),
    ] {
        let url = only(paths) + more;
        let model = Some("m".to_owned());
        let (_, run) = measured(&Server { api: Api::Chat, model, ..server(&url) });
        assert!(all_completed(&run), "{more}: {:?}", run.failures);
    }
    let slash = serve(|asked: &Asked, to: &mut TcpStream| match asked.path.strip_suffix('/') {
        None => reply(to, 307, &format!("location: {}/\r\n", asked.path), ""),
        Some(path) => {
            let (method, headers, body) =
                (asked.method.clone(), asked.headers.clone(), asked.body.clone());
            good(&Asked { method, path: path.to_owned(), headers, body }, to)
        }
    });
    assert!(all_completed(&measured(&server(&slash)).1));
    let away = serve(|_: &Asked, to: &mut TcpStream| {
        reply(to, 301, "location: https://inference.invalid/v1/models\r\n", "")
    });
    let error = Live::find(&server(&away), TIMEOUT).err().unwrap().to_string();
    assert!(error.contains("https://inference.invalid"), "{error}");
}

#[test]
fn headers_name_the_client_and_proxies_are_used() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let url = serve(move |asked: &Asked, to: &mut TcpStream| {
        let header = |name: &str| asked.headers.get(name).cloned().unwrap_or_default();
        log.lock().unwrap().push((
            header("host"),
            header("x-request-id"),
            header("accept-encoding"),
        ));
        if header("authorization") != "Basic c29tZWJvZHk6c2VjcmV0" {
            return reply(to, 401, "", "who?");
        }
        good(asked, to)
    });
    let (_, run) = measured(&server(&url.replace("http://", "http://somebody:secret@")));
    assert!(all_completed(&run), "{:?}", run.failures);
    for (host, id, encoding) in seen.lock().unwrap().iter() {
        assert!(url.ends_with(host.as_str()) && encoding == "identity", "{host} {encoding}");
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        assert!(id.is_empty() || groups == [8, 4, 4, 4, 12], "{id}");
    }
    let proxy = serve(|asked: &Asked, to: &mut TcpStream| {
        match asked.path.strip_prefix("http://inference.invalid") {
            Some(path) => {
                let (method, headers, body) =
                    (asked.method.clone(), asked.headers.clone(), asked.body.clone());
                good(&Asked { method, path: path.to_owned(), headers, body }, to)
            }
            None => reply(to, 502, "", "no"),
        }
    });
    let proxies = Proxies { http: Some(proxy), ..Proxies::default() };
    let (live, run) = measured(&Server { proxies, ..server("http://inference.invalid") });
    assert!(all_completed(&run) && live.address().1.is_some(), "{:?}", run.failures);
}
