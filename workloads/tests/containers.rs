//! Files in all their forms: packed, as Parquet, through a pipe, or as something else altogether.

use std::io::Write as _;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use workloads::{Arrival, ReadOptions, Trace, read, read_bytes};

const CSV: &str = "arrival_s,input_tokens,output_tokens\n0,10,2\n0.5,11,3\n";

fn packed(text: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(text).unwrap();
    let mut xz =
        lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(text).unwrap();
    vec![
        ("gzip", gzip.finish().unwrap()),
        ("bzip2", bzip2.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
        ("zstd", zstd::encode_all(text, 1).unwrap()),
    ]
}

fn lengths(trace: &Trace) -> Vec<(u128, u32, u32)> {
    let at = |a: Arrival| match a {
        Arrival::At(t) => t.as_millis(),
        Arrival::After { .. } => panic!("closed loop"),
    };
    trace.requests.iter().map(|r| (at(r.arrival), r.input, r.output)).collect()
}

#[test]
fn packed_files_are_unpacked_and_damage_is_named() {
    let plain = read_bytes("t", CSV.as_bytes(), &ReadOptions::default()).unwrap();
    for (name, bytes) in packed(CSV.as_bytes()) {
        let trace = read_bytes("t", &bytes, &ReadOptions::default());
        assert_eq!(trace.unwrap_or_else(|e| panic!("{name}: {e}")), plain, "{name}");
        let cut = read_bytes("t", &bytes[..bytes.len() / 2], &ReadOptions::default());
        let said = cut.expect_err(name).to_string();
        assert!(said.contains(&format!("damaged {name} data")), "{said}");
    }
    // Endings are no part of a trace's name.
    assert_eq!(
        read_bytes("a/b.csv.zst", CSV.as_bytes(), &ReadOptions::default()).unwrap().name,
        "b"
    );
}

/// 100 MB of one line, of blank lines, of an open quote and of an open list, packed to a few kB.
#[test]
fn bombs_are_refused_by_the_line() {
    let size = 100 << 20;
    let bomb = |head: &str, fill: u8| {
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        zstd.write_all(head.as_bytes()).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(fill), size), &mut zstd).unwrap();
        zstd.finish().unwrap()
    };
    for (head, fill, says) in [
        ("arrival_s,input_tokens,output_tokens\n0,1,", b'1', "t:2: longer than 64 MiB"),
        ("arrival_s,input_tokens,output_tokens\n0,1,\"", b'\n', "t:2: a record of over 64 MiB"),
        ("{\"arrival_s\":", b'[', "t:1: longer than 64 MiB"),
        ("[{\"arrival_s\":", b' ', "t:1: longer than 64 MiB"),
        ("", b'\n', "t: empty"),
        ("", 0, "t:1: not UTF-8 text"),
    ] {
        let said = read_bytes("t", &bomb(head, fill), &ReadOptions::default()).unwrap_err();
        assert!(said.to_string().starts_with(says), "{said}");
    }
}

/// 160 MB of blank lines after a trace.
#[test]
fn data_that_unpack_without_end_are_refused_in_every_packing() {
    let blank = vec![b'\n'; 8 << 20];
    let parts = packed(CSV.as_bytes()).into_iter().zip(packed(&blank));
    for ((name, mut bomb), (_, part)) in parts {
        bomb.extend(part.repeat(20));
        let said = read_bytes("t", &bomb, &ReadOptions::default()).unwrap_err().to_string();
        let why = format!("t: {name} data that unpack to more than 100 times their size");
        assert!(said.starts_with(&why), "{said}");
    }
}

