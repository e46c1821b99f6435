//! Request bodies that come in chunks (RFC 9112, 7.1), as Go's and Node's clients send them.

/// The progress of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    /// All of it, and how many bytes of the input that was.
    Whole(Vec<u8>, usize),
    /// More is to come.
    Partial,
    /// The bytes are no chunked body.
    Broken(&'static str),
}

/// Reads the chunked body at the beginning of `input`, of `largest` bytes at most.
pub(super) fn read(input: &[u8], largest: usize) -> Chunked {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = line(&input[at..]) else { return partial(&input[at..]) };
        at += line.len() + 2;
        let size = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        let size =
            std::str::from_utf8(size).ok().filter(|s| s.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(size) = size.and_then(|s| usize::from_str_radix(s, 16).ok()) else {
            return Chunked::Broken("a chunk without a size");
        };
        if size == 0 {
            return match trailers(&input[at..]) {
                Some(length) => Chunked::Whole(body, at + length),
                None => Chunked::Partial,
            };
        }
        if size > largest - body.len() {
            return Chunked::Broken("a body larger than the mock accepts");
        }
        let Some(piece) = input.get(at..at + size + 2) else { return Chunked::Partial };
        if !piece.ends_with(b"\r\n") {
            return Chunked::Broken("a chunk without an end");
        }
        body.extend_from_slice(&piece[..size]);
        at += size + 2;
    }
}

/// The line at the beginning of `input` without its end; none while that has not arrived.
fn line(input: &[u8]) -> Option<&[u8]> {
    let end = input.windows(2).position(|w| w == b"\r\n")?;
    Some(&input[..end])
}

/// The line of a chunk's size is short, or it is no size.
fn partial(line: &[u8]) -> Chunked {
    if line.len() > 1 << 10 { Chunked::Broken("a chunk without a size") } else { Chunked::Partial }
}

/// Bytes of the trailers and of the empty line that ends them.
fn trailers(input: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = line(&input[at..])?;
        at += line.len() + 2;
        if line.is_empty() {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_once_it_is_whole() {
        let body = b"4\r\nWiki\r\n6;x=y\r\npedia \r\n0\r\nTrailer: 1\r\n\r\nGET /";
        let whole = body.len() - 5;
        assert_eq!(read(body, 100), Chunked::Whole(b"Wikipedia ".to_vec(), whole));
        assert!((0..whole).all(|end| read(&body[..end], 100) == Chunked::Partial));
        for bad in
            ["x\r\n", "\r\n", "4\r\nWikipedia", "ffff\r\n", "-1\r\n", "ffffffffffffffffff\r\n"]
        {
            assert!(matches!(read(bad.as_bytes(), 100), Chunked::Broken(_)), "{bad:?}");
        }
        assert!(matches!(read(&[b'0'; 2_000], 100), Chunked::Broken(_)));
    }
}
