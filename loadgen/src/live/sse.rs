//! Server-sent events cut into lines, as the standard has them: LF, CR LF or CR, `field: value`, comments left out.
//!
//! A line that lies whole in what was read is passed on without a copy. Joining data lines into events is left to the
//! reader: a token is passed on with its own line, not with the blank one after it.

use memchr::memchr2;

/// Most bytes of a line or an event; a server that sends more is not streaming tokens.
pub(crate) const LONGEST: usize = 16 << 20;
/// The mark of UTF-8 that a stream may begin with.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The kinds of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// A line of the event's data.
    Data(&'a [u8]),
    /// The event's name.
    Name(&'a [u8]),
    /// An error beside all data, as some builds of llama.cpp send it.
    Error(&'a [u8]),
    /// The end of the event.
    End,
    /// None of the standard's lines.
    Stray(&'a [u8]),
}

/// Cuts a body into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// A line whose end has not arrived.
    partial: Vec<u8>,
    /// The line before ended in CR: a LF that follows is a part of that end.
    returned: bool,
    begun: bool,
}

impl Lines {
    /// Ready for another body.
    pub(crate) fn reset(&mut self) {
        self.partial.clear();
        (self.returned, self.begun) = (false, false);
    }

    /// Passes on every line that is complete now.
    ///
    /// # Errors
    /// A line longer than [`LONGEST`].
    pub(crate) fn feed(
        &mut self,
        mut piece: &[u8],
        take: &mut impl FnMut(Field<'_>),
    ) -> Result<(), String> {
        while let Some(end) = memchr2(b'\n', b'\r', piece) {
            let (line, returned) = (&piece[..end], piece[end] == b'\r');
            let rest_of_end = self.returned && end == 0 && !returned && self.partial.is_empty();
            if rest_of_end {
            } else if self.partial.is_empty() {
                self.line(line, take);
            } else {
                self.keep(line)?;
                let mut whole = std::mem::take(&mut self.partial);
                self.line(&whole, take);
                whole.clear();
                self.partial = whole;
            }
            self.returned = returned;
            piece = &piece[end + 1..];
        }
        self.returned &= piece.is_empty();
        self.keep(piece)
    }

    /// Keeps a part of a line whose end has not arrived.
    fn keep(&mut self, part: &[u8]) -> Result<(), String> {
        if self.partial.len() + part.len() > LONGEST {
            return Err(format!("a line of more than {} MiB in a stream of events", LONGEST >> 20));
        }
        self.partial.extend_from_slice(part);
        Ok(())
    }

    /// The body has ended: a last line may lack its end, and so may the last event.
    pub(crate) fn end(&mut self, take: &mut impl FnMut(Field<'_>)) {
        let partial = std::mem::take(&mut self.partial);
        if !partial.is_empty() {
            self.line(&partial, take);
        }
        take(Field::End);
    }

    fn line(&mut self, line: &[u8], take: &mut impl FnMut(Field<'_>)) {
        let begun = std::mem::replace(&mut self.begun, true);
        let line = if begun { line } else { line.strip_prefix(MARK).unwrap_or(line) };
        if let Some(field) = field(line) {
            take(field);
        }
    }
}

/// The kind of a line; none of a comment and of fields that are not read.
fn field(line: &[u8]) -> Option<Field<'_>> {
    if let Some(data) = line.strip_prefix(b"data:") {
        return Some(Field::Data(data.strip_prefix(b" ").unwrap_or(data)));
    }
    if line.is_empty() {
        return Some(Field::End);
    }
    let line = line.trim_ascii_start();
    let (name, value) = match line.iter().position(|b| *b == b':') {
        Some(colon) => (&line[..colon], line[colon + 1..].trim_ascii_start()),
        None => (line, &line[..0]),
    };
    match name {
        b"" if line.is_empty() => Some(Field::End),
        b"" | b"id" | b"retry" => None,
        b"data" => Some(Field::Data(value)),
        b"event" => Some(Field::Name(value)),
        b"error" => Some(Field::Error(value)),
        _ => Some(Field::Stray(line)),
    }
}

/// True if a body that begins with `bytes` is a stream of events; none while that cannot be told.
pub(crate) fn begins(bytes: &[u8]) -> Option<bool> {
    const FIRST: [&[u8]; 6] = [b"data:", b"event:", b"id:", b"retry:", b"error:", b":"];
    let bytes = bytes.strip_prefix(MARK).unwrap_or(bytes).trim_ascii_start();
    if FIRST.iter().any(|first| bytes.starts_with(first)) {
        return Some(true);
    }
    let open = bytes.is_empty() || FIRST.iter().any(|first| first.starts_with(bytes));
    (!open).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The fields of `text` cut at `cuts`, in words.
    fn fields(text: &[u8], cuts: &[usize]) -> Vec<String> {
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        let mut take = |field: Field<'_>| {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            got.push(match field {
                Field::Data(data) => text(data),
                Field::Name(name) => format!("={}", text(name)),
                Field::Error(error) => format!("!{}", text(error)),
                Field::Stray(line) => format!("?{}", text(line)),
                Field::End => ".".to_owned(),
            });
        };
        for pair in cuts.windows(2) {
            lines.feed(&text[pair[0]..pair[1]], &mut take).unwrap();
        }
        lines.end(&mut take);
        got
    }

    proptest! {
        #[test]
        fn cuts_and_line_ends_do_not_matter(
            lines in prop::collection::vec("(data: ?|event:|:|error: )?[a-z:]{0,9}", 0..20),
            end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            cuts in prop::collection::vec(0..400usize, 0..12),
        ) {
            let text = |end: &str| lines.iter().map(|l| format!("{l}{end}")).collect::<String>();
            let whole = fields(text("\n").as_bytes(), &[]);
            prop_assert_eq!(fields(text(end).as_bytes(), &cuts), whole);
        }
    }

    #[test]
    fn lines_are_told_apart() {
        let body = b"\xef\xbb\xbf: ping\r\nevent: x\r\ndata: 1\r\n\r\nid: 7\ndata:2\ndata\nretry: 3\n\n{\"a\": 1}\n data: 4\rerror: {5}\n\ndata: [DONE]";
        assert_eq!(
            fields(body, &[]),
            ["=x", "1", ".", "2", "", ".", "?{\"a\": 1}", "4", "!{5}", ".", "[DONE]", "."]
        );
    }

    #[test]
    fn a_stream_is_known_by_its_beginning() {
        for (bytes, is) in [
            ("data: x", Some(true)),
            ("\r\n\ndata:", Some(true)),
            (": ping", Some(true)),
            ("event: e", Some(true)),
            ("", None),
            (" da", None),
            ("data x", Some(false)),
            ("{\"a\":1}", Some(false)),
            ("<!doctype", Some(false)),
        ] {
            assert_eq!(begins(bytes.as_bytes()), is, "{bytes:?}");
        }
    }
}