/// A table of four columns: a time since 1970, two counts (one a float, as pandas makes them), and nested usage.
fn parquet_file(unit: &str, moments: &[i64], compression: Compression) -> Vec<u8> {
    let schema = format!(
        "message m {{ required int64 start_time (TIMESTAMP({unit},true)); required double prompt_tokens; \
         required group usage {{ required int64 completion_tokens; }} optional binary model (STRING); }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let n = moments.len();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(moments, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<DoubleType>().write_batch(&vec![100.0; n], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&vec![20; n], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let names = vec![ByteArray::from("m"); n];
    column.typed::<ByteArrayType>().write_batch(&names, Some(&vec![1; n]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn parquet_is_read_in_every_unit_and_packing() {
    for (unit, second) in [("MILLIS", 1_000), ("MICROS", 1_000_000), ("NANOS", 1_000_000_000)] {
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(Default::default()),
            Compression::GZIP(Default::default()),
        ] {
            let start = 1_748_772_000 * second;
            let bytes = parquet_file(unit, &[start, start + second / 2], compression);
            let trace = read_bytes("t.parquet", &bytes, &ReadOptions::default()).unwrap();
            assert_eq!(lengths(&trace), [(0, 100, 20), (500, 100, 20)], "{unit} {compression:?}");
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t.parquet");
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path, &ReadOptions::default()).unwrap(), trace);
        }
    }
    let cut = &parquet_file("MILLIS", &[0, 1], Compression::SNAPPY)[..40];
    let said = read_bytes("t", cut, &ReadOptions::default()).unwrap_err().to_string();
    assert!(said.starts_with("t: not readable as Parquet"), "{said}");
}

#[test]
fn a_file_that_is_no_trace_is_named() {
    for (bytes, says) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"[..],
            "Git LFS pointer",
        ),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "HTML page"),
        (b"<HTML><head></head></HTML>", "HTML page"),
        (b"<?xml version=\"1.0\"?><Error/>", "XML document"),
        (b"PK\x03\x04xxxxxxxx", "zip archive"),
        (b"SQLite format 3\0xxxxxxx", "SQLite database"),
        (b"trace_version: 2\ntime_unit: microseconds\n", "BLIS trace"),
        (b"\xff\xfea\0,\0b\0\n\0", "UTF-16"),
        (b"2025-06-01 10:00:00,374,44\n2025-06-01 10:00:01,396,109\n", "t:1: has no header"),
        (b"0,374,44\n1,396,109\n", "t:1: has no header"),
        (b"[{\"arrival_s\":0,\"input_tokens\":1,\"output_tokens\":1}", "t:1: the list is cut off"),
        (b"[{\"arrival_s\":0,\"input_tokens\":1,\"output_tokens\":1}] x", "something follows"),
        (b"[1, 2]", "a list of objects"),
    ] {
        let said = read_bytes("t", bytes, &ReadOptions::default()).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn documents_are_found_in_lines_lists_and_over_several_lines() {
    let row = |at: u32| {
        format!(
            "{{\"arrival_ms\": {at},\n \"input_tokens\": 10, \"output_tokens\": 2,\n \"note\": \"]}}, {{\\\"\"}}"
        )
    };
    let (a, b) = (row(0), row(500));
    for text in [
        format!("{a}\n{b}\n"),
        format!("[{a},{b}]"),
        format!("[\n\n{a}\n,\n{b}\n]\n"),
        format!("{}\n\n{}", a.replace('\n', ""), b.replace('\n', "")),
        format!("{{\"data\": [{a}, {b}], \"total\": 2}}"),
    ] {
        let trace = read_bytes("t", text.as_bytes(), &ReadOptions::default());
        let trace = trace.unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(lengths(&trace), [(0, 10, 2), (500, 10, 2)], "{text}");
    }
    let wrong = format!("[\n{a},\n{}]", b.replace("500", "-5"));
    let said = read_bytes("t", wrong.as_bytes(), &ReadOptions::default()).unwrap_err().to_string();
    assert!(said.starts_with("t:5: time -5"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A Parquet file with any damaged bytes is read or refused.
    #[test]
    fn damaged_parquet(
        compression in 0..3_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let compression = [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(Default::default()),
        ][compression];
        let mut bytes = parquet_file("NANOS", &[1_000, 2_000, 3_000], compression);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read_bytes("t", &bytes, &ReadOptions::default());
    }
}
