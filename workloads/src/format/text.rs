//! Text as a stream: lines with their numbers, and JSON documents, one per line, in an array, or over several lines.
//!
//! Nothing is held but the piece at hand, and no piece may be longer than [`LONGEST`]: a packed file that unpacks
//! without end costs time, not memory.

use std::collections::VecDeque;
use std::io::{self, BufRead};

use crate::TraceError;

/// Longest line or JSON document, bytes.
const LONGEST: usize = 64 << 20;

/// More text than this is refused: what ends cannot be told from what does not.
const MOST: u64 = 8 << 30;

const NO_TEXT: &str = "not UTF-8 text; convert it (iconv -t UTF-8) or check that it is a trace";

/// A fault of the reader below. Its own words say what to do if it was ours.
pub(super) fn broken(file: &str, e: &io::Error) -> TraceError {
    TraceError::file(file, e.to_string())
}

/// A file's text, read once from beginning to end.
pub(crate) struct Text<'a> {
    pub file: String,
    reader: Box<dyn BufRead + 'a>,
    /// The line that the next byte is on.
    line: u64,
    read: u64,
    piece: Vec<u8>,
}

impl<'a> Text<'a> {
    pub(crate) fn new(file: &str, reader: Box<dyn BufRead + 'a>) -> Self {
        Self { file: file.to_owned(), reader, line: 1, read: 0, piece: Vec::new() }
    }

    /// The bytes at hand; none at the end.
    fn ready(&mut self) -> Result<&[u8], TraceError> {
        if self.read > MOST {
            return Err(TraceError::file(&self.file, "more than 8 GiB of text; cut it into parts"));
        }
        self.reader.fill_buf().map_err(|e| broken(&self.file, &e))
    }

    fn consume(&mut self, n: usize) {
        self.reader.consume(n);
        self.read += n as u64;
    }

    /// The first byte that is not white space; the line it is on is left as it is.
    pub(crate) fn begins_with(&mut self) -> Result<Option<u8>, TraceError> {
        if self.ready()?.starts_with(b"\xef\xbb\xbf") {
            self.consume(3);
        }
        loop {
            let ready = self.ready()?;
            let white = ready.iter().take_while(|b| b.is_ascii_whitespace()).count();
            let seen = ready.get(white).copied();
            let before = if seen.is_some() {
                ready[..white].iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1)
            } else {
                white
            };
            self.line += newlines(&ready[..before]);
            self.consume(before);
            if seen.is_some() || before == 0 {
                return Ok(seen);
            }
        }
    }

    /// The first byte that is not white space, and all before it consumed.
    fn next_visible(&mut self) -> Result<Option<u8>, TraceError> {
        loop {
            let ready = self.ready()?;
            if ready.is_empty() {
                return Ok(None);
            }
            let white = ready.iter().take_while(|b| b.is_ascii_whitespace()).count();
            let seen = ready.get(white).copied();
            self.line += newlines(&ready[..white]);
            self.consume(white);
            if seen.is_some() {
                return Ok(seen);
            }
        }
    }

    /// The next line without its end, and its number.
    pub(crate) fn next_line(&mut self) -> Result<Option<(u64, &str)>, TraceError> {
        self.piece.clear();
        let (line, mut any) = (self.line, false);
        loop {
            let ready = self.ready()?;
            if ready.is_empty() {
                break;
            }
            any = true;
            let end = ready.iter().position(|&b| b == b'\n');
            let n = end.map_or(ready.len(), |end| end + 1);
            self.take(n)?;
            if end.is_some() {
                self.line += 1;
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        let text = self.piece.strip_suffix(b"\n").unwrap_or(&self.piece);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        Ok(Some((line, text_of(&self.file, line, text)?)))
    }

    /// Moves the next `n` bytes at hand to the piece.
    fn take(&mut self, n: usize) -> Result<(), TraceError> {
        let ready = self.reader.fill_buf().map_err(|e| broken(&self.file, &e))?;
        if self.piece.is_empty() && ready[..n].contains(&0) {
            return Err(TraceError::line(&self.file, self.line, NO_TEXT));
        }
        self.piece.extend_from_slice(&ready[..n]);
        self.consume(n);
        if self.piece.len() > LONGEST {
            let problem = "longer than 64 MiB; a trace has a request or a session a line";
            return Err(TraceError::line(&self.file, self.line, problem));
        }
        Ok(())
    }

    /// Adds to the piece until the JSON value that begins there has ended, or the file has.
    fn value(&mut self, scan: &mut Scan) -> Result<(), TraceError> {
        while !scan.done {
            let ready = self.ready()?;
            if ready.is_empty() {
                break;
            }
            let n = scan.through(ready);
            let lines = newlines(&ready[..n]);
            self.take(n)?;
            self.line += lines;
        }
        Ok(())
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u64
}

fn text_of<'t>(file: &str, line: u64, bytes: &'t [u8]) -> Result<&'t str, TraceError> {
    std::str::from_utf8(bytes)
        .map_err(|e| TraceError::line(file, line + newlines(&bytes[..e.valid_up_to()]), NO_TEXT))
}

/// The search for the end of a JSON value: its brackets are closed outside of strings.
#[derive(Default)]
struct Scan {
    depth: u64,
    in_string: bool,
    escaped: bool,
    done: bool,
}

