//! Files made smaller, now and then into bombs, and tables as Parquet.

use std::io::Write as _;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::mutate::{Random, damaged};
use crate::targets::Finish;

/// A way to make bytes fewer.
type Pack = fn(&[u8]) -> Vec<u8>;

pub(crate) const GZIP: Finish = |random, bytes| packed(random, &bytes, gzip);
pub(crate) const ZSTD: Finish = |random, bytes| packed(random, &bytes, zstd);
pub(crate) const XZ: Finish = |random, bytes| packed(random, &bytes, xz);
pub(crate) const BZIP2: Finish = |random, bytes| packed(random, &bytes, bzip2);

/// One in four gzipped.
pub(crate) const SOMETIMES: Finish =
    |random, bytes| if random.below(4) == 0 { GZIP(random, bytes) } else { bytes };

/// As the file's name says; its first bytes tell.
pub(crate) const AS_NAMED: Finish = |random, bytes| {
    if bytes.starts_with(&[0x1f, 0x8b]) && random.below(60) == 0 {
        bomb(random, &[], gzip)
    } else {
        bytes
    }
};

/// Packed; now and then damaged again, or a bomb.
fn packed(random: &mut Random, bytes: &[u8], pack: Pack) -> Vec<u8> {
    match random.below(40) {
        0 => bomb(random, bytes, pack),
        1..=15 => damaged(random, &pack(bytes), &[]),
        _ => pack(bytes),
    }
}

/// Some megabytes that unpack to ten gigabytes: of nothing, of spaces, or of the file's last line.
fn bomb(random: &mut Random, bytes: &[u8], pack: Pack) -> Vec<u8> {
    let line = bytes.split_inclusive(|b| *b == b'\n').next_back().unwrap_or(b"0,1,1\n");
    let part = match random.below(4) {
        0 => vec![0; 16 << 20],
        1 => vec![b' '; 16 << 20],
        _ => line.repeat((16 << 20) / line.len().max(1)),
    };
    let (first, member) = (pack(bytes), pack(&part));
    let most = ((64 << 20) / member.len()).min((10 << 30) / part.len().max(1));
    [first, member.repeat(most)].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("memory can be written");
    gzip.finish().expect("memory can be written")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory can be written")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(0);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).expect("a preset");
    xz.write_all(bytes).expect("memory can be written");
    xz.finish().expect("memory can be written")
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(bytes).expect("memory can be written");
    bzip2.finish().expect("memory can be written")
}

/// A table in CSV as Parquet: columns are numbers where the first row has one, else text.
pub(crate) fn parquet(csv: &str) -> Vec<u8> {
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let (names, rows) = (rows.next().expect("a header"), rows.collect::<Vec<_>>());
    let number = |column: usize| rows[0][column].parse::<f64>().is_ok();
    let field = |(column, name): (usize, &&str)| match number(column) {
        true => format!("required double {name};"),
        false => format!("required binary {name} (UTF8);"),
    };
    let fields: Vec<String> = names.iter().enumerate().map(field).collect();
    let schema = format!("message table {{ {} }}", fields.join(" "));
    let schema = Arc::new(parse_message_type(&schema).expect("a schema"));
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let settings = Arc::new(WriterProperties::builder().set_compression(zstd).build());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, settings).expect("a writer");
    let mut group = file.next_row_group().expect("a group of rows");
    for column in 0..names.len() {
        let mut writer = group.next_column().expect("a column").expect("of the schema");
        let texts = rows.iter().map(|row| row[column]);
        if number(column) {
            let values: Vec<f64> = texts.map(|x| x.parse().expect("a number")).collect();
            writer.typed::<DoubleType>().write_batch(&values, None, None)
        } else {
            let values: Vec<ByteArray> = texts.map(ByteArray::from).collect();
            writer.typed::<ByteArrayType>().write_batch(&values, None, None)
        }
        .expect("as many values as rows");
        writer.close().expect("a column");
    }
    group.close().expect("a group of rows");
    file.into_inner().expect("a file")
}
