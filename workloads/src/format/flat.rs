//! A JSON object as columns: nested names joined by dots, attribute lists opened, lists and text left as they are.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::names::plain_name;

/// Deeper than this lies no count of tokens.
const DEEPEST: usize = 8;

/// Lists of rows that logs are wrapped in, evened out.
const WRAPPERS: [&str; 7] =
    ["resource_spans", "batches", "scope_spans", "spans", "data", "observations", "logs"];

/// An attribute as OTLP and Jaeger write it.
#[derive(Deserialize)]
struct Attribute<'a> {
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// Names and texts of one row.
pub(crate) type Columns<'a> = Vec<(String, Cow<'a, str>)>;

/// Calls `each` with the columns of every row in the document: itself, or those that it wraps.
pub(crate) fn rows<'a, E: From<serde_json::Error>>(
    json: &'a str,
    each: &mut impl FnMut(Columns<'a>) -> Result<(), E>,
) -> Result<(), E> {
    unwrapped(json, 0, each)
}

fn unwrapped<'a, E: From<serde_json::Error>>(
    json: &'a str,
    depth: usize,
    each: &mut impl FnMut(Columns<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let object: BTreeMap<String, &'a RawValue> = serde_json::from_str(json)?;
    let mut wrapped = false;
    for (key, value) in &object {
        let list = value.get().starts_with('[') && WRAPPERS.contains(&plain_name(key).as_str());
        let elements: Option<Vec<&'a RawValue>> =
            if list && depth < DEEPEST { serde_json::from_str(value.get()).ok() } else { None };
        // A list of plain values is a value.
        let Some(elements) = elements.filter(|e| e.iter().all(|e| e.get().starts_with('{'))) else {
            continue;
        };
        wrapped = true;
        for element in elements {
            unwrapped(element.get(), depth + 1, each)?;
        }
    }
    if wrapped {
        return Ok(());
    }
    let mut columns = Columns::new();
    for (key, value) in object {
        column(&plain_name(&key), value.get(), 0, &mut columns);
    }
    each(columns)
}

/// The keys of an object, evened out.
pub(crate) fn keys(json: &str) -> Result<Vec<String>, serde_json::Error> {
    let object: BTreeMap<String, &RawValue> = serde_json::from_str(json)?;
    Ok(object.keys().map(|key| plain_name(key)).collect())
}

/// The columns of a cell that holds an object.
pub(crate) fn cell<'a>(name: &str, json: &'a str) -> Columns<'a> {
    let mut columns = Columns::new();
    if serde_json::from_str::<&RawValue>(json).is_ok() {
        column(name, json, 0, &mut columns);
    }
    columns
}

fn column<'a>(name: &str, json: &'a str, depth: usize, columns: &mut Columns<'a>) {
    let inner = |key: &str| format!("{name}.{}", plain_name(key));
    let json = json.trim();
    if json.starts_with('{') && depth < DEEPEST {
        if let Ok(object) = serde_json::from_str::<BTreeMap<String, &'a RawValue>>(json) {
            for (key, value) in object {
                column(&inner(&key), value.get(), depth + 1, columns);
            }
        }
        return;
    }
    if json.starts_with('[')
        && matches!(name.rsplit('.').next(), Some("attributes" | "tags"))
        && let Ok(attributes) = serde_json::from_str::<Vec<Attribute<'a>>>(json)
    {
        for Attribute { key, value } in attributes {
            let typed = serde_json::from_str::<BTreeMap<String, &'a RawValue>>(value.get());
            let only = typed.ok().and_then(|t| t.into_values().next());
            column(&inner(&key), only.unwrap_or(value).get(), depth + 1, columns);
        }
        return;
    }
    let text = match json {
        "null" => return,
        _ if !json.starts_with('"') => Cow::Borrowed(json),
        _ if json.contains('\\') => {
            serde_json::from_str(json).map_or(Cow::Borrowed(json), Cow::Owned)
        }
        _ => Cow::Borrowed(json.trim_matches('"')),
    };
    // An export may hold JSON as text.
    if let Cow::Owned(text) = &text
        && text.starts_with('{')
        && depth < DEEPEST
    {
        let mut nested = Columns::new();
        column(name, text, depth + 1, &mut nested);
        columns.extend(nested.into_iter().map(|(n, t)| (n, Cow::Owned(t.into_owned()))));
        return;
    }
    columns.push((name.to_owned(), text));
}
