//! Fields of a configuration by the names that publishers give them.

use serde_json::Value;

use super::defaults;

/// A configuration's fields: those of its text model first, then those around it, then its family's defaults.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    text: &'a Value,
    whole: &'a Value,
    /// The fields that a text model among several parts leaves out.
    defaults: Option<&'static Value>,
}

impl<'a> Fields<'a> {
    /// Fields of `whole`, and of the language model in it where it has several parts.
    pub(super) fn new(whole: &'a Value) -> Self {
        let parts = ["text_config", "llm_config", "language_config"];
        let Some(text) = parts.iter().map(|part| &whole[part]).find(|part| part.is_object()) else {
            return Self { text: whole, whole, defaults: None };
        };
        let fields = Self { text, whole, defaults: None };
        Self { defaults: defaults::of(fields.family()), ..fields }
    }

    /// The first of `names` that is there and not null.
    pub(super) fn any(&self, names: &[&str]) -> Option<&'a Value> {
        let of = |from: &'a Value| {
            names.iter().map(move |name| &from[*name]).find(|value| !value.is_null())
        };
        let said = |name: &&str| self.text.get(*name).is_some();
        of(self.text)
            .or_else(|| of(self.whole))
            // A null is an answer: it is no gap for a default.
            .or_else(|| self.defaults.filter(|_| !names.iter().any(said)).and_then(of))
    }

    /// A note on the defaults that fill its gaps.
    pub(super) fn note(&self) -> Option<String> {
        let gap = |name: &&String| self.text.get(*name).is_none() && self.whole[*name].is_null();
        let gaps = self.defaults?.as_object()?.keys().filter(gap);
        let gaps: Vec<String> = gaps.map(|name| format!("`{name}`")).collect();
        let (list, family) = (gaps.join(", "), self.family());
        (!gaps.is_empty()).then(|| {
            format!("its text model leaves {list} to the defaults of `{family}` in transformers")
        })
    }

    /// A count by any of `names`.
    ///
    /// # Errors
    /// When it is there and is no count.
    pub(super) fn count(&self, names: &[&str]) -> Result<Option<u32>, String> {
        let Some(value) = self.any(names) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            let x = value.as_f64()?;
            (x >= 0.0 && x.fract() == 0.0 && x < 4e9).then_some(x as u64)
        });
        let count = whole.and_then(|n| u32::try_from(n).ok());
        let name = names.join("` or `");
        count.map(Some).ok_or_else(|| format!("`{name}` = {} must be a count", short(value)))
    }

    /// A count that must be there.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn need(&self, names: &[&str]) -> Result<u32, String> {
        self.count(names)?.ok_or_else(|| format!("it does not say `{}`", names.join("` or `")))
    }

    /// True where a switch is on.
    pub(super) fn is(&self, name: &str) -> bool {
        self.any(&[name]).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A switch; none where nothing is said.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.any(&[name]).and_then(Value::as_bool)
    }

    /// A text.
    pub(super) fn text(&self, names: &[&str]) -> Option<&'a str> {
        self.any(names).and_then(Value::as_str)
    }

    /// A list.
    pub(super) fn list(&self, name: &str) -> Option<&'a [Value]> {
        self.any(&[name]).and_then(Value::as_array).map(Vec::as_slice)
    }

    /// Its family, without what marks the language model of several parts.
    pub(super) fn family(&self) -> &'a str {
        let own = self.text["model_type"].as_str().or_else(|| self.whole["model_type"].as_str());
        own.unwrap_or("(none given)").trim_end_matches("_text")
    }

    /// True where there is a field that starts with `prefix`.
    pub(super) fn has_prefix(&self, prefix: &str) -> Option<&'a str> {
        let keys = self.text.as_object()?.iter();
        keys.filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str()).find(|k| k.starts_with(prefix))
    }
}

/// A value as an error shows it.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
