//! Every format as it is found in the wild, every edge case, and what each mistake is answered with.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use workloads::{
    Arrival, Format, ReadOptions, TimeUnit, Trace, TraceError, losses, read, read_bytes, write,
};

fn format(name: &str) -> Format {
    name.parse().unwrap()
}

fn parse(text: &str) -> Result<Trace, TraceError> {
    read_bytes("t.csv", text.as_bytes(), &ReadOptions::default())
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn rows(trace: &Trace) -> Vec<(u64, u32, u32)> {
    let at = |a: Arrival| match a {
        Arrival::At(t) => t.as_micros() as u64,
        Arrival::After { .. } => panic!("closed loop"),
    };
    trace.requests.iter().map(|r| (at(r.arrival), r.input, r.output)).collect()
}

/// A file of the directory of real traces, where that is present.
fn real(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces").join(name);
    if !path.exists() {
        println!("skipped: {name} is not here");
        return None;
    }
    Some(path)
}

#[test]
fn azure_in_its_three_time_formats() {
    let trace = parse("TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109").unwrap();
    assert_eq!(rows(&trace), [(0, 374, 44), (4_314_579, 396, 109)]);
    assert_eq!(trace.provenance, ["t.csv, read as azure"]);
    let trace = parse("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 01:00:00.009931+01:00,1,2\n").unwrap();
    assert_eq!(rows(&trace), [(0, 2162, 5), (1, 1, 2)]);
    let trace = parse("TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15T12:00:00.269Z,0,770,491\n2024-10-15T12:00:05.819Z,1,949,126\n").unwrap();
    assert_eq!(rows(&trace), [(0, 770, 491), (5_550_000, 949, 126)]);
}

#[test]
fn byte_order_mark_quotes_blank_lines_disorder_and_zero_outputs() {
    let trace = parse("\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.0000000,374,44\r\n\r\n\"2023-11-16 18:15:50.0000000\",\"396\",\"109\"\r\n2023-11-16 18:15:40.0000000,10,0").unwrap();
    assert_eq!(rows(&trace), [(0, 10, 0), (6_000_000, 374, 44), (10_000_000, 396, 109)]);
    assert!(trace.provenance[1].contains("sorted"));
}

#[test]
fn burstgpt_of_six_and_eight_columns_leaves_failures_out_and_counts_them() {
    let six = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n50,GPT-4,10,2,12,API log\n";
    let trace = parse(six).unwrap();
    assert_eq!(rows(&trace), [(0, 472, 18), (45_000_000, 10, 2)]);
    assert_eq!(trace.classes, ["Conversation log", "API log"]);
    assert!(trace.provenance[1].starts_with("1 failed"), "{:?}", trace.provenance);
    let all = ReadOptions { keep_failed: true, ..ReadOptions::default() };
    assert_eq!(read_bytes("b.csv", six.as_bytes(), &all).unwrap().requests.len(), 3);
    let eight = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n1.5,s1,2.25,GPT-4,10,20,30,API log\n2.5,s1,2.25,GPT-4,11,21,32,API log\n";
    let trace = parse(eight).unwrap();
    assert_eq!(rows(&trace), [(0, 10, 20), (1_000_000, 11, 21)]);
    assert_eq!(trace.requests.iter().map(|r| r.session).collect::<Vec<_>>(), [Some(0), Some(0)]);
    assert!(
        refusal("Timestamp,Request tokens,Response tokens\n1,2,0\n")
            .contains("all 1 requests failed")
    );
}

#[test]
fn mooncake_as_lines_and_as_an_array() {
    let lines = "{\"timestamp\": 0, \"input_length\": 1000, \"output_length\": 5, \"hash_ids\": [0, 1]}\n{\"timestamp\": 27, \"input_length\": 700, \"output_length\": 2, \"hash_ids\": [0, 2]}\n";
    let trace = parse(lines).unwrap();
    assert_eq!(rows(&trace), [(0, 1000, 5), (27_000, 700, 2)]);
    assert_eq!(trace.block_tokens, 512);
    assert_eq!(trace.blocks_of(&trace.requests[1]), [0, 2]);
    let array = format!("[{}]", lines.trim().replace('\n', ",\n"));
    assert_eq!(parse(&array).unwrap(), trace);
    let options = ReadOptions {
        block_tokens: Some(64),
        format: Some(format("mooncake")),
        ..ReadOptions::default()
    };
    assert_eq!(read_bytes("m", lines.as_bytes(), &options).unwrap().block_tokens, 64);
}

#[test]
fn turns_with_a_delay_wait_for_the_turn_before() {
    let trace = parse("{\"session_id\":\"a\",\"timestamp\":10,\"input_length\":10,\"output_length\":1}\n{\"session_id\":\"b\",\"timestamp\":5,\"input_length\":10,\"output_length\":1}\n{\"session_id\":\"a\",\"delay\":2000,\"input_length\":30,\"output_length\":1}\n").unwrap();
    let arrivals: Vec<_> = trace.requests.iter().map(|r| r.arrival).collect();
    let think = Duration::from_secs(2);
    assert_eq!(
        arrivals,
        [
            Arrival::At(Duration::ZERO),
            Arrival::At(Duration::from_millis(5)),
            Arrival::After { previous: 1, think }
        ]
    );
}

#[test]
fn vidur_and_generic_names() {
    assert_eq!(
        rows(
            &parse("arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,3,4\n0.75,5,6\n").unwrap()
        ),
        [(0, 3, 4), (250_000, 5, 6)]
    );
    assert_eq!(
        rows(&parse("arrival_ms;prompt_tokens;completion_tokens\n1;3;4\n3;5;6\n").unwrap()),
        [(0, 3, 4), (2000, 5, 6)]
    );
    assert_eq!(
        rows(&parse("{\"timestamp_us\": 7, \"input_tokens\": 3.0, \"output_tokens\": 4}").unwrap()),
        [(0, 3, 4)]
    );
    assert_eq!(rows(&parse("[{\"time\": \"2024-01-01T00:00:00Z\", \"isl\": 3, \"osl\": 4},\n {\"time\": \"2024-01-01T00:00:01Z\", \"isl\": 1, \"osl\": 1}]").unwrap()), [(0, 3, 4), (1_000_000, 1, 1)]);
    let tenants =
        parse("arrival_s,tenant,input_tokens,output_tokens\n0,gold,1,1\n1,lead,1,1\n2,gold,1,1\n")
            .unwrap();
    assert_eq!(tenants.classes, ["gold", "lead"]);
    assert_eq!(tenants.requests.iter().map(|r| r.class).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn a_bare_timestamp_needs_its_unit() {
    let text = "timestamp,input_tokens,output_tokens\n1000,3,4\n2000,3,4\n";
    assert_eq!(
        refusal(text),
        "t.csv:2: the unit of time \"1000\" cannot be known; name it with --time-unit s, ms, us or ns"
    );
    let options = ReadOptions { time_unit: Some(TimeUnit::Milliseconds), ..ReadOptions::default() };
    assert_eq!(rows(&read_bytes("t", text.as_bytes(), &options).unwrap())[1].0, 1_000_000);
}

#[test]
fn lengths_need_a_rate_and_traces_must_not_have_one() {
    let text = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.8\n2015,156,2171,12.9\n";
    assert_eq!(
        refusal(text),
        "t.csv:2: no column of arrival times (arrival_s, arrival_ms, timestamp_us, a date-time, …) among: num_prefill_tokens, num_decode_tokens, num_total_tokens, pd_ratio; rename one, or name it: --map time=COLUMN, or give --arrival-rate (requests per second)"
    );
    let options = ReadOptions { rate: Some(2.0), ..ReadOptions::default() };
    let trace = read_bytes("t", text.as_bytes(), &options).unwrap();
    assert_eq!((trace.requests[1].input, trace.requests[1].output), (2015, 156));
    assert!(trace.provenance[1].contains("Poisson arrivals at 2/s"));
    let timed = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,3,4\n";
    assert!(
        read_bytes("t", timed.as_bytes(), &options)
            .unwrap_err()
            .to_string()
            .contains("leave --arrival-rate out")
    );
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300] {
        let options = ReadOptions { rate: Some(rate), ..ReadOptions::default() };
        assert!(read_bytes("t", text.as_bytes(), &options).is_err(), "{rate}");
    }
}

#[test]
fn sharegpt_turns_begin_with_all_that_was_said() {
    let text = "conv,turn,role,tokens,chars\n0,0,human,34,190\n0,1,gpt,244,1298\n0,2,human,36,188\n0,3,gpt,319,1\n1,0,gpt,5,1\n2,0,system,10,1\n2,1,human,7,1\n2,2,gpt,3,1\n";
    assert!(refusal(text).contains("--arrival-rate (conversations per second)"));
    let options = ReadOptions { rate: Some(1.0), ..ReadOptions::default() };
    let trace = read_bytes("t", text.as_bytes(), &options).unwrap();
    let lengths: Vec<_> = trace.requests.iter().map(|r| (r.input, r.output, r.session)).collect();
    assert_eq!(lengths, [(34, 244, Some(0)), (314, 319, Some(0)), (17, 3, Some(1))]);
    assert_eq!(trace.requests[1].arrival, Arrival::After { previous: 0, think: Duration::ZERO });
    let blocks: Vec<Vec<u64>> =
        trace.requests.iter().map(|r| trace.blocks_of(r).to_vec()).collect();
    assert_eq!(
        blocks[0].len(),
        278_usize.div_ceil(16),
        "prompt and response, which the next turn repeats"
    );
    assert_eq!(blocks[1].len(), 314_usize.div_ceil(16));
    assert!(blocks[1].starts_with(&blocks[0]));
    assert!(blocks[2].iter().all(|id| !blocks[1].contains(id)));
}

const SESSION: &str = r#"{"id": "ID", "block_size": 4, "hash_id_scope": "local", "requests": [
 {"t": 0.0, "type": "n", "in": 9, "out": 5, "hash_ids": [1, 2], "api_time": 2.0, "think_time": 0.0},
 {"t": 3.0, "type": "subagent", "requests": [
   {"t": 0.0, "type": "n", "in": 4, "out": 1, "hash_ids": [7], "api_time": 1.0, "think_time": 0.0},
   {"t": 2.5, "type": "n", "in": 8, "out": 0, "hash_ids": [7, 8]}]},
 {"t": 7.0, "type": "n", "in": 17, "out": 2, "hash_ids": [1, 2, 3, 4], "think_time": 5.0},
 {"t": 9.0, "type": "s", "in": 6, "out": 2, "hash_ids": [1]}]}"#;

