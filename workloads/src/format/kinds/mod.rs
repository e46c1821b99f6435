//! The table of formats: a row for each, in the order in which they are recognised and listed. A row stands in the file
//! of its format.

mod azure;
mod bailian;
mod blis;
mod burstgpt;
mod jsonl;
mod llmservingsim;
mod logs;
mod mooncake;
mod plain;
mod sharegpt;
mod vidur;
mod weka;

pub(super) use weka::Sessions;

use super::kind::{Kind, Seen};
use super::known::Format;

static FORMATS: &[Kind] = &[
    jsonl::FORMAT,
    weka::FORMAT,
    azure::FORMAT,
    burstgpt::FORMAT,
    vidur::FORMAT,
    vidur::LENGTHS,
    sharegpt::FORMAT,
    bailian::FORMAT,
    blis::FORMAT,
    llmservingsim::FORMAT,
    mooncake::FORMAT,
    mooncake::GUIDELLM,
    logs::LITELLM,
    logs::LANGFUSE,
    logs::OTEL,
    logs::OPENAI,
    plain::CSV,
    plain::JSON,
];

/// The row of `format`.
pub(super) fn of(format: Format) -> &'static Kind {
    let found = FORMATS.iter().find(|row| row.name == format.0);
    found.expect("a format is made from its row")
}

/// The row of a file with these names: a table with names of any kind is the last resort.
pub(super) fn recognised(seen: &Seen<'_>) -> &'static Kind {
    FORMATS.iter().find(|row| (row.tells)(seen)).expect("plain tables tell of every file")
}

impl Format {
    /// Every format, in the order in which they are listed to people.
    pub fn all() -> impl Iterator<Item = Self> {
        FORMATS.iter().map(|row| Self(row.name))
    }

    /// Those that traces can be written in.
    pub fn written() -> impl Iterator<Item = Self> {
        FORMATS.iter().filter(|row| row.writer.is_some()).map(|row| Self(row.name))
    }

    /// The files it is for, in a line.
    #[must_use]
    pub fn about(self) -> &'static str {
        of(self).about
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let known = || Self::all().map(Self::name).collect::<Vec<_>>().join(", ");
        let meant = || crate::meant(s, Self::all().map(Self::name));
        Self::all()
            .find(|f| f.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| format!("unknown format {s:?}: {}use one of {}", meant(), known()))
    }
}
