//! No bytes make a reader panic, and what is written is read back the same.

use std::io::Write as _;
use std::time::Duration;

use proptest::prelude::*;
use workloads::{Arrival, Format, ReadOptions, TimeUnit, Trace, describe, read_bytes, write};

fn format(name: &str) -> Format {
    name.parse().unwrap()
}

/// A valid file of every format.
const FILES: [&str; 17] = [
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109",
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n1.5,s1,2.25,GPT-4,10,20,30,API log\n",
    "{\"timestamp\": 0, \"input_length\": 1000, \"output_length\": 5, \"hash_ids\": [0, 1]}\n{\"session_id\": 1, \"timestamp\": 27, \"input_length\": 700, \"output_length\": 2, \"hash_ids\": [0, 2], \"block_size\": 512}\n{\"session_id\": 1, \"delay\": 3, \"input_length\": 1, \"output_length\": 2}\n",
    "{\"id\": \"a\", \"block_size\": 4, \"requests\": [{\"t\": 0.0, \"in\": 9, \"out\": 5, \"hash_ids\": [1, 2], \"api_time\": 2.0}, {\"t\": 3.0, \"requests\": [{\"t\": 0.0, \"in\": 4, \"out\": 1, \"hash_ids\": [7]}]}, {\"t\": 7.0, \"in\": 17, \"out\": 2, \"hash_ids\": [1, 2, 3, 4], \"think_time\": 5.0}]}",
    "{\"session_id\":\"a\",\"turn_index\":0,\"request_arrival_delta_s\":0.1,\"input_tokens\":5,\"output_tokens\":6,\"api_time_s\":1.0}\n",
    "conv,turn,role,tokens,chars\n0,0,human,34,190\n0,1,gpt,244,1298\n0,2,human,36,188\n0,3,gpt,319,1\n",
    "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,3,4\n0.75,5,6\n",
    "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.8\n",
    "timestamp;prompt_tokens;completion_tokens;tenant\n1;3;4;a\n3;5;6;b\n",
    "{\"schema\":\"knee.trace/1\",\"name\":\"x\",\"block_tokens\":16,\"classes\":[\"a\"]}\n{\"at_ns\":0,\"input\":37,\"output\":4,\"blocks\":[[0,3]]}\n{\"after\":0,\"think_ns\":5,\"input\":42,\"output\":8,\"session\":0}\n",
    "{\"chat_id\": 1, \"parent_chat_id\": -1, \"timestamp\": 0.5, \"input_length\": 20, \"output_length\": 5, \"type\": \"text\", \"turn\": 1, \"hash_ids\": [0, 1]}\n",
    "request_id,slo_class,prefix_group,prefix_length,input_tokens,output_tokens,server_input_tokens,arrival_time_us,status\n0,a,g,32,6,5,0,1000,ok\n1,b,g,32,6,0,0,2000,error\n",
    "{\"arrival_time_ns\":1,\"sub_requests\":[{\"input_toks\":2,\"output_toks\":1,\"input_tok_ids\":[1,2],\"tool_duration_ns\":5},{\"input_toks\":3,\"output_toks\":1}]}\n",
    "[{\"startTime\":\"2025-06-01T10:00:00.1Z\",\"call_type\":\"acompletion\",\"prompt_tokens\":\"5\",\"completion_tokens\":6,\"status\":\"success\"}]",
    "id,traceId,type,startTime,usageDetails\ng,t,GENERATION,06/13/2025 10:00:00 AM,\"{\"\"input\"\":100,\"\"output\"\":50}\"\n",
    "{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[{\"startTimeUnixNano\":\"5\",\"attributes\":[{\"key\":\"gen_ai.usage.input_tokens\",\"value\":{\"intValue\":\"1\"}},{\"key\":\"gen_ai.usage.output_tokens\",\"value\":{\"intValue\":2}}]}]}]}]}",
    "{\"created\":1748772000,\"usage\":{\"prompt_tokens\":3,\n\"completion_tokens\":4}}\n{\"created\":1748772001,\n\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}",
];

