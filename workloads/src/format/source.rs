//! From a path, a pipe or bytes to what is in them: compression undone as it is read, and files that are no traces named
//! as what they are.

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::rc::Rc;

use super::text::{Text, broken};
use crate::TraceError;

/// The name of standard input.
const STDIN: &str = "-";

/// Bytes by which a file is told.
const BEGINNING: u64 = 512;

/// Compressed more often than this is refused: an archive in an archive has an end.
const LAYERS: u32 = 4;

/// Memory that an xz stream may ask for, KiB: what its strongest preset takes.
const XZ_MEMORY: u32 = 256 << 10;

/// Data that unpack to more bytes than this, and to more than so many times their size, are a bomb: traces shrink to a
/// tenth, a long one of few kinds of request to a fiftieth.
const BOMB_FROM: u64 = 128 << 20;
const BOMB_TIMES: u64 = 100;

/// More bytes of Parquet than this are not kept in memory (from a pipe, or unpacked).
const LARGEST_TABLE: u64 = 1 << 30;

/// A file, opened and recognised.
pub(crate) enum Content<'a> {
    /// CSV or JSON.
    Text(Text<'a>),
    /// A Parquet file where it lies.
    ParquetFile(File),
    /// A Parquet file in memory.
    ParquetBytes(Vec<u8>),
}

/// The name in messages of the file at `path`, or of standard input.
pub(crate) fn name(path: &Path) -> Cow<'_, str> {
    if path.as_os_str() == STDIN { "standard input".into() } else { path.to_string_lossy() }
}

/// The content of the file at `path`, or of standard input.
pub(crate) fn open(path: &Path) -> Result<Content<'static>, TraceError> {
    if path.as_os_str() == STDIN {
        return content(&name(path), Box::new(io::stdin().lock()));
    }
    let failed = |source| TraceError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let head = beginning(&mut file).map_err(failed)?;
    if head.starts_with(PARQUET) && file.metadata().is_ok_and(|m| m.is_file()) {
        return Ok(Content::ParquetFile(file));
    }
    content(&name(path), Box::new(Cursor::new(head).chain(file)))
}

/// The content of `reader`; `file` is its name for messages.
pub(crate) fn content<'a>(
    file: &str,
    mut reader: Box<dyn Read + 'a>,
) -> Result<Content<'a>, TraceError> {
    for _ in 0..LAYERS {
        let head = beginning(&mut reader).map_err(|e| broken(file, &e))?;
        let whole = Cursor::new(head.clone()).chain(reader);
        let Some(packing) = Packing::of(&head) else {
            if head.starts_with(PARQUET) {
                let mut bytes = Vec::new();
                let read = whole.take(LARGEST_TABLE + 1).read_to_end(&mut bytes);
                read.map_err(|e| broken(file, &e))?;
                if bytes.len() as u64 > LARGEST_TABLE {
                    let problem = "over 1 GiB of Parquet through a pipe or packed; give the file itself, unpacked";
                    return Err(TraceError::file(file, problem));
                }
                return Ok(Content::ParquetBytes(bytes));
            }
            if let Some((_, what)) = STRANGERS.iter().find(|(magic, _)| starts(&head, magic)) {
                return Err(TraceError::file(file, *what));
            }
            if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
                let problem = "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8)";
                return Err(TraceError::file(file, problem));
            }
            if head.get(257..262) == Some(b"ustar") {
                let problem = "a tar archive; unpack it and give its files or directory";
                return Err(TraceError::file(file, problem));
            }
            return Ok(Content::Text(Text::new(file, Box::new(BufReader::new(whole)))));
        };
        reader = packing.undone(BufReader::new(whole)).map_err(|e| broken(file, &e))?;
    }
    Err(TraceError::file(file, "packed more than four times over; unpack it first"))
}

fn beginning(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(BEGINNING).read_to_end(&mut head)?;
    Ok(head)
}

const PARQUET: &[u8] = b"PAR1";

/// The beginnings, in lower case, of known files that hold no trace, and the remedy.
const STRANGERS: &[(&str, &str)] = &[
    (
        "version https://git-lfs.github.com/",
        "a Git LFS pointer, not the file itself; fetch it (git lfs pull)",
    ),
    ("<!doctype html", "an HTML page, not a trace; download the file itself (the raw link)"),
    ("<html", "an HTML page, not a trace; download the file itself (the raw link)"),
    ("<?xml", "an XML document, often a download's error message; fetch the trace again"),
    ("sqlite format 3\0", "an SQLite database; export the table as CSV"),
    ("pk\x03\x04", "a zip archive or a spreadsheet (.xlsx); unpack it, or save the sheet as CSV"),
    ("arrow1", "an Arrow file; save it as Parquet or CSV"),
    ("%pdf-", "a PDF document, not a trace"),
    ("trace_version:", "the YAML header of a BLIS trace; give the CSV that was written beside it"),
];

fn starts(head: &[u8], magic: &str) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    head.get(..magic.len()).is_some_and(|h| h.eq_ignore_ascii_case(magic.as_bytes()))
}

/// A way to make files smaller.
#[derive(Clone, Copy)]
enum Packing {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Packing {
    fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9', b'1' | 0x17, ..] => Some(Self::Bzip2),
            _ => None,
        }
    }

    fn undone<'a>(self, packed: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        let taken = Rc::new(Cell::new(0));
        let packed = Counted { bytes: packed, taken: Rc::clone(&taken) };
        let (name, plain): (_, Box<dyn Read + 'a>) = match self {
            Self::Gzip => ("gzip", Box::new(flate2::bufread::MultiGzDecoder::new(packed))),
            Self::Zstd => ("zstd", Box::new(zstd::Decoder::with_buffer(packed)?)),
            Self::Xz => {
                ("xz", Box::new(lzma_rust2::XzReader::new_mem_limit(packed, true, XZ_MEMORY)))
            }
            Self::Bzip2 => ("bzip2", Box::new(bzip2::bufread::MultiBzDecoder::new(packed))),
        };
        Ok(Box::new(Unpacked { name, plain, given: 0, taken }))
    }
}

/// Bytes that are counted as they are taken.
struct Counted<R> {
    bytes: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(into)?;
        self.taken.set(self.taken.get() + read as u64);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.bytes.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.taken.set(self.taken.get() + bytes as u64);
        self.bytes.consume(bytes);
    }
}

/// Unpacked bytes, whose faults say what was damaged.
struct Unpacked<'a> {
    name: &'static str,
    plain: Box<dyn Read + 'a>,
    /// Bytes unpacked so far,
    given: u64,
    /// and the packed ones that they came from.
    taken: Rc<Cell<u64>>,
}

impl Read for Unpacked<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let name = self.name;
        let read = self.plain.read(into).map_err(|e| {
            io::Error::other(format!("damaged {name} data ({e}); fetch the file again"))
        })?;
        self.given += read as u64;
        if self.given > BOMB_FROM && self.given / BOMB_TIMES > self.taken.get() {
            return Err(io::Error::other(format!(
                "{name} data that unpack to more than {BOMB_TIMES} times their size, which no trace does; unpack the file first if it is one"
            )));
        }
        Ok(read)
    }
}
