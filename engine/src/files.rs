//! Files read whole, up to a length they can sensibly have: a path may name a device without an end, or a sparse file
//! of a terabyte.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _};
use std::path::Path;

/// Bytes of a file that people write: profiles, shapes, knobs, settings. The longest that ships has 70 kB.
pub const LONGEST_SETTINGS: u64 = 16 << 20;

/// The bytes of the file at `path`, at most `most` of them.
///
/// # Errors
/// When it cannot be read, or is longer.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("longer than {most} bytes")));
    }
    Ok(bytes)
}

/// The same as text.
///
/// # Errors
/// Also when it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String, Error> {
    String::from_utf8(read(path, most)?)
        .map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_left_where_it_is_too_long() {
        let zero = Path::new("/dev/zero");
        assert_eq!(read(zero, 100).unwrap_err().to_string(), "longer than 100 bytes");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "añb").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "añb");
        assert!(read_text(&path, 3).is_err());
        std::fs::write(&path, b"a\xf1").unwrap();
        assert_eq!(read_text(&path, 4).unwrap_err().to_string(), "it is not UTF-8 text");
    }
}
