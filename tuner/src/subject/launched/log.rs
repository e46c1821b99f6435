//! A server's output, in a file that stays small at any length: its beginning, and its end.

use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread::JoinHandle;

/// Bytes kept of the beginning, where a server says how it was configured.
const HEAD: u64 = 1 << 20;
/// Most bytes kept of the end, where it says why it failed; at least half as many are.
const TAIL: usize = 1 << 20;

/// A log file. It can be read at any moment.
struct Log {
    file: File,
    /// Bytes of the beginning.
    head: u64,
    /// The end, as it is in the file.
    tail: Vec<u8>,
    /// Bytes between the two that are not kept.
    left_out: u64,
}

/// Writes what comes out of `pipe` into a new file at `path`, until every writer has closed it.
pub(super) fn keep(mut pipe: PipeReader, path: &Path) -> io::Result<JoinHandle<()>> {
    let mut log = Log { file: File::create(path)?, head: 0, tail: Vec::new(), left_out: 0 };
    std::thread::Builder::new().name("log".to_owned()).spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(n @ 1..) = pipe.read(&mut bytes) {
            // A full disk does not keep the server waiting.
            let _ = log.take(&bytes[..n]);
        }
    })
}

impl Log {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = (HEAD - self.head).min(bytes.len() as u64);
        let (first, rest) = bytes.split_at(room as usize);
        self.head += room;
        self.file.write_all(first)?;
        self.tail.extend_from_slice(rest);
        if self.tail.len() <= TAIL {
            return self.file.write_all(rest);
        }
        let old = self.tail.len() - TAIL / 2;
        // A line is kept whole or not at all, unless it is very long.
        let line = self.tail[old..].iter().take(TAIL / 4).position(|b| *b == b'\n');
        let old = old + line.map_or(0, |at| at + 1);
        self.tail.drain(..old);
        self.left_out += old as u64;
        self.file.set_len(self.head)?;
        self.file.seek(SeekFrom::Start(self.head))?;
        write!(self.file, "\n[{} bytes are left out here]\n", self.left_out)?;
        self.file.write_all(&self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_and_the_end_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (reader, mut writer) = io::pipe().unwrap();
        let done = keep(reader, &path).unwrap();
        let said: String = (0..500_000).map(|i| format!("line {i} of them\n")).collect();
        writer.write_all(said.as_bytes()).unwrap();
        drop(writer);
        done.join().unwrap();
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept.len() < HEAD as usize + TAIL + 100 && said.len() > 3 * kept.len());
        let (head, rest) = kept.split_once("\n[").unwrap();
        let (left_out, tail) = rest.split_once(" bytes are left out here]\n").unwrap();
        assert!(said.starts_with(head) && said.ends_with(tail) && tail.starts_with("line "));
        let whole = head.len() + tail.len() + left_out.parse::<usize>().unwrap();
        assert_eq!(whole, said.len(), "what is left out is counted");
    }

    #[test]
    fn a_short_log_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (reader, mut writer) = io::pipe().unwrap();
        let done = keep(reader, &path).unwrap();
        writer.write_all(b"one\ntwo").unwrap();
        drop(writer);
        done.join().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo");
    }
}
