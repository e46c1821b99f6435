//! Facts about a trace file that only its user knows.

use super::clock::DateOrder;
use super::known::Format;
use super::names::Mapping;
use super::time::TimeUnit;
use crate::TraceError;

/// Facts about a file that its content does not tell, said by the user.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// The format, where the content would be taken for another.
    pub format: Option<Format>,
    /// Unit of numbers in the time column; needed where a column is only called `timestamp` or the like.
    pub time_unit: Option<TimeUnit>,
    /// Arrivals per second for files without times: requests, conversations or sessions. Poisson.
    pub rate: Option<f64>,
    /// Tokens per hash id (Mooncake: 512 unless given), or per identity made from what else is known of prompts (16).
    pub block_tokens: Option<u32>,
    /// Keep requests that failed without a response, as requests of output 0.
    pub keep_failed: bool,
    /// Columns that are not called by what they hold.
    pub map: Vec<Mapping>,
    /// The order of day and month in dates with slashes, where no date tells.
    pub date_order: Option<DateOrder>,
    /// Seed of the arrivals that `rate` makes.
    pub seed: u64,
}

impl ReadOptions {
    /// Tokens per block identity in `file`, where `usual` is what its format has.
    pub(super) fn block_tokens(&self, file: &str, usual: u32) -> Result<u32, TraceError> {
        match self.block_tokens {
            Some(0) => Err(TraceError::file(file, "tokens per block must be at least 1")),
            given => Ok(given.unwrap_or(usual)),
        }
    }
}
