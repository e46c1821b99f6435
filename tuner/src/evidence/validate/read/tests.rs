//! The forms in use, and what is said of files that are not.

use super::*;

fn ms(t: Option<Duration>) -> f64 {
    t.map_or(f64::NAN, |t| (t.as_nanos() as f64 / 1e3).round() / 1e3)
}

fn one(text: &str) -> Recorded {
    let runs = read_bytes("dir/some.requests.csv", text.as_bytes()).unwrap();
    assert_eq!(runs.len(), 1);
    runs.into_iter().next().unwrap()
}

fn refused(text: &str) -> String {
    read_bytes("x.csv", text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn a_bench_of_the_engine_counts_from_its_queue() {
    let run = one(concat!(
        r#"{"request_id": "b-0", "input_toks": 23, "output_toks": 5, "arrival_time": 1787.08, "#,
        r#""queued_ts": 50.5, "scheduled_ts": 50.6, "first_token_ts": 51.0, "last_token_ts": 51.4}"#,
        "\n\n"
    ));
    let r = &run.records()[0];
    assert_eq!((r.input, r.output), (23, 5));
    assert_eq!((ms(r.queued()), ms(r.ttft()), ms(r.tpot())), (100.0, 500.0, 100.0));
}

#[test]
fn latencies_beside_an_arrival_are_added_to_it() {
    let blis = one(
        "index,stage,arrival_s,prompt_id_inferred,input_tokens,output_tokens_client_counted,\
        output_tokens_requested,has_error,ttft_s,e2e_s\n0,0,0.5,7,10,9,11,0,0.1,0.3\n1,0,0.6,8,1,0,11,1,,300\n",
    );
    assert_eq!(blis.name, "some");
    assert_eq!((blis.rows[0].output, blis.rows[0].prompt), (11, Some(7)));
    assert_eq!(ms(blis.records()[0].tpot()), 20.0);
    assert!(blis.rows[1].failed && !blis.records()[1].completed());

    let distserve = "run,qps,arrival_s,prompt_len,output_len,ttft_ms,tpot_ms,latency_ms\n\
        a-1,1.0,0,55,4,69.5,26,148\na-2,2.0,0,55,4,70,26,148\n";
    let runs = read_bytes("x", distserve.as_bytes()).unwrap();
    assert_eq!([&runs[0].name[..], &runs[1].name], ["a-1", "a-2"]);
    assert_eq!(runs[1].rate, Some(2.0));
    assert_eq!(ms(runs[0].records()[0].e2e()), 148.0);

    let lmbench =
        one("workload,qps,arrival_s,user_id,question_id,prompt_tokens,generation_tokens,ttft_s,\
        generation_time_s,finish_s\nsharegpt,0.5,1,,,9,3,0.2,0.4,1.7\n");
    assert_eq!(lmbench.name, "sharegpt 0.5/s");
    assert_eq!(ms(lmbench.records()[0].e2e()), 600.0);
}

#[test]
fn our_own_records_read_back() {
    let (first, last) = (Duration::from_millis(31), Duration::from_nanos(131_000_001));
    let record = loadgen::Record {
        admitted: Some(Duration::from_millis(1)),
        max_itl_ns: 9,
        preemptions: 2,
        ..loadgen::Record::due(0, Duration::ZERO, 12).answered(first, last, 6)
    };
    let table = [loadgen::Record::CSV_HEADER.join(","), record.csv_row().join(",")].join("\n");
    let json = serde_json::to_string(&record).unwrap();
    for text in [table, json] {
        let back = one(&text).records()[0];
        assert_eq!((back.ttft(), back.e2e()), (record.ttft(), record.e2e()), "{text}");
        assert_eq!((back.tpot(), back.queued()), (record.tpot(), record.queued()));
    }
}

/// A run of three requests as vLLM's client keeps it; the second failed.
fn vllm(more: &str) -> String {
    let object = r#"{"backend": "vllm", "request_rate": 2.5, "total_input_tokens": 40, MORE
        "input_lens": [10, 20, 10], "output_lens": [3, 0, 2], "ttfts": [0.5, 0.0, 0.25],
        "itls": [[0.02, 0.04], [], [0.01]], "start_times": [100.25, 100.5, 101.25],
        "errors": ["", "Traceback:\n  File\nConnectionResetError: reset\n", ""]}"#;
    object.replace("MORE", more)
}

#[test]
fn vllms_arrays_are_requests() {
    let run = one(&vllm(""));
    assert_eq!((run.name.as_str(), run.rate), ("some", Some(2.5)));
    let at: Vec<f64> = run.rows.iter().map(|r| ms(Some(r.arrival))).collect();
    assert_eq!(at, [0.0, 250.0, 1000.0]);
    let records = run.records();
    assert_eq!((ms(records[0].ttft()), ms(records[0].tpot())), (500.0, 30.0));
    assert_eq!((records[0].input, records[0].output), (10, 3));
    assert!(run.rows[1].failed && ms(records[2].e2e()) == 260.0);
    assert_eq!(run.failures, BTreeMap::from([("ConnectionResetError: reset".to_owned(), 1)]));
}

#[test]
fn answers_in_one_piece_do_not_say_when_tokens_came() {
    let bursts = vllm("").replace(r#""itls": [[0.02, 0.04], [], [0.01]], "#, "");
    assert!(refused(&bursts).contains("no itls: answers that came in one piece"));
}

#[test]
fn results_appended_by_vllm_are_runs_of_their_own() {
    let file = format!("{}\n{}", vllm("").replace('\n', " "), vllm(""));
    let runs = read_bytes("a/b.json", file.as_bytes()).unwrap();
    assert_eq!([&runs[0].name[..], &runs[1].name], ["b 1", "b 2"]);
    assert!(runs.iter().all(|run| run.rows.len() == 3));
}

#[test]
fn a_request_that_vllm_gave_no_first_token_failed() {
    let run = one(&vllm("").replace("0.25]", "0.0]"));
    assert_eq!(run.failures["no first token"], 1);
}

#[test]
fn members_missing_from_a_vllm_result_are_named() {
    let summary = r#"{"total_input_tokens": 40, "mean_ttft_ms": 12.0}"#;
    assert!(refused(summary).contains("no input_lens: make the run again with --save-detailed"));
    let old = vllm("").replace("start_times", "started");
    assert!(refused(&old).contains("no start_times: nothing says when requests were sent"));
    let cut = vllm("").replace("[10, 20, 10]", "[10, 20]");
    assert_eq!(refused(&cut), "x.csv: 3 output_lens for 2 input_lens: the file is cut");
    let odd = vllm("").replace("[3, 0, 2]", "[3.5, 0, 2]");
    assert_eq!(
        refused(&odd),
        "x.csv: request 1: output_lens = `3.5`: expected a whole number from 0 to 16777216"
    );
    assert!(refused(&vllm("")[..300]).contains("not a JSON object"));
}

/// A request as AIPerf records it, 30 ms to its first token of five, 130 ms in all.
fn aiperf(start_ns: u64, more: &str) -> String {
    let record = r#"{"metadata": {"session_num": 0, "request_start_ns": START, "benchmark_phase": "profiling",
        "was_cancelled": false, MORE "worker_id": "w"}, "metrics": {
        "time_to_first_token": {"value": 30.0, "unit": "ms"}, "request_latency": {"value": 0.13, "unit": "sec"},
        "input_sequence_length": {"value": 12, "unit": "tokens"},
        "output_sequence_length": {"value": 6, "unit": "tokens"}}, "error": null}"#;
    record.replace('\n', " ").replace("START", &start_ns.to_string()).replace("MORE", more)
}

