//! Traffic to send, shared by the tests of servers.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A workload of short requests, as a file that lasts as long as the process.
pub(crate) fn workload() -> &'static Path {
    static FILE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("short.toml");
        let text = r#"
            schema = "knee.workload/1"
            name = "short"
            description = "Short requests"
            provenance = ["made up"]
            seed = 1
            [size]
            requests = 2000
            [arrival]
            process = "poisson"
            rate_rps = 100.0
            [lengths]
            input = { dist = "uniform", min = 5, max = 50 }
            output = { dist = "uniform", min = 2, max = 10 }
        "#;
        std::fs::write(&path, text).unwrap();
        (dir, path)
    });
    path
}
