//! Compiles all kernels for the GPUs that they are for, without one: `compile_cubins FOLDER [sm_90 ...]`. See
//! `kernels::cuda::cubin` for where they are looked for.

use std::path::PathBuf;

use kernels::cuda::{CudaError, cubin, source};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next().map(PathBuf::from) else {
        eprintln!("compile_cubins FOLDER [ARCHITECTURE ...], such as compile_cubins cubins sm_90");
        std::process::exit(2);
    };
    let mut architectures: Vec<String> = arguments.collect();
    if architectures.is_empty() {
        architectures = cubin::ARCHITECTURES.map(str::to_owned).to_vec();
    }
    if let Err(error) = make(&folder, &architectures) {
        eprintln!("compile_cubins: {error}");
        std::process::exit(1);
    }
}

fn make(folder: &std::path::Path, architectures: &[String]) -> Result<(), CudaError> {
    for architecture in architectures {
        let mut bytes = 0;
        for source in source::all() {
            let path = cubin::make(&source, architecture, folder)?;
            bytes += std::fs::metadata(path).map_or(0, |file| file.len());
        }
        println!("{architecture}: {:.2} MB", bytes as f64 / 1e6);
    }
    Ok(())
}
