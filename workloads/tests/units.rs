//! Times and their units: what is known is read, what is not is refused with its readings.

use workloads::{Arrival, DateOrder, Format, ReadOptions, TimeUnit, Trace, TraceError, read_bytes};

fn format(name: &str) -> Format {
    name.parse().unwrap()
}

fn with(text: &str, options: &ReadOptions) -> Result<Trace, TraceError> {
    read_bytes("t", text.as_bytes(), options)
}

fn refusal(text: &str) -> String {
    with(text, &ReadOptions::default()).expect_err(text).to_string()
}

/// Milliseconds of arrivals.
fn times(trace: &Trace) -> Vec<u128> {
    let at = |a: Arrival| match a {
        Arrival::At(t) => t.as_millis(),
        Arrival::After { .. } => panic!("closed loop"),
    };
    trace.requests.iter().map(|r| at(r.arrival)).collect()
}

fn table(dates: &[&str]) -> String {
    let rows: String = dates.iter().map(|date| format!("\"{date}\",1,1\n")).collect();
    format!("start_time,input_tokens,output_tokens\n{rows}")
}

fn read_dates(dates: &[&str]) -> Vec<u128> {
    times(&with(&table(dates), &ReadOptions::default()).unwrap_or_else(|e| panic!("{e}")))
}

#[test]
fn a_file_that_two_formats_read_differently_needs_a_name() {
    let rows = |times: [&str; 2], more: &str| {
        times
            .map(|t| {
                format!("{{\"timestamp\":{t},\"input_length\":600,\"output_length\":9{more}}}")
            })
            .join("\n")
    };
    let named = |text: &str, format| {
        with(text, &ReadOptions { format: Some(format), ..ReadOptions::default() }).unwrap()
    };
    for times_ in [["1234500.0", "1234500.5"], ["1000", "3000"]] {
        let text = rows(times_, "");
        let said = refusal(&text);
        assert!(said.starts_with("t:1: its times are milliseconds if"), "{said}");
        assert!(said.contains("--format mooncake or --format guidellm"), "{said}");
        let unit = ReadOptions { time_unit: Some(TimeUnit::Seconds), ..ReadOptions::default() };
        let seconds = times(&named(&text, format("guidellm")));
        assert_eq!(times(&with(&text, &unit).unwrap()), seconds);
        assert_eq!(times(&named(&text, format("mooncake")))[1], seconds[1] / 1_000);
    }
    // Hash ids of 512 tokens and whole times are Mooncake's; a session's name or a pause is AIPerf's.
    for proof in
        [",\"hash_ids\":[1,2]", ",\"session_id\":\"a\"", ",\"session_id\":\"a\",\"delay\":null"]
    {
        let trace = with(&rows(["1000", "3000"], proof), &ReadOptions::default()).unwrap();
        assert_eq!(times(&trace), [0, 2_000], "{proof}");
    }
    assert!(refusal(&rows(["0.5", "1.5"], ",\"hash_ids\":[1,2]")).contains("--format guidellm"));
    let csv = "timestamp,input_length,output_length\n0,600,9\n1,600,9\n";
    assert!(refusal(csv).contains("--format guidellm"), "{}", refusal(csv));
}

#[test]
fn bailian_counts_seconds_blocks_of_16_and_chats() {
    let row = |id: u32, parent: i32, at: f64, ids: &str| {
        format!(
            "{{\"chat_id\":{id},\"parent_chat_id\":{parent},\"timestamp\":{at},\"input_length\":40,\"output_length\":5,\"type\":\"text\",\"turn\":1,\"hash_ids\":{ids}}}"
        )
    };
    let text = [
        row(1, -1, 0.5, "[0,1,2]"),
        row(2, -1, 1.0, "[3,4,5]"),
        row(7, 1, 2.0, "[0,1,6]"),
        row(8, 7, 3.25, "[0,1,7]"),
    ];
    let trace = with(&text.join("\n"), &ReadOptions::default()).unwrap();
    assert_eq!(times(&trace), [0, 500, 1_500, 2_750]);
    assert_eq!((trace.block_tokens, &trace.classes[..]), (16, &["text".to_owned()][..]));
    let sessions: Vec<_> = trace.requests.iter().map(|r| r.session).collect();
    assert_eq!(sessions, [Some(0), Some(1), Some(0), Some(0)]);
}

#[test]
fn date_times_are_read_as_programs_write_them() {
    let later = [0, 1_500];
    for (first, second) in [
        ("2025-06-01 10:00:00 UTC", "2025-06-01 10:00:01.5 UTC"),
        ("2025-06-01 10:00:00,000", "2025-06-01 10:00:01,500"),
        ("2025-06-01T10:00:00.000+02:00", "2025-06-01T09:00:01.500+01:00"),
        ("2024-11-03T01:59:59.000-0400", "2024-11-03T01:00:00.500-0500"),
        ("2025/06/01 10:00:00", "2025/06/01 10:00:01.500"),
        ("13/06/2025 10:00:00", "13/06/2025 10:00:01.500"),
        ("6/13/2025 9:59:59.000 PM", "6/13/2025 10:00:00.500 PM"),
    ] {
        assert_eq!(read_dates(&[first, second]), later, "{first}");
    }
}

