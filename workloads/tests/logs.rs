//! Logs of proxies, of observability tools and of other simulators, as they are exported.

use std::time::Duration;

use workloads::{Arrival, Mapping, ReadOptions, Trace, TraceError, read_bytes};

fn with(text: &str, options: &ReadOptions) -> Result<Trace, TraceError> {
    read_bytes("log", text.as_bytes(), options)
}

fn parse(text: &str) -> Trace {
    with(text, &ReadOptions::default()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refusal(text: &str) -> String {
    with(text, &ReadOptions::default()).expect_err(text).to_string()
}

/// Milliseconds, prompt, response.
fn rows(trace: &Trace) -> Vec<(u128, u32, u32)> {
    let at = |a: Arrival| match a {
        Arrival::At(t) => t.as_millis(),
        Arrival::After { .. } => panic!("closed loop"),
    };
    trace.requests.iter().map(|r| (at(r.arrival), r.input, r.output)).collect()
}

fn read_as(trace: &Trace, format: &str) {
    assert_eq!(trace.provenance[0], format!("log, read as {format}"));
}

#[test]
fn litellm_as_its_database_and_its_callbacks_write_it() {
    let spend = r#"{"request_id":"a","call_type":"acompletion","spend":0.1,"prompt_tokens":"100","completion_tokens":"50","startTime":"2025-06-01T10:00:00.123000Z","endTime":"2025-06-01T10:00:09Z","session_id":"s1","status":"success"}
{"request_id":"b","call_type":"aembedding","spend":0.1,"prompt_tokens":7,"completion_tokens":0,"startTime":"2025-06-01T10:00:01.000000Z","status":"success"}
{"request_id":"c","call_type":"acompletion","spend":0.0,"prompt_tokens":0,"completion_tokens":0,"startTime":"2025-06-01T10:00:01.500000Z","status":"failure"}
{"request_id":"d","call_type":"acompletion","spend":0.1,"prompt_tokens":300,"completion_tokens":60,"startTime":"2025-06-01T10:00:02.623000Z","session_id":"s1","status":"success"}"#;
    let trace = parse(spend);
    read_as(&trace, "litellm");
    assert_eq!(rows(&trace), [(0, 100, 50), (2_500, 300, 60)]);
    assert_eq!(trace.requests.iter().map(|r| r.session).collect::<Vec<_>>(), [Some(0), Some(0)]);
    assert!(trace.provenance[1].starts_with("1 failed requests"), "{:?}", trace.provenance);
    assert!(trace.provenance[2].starts_with("1 rows that are no requests"));
    let csv = "request_id,call_type,startTime,prompt_tokens,completion_tokens\na,acompletion,2025-06-01 10:00:00.5,10,5\nb,acompletion,2025-06-01 10:00:01,11,6\n";
    assert_eq!(rows(&parse(csv)), [(0, 10, 5), (500, 11, 6)]);
    let payload = r#"[{"id":"a","call_type":"completion","response_cost":0.1,"startTime":1748772000.25,"prompt_tokens":10,"completion_tokens":5},
 {"id":"b","call_type":"completion","response_cost":0.1,"startTime":1748772001.5,"prompt_tokens":11,"completion_tokens":6}]"#;
    assert_eq!(rows(&parse(payload)), [(0, 10, 5), (1_250, 11, 6)]);
}

#[test]
fn langfuse_in_all_its_exports() {
    let row = |usage: &str, at: &str| {
        format!(
            r#"{{"id":"g","traceId":"t","type":"GENERATION","startTime":"2025-06-01T10:00:{at}Z","endTime":"2025-06-01T10:01:00Z","input":"hello","output":"you",{usage}}}"#
        )
    };
    for usage in [
        r#""usage":{"input":100,"output":50,"total":150,"unit":"TOKENS"}"#,
        r#""usageDetails":{"input":100,"output":50}"#,
        r#""usage_details":{"input":60,"input_cached_tokens":40,"output":50}"#,
        r#""usageDetails":"{\"input\":100,\"output\":50}""#,
        r#""promptTokens":100,"completionTokens":50"#,
        r#""inputUsage":100,"outputUsage":50,"usageDetails":{"input":90,"output":40}"#,
    ] {
        let span = r#"{"id":"s","traceId":"t","type":"SPAN","startTime":"2025-06-01T10:00:00Z"}"#;
        let text = format!("[{span},{},{}]", row(usage, "00.500"), row(usage, "02.000"));
        let trace = parse(&text);
        read_as(&trace, "langfuse");
        assert_eq!(rows(&trace), [(0, 100, 50), (1_500, 100, 50)], "{usage}");
        assert!(trace.provenance[1].starts_with("1 rows that are no requests"));
        let page = format!(r#"{{"data":{text},"meta":{{"page":1}}}}"#);
        assert_eq!(rows(&parse(&page)), rows(&trace));
    }
    let csv = "id,traceId,type,startTime,usageDetails\ng,t,GENERATION,2025-06-01T10:00:00Z,\"{\"\"input\"\":100,\"\"output\"\":50}\"\nh,t,SPAN,2025-06-01T10:00:01Z,\n";
    assert_eq!(rows(&parse(csv)), [(0, 100, 50)]);
}

#[test]
fn opentelemetry_spans_nested_flattened_and_dotted() {
    let span = |start: u64, operation: &str, input: &str| {
        format!(
            r#"{{"traceId":"t","spanId":"s","startTimeUnixNano":"{start}","attributes":[{{"key":"gen_ai.operation.name","value":{{"stringValue":"{operation}"}}}},{{"key":"gen_ai.usage.{input}","value":{{"intValue":"100"}}}},{{"key":"gen_ai.usage.output_tokens","value":{{"intValue":20}}}}]}}"#
        )
    };
    let otlp = |spans: &str| {
        format!(
            r#"{{"resourceSpans":[{{"resource":{{}},"scopeSpans":[{{"scope":{{}},"spans":[{spans}]}}]}}]}}"#
        )
    };
    let first = 1_748_772_000_000_000_000;
    let spans = [
        span(first, "chat", "input_tokens"),
        // An agent's span repeats the tokens of the calls within it.
        span(first, "invoke_agent", "input_tokens"),
        span(first + 1_500_000_000, "chat", "input_tokens"),
    ];
    let two = [(0, 100, 20), (1_500, 100, 20)];
    let whole = parse(&otlp(&spans.join(",")));
    read_as(&whole, "otel");
    assert_eq!(rows(&whole), two);
    let lines = spans.clone().map(|span| otlp(&span)).join("\n");
    assert_eq!(rows(&parse(&lines)), two);
    let flat = |name: &str| {
        format!(
            "{{\"start_time\":\"2026-02-25T10:00:00.000000\",\"attributes\":{{\"gen_ai.usage.{name}\":100,\"gen_ai.usage.output_tokens\":20}}}}\n{{\"start_time\":\"2026-02-25T10:00:01.500000\",\"attributes\":{{\"gen_ai.usage.{name}\":100,\"gen_ai.usage.output_tokens\":20}}}}\n"
        )
    };
    assert_eq!(rows(&parse(&flat("input_tokens"))), two);
    assert_eq!(rows(&parse(&flat("prompt_tokens"))), two);
    let csv = "start_time,attributes.gen_ai.usage.input_tokens,attributes.gen_ai.usage.output_tokens\n2026-02-25T10:00:00.000000,100,20\n2026-02-25T10:00:01.500000,100,20\n";
    assert_eq!(rows(&parse(csv)), two);
}

#[test]
fn answers_of_openai_and_anthropic_with_their_usage() {
    for (row, prompt) in [
        (
            r#""created":AT,"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150}"#,
            100,
        ),
        (
            r#""object":"response","created_at":AT,"usage":{"input_tokens":100,"output_tokens":50,"input_tokens_details":{"cached_tokens":64}}"#,
            100,
        ),
        (
            r#""custom_id":"x","response":{"status_code":200,"body":{"created":AT,"usage":{"prompt_tokens":100,"completion_tokens":50}}}"#,
            100,
        ),
        (
            r#""ts_ms":AT000,"usage":{"input_tokens":10,"cache_creation_input_tokens":20,"cache_read_input_tokens":70,"output_tokens":50}"#,
            100,
        ),
    ] {
        let text = ["1748772000", "1748772003"].map(|at| format!("{{{}}}", row.replace("AT", at)));
        assert_eq!(rows(&parse(&text.join("\n"))), [(0, prompt, 50), (3_000, prompt, 50)], "{row}");
    }
}

#[test]
fn anything_else_is_read_once_its_columns_are_named() {
    let text = r#"{"meta":{"sentAt":5,"who":"a"},"n":{"asked":10,"got":3}}
{"meta":{"sentAt":2005,"who":"b"},"n":{"asked":11,"got":4}}"#;
    assert!(refusal(text).contains("--map input=COLUMN"), "{}", refusal(text));
    assert!(refusal(text).contains("among: meta.sent_at, meta.who, n.asked, n.got"));
    let map = |fields: &[&str]| ReadOptions {
        map: fields.iter().map(|f| f.parse::<Mapping>().unwrap()).collect(),
        ..ReadOptions::default()
    };
    let most = ["input=n.asked", "output=n.got", "session=meta.who"];
    let trace = with(text, &map(&[&most[..], &["time=meta.sentAt:ms"]].concat())).unwrap();
    assert_eq!(rows(&trace), [(0, 10, 3), (2_000, 11, 4)]);
    assert_eq!(trace.requests.iter().map(|r| r.session).collect::<Vec<_>>(), [Some(0), Some(1)]);
    let unit = with(text, &map(&[&most[..], &["time=meta.sentAt"]].concat())).unwrap_err();
    assert!(unit.to_string().contains("--time-unit"), "{unit}");
    let absent = with(text, &map(&["input=n.tokens"])).unwrap_err().to_string();
    assert!(absent.contains("no column of prompt lengths in tokens (n.tokens) among"), "{absent}");
    let own = "{\"input_toks\":1,\"output_toks\":1,\"arrival_time_ns\":1}";
    assert!(with(own, &map(&["input=x"])).unwrap_err().to_string().contains("leave --map out"));
    let csv = "a,b,c\n0,10,3\n2,11,4\n";
    let trace = with(csv, &map(&["time=a:s", "input=b", "output=c"])).unwrap();
    assert_eq!(rows(&trace), [(0, 10, 3), (2_000, 11, 4)]);
}

#[test]
fn llmservingsims_requests_and_sessions() {
    let text = r#"{"input_toks":40,"output_toks":8,"arrival_time_ns":46926808,"input_tok_ids":IDS}
{"session_id":"x","arrival_time_ns":4059740,"sub_requests":[{"input_toks":40,"output_toks":8,"tool_duration_ns":127348767,"input_tok_ids":IDS},{"input_toks":50,"output_toks":5,"tool_duration_ns":0}]}"#;
    let ids = serde_json::to_string(&(0..40).collect::<Vec<u64>>()).unwrap();
    let trace = parse(&text.replace("IDS", &ids));
    read_as(&trace, "llmservingsim");
    let think = Duration::from_nanos(127_348_767);
    assert_eq!(
        trace.requests.iter().map(|r| r.arrival).collect::<Vec<_>>(),
        [
            Arrival::At(Duration::ZERO),
            Arrival::After { previous: 0, think },
            Arrival::At(Duration::from_nanos(42_867_068)),
        ]
    );
    let [session, _, request] = &trace.requests[..] else { panic!() };
    assert_eq!(trace.block_tokens, 16);
    assert_eq!(trace.blocks_of(session), trace.blocks_of(request));
    assert_eq!(session.session, Some(0));
    assert!(refusal(&text.replace("IDS", "[1]")).starts_with("log:1: 1 input_tok_ids for 40"));
}

#[test]
fn our_own_records_are_a_trace() {
    let text = "request,class,outcome,input_tokens,output_tokens,cached_tokens,preemptions,scheduled_s,admitted_s,ttft_ms\n0,0,completed,10,5,0,0,0.5,0.6,3\n1,1,failed,11,2,0,0,1,,\n2,0,rejected,12,0,0,0,1.5,,\n";
    let trace = parse(text);
    assert_eq!(rows(&trace), [(0, 10, 5), (500, 11, 2)]);
    assert_eq!(trace.classes, ["0", "1"]);
    assert!(trace.provenance[1].starts_with("1 failed requests"), "{:?}", trace.provenance);
}

#[test]
fn blis_keeps_failures_groups_and_classes() {
    let text = "request_id,tenant_id,slo_class,session_id,round_index,prefix_group,prefix_length,input_tokens,output_tokens,deadline_us,server_input_tokens,arrival_time_us,send_time_us,status,error_message\n\
        0,t,critical,,0,sys,64,36,5,0,0,1000,1000,ok,\n\
        1,t,batch,,0,sys,64,36,0,0,0,2000,2500,timeout,late\n\
        2,t,critical,,0,,0,30,5,0,42,3000,3000,ok,\n";
    let trace = parse(text);
    read_as(&trace, "blis");
    assert_eq!(rows(&trace), [(0, 100, 5), (1, 100, 0), (2, 42, 5)]);
    assert_eq!(trace.classes, ["critical", "batch"]);
    assert_eq!(trace.block_tokens, 16);
    let [a, b, c] = [0, 1, 2].map(|i| trace.blocks_of(&trace.requests[i]));
    assert_eq!((a.len(), b.len(), c.len()), (7, 7, 0));
    assert!(a[..4] == b[..4] && a[4..].iter().all(|id| !b.contains(id)));
    assert!(trace.provenance[1].contains("1 requests that failed"), "{:?}", trace.provenance);
}

#[test]
fn a_log_without_counts_says_so() {
    let spans = r#"{"traceId":"t","spanId":"s","startTimeUnixNano":"1","name":"GET /"}"#;
    assert!(refusal(spans).contains("no token counts in any of its 1 rows"), "{}", refusal(spans));
}
