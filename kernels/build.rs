//! Puts kernels compiled beforehand into the program: the files of the folder that `KNEE_EMBED_CUBINS` names, or none.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=KNEE_EMBED_CUBINS");
    let mut table = String::from(
        "/// Files of machine code in the program itself, by name.\nconst BUILT_IN: &[(&str, &[u8])] = &[\n",
    );
    if let Some(folder) = std::env::var_os("KNEE_EMBED_CUBINS").map(PathBuf::from) {
        println!("cargo:rerun-if-changed={}", folder.display());
        let read = std::fs::read_dir(&folder);
        let entries =
            read.unwrap_or_else(|e| panic!("KNEE_EMBED_CUBINS {}: {e}", folder.display()));
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "cubin"));
        paths.sort();
        assert!(!paths.is_empty(), "KNEE_EMBED_CUBINS {}: no .cubin files", folder.display());
        for path in paths {
            let path = path.canonicalize().expect("it was just listed");
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            table.push_str(&format!("    ({name:?}, include_bytes!({path:?})),\n"));
        }
    }
    table.push_str("];\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where"));
    std::fs::write(out.join("cubins.rs"), table).expect("cargo's folder can be written to");
}
