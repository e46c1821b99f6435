//! A format by its name. What it can do is its row in the table of formats ([`super::kinds`]).

/// A trace file's format. The file itself tells whether it is CSV, JSON or Parquet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format(pub(super) &'static str);

impl Format {
    /// Its name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.0)
    }
}
