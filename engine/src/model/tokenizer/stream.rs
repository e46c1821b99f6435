//! Text as it comes, token by token: whole characters only, and no beginning of a possible stop string.

/// Bytes in, whole characters out: all pieces together are the text that decoding everything at once gives.
#[derive(Debug, Clone, Default)]
pub struct Characters {
    /// The beginning of a character whose end has not come.
    pending: Vec<u8>,
}

impl Characters {
    /// Appends the characters that `bytes` complete to `out`; bytes that can never become one are U+FFFD.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(wrong) = error.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[wrong..];
                }
            }
        }
        self.pending = rest.to_vec();
    }

    /// Nothing more will come: a character left in the middle is U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.pending)));
    }
}

/// Looks for the first of several strings in a text that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    stops: Vec<String>,
    /// Text not given out, because a stop string may begin in it.
    held: String,
}

impl Stops {
    /// Looks for `stops`; empty ones are never found.
    #[must_use]
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new() }
    }

    /// Takes `text` in and appends to `out` the part before any stop string. Returns true if one was found; the text
    /// after it is dropped.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stops.is_empty() {
            out.push_str(text);
            return false;
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        let end = found.unwrap_or_else(|| self.safe());
        out.push_str(&self.held[..end]);
        self.held.drain(..end);
        found.is_some()
    }

    /// Bytes of the held text in which no stop string begins.
    fn safe(&self) -> usize {
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let starts = self.held.char_indices().map(|(at, _)| at);
        starts.into_iter().find(begins).unwrap_or(self.held.len())
    }

    /// The text has ended: the held part is no stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&std::mem::take(&mut self.held));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that are often characters, cut anywhere.
    fn cuts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let text = prop_oneof![
            "[a-c€😀é ]{0,6}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(text, 0..8).prop_flat_map(|parts| {
            let bytes = parts.concat();
            let cuts = prop::collection::vec(0..=bytes.len(), 0..12);
            (Just(bytes), cuts).prop_map(|(bytes, mut cuts)| {
                cuts.extend([0, bytes.len()]);
                cuts.sort_unstable();
                cuts.windows(2).map(|w| bytes[w[0]..w[1]].to_vec()).collect()
            })
        })
    }

    proptest! {
        #[test]
        fn pieces_add_up_to_the_whole(pieces in cuts()) {
            let (mut characters, mut out) = (Characters::default(), String::new());
            for piece in &pieces {
                characters.push(piece, &mut out);
                prop_assert!(characters.pending.len() < 4);
            }
            characters.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&pieces.concat()).into_owned());
        }

        #[test]
        fn text_ends_before_the_first_stop(
            pieces in prop::collection::vec("[abc€]{0,3}", 0..10),
            stops in prop::collection::vec("[abc€]{0,4}", 0..4),
        ) {
            let whole = pieces.concat();
            let (mut scan, mut out, mut stopped) = (Stops::new(stops.clone()), String::new(), false);
            for piece in &pieces {
                stopped = scan.push(piece, &mut out);
                prop_assert!(whole.starts_with(&out));
                if stopped {
                    break;
                }
            }
            if !stopped {
                scan.finish(&mut out);
            }
            let wanted: Vec<&String> = stops.iter().filter(|s| !s.is_empty()).collect();
            prop_assert_eq!(stopped, wanted.iter().any(|s| whole.contains(s.as_str())));
            prop_assert!(!wanted.iter().any(|s| out.contains(s.as_str())));
            if stopped {
                prop_assert!(wanted.iter().any(|s| whole[out.len()..].starts_with(s.as_str())));
            } else {
                prop_assert_eq!(&out, &whole);
            }
        }
    }
}