const EPOCH: u64 = 1_769_000_000_000_000_000;

#[test]
fn aiperfs_metrics_count_in_their_units() {
    let file = [aiperf(EPOCH, ""), aiperf(EPOCH + 7, "")].join("\n");
    let run = one(&file);
    assert_eq!(run.rows[1].arrival, Duration::from_nanos(7));
    let records = run.records();
    assert_eq!((ms(records[0].ttft()), ms(records[0].tpot())), (30.0, 20.0));
    assert_eq!((records[0].input, records[0].output), (12, 6));
    assert!(run.failures.is_empty() && run.rows[0].prompt.is_none());
    let odd = aiperf(EPOCH, "").replace(r#""unit": "sec""#, r#""unit": "min""#);
    assert!(refused(&odd).starts_with("x.csv:1: request_latency is in an unknown unit (min)"));
}

#[test]
fn aiperfs_failures_are_kept_and_named() {
    let failed = format!(
        r#"{{"metadata": {{"request_start_ns": {EPOCH}, "benchmark_phase": "profiling"}}, "metrics": {{}},
            "error": {{"code": 503, "type": "Service Unavailable", "message": "busy"}}}}"#
    );
    let cancelled =
        aiperf(EPOCH, "").replace("\"was_cancelled\": false", "\"was_cancelled\": true");
    let file = [failed.replace('\n', " "), cancelled, aiperf(EPOCH + 1, "")].join("\n");
    let run = one(&file);
    assert_eq!((run.rows.len(), run.rows.iter().filter(|r| r.failed).count()), (3, 2));
    assert_eq!(super::failures(&run.failures), "1 × Service Unavailable 503 busy, 1 × cancelled");
    let none = refused(&failed.replace('\n', " "));
    assert_eq!(none, "x.csv: no request completed (1 × Service Unavailable 503 busy)");
}