#[test]
fn day_or_month_first_is_settled_by_any_date_or_asked() {
    let hour = 3_600_000;
    assert_eq!(read_dates(&["01/06/2025 10:00:00", "13/06/2025 10:00:00"]), [0, 12 * 24 * hour]);
    assert_eq!(read_dates(&["06/01/2025 10:00:00", "06/13/2025 10:00:00"]), [0, 12 * 24 * hour]);
    let open = table(&["01/06/2025 10:00:00", "02/06/2025 10:00:00"]);
    let said = refusal(&open);
    assert!(said.starts_with("t:2: \"01/06/2025\" is 2025-06-01 with the day first and 2025-01-06 with the month first"), "{said}");
    for (order, days) in [(DateOrder::DayFirst, 1), (DateOrder::MonthFirst, 31)] {
        let options = ReadOptions { date_order: Some(order), ..ReadOptions::default() };
        assert_eq!(times(&with(&open, &options).unwrap()), [0, days * 24 * hour]);
    }
    let both = refusal(&table(&["13/06/2025 10:00:00", "06/13/2025 10:00:00"]));
    assert!(both.starts_with("t:3:") && both.contains("other way round"), "{both}");
}

#[test]
fn times_that_cannot_be_on_one_clock_are_named_by_line() {
    let mixed = "arrival_s,input_tokens,output_tokens\n0,1,1\n1,1,1\n1748772000,1,1\n2,1,1\n";
    let said = refusal(mixed);
    assert!(said.starts_with("t:4: its time is 20240 days after the other rows'"), "{said}");
    let start = "arrival_s,input_tokens,output_tokens\n0,1,1\n1748772000,1,1\n1748772001,1,1\n";
    assert!(refusal(start).starts_with("t:2: its time is 20240 days before"), "{}", refusal(start));
    let finer = mixed.replace("arrival_s", "arrival_ms");
    assert!(refusal(&finer).starts_with("t:4: its time is 20 days after"), "{}", refusal(&finer));
    let zones = refusal(&table(&["2025-06-01 10:00:00Z", "2025-06-01 10:00:01"]));
    assert!(zones.starts_with("t:3:") && zones.contains("no zone"), "{zones}");
    let columns = "{\"arrival_s\":0,\"input_tokens\":1,\"output_tokens\":1}\n{\"created_at_ms\":5,\"input_tokens\":1,\"output_tokens\":1}\n";
    assert!(refusal(columns).starts_with("t:2: no arrival_s"), "{}", refusal(columns));
}

#[test]
fn keys_count_wherever_they_first_appear() {
    let text = "{\"timestamp\":0,\"input_length\":600,\"output_length\":1}\n{\"timestamp\":5,\"input_length\":600,\"output_length\":1,\"hash_ids\":[1,2]}\n{\"timestamp\":9,\"input_length\":600,\"output_length\":1,\"hash_ids\":[1,3],\"session_id\":\"x\"}\n";
    let trace = with(text, &ReadOptions::default()).unwrap();
    assert_eq!(times(&trace), [0, 5, 9]);
    assert_eq!(trace.blocks_of(&trace.requests[2]), [1, 3]);
    assert_eq!(trace.requests[2].session, Some(0));
    let other = "{\"arrival_ms\":0,\"prompt_tokens\":600,\"completion_tokens\":1}\n{\"arrival_ms\":5,\"prompt_tokens\":600,\"completion_tokens\":1,\"hash_ids\":[1,2],\"class\":\"a\"}\n";
    let trace = with(other, &ReadOptions::default()).unwrap();
    assert_eq!((trace.block_tokens, trace.blocks_of(&trace.requests[1])), (512, &[1, 2][..]));
    let unsized_ = other.replace("[1,2]", "[1,2,3]");
    assert!(refusal(&unsized_).contains("give --block-tokens"), "{}", refusal(&unsized_));
}

#[test]
fn sessions_without_times_start_at_the_rate_given() {
    let text = "{\"session_id\":\"abc\",\"input_length\":300,\"output_length\":40}\n{\"session_id\":\"abc\",\"delay\":2,\"input_length\":150,\"output_length\":20}\n{\"session_id\":\"def\",\"input_length\":500,\"output_length\":40}\n{\"session_id\":\"abc\",\"input_length\":10,\"output_length\":20}\n";
    assert!(refusal(text).contains("--arrival-rate (sessions per second)"), "{}", refusal(text));
    let options = ReadOptions { rate: Some(1.0), ..ReadOptions::default() };
    let trace = with(text, &options).unwrap();
    let after =
        |previous, ms| Arrival::After { previous, think: std::time::Duration::from_millis(ms) };
    let arrivals: Vec<_> = trace.requests.iter().map(|r| r.arrival).collect();
    assert_eq!(arrivals[0], Arrival::At(std::time::Duration::ZERO));
    assert_eq!(arrivals[1], after(0, 2));
    assert_eq!(arrivals[2], after(1, 0));
    assert!(matches!(arrivals[3], Arrival::At(at) if !at.is_zero()));
    assert_eq!(
        trace.requests.iter().map(|r| r.session).collect::<Vec<_>>(),
        [Some(0), Some(0), Some(0), Some(1)]
    );
}
