//! The names of columns, among people and tools: one table.
//!
//! Names are compared with case, spaces, hyphens and camelCase evened out, and a dot is as good as an underscore:
//! `startTime` is `start_time`, `usage.prompt_tokens` is `usage_prompt_tokens`. A name with a dot also counts at the end
//! of a longer one, as `response.body.usage.prompt_tokens`. Of several columns that mean the same, the one named first
//! here counts. A unit is part of a time's name (`arrival_s`, `timestamp_us`); a bare `timestamp` could be anything.

use std::collections::HashMap;
use std::rc::Rc;
use std::str::FromStr;

use super::time::TimeUnit;

/// The content of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    Time,
    Input,
    Output,
    Class,
    Session,
    /// Pause after the answer before.
    Delay,
    HashIds,
    BlockSize,
    /// Prompt tokens found in, and written to, a cache, where the prompt is counted without them.
    CacheRead,
    CacheWrite,
    /// The status: failed or not.
    Status,
    /// The kind of call.
    Kind,
    /// A request's own name, and that of the one it follows.
    Id,
    Parent,
    /// Requests that begin alike, in so many tokens.
    PrefixGroup,
    PrefixLength,
    /// Prompt length as the server counted it.
    ServerInput,
}

/// Number of slots.
pub(crate) const SLOTS: usize = Slot::ServerInput as usize + 1;

/// The name of a column in a format's own words.
pub(crate) type Own = (Slot, &'static str);

/// Times without their unit, and the units that are put behind them.
const TIMES: &[&str] = &[
    "arrival",
    "arrival_time",
    "arrived_at",
    "scheduled",
    "start_time",
    "start_time_unix",
    "request_time",
    "request_start_time",
    "start",
    "sent_at",
    "timestamp",
    "time",
    "ts",
    "t",
    "offset",
    "created_at",
    "created",
];
const UNITS: &[(&str, TimeUnit)] = &[
    ("_s", TimeUnit::Seconds),
    ("_sec", TimeUnit::Seconds),
    ("_seconds", TimeUnit::Seconds),
    ("_ms", TimeUnit::Milliseconds),
    ("_millis", TimeUnit::Milliseconds),
    ("_us", TimeUnit::Microseconds),
    ("_micros", TimeUnit::Microseconds),
    ("_ns", TimeUnit::Nanoseconds),
    ("_nano", TimeUnit::Nanoseconds),
    ("_nanos", TimeUnit::Nanoseconds),
];
const NAMES: &[(Slot, &[&str])] = &[
    (
        Slot::Input,
        &[
            // Langfuse: all kinds of input together.
            "usage.input",
            "input_usage",
            "input_tokens",
            "prompt_tokens",
            "input_length",
            "prompt_length",
            "input_len",
            "prompt_len",
            "context_tokens",
            "request_tokens",
            "num_prefill_tokens",
            "num_input_tokens",
            "num_prompt_tokens",
            "prefill_tokens",
            "input_toks",
            "usage.prompt_tokens",
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.prompt_tokens",
            "llm.usage.prompt_tokens",
            "llm.token_count.prompt",
            "usage.input_tokens",
            "usage_details.input",
            "isl",
            "in",
        ],
    ),
    (
        Slot::Output,
        &[
            "usage.output",
            "output_usage",
            "output_tokens",
            "completion_tokens",
            "output_length",
            "completion_length",
            "output_len",
            "completion_len",
            "generated_tokens",
            "response_tokens",
            "num_decode_tokens",
            "num_output_tokens",
            "decode_tokens",
            "output_toks",
            "usage.completion_tokens",
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.completion_tokens",
            "llm.usage.completion_tokens",
            "llm.token_count.completion",
            "usage.output_tokens",
            "usage_details.output",
            "osl",
            "out",
        ],
    ),
    (
        Slot::CacheRead,
        &[
            "usage.cache_read_input_tokens",
            "cache_read_input_tokens",
            "usage_details.cache_read_input_tokens",
            "usage_details.input_cache_read",
            "usage_details.input_cached_tokens",
        ],
    ),
    (
        Slot::CacheWrite,
        &[
            "usage.cache_creation_input_tokens",
            "cache_creation_input_tokens",
            "usage_details.cache_creation_input_tokens",
            "usage_details.input_cache_creation",
        ],
    ),
    (Slot::Class, &["class", "request_class", "tenant"]),
    (
        Slot::Session,
        &["session.id", "session", "conversation_id", "conversation", "gen_ai.conversation.id"],
    ),
    (Slot::HashIds, &["hash_ids"]),
    (Slot::BlockSize, &["block_size"]),
    (Slot::Kind, &["call_type", "gen_ai.operation.name"]),
    (Slot::Status, &["outcome", "has_error"]),
];

/// The place of a column's cells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    pub slot: Slot,
    /// Lower counts before higher.
    pub rank: u16,
    /// Unit of a time, where the name says.
    pub unit: Option<TimeUnit>,
}

