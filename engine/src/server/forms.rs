//! Fields that clients may write in several ways, each read straight into its final form: a body of megabytes is not
//! copied into a tree of values first.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::limits::MOST_STOPS;
use crate::request::Token;

/// A prompt: a text or its tokens, alone or as a list of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prompt {
    /// A text.
    Text(String),
    /// Its tokens.
    Tokens(Vec<Token>),
    /// More than one.
    Several,
}

/// Strings that end a completion; of too many, one more than may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StopStrings(pub(super) Vec<String>);

/// The content of one turn: a text, or parts of which only texts are understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Its texts put together.
    pub(super) text: String,
    /// The type of a part that is no text.
    pub(super) alien: Option<String>,
}

/// True where a field holds anything: not null, and no empty list or object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filled(pub(super) bool);

/// Reads a `T` by its [`Form`].
struct As<T>(PhantomData<T>);

/// The reading of each kind of JSON that a field may be; the others are refused by name.
trait Form<'de>: Sized {
    /// The expected forms, for messages.
    const EXPECTED: &'static str;

    fn text(_text: String) -> Option<Self> {
        None
    }

    fn number(_number: u64) -> Option<Self> {
        None
    }

    fn flag(_flag: bool) -> Option<Self> {
        None
    }

    fn list<A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error>;

    fn object<A: MapAccess<'de>>(_object: A) -> Result<Self, A::Error> {
        Err(A::Error::custom(format!("invalid type: map, expected {}", Self::EXPECTED)))
    }
}

impl<'de, T: Form<'de>> Visitor<'de> for As<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<T, E> {
        T::text(text).ok_or_else(|| E::custom(format!("a string, expected {}", T::EXPECTED)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::number(number).ok_or_else(|| E::custom(format!("{number}, expected {}", T::EXPECTED)))
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<T, E> {
        T::flag(flag).ok_or_else(|| E::custom(format!("{flag}, expected {}", T::EXPECTED)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<T, A::Error> {
        T::object(object)
    }
}

/// Implements `Deserialize` by a type's [`Form`].
macro_rules! read_by_form {
    ($($kind:ty),*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(As(PhantomData))
            }
        }
    )*};
}

read_by_form!(Prompt, Element, StopStrings, Content, Filled);

/// An element of a prompt that is a list.
enum Element {
    Text(String),
    Token(Token),
    Tokens(Vec<Token>),
}

impl<'de> Form<'de> for Element {
    const EXPECTED: &'static str = "a text, a token, or a list of tokens";

    fn text(text: String) -> Option<Self> {
        Some(Self::Text(text))
    }

    fn number(number: u64) -> Option<Self> {
        Token::try_from(number).ok().map(Self::Token)
    }

    fn list<A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        tokens(Vec::new(), list).map(Self::Tokens)
    }
}

impl<'de> Form<'de> for Prompt {
    const EXPECTED: &'static str = "a text, or a list of tokens";

    fn text(text: String) -> Option<Self> {
        Some(Self::Text(text))
    }

    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let one = match list.next_element()? {
            None => return Ok(Self::Tokens(Vec::new())),
            Some(Element::Token(first)) => return tokens(vec![first], list).map(Self::Tokens),
            Some(Element::Text(text)) => Self::Text(text),
            Some(Element::Tokens(tokens)) => Self::Tokens(tokens),
        };
        Ok(if rest(list)? == 0 { one } else { Self::Several })
    }
}

impl<'de> Form<'de> for StopStrings {
    const EXPECTED: &'static str = "a string, or a list of strings";

    fn text(text: String) -> Option<Self> {
        Some(Self(vec![text]))
    }

    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut strings = Vec::new();
        while strings.len() <= MOST_STOPS {
            let Some(string) = list.next_element()? else { return Ok(Self(strings)) };
            strings.push(string);
        }
        rest(list)?;
        Ok(Self(strings))
    }
}

/// A part of a turn.
#[derive(serde::Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

impl<'de> Form<'de> for Content {
    const EXPECTED: &'static str = "a text, or a list of parts";

    fn text(text: String) -> Option<Self> {
        Some(Self { text, alien: None })
    }

    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut content = Self::default();
        while let Some(part) = list.next_element::<Part>()? {
            if part.r#type == "text" {
                content.text += part.text.as_deref().unwrap_or_default();
            } else {
                content.alien.get_or_insert(part.r#type);
            }
        }
        Ok(content)
    }
}

impl<'de> Form<'de> for Filled {
    const EXPECTED: &'static str = "a list or an object";

    fn text(_: String) -> Option<Self> {
        Some(Self(true))
    }

    fn number(_: u64) -> Option<Self> {
        Some(Self(true))
    }

    fn flag(_: bool) -> Option<Self> {
        Some(Self(true))
    }

    fn list<A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        Ok(Self(rest(list)? > 0))
    }

    fn object<A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        let mut filled = false;
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            filled = true;
        }
        Ok(Self(filled))
    }
}

/// The tokens of `list` after those there are.
fn tokens<'de, A: SeqAccess<'de>>(
    mut tokens: Vec<Token>,
    mut list: A,
) -> Result<Vec<Token>, A::Error> {
    while let Some(token) = list.next_element()? {
        tokens.push(token);
    }
    Ok(tokens)
}

/// The number of elements that are left.
fn rest<'de, A: SeqAccess<'de>>(mut list: A) -> Result<usize, A::Error> {
    let mut count = 0;
    while list.next_element::<IgnoredAny>()?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_prompt_is_a_text_or_tokens_alone_or_as_the_only_one() {
        let text = || Ok(Prompt::Text("a\n".to_owned()));
        assert_eq!((read("\"a\\n\""), read("[\"a\\n\"]")), (text(), text()));
        let tokens = || Ok(Prompt::Tokens(vec![1, 2]));
        assert_eq!((read("[1,2]"), read("[[1, 2]]")), (tokens(), tokens()));
        assert_eq!(read("[]"), Ok(Prompt::Tokens(Vec::new())));
        for several in ["[\"a\",\"b\"]", "[[1],[2]]", "[[1],\"b\"]"] {
            assert_eq!(read(several), Ok(Prompt::Several), "{several}");
        }
        for wrong in ["3", "null", "{}", "[1,\"a\"]", "[-1]", "[4294967296]", "[1.5]", "[[[1]]]"] {
            assert!(read::<Prompt>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stop_strings_beyond_the_limit_are_counted_and_not_kept() {
        let of = |n: usize| read::<StopStrings>(&format!("{:?}", vec!["x"; n])).unwrap().0.len();
        assert_eq!([of(0), of(3), of(1000)], [0, 3, MOST_STOPS + 1]);
        assert_eq!(read("\"x\""), Ok(StopStrings(vec!["x".to_owned()])));
        assert!(read::<StopStrings>("[1]").is_err());
    }

    #[test]
    fn a_turn_is_its_texts_and_names_what_is_none() {
        let parts = r#"[{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "b"}]"#;
        let content = Content { text: "ab".to_owned(), alien: Some("image_url".to_owned()) };
        assert_eq!(read(parts), Ok(content));
        assert_eq!(read("\"a\""), Ok(Content { text: "a".to_owned(), alien: None }));
        assert!(read::<Content>("[\"a\"]").is_err());
    }

    #[test]
    fn an_empty_field_is_not_filled() {
        for (text, filled) in [("[]", false), ("{}", false), ("[0]", true), ("{\"a\": {}}", true)] {
            assert_eq!(read(text), Ok(Filled(filled)), "{text}");
        }
        assert_eq!(read::<Option<Filled>>("null"), Ok(None));
    }
}