#[test]
fn aiperfs_warm_up_is_a_run_of_its_own_and_a_turn_sent_twice_is_one_prompt() {
    let turn = |n: u32| format!(r#""conversation_id": "c", "turn_index": {n},"#);
    let warm = aiperf(EPOCH, &turn(0)).replace("profiling", "warmup");
    let file = [warm, aiperf(EPOCH, &turn(0)), aiperf(EPOCH, &turn(1)), aiperf(EPOCH, &turn(0))];
    let runs = read_bytes("profile_export.jsonl", file.join("\n").as_bytes()).unwrap();
    assert_eq!([&runs[0].name[..], &runs[1].name], ["warmup", "profile_export"]);
    let prompts: Vec<_> = runs[1].rows.iter().map(|r| r.prompt.unwrap()).collect();
    assert!(prompts[0] == prompts[2] && prompts[0] != prompts[1]);
}

#[test]
fn aiperfs_summary_has_no_requests() {
    let summary = r#"{"request_latency": {"unit": "ms", "avg": 130.0}, "schema_version": "1.4"}"#;
    assert!(refused(summary).contains("profile_export.jsonl"));
}

#[test]
fn gzip_is_undone_and_damage_is_named() {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(b"arrival_s,prompt_len,output_len,ttft_ms,e2e_ms\n0,1,1,2,3\n").unwrap();
    let bytes = gzip.finish().unwrap();
    assert_eq!(read_bytes("x", &bytes).unwrap()[0].rows.len(), 1);
    let error = read_bytes("x", &bytes[..bytes.len() - 6]).unwrap_err().to_string();
    assert!(error.starts_with("x: damaged gzip data"), "{error}");
}

#[test]
fn bad_input_is_one_line_with_its_place() {
    const HEAD: &str = "arrival_s,prompt_len,output_len,ttft_ms,e2e_ms\n";
    let row = |cells: &str| refused(&format!("{HEAD}0,1,1,2,3\n{cells}\n"));
    assert_eq!(row("0,1,1,x,3"), "x.csv:3: ttft_ms = `x` is not a number");
    assert_eq!(row("0,1,1,-2,3"), "x.csv:3: ttft_ms = -2: a time cannot be negative");
    assert_eq!(
        row("0,0,1,2,3"),
        "x.csv:3: prompt_len = `0`: expected a whole number from 1 to 16777216"
    );
    assert_eq!(
        row("0,1.5,1,2,3"),
        "x.csv:3: prompt_len = `1.5`: expected a whole number from 1 to 16777216"
    );
    assert_eq!(
        row("0,1,1,,3"),
        "x.csv:3: no first token, and nothing says that the request failed"
    );
    assert_eq!(
        row("0,1,1,4,3"),
        "x.csv:3: its times run backwards: arrival, first token, last token"
    );
    assert!(row("0,1").starts_with("x.csv:3: not a row of this table"));
    assert_eq!(refused(HEAD), "x.csv: no requests in it");
    assert_eq!(refused(" \n"), "x.csv: empty: there are no requests in it");
    let missing = refused("prompt_len,output_len,ttft_ms,e2e_ms\n1,1,2,3\n");
    assert!(
        missing
            .starts_with("x.csv: no column says when requests arrived: expected one of queued_ts")
    );
    assert!(refused("arrival_s,prompt_len,output_len,e2e_ms\n0,1,2,3\n").contains("first tokens"));
    assert_eq!(refused("{\"arrival_s\": 0}").split(':').next(), Some("x.csv"));
    let error = refused(
        "{\"queued_ts\":0,\"input_toks\":1,\"output_toks\":1,\"first_token_ts\":1,\"last_token_ts\":2}\n{]",
    );
    assert!(error.starts_with("x.csv:2: not a JSON object"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..400)) {
        let _ = read_bytes("x", &bytes);
    }

    #[test]
    fn no_table_makes_it_panic(cells in "[-0-9.,e\n ]{0,200}") {
        let _ = read_bytes("x", format!("arrival_s,prompt_len,output_len,ttft_ms,e2e_ms\n{cells}").as_bytes());
    }
}

#[test]
fn figures_that_no_run_has_are_refused_with_their_line() {
    let head = "arrival_s,prompt_len,output_len,ttft_s,e2e_s\n0,10,5,0.1,0.5\n";
    let said = |row: &str| refused(&format!("{head}{row}\n"));
    assert_eq!(
        said("1760428258.5,10,5,0.1,0.5"),
        "x.csv:3: arrival at 1760428258.5 s where the run begins at 0 s: one counts from 1970, the other does not; \
         correct it"
    );
    assert!(said("1760428258123,10,5,0.1,0.5").contains("after the year 2286"));
    assert!(said("1,10,5,0.1,1e300").contains("after the year 2286"));
    assert!(said("1,4294967295,5,0.1,0.5").contains("expected a whole number from 1 to 16777216"));
    assert!(said("1,10,1e9,0.1,0.5").contains("expected a whole number from 0 to 16777216"));
    let rows = "1,16777216,5,0.1,0.5\n".repeat(65);
    assert!(said(&rows).starts_with("x.csv:67: more than 67108864 blocks"), "{}", said(&rows));
}

#[test]
fn runs_by_the_thousand_are_told_apart() {
    let rows: String = (0..3000).map(|i| format!("r{i},0,10,5,0.1,0.5\n")).collect();
    let text = format!("run,arrival_s,prompt_len,output_len,ttft_s,e2e_s\n{rows}{rows}");
    let runs = read_bytes("x.csv", text.as_bytes()).unwrap();
    assert!(runs.len() == 3000 && runs.iter().all(|r| r.rows.len() == 2));
    assert_eq!((runs[0].name.as_str(), runs[2999].name.as_str()), ("r0", "r2999"));
}