/// `--map`: a column for what its name does not say it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    slot: Slot,
    column: String,
    unit: Option<TimeUnit>,
}

/// The fields that can be mapped, as they are typed.
const FIELDS: [(&str, Slot); 8] = [
    ("input", Slot::Input),
    ("output", Slot::Output),
    ("time", Slot::Time),
    ("session", Slot::Session),
    ("class", Slot::Class),
    ("delay", Slot::Delay),
    ("hash_ids", Slot::HashIds),
    ("status", Slot::Status),
];

impl FromStr for Mapping {
    type Err = String;

    /// `input=usage.prompt_tokens`, or for times with the unit behind: `time=meta.sent:ms`.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || FIELDS.map(|(name, _)| name).join(", ");
        let (field, column) = text.split_once('=').ok_or_else(|| {
            format!(
                "expected FIELD=COLUMN, such as input=usage.prompt_tokens; fields are {}",
                known()
            )
        })?;
        let meant = || crate::meant(field, FIELDS.map(|(name, _)| name));
        let slot =
            FIELDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(field.trim())).map(|f| f.1);
        let slot = slot
            .ok_or_else(|| format!("unknown field {field:?}: {}use one of {}", meant(), known()))?;
        let timed = matches!(slot, Slot::Time | Slot::Delay);
        let unit = column.rsplit_once(':').filter(|_| timed);
        let unit = unit.and_then(|(column, unit)| Some((column, unit.parse().ok()?)));
        let (column, unit) = unit.map_or((column, None), |(column, unit)| (column, Some(unit)));
        match plain_name(column) {
            empty if empty.is_empty() => Err("the column's name is missing".to_owned()),
            column => Ok(Self { slot, column, unit }),
        }
    }
}

/// The names that count in one file.
pub(crate) struct Names {
    own: &'static [Own],
    mapped: Vec<Mapping>,
    /// Columns met before, for rows that name theirs again and again.
    met: HashMap<String, Rc<[Place]>>,
    table: HashMap<String, Place>,
    dotted: HashMap<String, Place>,
}

/// Added to the rank of a name that is the end of a longer one.
const WITHIN: u16 = 1_000;

/// More different names than this are not remembered.
const MET: usize = 10_000;

impl Names {
    pub(crate) fn new(own: &'static [Own], mapped: &[Mapping]) -> Self {
        let mut names = Self {
            own,
            mapped: mapped.to_vec(),
            met: HashMap::new(),
            table: HashMap::new(),
            dotted: HashMap::new(),
        };
        for (slot, of) in NAMES {
            for (rank, name) in (100..).zip(*of) {
                let place = Place { slot: *slot, rank, unit: None };
                names.table.insert(key(name), place);
                if name.contains('.') {
                    names.dotted.insert(key(name), place);
                }
            }
        }
        names
    }

    /// The content of a column of this (plain) name.
    pub(crate) fn places(&mut self, column: &str) -> Rc<[Place]> {
        if let Some(places) = self.met.get(column) {
            return Rc::clone(places);
        }
        let places: Rc<[Place]> = self.look_up(column).into();
        if self.met.len() < MET {
            self.met.insert(column.to_owned(), Rc::clone(&places));
        }
        places
    }

    fn look_up(&self, column: &str) -> Vec<Place> {
        let mut places = Vec::new();
        let whole = key(column);
        let mapped = |slot| self.mapped.iter().any(|m| m.slot == slot);
        for m in self.mapped.iter().filter(|m| key(&m.column) == whole) {
            places.push(Place { slot: m.slot, rank: 0, unit: m.unit });
        }
        for (rank, (slot, name)) in (1..).zip(self.own) {
            if !mapped(*slot) && key(name) == whole {
                places.push(Place { slot: *slot, rank, unit: None });
            }
        }
        let mut ends = column.match_indices('.').map(|(dot, _)| key(&column[dot + 1..]));
        let known = self.table.get(&whole).copied();
        let known = known.or_else(|| {
            let place = ends.find_map(|end| self.dotted.get(&end))?;
            Some(Place { rank: place.rank + WITHIN, ..*place })
        });
        // An answer's own time, in what holds the answer.
        let answered = column.rsplit_once("body.").or(column.rsplit_once("response."));
        let answered = answered.map(|(_, name)| name).filter(|name| name.starts_with("created"));
        for place in known.into_iter().chain(time(answered.unwrap_or(&whole))) {
            if !mapped(place.slot) && places.iter().all(|p| p.slot != place.slot) {
                places.push(place);
            }
        }
        places
    }