fn options() -> impl Strategy<Value = ReadOptions> {
    let format = prop::option::of(prop::sample::select(Format::all().collect::<Vec<_>>()));
    let unit =
        prop::option::of(prop::sample::select(vec![TimeUnit::Seconds, TimeUnit::Nanoseconds]));
    let rate = prop::option::of(prop::sample::select(vec![0.0, 1.0, 1e-9, f64::NAN]));
    (format, unit, rate, prop::option::of(0_u32..600), any::<bool>()).prop_map(
        |(format, time_unit, rate, block_tokens, keep_failed)| ReadOptions {
            format,
            time_unit,
            rate,
            block_tokens,
            keep_failed,
            seed: 0,
            ..ReadOptions::default()
        },
    )
}

/// The laws of every trace that a reader lets through.
fn check(trace: &Trace) -> Result<(), TestCaseError> {
    prop_assert!(!trace.requests.is_empty() && !trace.classes.is_empty());
    let mut latest = Duration::ZERO;
    for (index, request) in trace.requests.iter().enumerate() {
        prop_assert!(usize::from(request.class) < trace.classes.len());
        prop_assert!(trace.blocks_of(request).is_empty() || trace.block_tokens > 0);
        match request.arrival {
            Arrival::At(at) => {
                prop_assert!(at >= latest);
                latest = at;
            }
            Arrival::After { previous, .. } => prop_assert!((previous as usize) < index),
        }
    }
    let _ = describe(trace);
    same_after_writing(trace)
}

/// Storage of blocks may differ; what they are may not.
fn same(a: &Trace, b: &Trace) -> bool {
    let plain = |t: &Trace| {
        t.requests
            .iter()
            .map(|r| (r.arrival, r.input, r.output, r.class, r.session, t.blocks_of(r).to_vec()))
            .collect::<Vec<_>>()
    };
    let head = |t: &Trace| {
        (
            t.name.clone(),
            t.block_tokens,
            t.max_concurrent_sessions,
            t.classes.clone(),
            t.provenance.clone(),
        )
    };
    head(a) == head(b) && plain(a) == plain(b)
}

fn same_after_writing(trace: &Trace) -> Result<(), TestCaseError> {
    let mut bytes = Vec::new();
    write(trace, format("jsonl"), &mut bytes).unwrap();
    let back = read_bytes("x", &bytes, &ReadOptions::default());
    prop_assert!(back.as_ref().is_ok_and(|back| same(back, trace)), "{back:?} is not {trace:?}");
    Ok(())
}

fn packed(how: usize, bytes: &[u8]) -> Vec<u8> {
    match how {
        0 => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).unwrap();
            gzip.finish().unwrap()
        }
        1 => zstd::encode_all(bytes, 1).unwrap(),
        2 => {
            let options = lzma_rust2::XzOptions::with_preset(0);
            let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            xz.write_all(bytes).unwrap();
            xz.finish().unwrap()
        }
        _ => bytes.to_vec(),
    }
}