#[test]
fn sessions_wait_think_and_branch() {
    let trace = parse(SESSION).unwrap();
    let after = |previous, ms| Arrival::After { previous, think: Duration::from_millis(ms) };
    let arrivals: Vec<_> = trace.requests.iter().map(|r| r.arrival).collect();
    assert_eq!(
        arrivals,
        [Arrival::At(Duration::ZERO), after(0, 0), after(1, 1500), after(0, 5000), after(3, 2000)]
    );
    assert_eq!(trace.classes, ["main", "subagent"]);
    assert_eq!(trace.requests.iter().map(|r| r.class).collect::<Vec<_>>(), [0, 1, 1, 0, 0]);
    let blocks: Vec<_> = trace.requests.iter().map(|r| trace.blocks_of(r)).collect();
    // The first turn is repeated by the fourth request, output and all: 14 tokens are four blocks.
    assert_eq!(blocks[0], [1, 2, 3, 4]);
    assert_eq!(blocks[1][..1], [7]);
    // 17 tokens are five blocks, of which the file has four; likewise the last request's 6 tokens.
    assert_eq!((blocks[3].len(), blocks[4].len()), (5, 2));
    assert_eq!(blocks[3][..4], [1, 2, 3, 4]);
    assert!(!blocks[3].contains(&blocks[4][1]));
}