    /// Some names of what a slot holds, for messages.
    pub(crate) fn examples(&self, slot: Slot) -> String {
        if let Some(m) = self.mapped.iter().find(|m| m.slot == slot) {
            return m.column.clone();
        }
        match slot {
            Slot::Time => "arrival_s, arrival_ms, timestamp_us, a date-time, …".to_owned(),
            Slot::Input => "input_tokens, prompt_tokens, usage.prompt_tokens, …".to_owned(),
            _ => "output_tokens, completion_tokens, usage.completion_tokens, …".to_owned(),
        }
    }
}

/// True of a column of times. One that says its unit counts before one that does not.
fn time(column: &str) -> Option<Place> {
    let place = |base: &str, rank: u16, unit| {
        let at = TIMES.iter().position(|t| *t == base)?;
        Some(Place { slot: Slot::Time, rank: rank + at as u16, unit })
    };
    let with_unit =
        |&(suffix, unit): &(&str, TimeUnit)| place(column.strip_suffix(suffix)?, 100, Some(unit));
    UNITS.iter().find_map(with_unit).or_else(|| place(column, 200, None))
}

/// The form in which names are compared.
fn key(name: &str) -> String {
    name.replace('.', "_")
}

/// A column's name with case, spaces, hyphens, slashes and camelCase evened out.
pub(crate) fn plain_name(name: &str) -> String {
    let mut plain = String::with_capacity(name.len() + 4);
    let mut before = ' ';
    for c in name.trim().chars() {
        match c {
            ' ' | '-' => plain.push('_'),
            '/' | '[' => plain.push('.'),
            '\'' | ']' => {}
            _ => {
                if c.is_ascii_uppercase()
                    && (before.is_ascii_lowercase() || before.is_ascii_digit())
                {
                    plain.push('_');
                }
                plain.push(c.to_ascii_lowercase());
            }
        }
        before = c;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(column: &str) -> Vec<(Slot, Option<TimeUnit>)> {
        let places = Names::new(&[], &[]).places(&plain_name(column));
        places.iter().map(|p| (p.slot, p.unit)).collect()
    }

    #[test]
    fn names_are_known_in_every_spelling() {
        for name in [
            "promptTokens",
            "Prompt Tokens",
            "usage.prompt_tokens",
            "usage_prompt_tokens",
            "response.body.usage.prompt_tokens",
            "attributes.gen_ai.usage.input_tokens",
            "SpanAttributes['gen_ai.usage.input_tokens']",
            "gen_ai_usage_input_tokens",
            "usageDetails.input",
            "llm.token_count.prompt",
        ] {
            assert_eq!(slots(name), [(Slot::Input, None)], "{name}");
        }
        assert_eq!(slots("startTimeUnixNano"), [(Slot::Time, Some(TimeUnit::Nanoseconds))]);
        assert_eq!(slots("startTime"), [(Slot::Time, None)]);
        assert_eq!(slots("scheduled_s"), [(Slot::Time, Some(TimeUnit::Seconds))]);
        for name in ["end_time", "endTime", "total_tokens", "details.prompt_tokens", "input"] {
            assert_eq!(slots(name), [], "{name}");
        }
    }

    #[test]
    fn a_mapped_column_replaces_the_names_of_its_field() {
        let map: Mapping = "time=meta.sentAt:ms".parse().unwrap();
        let mut names = Names::new(&[], &[map]);
        let unit = Some(TimeUnit::Milliseconds);
        assert_eq!(names.places("meta.sent_at")[..], [Place { slot: Slot::Time, rank: 0, unit }]);
        assert_eq!(names.places("arrival_s")[..], []);
        for wrong in ["input", "inputs=x", "time="] {
            assert!(wrong.parse::<Mapping>().is_err(), "{wrong}");
        }
    }
}