/// Some bytes replaced.
fn damaged(mut bytes: Vec<u8>, edits: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    for (at, byte) in edits {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), options in options()) {
        if let Ok(trace) = read_bytes("x", &bytes, &options) {
            check(&trace)?;
        }
    }

    /// Valid files with some bytes replaced, cut, or doubled.
    #[test]
    fn almost_valid_files(
        file in prop::sample::select(FILES.to_vec()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"0123456789-.e,;\"{}[]:\n\r \xff\x00zn".to_vec()), 0..4_u8), 1..6),
        options in options(),
        packing in 0..5_usize,
    ) {
        let mut bytes = file.as_bytes().to_vec();
        for (at, byte, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes = packed(packing, &bytes);
        if let Ok(trace) = read_bytes("x", &bytes, &options) {
            check(&trace)?;
        }
    }

    #[test]
    fn damaged_packings(
        file in prop::sample::select(FILES.to_vec()),
        how in 0..3_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let bytes = damaged(packed(how, file.as_bytes()), &edits);
        if let Ok(trace) = read_bytes("x", &bytes, &ReadOptions::default()) {
            check(&trace)?;
        }
    }

    /// Open-loop traces of whole milliseconds survive Mooncake's format and Azure's.
    #[test]
    fn writers_and_readers_agree(rows in prop::collection::vec((0..10_000_000_000_u64, 1..50_000_u32, 0..5000_u32), 1..40)) {
        let mut at = 0;
        let mut text = String::from("arrival_ns,input_tokens,output_tokens\n");
        for (index, (gap, input, output)) in rows.iter().enumerate() {
            at += if index == 0 { 0 } else { gap / 1_000_000 * 1_000_000 };
            text.push_str(&format!("{at},{input},{output}\n"));
        }
        let trace = read_bytes("x", text.as_bytes(), &ReadOptions::default()).unwrap();
        check(&trace)?;
        for format in [format("mooncake"), format("azure")] {
            let mut bytes = Vec::new();
            write(&trace, format, &mut bytes).unwrap();
            let options = ReadOptions { format: Some(format), ..ReadOptions::default() };
            let back = read_bytes("x", &bytes, &options).unwrap();
            prop_assert_eq!(&back.requests, &trace.requests);
        }
    }
}

#[test]
fn every_sample_is_valid_with_what_it_needs() {
    for (file, format) in FILES.iter().zip([
        "azure",
        "burstgpt",
        "mooncake",
        "weka",
        "weka",
        "sharegpt",
        "vidur",
        "lengths",
        "csv",
        "jsonl",
        "bailian",
        "blis",
        "llmservingsim",
        "litellm",
        "langfuse",
        "otel",
        "openai",
    ]) {
        let mut options =
            ReadOptions { time_unit: Some(TimeUnit::Seconds), ..ReadOptions::default() };
        if matches!(format, "sharegpt" | "lengths") {
            options.rate = Some(1.0);
        }
        let trace =
            read_bytes("x", file.as_bytes(), &options).unwrap_or_else(|e| panic!("{format}: {e}"));
        check(&trace).unwrap();
    }
}

#[test]
fn mooncake_keeps_hash_ids_sessions_and_pauses() {
    let options = ReadOptions::default();
    let trace = read_bytes("x", FILES[2].as_bytes(), &options).unwrap();
    let mut bytes = Vec::new();
    write(&trace, format("mooncake"), &mut bytes).unwrap();
    let back = read_bytes("x", &bytes, &options).unwrap();
    assert!(same(&trace, &back), "{}", String::from_utf8_lossy(&bytes));
}

/// A closed loop with blocks that run on into outputs, at full size.
#[test]
fn presets_survive_our_own_format() {
    for name in ["agentic", "rag-long", "chat"] {
        let trace = workloads::synthesise(&workloads::preset(name).unwrap(), None).unwrap();
        let mut bytes = Vec::new();
        write(&trace, format("jsonl"), &mut bytes).unwrap();
        assert!(same(&trace, &read_bytes("x", &bytes, &ReadOptions::default()).unwrap()), "{name}");
    }
}

const SPEC: &str =
    "schema = \"knee.workload/1\"\nname = \"x\"\ndescription = \"x\"\nprovenance = []\nseed = 1\n";

/// The outcome of a workload with these tables.
fn synthesised(tables: &str) -> Result<usize, String> {
    let spec = workloads::Spec::parse("x.toml", &format!("{SPEC}{tables}"));
    let trace = spec.and_then(|spec| workloads::synthesise(&spec, None));
    trace.map(|trace| trace.requests.len()).map_err(|e| e.to_string())
}

