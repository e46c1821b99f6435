//! The head of a GGUF file, walked through before it is read: the reader divides by the alignment that a file states, and
//! keeps every element of a list in dozens of bytes.

use std::io::{BufRead, Error, ErrorKind, Read, Seek};

/// Elements of all lists together: twenty times the longest vocabulary's words, kinds and merges.
const MOST_ELEMENTS: u64 = 1 << 25;
/// Lists in lists; no known key has any.
const DEEPEST: u32 = 4;
/// Bytes of a word of the vocabulary. Cutting a word everywhere, as merges are found, takes the square of its length;
/// the longest in use are runs of a hundred spaces.
pub(super) const LONGEST_WORD: usize = 1024;

/// Walks through the metadata at `reader`, which is left anywhere.
///
/// # Errors
/// The fault in it, in words, or the reason for which it cannot be read.
pub(super) fn check(reader: &mut (impl BufRead + Seek)) -> Result<(), Error> {
    let mut walk = Walk { reader, elements: 0, narrow: false };
    let [magic, version] = [walk.u32()?, walk.u32()?];
    if magic != u32::from_le_bytes(*b"GGUF") || !(1..=3).contains(&version) {
        return Err(bad("its first bytes are not GGUF of version 1 to 3"));
    }
    walk.narrow = version == 1;
    let (_tensors, entries) = (walk.length()?, walk.length()?);
    for _ in 0..entries {
        let length = walk.length()?;
        let is_alignment =
            length == ALIGNMENT.len() as u64 && walk.text(ALIGNMENT.len())? == ALIGNMENT;
        if length != ALIGNMENT.len() as u64 {
            walk.skip(length)?;
        }
        let kind = walk.u32()?;
        let value = walk.value(kind, 0)?;
        if is_alignment && value == Some(0) {
            return Err(bad("general.alignment = 0: expected a power of two, such as 32"));
        }
    }
    Ok(())
}

const ALIGNMENT: &[u8] = b"general.alignment";

fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, what.into())
}

struct Walk<'a, R> {
    reader: &'a mut R,
    elements: u64,
    /// Version 1 counts in four bytes.
    narrow: bool,
}

impl<R: BufRead + Seek> Walk<'_, R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn length(&mut self) -> Result<u64, Error> {
        if self.narrow { Ok(self.u32()?.into()) } else { Ok(u64::from_le_bytes(self.bytes()?)) }
    }

    fn text(&mut self, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills `bytes`; a file that is too short for it has ended, and says so.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.reader.read_exact(bytes).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => ErrorKind::UnexpectedEof.into(),
            _ => e,
        })
    }

    /// Goes on by `length` bytes, or fails at the end of the file.
    fn skip(&mut self, length: u64) -> Result<(), Error> {
        let passed = std::io::copy(&mut self.reader.by_ref().take(length), &mut std::io::sink())?;
        if passed == length { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Passes a value of the type `kind`; a whole number is returned.
    fn value(&mut self, kind: u32, depth: u32) -> Result<Option<u64>, Error> {
        match kind {
            0 | 1 | 7 => Ok(Some(self.bytes::<1>()?[0].into())),
            2 | 3 => Ok(Some(u16::from_le_bytes(self.bytes()?).into())),
            4 | 5 => Ok(Some(self.u32()?.into())),
            6 => self.skip(4).map(|()| None),
            8 => {
                let length = self.length()?;
                self.skip(length).map(|()| None)
            }
            9 => self.list(depth).map(|()| None),
            10..=12 => self.skip(8).map(|()| None),
            other => Err(bad(format!("a value of unknown type {other}"))),
        }
    }

    fn list(&mut self, depth: u32) -> Result<(), Error> {
        let (kind, length) = (self.u32()?, self.length()?);
        self.elements = self.elements.saturating_add(length);
        if self.elements > MOST_ELEMENTS || depth >= DEEPEST {
            return Err(bad(format!("its lists hold more than {MOST_ELEMENTS} values")));
        }
        (0..length).try_for_each(|_| self.value(kind, depth + 1).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A file of version 3 without tensors, with these entries of metadata.
    fn file(entries: &[Vec<u8>]) -> Vec<u8> {
        let counts = [0, entries.len() as u64].map(u64::to_le_bytes).concat();
        [b"GGUF\x03\0\0\0".to_vec(), counts, entries.concat()].concat()
    }

    fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        let length = (key.len() as u64).to_le_bytes();
        [&length[..], key.as_bytes(), &kind.to_le_bytes(), value].concat()
    }

    fn said(bytes: Vec<u8>) -> String {
        check(&mut Cursor::new(bytes)).map_or_else(|e| e.to_string(), |()| "sound".to_owned())
    }

    #[test]
    fn headers_that_the_reader_cannot_bear_are_refused() {
        let alignment = |n: u32| entry("general.alignment", 4, &n.to_le_bytes());
        let text = entry("a", 8, &[&3_u64.to_le_bytes()[..], b"abc"].concat());
        assert_eq!(said(file(&[text.clone(), alignment(32)])), "sound");
        assert!(said(file(&[text.clone(), alignment(0)])).starts_with("general.alignment = 0"));
        let list = |kind: u32, n: u64| [&kind.to_le_bytes()[..], &n.to_le_bytes()].concat();
        assert!(said(file(&[entry("a", 9, &list(7, 1 << 30))])).contains("more than 33554432"));
        let nested = list(9, 1).repeat(100_000);
        assert!(said(file(&[entry("a", 9, &nested)])).contains("its lists"));
        for cut in [file(&[text])[..20].to_vec(), file(&[entry("a", 8, &[0xff; 8])])] {
            assert!(said(cut).contains("end of file"));
        }
        assert!(said(file(&[entry("a", 13, &[])])).contains("unknown type 13"));
        assert!(said(b"GGML".repeat(9)).contains("first bytes"));
    }
}
