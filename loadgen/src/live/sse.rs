//! Server-sent events, as far as OpenAI's streams use them: lines that begin with `data:`, one message each.
//!
//! A line that lies whole in what was read is passed on without a copy.

use memchr::memchr;

/// Most bytes of a line; a server that sends more is not streaming tokens.
const LONGEST: usize = 16 << 20;

/// Cuts a body into messages.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// A line whose end has not arrived.
    partial: Vec<u8>,
}

impl Lines {
    /// Ready for another body.
    pub(crate) fn reset(&mut self) {
        self.partial.clear();
    }

    /// Passes on the data of every line that is complete now.
    pub(crate) fn feed(&mut self, mut piece: &[u8], message: &mut impl FnMut(&[u8])) {
        while let Some(end) = memchr(b'\n', piece) {
            if self.partial.is_empty() {
                data(&piece[..end]).into_iter().for_each(&mut *message);
            } else {
                self.partial.extend_from_slice(&piece[..end]);
                data(&self.partial).into_iter().for_each(&mut *message);
                self.partial.clear();
            }
            piece = &piece[end + 1..];
        }
        if self.partial.len() + piece.len() <= LONGEST {
            self.partial.extend_from_slice(piece);
        }
    }

    /// The body has ended: a last line may lack its end.
    pub(crate) fn end(&mut self, message: &mut impl FnMut(&[u8])) {
        let partial = std::mem::take(&mut self.partial);
        data(&partial).into_iter().for_each(message);
    }
}

fn data(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let data = line.strip_prefix(b"data:")?;
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            lines in prop::collection::vec("(data: ?)?[a-z\r:]{0,9}", 0..20),
            cuts in prop::collection::vec(0..400usize, 0..12),
        ) {
            let text = lines.join("\n");
            let expected: Vec<&[u8]> = text.split('\n').filter_map(|l| data(l.as_bytes())).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut parser, mut got) = (Lines::default(), Vec::new());
            for pair in cuts.windows(2) {
                parser.feed(&text.as_bytes()[pair[0]..pair[1]], &mut |m| got.push(m.to_vec()));
            }
            parser.end(&mut |m| got.push(m.to_vec()));
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn other_lines_are_not_messages() {
        let (mut parser, mut got) = (Lines::default(), Vec::new());
        let body = b": ping\r\nevent: x\r\ndata: 1\r\n\r\nid: 7\ndata:2\n\ndata: [DONE]\n\n";
        parser.feed(body, &mut |m| got.push(String::from_utf8_lossy(m).into_owned()));
        assert_eq!(got, ["1", "2", "[DONE]"]);
    }
}
