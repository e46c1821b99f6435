//! Files into bytes, bytes into text: gzip undone, encoding checked, line numbers kept, JSON documents told apart.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::value::RawValue;

use crate::TraceError;

/// More text than this is refused rather than swapped to death (or unpacked from a malicious archive).
const LONGEST: u64 = 4 << 30;

const GZIP: &[u8] = &[0x1f, 0x8b];

/// Bytes by which a file of something else is told: a device has no end to wait for.
const BEGINNING: u64 = 4096;

const NO_TEXT: &str = "not UTF-8 text; convert it (iconv -t UTF-8) or check that it is a trace";

/// The content of a file or pipe.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, TraceError> {
    let failed = |source| TraceError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.by_ref().take(BEGINNING).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.contains(&0) && !bytes.starts_with(GZIP) && !is_tar(&bytes) {
        return Err(TraceError::line(&path.to_string_lossy(), 1, NO_TEXT));
    }
    file.take(LONGEST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// The content of a file as text, without byte-order mark.
pub(crate) fn text<'a>(file: &str, bytes: &'a [u8]) -> Result<Cow<'a, str>, TraceError> {
    let plain = if bytes.starts_with(GZIP) {
        let mut unpacked = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).take(LONGEST).read_to_end(&mut unpacked).map_err(
            |e| TraceError::file(file, format!("damaged gzip data ({e}); fetch the file again")),
        )?;
        Cow::Owned(unpacked)
    } else {
        Cow::Borrowed(bytes)
    };
    if plain.len() as u64 >= LONGEST {
        return Err(TraceError::file(file, "more than 4 GiB of text; cut it into parts"));
    }
    if is_tar(&plain) {
        return Err(TraceError::file(
            file,
            "a tar archive; unpack it and give its files or directory",
        ));
    }
    let text = match plain {
        Cow::Borrowed(b) => {
            Cow::Borrowed(std::str::from_utf8(b).map_err(|e| not_text(file, b, &e))?)
        }
        Cow::Owned(v) => Cow::Owned(
            String::from_utf8(v).map_err(|e| not_text(file, e.as_bytes(), &e.utf8_error()))?,
        ),
    };
    let text = match text {
        Cow::Borrowed(s) => Cow::Borrowed(s.strip_prefix('\u{feff}').unwrap_or(s)),
        Cow::Owned(s) if s.starts_with('\u{feff}') => {
            Cow::Owned(s['\u{feff}'.len_utf8()..].to_owned())
        }
        owned @ Cow::Owned(_) => owned,
    };
    if text.trim().is_empty() {
        return Err(TraceError::file(file, "empty: there are no requests in it"));
    }
    Ok(text)
}

fn not_text(file: &str, bytes: &[u8], e: &std::str::Utf8Error) -> TraceError {
    let before = &bytes[..e.valid_up_to()];
    let line = 1 + before.iter().filter(|&&b| b == b'\n').count() as u64;
    TraceError::line(file, line, NO_TEXT)
}

/// A JSON document and the line it starts on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Document<'a> {
    pub line: u64,
    pub json: &'a str,
}

/// The elements of a JSON array, or one document per line, or a single document over several lines.
pub(crate) fn documents<'a>(file: &str, text: &'a str) -> Result<Vec<Document<'a>>, TraceError> {
    if text.trim_start().starts_with('[') {
        let elements: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|e| bad_json(file, 0, &e))?;
        let mut line = 1;
        let mut seen = 0;
        return Ok(elements
            .into_iter()
            .map(|element| {
                let json = element.get();
                let offset = json.as_ptr().addr() - text.as_ptr().addr();
                line += newlines(&text[seen..offset]);
                seen = offset;
                Document { line, json }
            })
            .collect());
    }
    let lines: Vec<_> = text
        .lines()
        .zip(1..)
        .map(|(json, line)| Document { line, json: json.trim() })
        .filter(|d| !d.json.is_empty())
        .collect();
    let one_per_line = lines.first().is_some_and(|d| d.json.ends_with('}')) || lines.len() == 1;
    if one_per_line { Ok(lines) } else { Ok(vec![Document { line: 1, json: text }]) }
}

fn newlines(text: &str) -> u64 {
    text.bytes().filter(|&b| b == b'\n').count() as u64
}

/// A syntax or type error of a document that starts on `line` (0 when its own line numbers are the file's).
pub(crate) fn bad_json(file: &str, line: u64, e: &serde_json::Error) -> TraceError {
    let at = if line == 0 {
        (e.line() as u64).max(1)
    } else {
        line + (e.line() as u64).saturating_sub(1)
    };
    let advice = if e.is_eof() { "; it is cut off: delete it or fetch the file again" } else { "" };
    // serde_json repeats the position, which is relative to the document: ours is the file's.
    let text = e.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    TraceError::line(
        file,
        at,
        format!("not the JSON expected ({what}, column {}){advice}", e.column()),
    )
}