#[test]
fn a_directory_of_sessions_is_one_trace() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.json"), SESSION).unwrap();
    let packed = std::fs::File::create(dir.path().join("a.json.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    packed.write_all(SESSION.as_bytes()).unwrap();
    packed.finish().unwrap();
    std::fs::write(dir.path().join("b.json"), SESSION.replace("ID", "other")).unwrap();
    let trace = read(dir.path(), &ReadOptions::default()).unwrap();
    assert_eq!(trace.requests.len(), 10, "the packed copy is the same session");
    assert!(
        trace.provenance.iter().any(|p| p.contains("1 sessions met twice")),
        "{:?}",
        trace.provenance
    );
    let (a, b) = (trace.blocks_of(&trace.requests[0]), trace.blocks_of(&trace.requests[5]));
    assert!(
        a.iter().all(|id| !b.contains(id)),
        "hash ids of different sessions are different blocks"
    );
    let spread =
        read(dir.path(), &ReadOptions { rate: Some(0.5), ..ReadOptions::default() }).unwrap();
    assert!(spread.span() > Duration::ZERO);
    std::fs::write(
        dir.path().join("c.jsonl"),
        "{\"input_length\":1,\"output_length\":1,\"timestamp\":0}",
    )
    .unwrap();
    assert!(
        read(dir.path(), &ReadOptions::default())
            .unwrap_err()
            .to_string()
            .contains("c.jsonl: not a session file")
    );
}

#[test]
fn mistakes_are_named_with_their_line() {
    let azure = |rest: &str| {
        refusal(&format!(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,1\n{rest}"
        ))
    };
    for (text, says) in [
        ("2023-11-16 18:15:46.68", "t.csv:3: 1 fields where the header has 3"),
        ("2023-11-16 18:15:46,-5,1", "t.csv:3: context_tokens: \"-5\" is not a number of tokens"),
        ("2023-11-16 18:15:46,99999999999999999999,1", "t.csv:3: context_tokens:"),
        ("2023-11-16 18:15:46,1,", "t.csv:3: no generated_tokens"),
        ("2023-11-16 18:65:46,1,1", "t.csv:3: \"2023-11-16 18:65:46\" is not a date-time"),
        ("\n\n17,1,1", "t.csv:5: the unit of time"),
        ("\r\n\r\n17,1,1", "t.csv:5: the unit of time"),
    ] {
        assert!(azure(text).starts_with(says), "{text}: {}", azure(text));
    }
    for (text, says) in [
        ("", "t.csv: empty"),
        (" \n\n", "t.csv: empty"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "t.csv: a header but no requests"),
        ("[]", "t.csv: an empty list"),
        ("a,b\n1,2\n", "t.csv:2: no column of prompt lengths in tokens"),
        ("input_tokens,output_tokens\n1,2\n", "t.csv:2: no column of arrival times"),
        ("arrival_s,input_tokens,output_tokens\n-1,2,2\n", "t.csv:2: time -1 is negative"),
        (
            "arrival_s,input_tokens,output_tokens\n1e99,2,2\n",
            "t.csv:2: time \"1e99\" is not a number within range",
        ),
        (
            "{\"timestamp\":0,\"input_length\":1,\"output_length\":1}\n{\"timestamp\":0,\"inp",
            "t.csv:2: not the JSON expected",
        ),
        (
            "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[-1]}",
            "t.csv:1: hash_ids: not a list",
        ),
        (
            "{\"timestamp\":0,\"input\":\"hello\",\"output\":\"you\"}",
            "t.csv: its input and output are not token counts",
        ),
        (
            "{\"schema\":\"knee.trace/9\",\"name\":\"x\",\"block_tokens\":0,\"classes\":[\"a\"]}\n",
            "t.csv:1: schema \"knee.trace/9\"",
        ),
        ("{\"id\":\"x\",\"requests\":[]}", "t.csv: a header but no requests"),
        ("{\"id\":\"x\",\"requests\":[{\"in\":1,\"out\":-1}]}", "t.csv:1: not the JSON expected"),
        (
            "{\"id\":\"x\",\"requests\":[{\"in\":1,\"out\":1,\"hash_ids\":[1]}]}",
            "t.csv:1: hash_ids without a block_size",
        ),
    ] {
        assert!(refusal(text).starts_with(says), "{text}: {}", refusal(text));
    }
    let latin = read_bytes("t.csv", b"arrival_s,input_tokens\n1,\xe9", &ReadOptions::default())
        .unwrap_err();
    assert!(latin.to_string().starts_with("t.csv:2: not UTF-8"));
    let cut = read_bytes("t.gz", &[0x1f, 0x8b, 8, 0, 0], &ReadOptions::default()).unwrap_err();
    assert!(cut.to_string().contains("damaged gzip"));
    let missing = read(Path::new("/nonexistent/x.csv"), &ReadOptions::default()).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read /nonexistent/x.csv"));
}

#[test]
fn a_file_that_could_mean_two_things_is_refused() {
    let twice = "arrival_s,input_tokens,input_tokens,output_tokens\n0,10,20,1\n";
    assert!(refusal(twice).starts_with("t.csv:1: two columns are called input_tokens"));
    // A time that says its unit is preferred to one that does not.
    let trace = parse("timestamp,arrival_s,input_tokens,output_tokens\n0,10,20,1\n9,12,20,1\n");
    assert_eq!(rows(&trace.unwrap())[1].0, 2_000_000);
    let blocks = "{\"timestamp\":0,\"input_length\":100,\"output_length\":1,\"hash_ids\":[1,2],\"session_id\":\"s\"}";
    assert!(refusal(blocks).contains("2 identities of 512 tokens for 101 tokens; give --block"));
    let smaller = ReadOptions { block_tokens: Some(64), ..ReadOptions::default() };
    assert!(read_bytes("t", blocks.as_bytes(), &smaller).is_ok());
}

#[test]
fn impossible_times_and_turns_of_our_own_format_are_refused() {
    let file = |header: &str, line: &str| {
        let head =
            "{\"schema\":\"knee.trace/1\",\"name\":\"x\",\"block_tokens\":0,\"classes\":[\"a\"]";
        format!(
            "{head}{header}}}\n{{\"at_ns\":0,\"input\":1,\"output\":1}}\n{{{line},\"input\":1,\"output\":1}}"
        )
    };
    assert!(parse(&file("", "\"at_ns\":5")).is_ok());
    for (header, line, says) in [
        ("", "\"at_ns\":18446744073709551615", "t.csv:3: at_ns is over 230 years"),
        ("", "\"after\":0,\"think_ns\":18446744073709551615", "t.csv:3: think_ns is over 30"),
        ("", "\"after\":1,\"think_ns\":1", "t.csv:3: after 1 is not an earlier request"),
        (",\"max_concurrent_sessions\":0", "\"at_ns\":5", "t.csv:1: max_concurrent_sessions is 0"),
    ] {
        let said = refusal(&file(header, line));
        assert!(said.starts_with(says), "{said}");
    }
    assert!(refusal("{\"schema\":\"knee.trace/9\"}\n{}").contains("this version reads"));
}

#[test]
fn messages_are_one_short_printable_line_for_any_file() {
    let long = "9".repeat(5_000_000);
    for text in [
        format!("arrival_s,input_tokens,output_tokens\n0,{long},1\n"),
        format!("arrival_s,{long},output_tokens\n0,1,1\n"),
        format!("{{\"{long}\":1}}"),
        "\x1b[31m,\"a\nb\"\n1,2\n".to_owned(),
    ] {
        let said = refusal(&text);
        assert!(said.chars().count() < 500 && !said.contains(char::is_control), "{said:?}");
        assert!(said.contains("correct or delete") || said.contains("rename one"), "{said}");
    }
    let red = "arrival_s,input_tokens,output_tokens,class\n0,1,1,\x1b[31mred\n";
    assert_eq!(parse(red).unwrap().classes, ["\u{fffd}[31mred"]);
}

#[cfg(unix)]
#[test]
fn devices_without_an_end_are_not_read_to_it() {
    let said = read(Path::new("/dev/zero"), &ReadOptions::default()).unwrap_err().to_string();
    assert!(said.contains("not UTF-8 text"), "{said}");
}

#[test]
fn losses_of_a_format_are_refused_or_listed() {
    let trace = parse(SESSION).unwrap();
    let mut out = Vec::new();
    assert!(
        write(&trace, format("azure"), &mut out)
            .unwrap_err()
            .to_string()
            .starts_with("cannot write this trace as azure")
    );
    assert!(
        write(&trace, format("mooncake"), &mut out).is_err(),
        "a sub-agent and its parent wait for the same turn"
    );
    assert!(write(&trace, format("vidur"), &mut out).is_err());
    assert!(write(&trace, format("jsonl"), &mut out).is_ok());
    assert_eq!(
        losses(&trace, format("azure")),
        ["prefix identities", "sessions", "request classes", "provenance"]
    );
    assert_eq!(losses(&trace, format("jsonl")), [""; 0]);
}

#[test]
fn every_written_format_is_recognised() {
    // Hash ids tell that Mooncake's times are milliseconds.
    let line = |ms, input, ids| {
        format!(
            "{{\"timestamp\":{ms},\"input_length\":{input},\"output_length\":5,\"hash_ids\":{ids}}}\n"
        )
    };
    let trace = parse(&[line(0, 1000, "[0,1]"), line(1500, 7, "[2]")].concat()).unwrap();
    assert!(Format::written().count() >= 3);
    for format in Format::written() {
        let mut bytes = Vec::new();
        write(&trace, format, &mut bytes).unwrap();
        let again = read_bytes("again", &bytes, &ReadOptions::default()).unwrap();
        assert_eq!(rows(&again), rows(&trace), "{format}");
        // A trace that keeps its provenance says where it came from first.
        let kept = again.provenance == trace.provenance;
        assert!(kept || again.provenance[0].ends_with(&format!("read as {format}")), "{format}");
        let options = ReadOptions { format: Some(format), ..ReadOptions::default() };
        assert_eq!(read_bytes("again", &bytes, &options).unwrap(), again, "{format}");
    }
}

#[test]
fn every_format_has_a_name_and_a_line() {
    let names: Vec<_> = Format::all().map(Format::name).collect();
    for format in Format::all() {
        assert_eq!(format.name().parse(), Ok(format));
        assert_eq!(names.iter().filter(|name| **name == format.name()).count(), 1, "{format}");
        assert!((10..80).contains(&format.about().len()), "{format}: {}", format.about());
    }
    let said = "nope".parse::<Format>().unwrap_err();
    assert!(said.ends_with(&names.join(", ")), "{said}");
}

#[test]
fn real_files_are_recognised_and_read_whole() {
    for (file, count, format) in [
        ("azure-2023/AzureLLMInferenceTrace_conv.first2400s.csv", 14_176, "azure"),
        ("azure-2023/AzureLLMInferenceTrace_code.first2400s.csv", 7_491, "azure"),
        ("edge-cases/azure2024_code_notebook_rows.csv", 10, "azure"),
        ("edge-cases/azureLMM2025_notebook_rows.csv", 7, "azure"),
        ("edge-cases/CRAFTED_bom_crlf_blank_quoted_unsorted_zero.csv", 3, "azure"),
        ("edge-cases/CRAFTED_json_array.json", 2, "mooncake"),
        ("burstgpt/BurstGPT_1.head30.csv", 29, "burstgpt"),
        ("mooncake/conversation_trace.first2400s.jsonl.gz", 7_851, "mooncake"),
        ("mooncake/conversation_trace.head500.jsonl", 500, "mooncake"),
        ("claude-code-sessions/trace_0504.json", 0, "weka"),
        ("claude-code-sessions/trace_0003.json.gz", 0, "weka"),
        ("claude-code-sessions/cc_traces_weka.normalized_head761.jsonl.gz", 761, "weka"),
    ] {
        let Some(path) = real(file) else { return };
        let trace = read(&path, &ReadOptions::default()).unwrap();
        assert!(count == 0 || trace.requests.len() == count, "{file}: {}", trace.requests.len());
        assert!(
            trace.provenance[0].ends_with(&format!("read as {format}")),
            "{:?}",
            trace.provenance
        );
    }
    let rate = ReadOptions { rate: Some(1.0), ..ReadOptions::default() };
    for (file, count) in [
        ("lengths/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv.gz", 28_257),
        ("lengths/sharegpt_8k_filtered_stats_llama2_tokenizer.csv.gz", 30_731),
        ("lengths/sharegpt_v3_head_cl100k_lengths.csv.gz", 0),
    ] {
        let Some(path) = real(file) else { return };
        let trace = read(&path, &rate).unwrap();
        assert!(count == 0 || trace.requests.len() == count, "{file}: {}", trace.requests.len());
    }
}

#[test]
fn real_sessions_read_as_one_trace() {
    let Some(path) = real("claude-code-sessions") else { return };
    let trace = read(&path, &ReadOptions::default()).unwrap();
    assert!(
        trace.provenance.iter().any(|p| p.starts_with("2 sessions met twice")),
        "{:?}",
        trace.provenance
    );
    assert!(trace.requests.len() > 5_700, "{}", trace.requests.len());
    for file in [
        "servegen/deepseek-r1.tar.gz",
        "agent-text/taubench_ea09a0dc475dbe00b56101ef665b8c03.jsonl",
        "agent-text/taubench_dd81010a7f110085a99396ddb122ce61.jsonl",
    ] {
        let Some(path) = real(file) else { return };
        println!("{}", read(&path, &ReadOptions::default()).expect_err(file));
    }
}
