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
    let record = loadgen::Record {
        scheduled: Duration::ZERO,
        admitted: Some(Duration::from_millis(1)),
        first_token: Some(Duration::from_millis(31)),
        last_token: Some(Duration::from_nanos(131_000_001)),
        max_itl_ns: 9,
        request: 0,
        input: 12,
        output: 6,
        cached: 0,
        preemptions: 2,
        class: 0,
        outcome: loadgen::Outcome::Completed,
    };
    let table = [loadgen::Record::CSV_HEADER.join(","), record.csv_row().join(",")].join("\n");
    let json = serde_json::to_string(&record).unwrap();
    for text in [table, json] {
        let back = one(&text).records()[0];
        assert_eq!((back.ttft(), back.e2e()), (record.ttft(), record.e2e()), "{text}");
        assert_eq!((back.tpot(), back.queued()), (record.tpot(), record.queued()));
    }
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
    assert_eq!(row("0,0,1,2,3"), "x.csv:3: prompt_len = `0`: expected a whole number from 1 up");
    assert_eq!(
        row("0,1.5,1,2,3"),
        "x.csv:3: prompt_len = `1.5`: expected a whole number from 1 up"
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
