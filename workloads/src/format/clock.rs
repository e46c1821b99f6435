//! A file's clock: one unit, one order of day and month, one way to say zones, for all of its rows.
//!
//! A question that one row leaves open another may settle; one that none settles is refused with its readings.

use super::date::{Reading, date_time, is_date};
use super::time::TimeUnit;
use super::time::nanoseconds;

/// The order of day and month in a date with slashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateOrder {
    /// 31/12/2025.
    DayFirst,
    /// 12/31/2025.
    MonthFirst,
}

impl std::str::FromStr for DateOrder {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "dmy" => Ok(Self::DayFirst),
            "mdy" => Ok(Self::MonthFirst),
            _ => Err(format!("unknown order {s:?}: use dmy (31/12/2025) or mdy (12/31/2025)")),
        }
    }
}

/// Unit of numbers in a column that does not say its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Unit {
    /// Only the user can know.
    #[default]
    Unknown,
    /// The format's.
    Known(TimeUnit),
    /// Milliseconds if the file turns out to be Mooncake's or AIPerf's; GuideLLM writes seconds in the same columns.
    Disputed,
}

/// A date that has two readings: where it is, what it says, and the reading with the month first.
struct Open {
    row: usize,
    line: u64,
    text: String,
    month_first: i64,
}

/// Reads the times of a file.
pub(crate) struct Clock {
    unit: Unit,
    order: Option<DateOrder>,
    zoned: Option<bool>,
    open: Vec<Open>,
    /// The first number whose unit is disputed, and whether one had a fraction.
    disputed: Option<u64>,
    fractions: bool,
    /// The column times come from.
    column: Option<String>,
}

impl Clock {
    pub(crate) fn new(unit: Unit, order: Option<DateOrder>) -> Self {
        let (zoned, open, disputed) = (None, Vec::new(), None);
        Self { unit, order, zoned, open, disputed, fractions: false, column: None }
    }

    /// Nanoseconds that `text` means in `row`, in the `unit` of its `column` if that says one.
    pub(crate) fn read(
        &mut self,
        (row, line): (usize, u64),
        column: &str,
        text: &str,
        unit: Option<TimeUnit>,
    ) -> Result<i64, String> {
        match &self.column {
            None => self.column = Some(column.to_owned()),
            Some(first) if first != column => {
                return Err(format!(
                    "no {first}, which times were taken from so far; correct or delete the line"
                ));
            }
            Some(_) => {}
        }
        if is_date(text) {
            return self.date((row, line), text);
        }
        let unit = match (unit, self.unit) {
            (Some(unit), _) | (None, Unit::Known(unit)) => unit,
            (None, Unit::Disputed) => {
                self.disputed.get_or_insert(line);
                self.fractions |= nanoseconds(text, TimeUnit::Milliseconds)? % 1_000_000 != 0;
                TimeUnit::Milliseconds
            }
            (None, Unit::Unknown) => {
                return Err(format!(
                    "the unit of time {text:?} cannot be known; name it with --time-unit s, ms, us or ns"
                ));
            }
        };
        nanoseconds(text, unit)
    }

    fn date(&mut self, (row, line): (usize, u64), text: &str) -> Result<i64, String> {
        let wrong = || format!("{text:?} is not a date-time such as 2023-11-16 18:15:46.6805900");
        let read = date_time(text).ok_or_else(wrong)?;
        if *self.zoned.get_or_insert(read.zoned) != read.zoned {
            let (has, before) = if read.zoned { ("a zone", "none") } else { ("no zone", "one") };
            return Err(format!(
                "{text:?} has {has} where the times before have {before}; write all with their zones"
            ));
        }
        let (day_first, month_first) = match read.date {
            Reading::Plain(time) => return Ok(time),
            Reading::Slashed { day_first: Some(d), month_first: Some(m) } => (d, m),
            Reading::Slashed { day_first, month_first } => {
                let this =
                    if day_first.is_some() { DateOrder::DayFirst } else { DateOrder::MonthFirst };
                if *self.order.get_or_insert(this) != this {
                    return Err(format!(
                        "{text:?} has day and month the other way round than dates before it, or than --date-order says; write dates as 2025-12-31"
                    ));
                }
                return day_first.or(month_first).ok_or_else(wrong);
            }
        };
        if day_first != month_first {
            self.open.push(Open { row, line, text: text.to_owned(), month_first });
        }
        Ok(day_first)
    }

    /// The rest, when all rows are read: the rows that change, or the line and the question that stays open.
    /// `mooncakes` says that the file proves to be Mooncake's or AIPerf's.
    pub(crate) fn settle(
        self,
        mooncakes: bool,
        whole: bool,
    ) -> Result<Vec<(usize, i64)>, (u64, String)> {
        if let Some(line) = self.disputed
            && !(mooncakes || whole && !self.fractions)
        {
            return Err((
                line,
                "its times are milliseconds if it is Mooncake's or AIPerf's, and seconds if it is GuideLLM's, and nothing in it tells: give --format mooncake or --format guidellm (or --time-unit)"
                    .to_owned(),
            ));
        }
        match (self.order, self.open.first()) {
            (_, None) | (Some(DateOrder::DayFirst), _) => Ok(Vec::new()),
            (Some(DateOrder::MonthFirst), _) => {
                Ok(self.open.into_iter().map(|o| (o.row, o.month_first)).collect())
            }
            (None, Some(Open { line, text, .. })) => {
                let date = text.split(' ').next().unwrap_or(text);
                let parts: Vec<&str> = date.split('/').collect();
                let [a, b, year] = parts[..] else { return Ok(Vec::new()) };
                let reading = |month: &str, day: &str| format!("{year}-{month:0>2}-{day:0>2}");
                Err((
                    *line,
                    format!(
                        "{date:?} is {} with the day first and {} with the month first, and no date here tells: give --date-order dmy or mdy",
                        reading(b, a),
                        reading(a, b)
                    ),
                ))
            }
        }
    }
}
