//! The identity of this program.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::OnceLock;

use super::Fnv;

/// The version and a hash of the executable: programs of one version may still compute different results, and what one
/// has computed is not the other's.
#[must_use]
pub fn build() -> &'static str {
    static BUILD: OnceLock<String> = OnceLock::new();
    BUILD.get_or_init(|| {
        let version = env!("CARGO_PKG_VERSION");
        // The first is this very program, even where its file has been replaced since.
        let opened = File::open("/proc/self/exe").or_else(|_| File::open(std::env::current_exe()?));
        match opened.and_then(hash) {
            Ok(hash) => format!("{version} {hash}"),
            Err(_) => format!("{version}, its executable not readable"),
        }
    })
}

/// A hash of the content of the regular file at `path`.
///
/// # Errors
/// When it is no such file, or cannot be read.
pub fn digest_of(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if file.metadata()?.is_file() { hash(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// A hash of a whole file.
fn hash(mut file: File) -> io::Result<String> {
    let (mut hash, mut bytes) = (Fnv::new(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut bytes)?;
        if n == 0 {
            return Ok(hash.digest());
        }
        // Eight bytes at a time: executables are large.
        let (words, rest) = bytes[..n].as_chunks::<8>();
        words.iter().for_each(|word| hash.take(u64::from_le_bytes(*word)));
        hash.eat(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_is_another_build() {
        assert!(build().starts_with(env!("CARGO_PKG_VERSION")) && build().len() > 16);
        let of = |path: &Path| hash(File::open(path).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let mut program = vec![7; 3_000_001];
        let mut seen = std::collections::HashSet::new();
        for at in [0, 1, 2_000_000, 3_000_000] {
            program[at] += 1;
            std::fs::write(&path, &program).unwrap();
            assert!(seen.insert(of(&path)), "byte {at}");
        }
    }
}
