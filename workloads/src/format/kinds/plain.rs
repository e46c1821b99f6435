//! Tables and objects of no particular tool, recognised by the usual names of their columns.

use crate::format::kind::{Kind, Layout, Reader};

pub(super) const CSV: Kind = Kind {
    name: "csv",
    about: "a table with columns recognised by name, as CSV or Parquet",
    tells: |seen| seen.keys.is_none(),
    reader: Reader::Table(Layout::PLAIN),
    writer: None,
};

pub(super) const JSON: Kind = Kind {
    name: "json",
    about: "JSON objects with keys recognised by name",
    tells: |seen| seen.keys.is_some(),
    reader: Reader::Table(Layout::PLAIN),
    writer: None,
};
