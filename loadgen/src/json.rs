//! JSON as servers write it, not as they promise to: read without a shape, so that one odd member spoils nothing else.
//!
//! Strings are borrowed where they can be, members keep their order, and of two with one name the
//! last counts. Servers also send things that no parser takes: half a surrogate pair, NaN, a bare
//! control character, bytes that are not UTF-8. These are mended before a second try.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Any JSON value.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Json<'a> {
    #[default]
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

/// The value of a member that is absent.
static NULL: Json<'static> = Json::Null;

impl<'a> Json<'a> {
    /// The value of `data`, which may be followed by white space only.
    ///
    /// # Errors
    /// If it is not JSON; [`serde_json::Error::is_eof`] says whether more of it is missing.
    pub(crate) fn of(data: &'a [u8]) -> Result<Self, serde_json::Error> {
        let error = match serde_json::from_slice(data) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.is_eof() {
            return Err(error);
        }
        let mended = mend(&String::from_utf8_lossy(data));
        serde_json::from_str::<Json<'_>>(&mended).map(Json::owned).map_err(|_| error)
    }

    /// The same, borrowing nothing.
    pub(crate) fn owned<'b>(self) -> Json<'b> {
        let text = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(b),
            Self::Number(n) => Json::Number(n),
            Self::Text(t) => Json::Text(text(t)),
            Self::List(list) => Json::List(list.into_iter().map(Json::owned).collect()),
            Self::Object(members) => {
                Json::Object(members.into_iter().map(|(k, v)| (text(k), v.owned())).collect())
            }
        }
    }

    /// The member of that name; null where there is none.
    pub(crate) fn get(&self, name: &str) -> &Self {
        let found = self.members().iter().rev().find(|(key, _)| key == name);
        // A static of a shorter life is one of any.
        found.map_or(&NULL, |(_, value)| value)
    }

    /// The members of an object; none of anything else.
    pub(crate) fn members(&self) -> &[(Cow<'a, str>, Self)] {
        if let Self::Object(members) = self { members } else { &[] }
    }

    /// The elements of a list; of anything else that is not null, itself alone.
    pub(crate) fn each(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            Self::Null => &[],
            one => std::slice::from_ref(one),
        }
    }

    /// Its text, where it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// A count: a number, or a text of one.
    pub(crate) fn count(&self) -> Option<u32> {
        let number = match self {
            Self::Number(n) => *n,
            Self::Text(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        (number >= 0.0 && number <= f64::from(u32::MAX)).then(|| number.round() as u32)
    }

    /// True where it says nothing: null, false, zero, or empty.
    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Self::Null | Self::Bool(false) => true,
            Self::Bool(true) => false,
            Self::Number(n) => *n == 0.0,
            Self::Text(text) => text.trim().is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Object(members) => members.is_empty(),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        // Most lists hold one choice or one part.
        let mut list = Vec::with_capacity(1);
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        // An event of a stream has seven members or fewer: they need no second allocation.
        let mut members = Vec::with_capacity(7);
        while let Some(Key(key)) = map.next_key()? {
            members.push((key, map.next_value()?));
        }
        Ok(Json::Object(members))
    }
}

/// A member's name, borrowed where it can be.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Json::deserialize(from)? {
            Json::Text(text) => Ok(Key(text)),
            _ => Err(D::Error::custom("a name that is no text")),
        }
    }
}

/// `text` without what no parser takes: surrogates on their own become U+FFFD, control characters in strings blanks,
/// and NaN and infinities outside of them null.
fn mend(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(c) = rest.chars().next() {
        let mut take = c.len_utf8();
        match c {
            '"' => quoted = !quoted,
            '\\' if quoted => {
                let (piece, used) = escape(rest);
                mended.push_str(&piece);
                rest = &rest[used..];
                continue;
            }
            c if quoted && c.is_control() => {
                mended.push(' ');
                rest = &rest[take..];
                continue;
            }
            _ if !quoted => {
                let words = ["-Infinity", "Infinity", "NaN"];
                if let Some(word) = words.into_iter().find(|w| rest.starts_with(w)) {
                    mended.push_str("null");
                    rest = &rest[word.len()..];
                    continue;
                }
            }
            _ => {}
        }
        take = take.max(1);
        mended.push_str(&rest[..take]);
        rest = &rest[take..];
    }
    mended
}

/// The escape that `rest` begins with, mended, and how many bytes of it that was.
fn escape(rest: &str) -> (String, usize) {
    let unit = |at: usize| {
        let digits = rest.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    match (unit(0), unit(6)) {
        (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (rest[..12].to_owned(), 12),
        (Some(0xD800..=0xDFFF), _) => ("\\ufffd".to_owned(), 6),
        _ => {
            let end = rest.char_indices().nth(2).map_or(rest.len(), |(at, _)| at);
            (rest[..end].to_owned(), end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Json<'_> {
        Json::of(text.as_bytes()).unwrap()
    }

    #[test]
    fn members_are_found_beside_any_others() {
        let json = of(r#"{"a":1,"b":["x",null],"a":"2","c":{"d":true}}"#);
        assert_eq!(json.get("a").count(), Some(2), "the last of two");
        assert_eq!(json.get("b").each().len(), 2);
        assert!(json.get("nothing").get("at all").is_nothing());
        assert_eq!(json.get("c").get("d"), &Json::Bool(true));
        let counts = |text: &str| of(text).count();
        assert_eq!(
            (counts("7.0"), counts("\"8\""), counts("-1"), counts("1e99"), counts("[9]")),
            (Some(7), Some(8), None, None, None)
        );
    }

    #[test]
    fn json_that_no_parser_takes_is_mended() {
        for (text, found) in [
            ("\"a\\ud83d\"", "a\u{fffd}"),
            ("\"\\ude00b\"", "\u{fffd}b"),
            ("\"\\ud83d\\ude00\"", "😀"),
            ("\"\\ud83d\\n\\\"\"", "\u{fffd}\n\""),
            ("\"a\tb\"", "a b"),
        ] {
            assert_eq!(of(text).text(), Some(found), "{text}");
        }
        assert_eq!(Json::of(b"\"\xff\"").unwrap().text(), Some("\u{fffd}"));
        let odd = of(r#"{"p":[NaN,-Infinity,Infinity],"t":"NaN"}"#);
        assert_eq!((odd.get("p").each().len(), odd.get("t").text()), (3, Some("NaN")));
        assert!(Json::of(b"{\"a\":").unwrap_err().is_eof());
        assert!(Json::of(b"ping").is_err() && Json::of(b"{}{}").is_err());
    }

    proptest! {
        #[test]
        fn everything_that_serde_reads_is_read(value in "[\\[\\]{}:, \"a0-9.e+\\\\u-]{0,24}") {
            let strict: Result<serde_json::Value, _> = serde_json::from_str(&value);
            let loose = Json::of(value.as_bytes());
            prop_assert!(strict.is_err() || loose.is_ok(), "{value}");
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Json::of(&bytes);
            let _ = Json::of(&[b"{\"a\":\"".as_slice(), &bytes, b"\"}"].concat());
        }
    }
}
