//! Kernels compiled beforehand, so that a GPU's machine needs no compiler and waits for none: a file for each source and
//! architecture, named after what it was compiled from. A file that is not there, or is of another text, is not found,
//! and NVRTC compiles instead.
//!
//! `cargo run -p knee-kernels --example compile_cubins -- FOLDER` makes them, without a GPU. They are looked for in the program
//! itself (`build.rs` puts in what is in the folder that `KNEE_EMBED_CUBINS` names), in the folder that
//! `KNEE_CUBIN_DIR` names, and in `cubins` beside the program.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::error::CudaError;
use super::nvrtc;
use super::source::{HEADERS, Source};

include!(concat!(env!("OUT_DIR"), "/cubins.rs"));

/// The architectures that kernels are compiled for: Ampere, Ada, Hopper, and three Blackwells. A GPU takes code for its
/// own major version and a minor one that is no higher, so that 8.0's runs on 8.6 too.
pub const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120"];

/// The name of the file of `source` for `architecture`. Another text, header or option gives another name.
#[must_use]
pub fn file_name(source: &Source, architecture: &str) -> String {
    let texts = HEADERS.iter().flat_map(|&(name, text)| [name, text]);
    let texts = texts.chain(nvrtc::OPTIONS).chain([source.text.as_str()]);
    // FNV-1a, with an end after each text.
    let bytes = texts.flat_map(|text| text.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let stem = source.file.trim_end_matches(".cu");
    format!("{stem}-{architecture}-{hash:016x}.cubin")
}

/// Compiles `source` for `architecture` into `folder`, unless it is there; where it is.
///
/// # Errors
/// When there is no NVRTC, the source has errors, or the file cannot be written.
pub fn make(source: &Source, architecture: &str, folder: &Path) -> Result<PathBuf, CudaError> {
    let path = folder.join(file_name(source, architecture));
    if path.exists() {
        return Ok(path);
    }
    let compiled = nvrtc::compile(source, architecture)?;
    // Only a whole file takes the name.
    let half = path.with_extension(format!("{}", std::process::id()));
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&half, compiled.cubin))
        .and_then(|()| std::fs::rename(&half, &path));
    let reason = |error| format!("{}: {error}", path.display());
    written.map_err(|error| CudaError::Call { call: "writing a cubin", reason: reason(error) })?;
    Ok(path)
}

/// Machine code of `source` for a GPU of this compute capability: the newest that it takes.
pub(super) fn find(source: &Source, major: i32, minor: i32) -> Option<Cow<'static, [u8]>> {
    let folders = folders();
    (0..=minor).rev().find_map(|minor| {
        let name = file_name(source, &format!("sm_{major}{minor}"));
        let own = BUILT_IN.iter().find(|file| file.0 == name).map(|file| Cow::Borrowed(file.1));
        own.or_else(|| folders.iter().find_map(|folder| read(&folder.join(&name))))
    })
}

fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os("KNEE_CUBIN_DIR").map(PathBuf::from);
    let program = std::env::current_exe().ok();
    let beside = program.and_then(|program| Some(program.parent()?.join("cubins")));
    named.into_iter().chain(beside).collect()
}

/// A cubin, which is an ELF file.
fn read(path: &Path) -> Option<Cow<'static, [u8]>> {
    let bytes = std::fs::read(path).ok()?;
    bytes.starts_with(b"\x7fELF").then_some(Cow::Owned(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn a_cubins_name_depends_on_its_text_and_architecture() {
        let mut sources = source::all();
        let name = file_name(&sources[0], "sm_90");
        assert!(name.starts_with("rows-sm_90-") && name.ends_with(".cubin"), "{name}");
        assert_ne!(name, file_name(&sources[0], "sm_80"));
        sources[0].text.push(' ');
        assert_ne!(name, file_name(&sources[0], "sm_90"));
    }

    /// Of files beside the program, those of its text and of an architecture that the GPU takes.
    #[test]
    fn cubins_found_fit_the_text_and_the_gpu() {
        let program = std::env::current_exe().unwrap();
        let folder = program.parent().unwrap().join("cubins");
        std::fs::create_dir_all(&folder).unwrap();
        // A text of its own: tests of other programs in this folder find nothing of it.
        let text = format!("// {}", std::process::id());
        let source = Source { file: "made_up.cu", text, kernels: &[] };
        let write = |architecture: &str, bytes: &[u8]| {
            let path = folder.join(file_name(&source, architecture));
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let paths = [
            write("sm_80", b"\x7fELF 8.0"),
            write("sm_89", b"\x7fELF 8.9"),
            write("sm_90", b"half of a file"),
        ];
        let found = |major, minor| find(&source, major, minor).map(Cow::into_owned);
        assert_eq!(found(8, 0).unwrap(), b"\x7fELF 8.0");
        assert_eq!(found(8, 6).unwrap(), b"\x7fELF 8.0");
        assert_eq!(found(8, 9).unwrap(), b"\x7fELF 8.9");
        assert_eq!(found(9, 0), None, "it is not a cubin");
        assert_eq!(found(7, 5), None);
        let other = Source { text: "// another".to_owned(), ..source.clone() };
        assert_eq!(find(&other, 8, 9), None);
        paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        let _ = std::fs::remove_dir(&folder);
    }
}