impl Scan {
    /// The number of `bytes` that belong to the value.
    fn through(&mut self, bytes: &[u8]) -> usize {
        for (at, &b) in bytes.iter().enumerate() {
            match b {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
                _ => continue,
            }
            if self.depth == 0 && !self.in_string && !self.escaped {
                self.done = true;
                return at + 1;
            }
        }
        bytes.len()
    }
}

/// A JSON document and the line it starts on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Document<'a> {
    pub line: u64,
    pub json: &'a str,
}

/// The way the documents of a file follow each other.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// One per line.
    Lines,
    /// Elements of an array.
    Array { first: bool },
    /// One after the other, over several lines each.
    Values,
    /// Nothing more to come.
    Over,
}

/// The JSON documents of a text.
pub(crate) struct Documents<'a> {
    text: Text<'a>,
    mode: Mode,
    /// The piece holds the first document already.
    ready: Option<u64>,
    /// Documents that were looked at ahead of their turn, and the one at hand.
    ahead: VecDeque<(u64, String)>,
    at_hand: String,
}

/// So many documents, of so many bytes together, are looked at to tell a format.
const AHEAD: (usize, usize) = (32, 1 << 20);

impl<'a> Documents<'a> {
    /// Looks at the first document to see how they follow each other.
    pub(crate) fn new(mut text: Text<'a>) -> Result<Self, TraceError> {
        if text.next_visible()? == Some(b'[') {
            text.consume(1);
            return Ok(Self::of(text, Mode::Array { first: true }, None));
        }
        let mut scan = Scan::default();
        let line = text.line;
        let whole = match text.next_line()? {
            Some((_, first)) => {
                let first = first.trim_end();
                scan.through(first.as_bytes()) == first.len() && scan.done
            }
            None => true,
        };
        let is_object = text.piece.starts_with(b"{");
        if is_object && !scan.done {
            text.value(&mut scan)?;
        }
        let mode = if whole || !is_object { Mode::Lines } else { Mode::Values };
        let ready = (!text.piece.is_empty()).then_some(line);
        Ok(Self::of(text, mode, ready))
    }

    fn of(text: Text<'a>, mode: Mode, ready: Option<u64>) -> Self {
        Self { text, mode, ready, ahead: VecDeque::new(), at_hand: String::new() }
    }

    /// The first documents, which stay to be read.
    pub(crate) fn first(&mut self) -> Result<Vec<Document<'_>>, TraceError> {
        let mut size = 0;
        while self.ahead.len() < AHEAD.0 && size < AHEAD.1 {
            let Some(Document { line, json }) = self.unread()? else { break };
            let json = json.to_owned();
            size += json.len();
            self.ahead.push_back((line, json));
        }
        Ok(self.ahead.iter().map(|(line, json)| Document { line: *line, json }).collect())
    }

    pub(crate) fn file(&self) -> &str {
        &self.text.file
    }

    pub(crate) fn next_document(&mut self) -> Result<Option<Document<'_>>, TraceError> {
        match self.ahead.pop_front() {
            Some((line, json)) => {
                self.at_hand = json;
                Ok(Some(Document { line, json: &self.at_hand }))
            }
            None => self.unread(),
        }
    }

    fn unread(&mut self) -> Result<Option<Document<'_>>, TraceError> {
        let line = match self.ready.take() {
            Some(line) => Some(line),
            None => self.advance()?,
        };
        let Some(line) = line else { return Ok(None) };
        let json = text_of(&self.text.file, line, self.text.piece.trim_ascii())?;
        Ok(Some(Document { line, json }))
    }

    /// Fills the piece with the next document and says on which line that starts.
    fn advance(&mut self) -> Result<Option<u64>, TraceError> {
        let text = &mut self.text;
        let next = if self.mode == Mode::Over { None } else { text.next_visible()? };
        let line = text.line;
        text.piece.clear();
        let wrong = |problem: &str| Err(TraceError::line(&text.file, line, problem));
        match (self.mode, next) {
            (Mode::Over, _) | (Mode::Lines | Mode::Values, None) => Ok(None),
            (Mode::Lines, Some(_)) => {
                text.next_line()?;
                Ok(Some(line))
            }
            (Mode::Values, Some(_)) => {
                text.value(&mut Scan::default())?;
                Ok(Some(line))
            }
            (Mode::Array { .. }, None) => {
                wrong("the list is cut off: fetch the file again, or close it with ]")
            }
            (Mode::Array { .. }, Some(b']')) => {
                text.consume(1);
                self.mode = Mode::Over;
                match text.next_visible()? {
                    None => Ok(None),
                    Some(_) => Err(TraceError::line(
                        &text.file,
                        text.line,
                        "not the JSON expected: something follows the end of the list",
                    )),
                }
            }
            (Mode::Array { first: false }, Some(b',')) => {
                text.consume(1);
                self.mode = Mode::Array { first: true };
                self.advance()
            }
            (Mode::Array { first: true }, Some(b'{')) => {
                text.value(&mut Scan::default())?;
                self.mode = Mode::Array { first: false };
                Ok(Some(line))
            }
            (Mode::Array { .. }, Some(_)) => {
                wrong("not the JSON expected: a list of objects, with commas between them")
            }
        }
    }
}

/// A syntax or type error of a document that starts on `line`.
pub(crate) fn bad_json(file: &str, line: u64, e: &serde_json::Error) -> TraceError {
    let at = line + (e.line() as u64).saturating_sub(1);
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