#[test]
fn envelopes_that_never_end_or_never_begin_are_refused() {
    let shaped = |size: &str, rate: &str, shape: &str| {
        let lengths =
            "input = { dist = \"fixed\", value = 5 }\noutput = { dist = \"fixed\", value = 5 }";
        synthesised(&format!(
            "[size]\n{size}\n[arrival]\nprocess = \"poisson\"\nrate_rps = {rate}\n{shape}\n[lengths]\n{lengths}"
        ))
    };
    let envelope =
        |factors: &str| format!("[arrival.envelope]\nslot_s = 10.0\nfactors = [{factors}]");
    assert!(
        (100..200).contains(&shaped("duration_s = 30.0", "5.0", &envelope("0.5, 0, 2.5")).unwrap())
    );
    let said = shaped("duration_s = 30.0", "5.0", &envelope("0.5, 1e9")).unwrap_err();
    assert!(said.contains("more than 10 million requests"), "{said}");
    let said = shaped("requests = 5", "1e-6", &envelope("1e-5, 0, 0")).unwrap_err();
    assert!(said.contains("slots or periods that hold 0.01 arrivals"), "{said}");
    let said = shaped(
        "requests = 5",
        "1e-6",
        "[arrival.burst]\nfactor = 0.0\nevery_s = 1.0\nlength_s = 0.9",
    );
    assert!(said.unwrap_err().contains("slots or periods"));
}

#[test]
fn gaps_of_very_many_periods_are_passed_at_once() {
    let tables = "[size]\nrequests = 300\n[arrival]\nprocess = \"weibull\"\nshape = 0.05\nrate_rps = 10.0\n\
                  [arrival.envelope]\nslot_s = 0.001\nfactors = [0.0, 200.0]\n\
                  [lengths]\ninput = { dist = \"fixed\", value = 5 }\noutput = { dist = \"fixed\", value = 5 }";
    assert!(synthesised(tables).unwrap() > 1);
}

#[test]
fn sessions_of_more_turns_than_a_trace_has_room_for_are_refused() {
    let session = |turns: &str, input: &str, prefix: &str| {
        synthesised(&format!(
            "[size]\nduration_s = 60.0\n[arrival]\nprocess = \"poisson\"\nrate_rps = 1.0\n\
             [lengths]\noutput = {{ dist = \"fixed\", value = 20 }}\n[session]\nmode = \"open\"\n\
             turns = {{ dist = \"fixed\", value = {turns} }}\nfirst_input = {{ dist = \"fixed\", value = {input} }}\n\
             new_input_per_turn = {{ dist = \"fixed\", value = 50 }}\nturn_gap_s = {{ dist = \"fixed\", value = 4 }}\n{prefix}"
        ))
    };
    assert!(session("3", "200", "").unwrap() > 60);
    let said = session("1e300", "200", "").unwrap_err();
    assert!(said.contains("more than 10 million requests"), "{said}");
    let said = session("3", "1e9", "[prefix]\nblock_tokens = 1").unwrap_err();
    assert!(said.contains("more than 67 million block identities"), "{said}");
}

#[test]
fn lengths_that_cannot_fit_are_not_swapped_for_ever() {
    let tables = "[size]\nrequests = 200000\n[arrival]\nprocess = \"constant\"\nrate_rps = 100.0\n[lengths]\n\
                  input = { dist = \"fixed\", value = 500 }\noutput = { dist = \"fixed\", value = 500 }\nmax_total_tokens = 7";
    assert_eq!(synthesised(tables).unwrap(), 200_000);
}

#[test]
fn few_words_do_not_stand_for_billions_of_blocks() {
    let options = ReadOptions { rate: Some(1.0), block_tokens: Some(1), ..ReadOptions::default() };
    let rows: String = (0..20).map(|i| format!("{i},0,human,90000000\n{i},1,gpt,5\n")).collect();
    let text = format!("conv,turn,role,tokens\n{rows}");
    let said = read_bytes("x.csv", text.as_bytes(), &options).unwrap_err().to_string();
    assert!(said.contains("more than 67 million block identities"), "{said}");
    let text = "{\"schema\":\"knee.trace/1\",\"name\":\"x\",\"block_tokens\":1,\"classes\":[\"a\"]}\n\
                {\"at_ns\":0,\"input\":90000000,\"output\":4,\"blocks\":[[0,90000000]]}\n";
    let said = read_bytes("x.jsonl", text.as_bytes(), &options).unwrap_err().to_string();
    assert!(said.starts_with("x.jsonl:2: more than 67 million"), "{said}");
}
