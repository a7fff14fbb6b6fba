//! The text of a JSON string that may still be as it stood between its quotes.
//!
//! A long text that only passes through is freed of its escapes only to be given the same ones
//! again. So it is kept as it stood where that is what we would write, and becomes text where
//! somebody asks for text. Which strings these are is [`super::document`]'s business.

use super::json;
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The name by which a [`super::document::Document`] is asked for one.
pub(super) const QUOTED: &str = "$quoted";

/// A string's text.
#[derive(Clone, Debug)]
pub enum Quoted<'a> {
    /// The text.
    Text(Cow<'a, str>),
    /// What stood between the quotes: valid, with escapes of two characters and no others, and
    /// with nothing in it that we would escape.
    Escaped(&'a str),
}

impl<'a> Quoted<'a> {
    /// The text.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Quoted::Text(text) => Cow::Borrowed(text),
            Quoted::Escaped(inside) => json::unescaped(inside),
        }
    }

    /// The same, of one that is needed no more.
    pub fn into_text(self) -> Cow<'a, str> {
        match self {
            Quoted::Text(text) => text,
            Quoted::Escaped(inside) => json::unescaped(inside),
        }
    }

    /// The bytes that are held, and whether escapes are among them.
    pub fn held(&self) -> (&str, bool) {
        match self {
            Quoted::Text(text) => (text, false),
            Quoted::Escaped(inside) => (inside, true),
        }
    }

    /// What [`Quoted::held`] told.
    pub fn of_held(held: &'a str, is_escaped: bool) -> Quoted<'a> {
        if is_escaped { Quoted::Escaped(held) } else { Quoted::Text(Cow::Borrowed(held)) }
    }

    /// The beginning: whole characters and escapes among the first `size` bytes that are held.
    pub fn beginning(&self, size: usize) -> Quoted<'_> {
        let (held, is_escaped) = self.held();
        let mut start = &held[..held.floor_char_boundary(size)];
        let backslashes = start.bytes().rev().take_while(|byte| *byte == b'\\').count();
        if is_escaped && start.len() < held.len() && backslashes % 2 == 1 {
            start = &start[..start.len() - 1];
        }
        Quoted::of_held(start, is_escaped)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Quoted<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Quoted<'a>, D::Error> {
        deserializer.deserialize_newtype_struct(QUOTED, QuotedVisitor)
    }
}

/// Takes a string's text, or as a newtype the inside of one whose escapes are still in it.
struct QuotedVisitor;

impl<'de> Visitor<'de> for QuotedVisitor {
    type Value = Quoted<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Quoted<'de>, E> {
        Ok(Quoted::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Quoted<'de>, E> {
        Ok(Quoted::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Quoted<'de>, E> {
        Ok(Quoted::Text(Cow::Owned(text)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        inside: D,
    ) -> Result<Quoted<'de>, D::Error> {
        <&str>::deserialize(inside).map(Quoted::Escaped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::document;

    #[test]
    fn a_long_string_stays_as_it_stood_only_if_we_would_write_it_so() {
        let read = |inside: &str| {
            let text = format!("\"{inside}\"");
            let quoted: Quoted<'_> = document::read(&text).unwrap();
            let expected: String = serde_json::from_str(&text).unwrap();
            assert_eq!(quoted.text(), expected, "{inside}");
            let is_escaped = quoted.held().1;
            if is_escaped {
                let mut ours = Vec::new();
                json::string(&mut ours, &expected);
                assert_eq!(String::from_utf8(ours).unwrap(), text, "not as we would write it");
            }
            assert_eq!(quoted.into_text(), expected);
            is_escaped
        };
        assert!(!read("short\\n"));
        for place in [0, 7, 100, 127, 128, 129, 190, 191, 192, 193, 1000, 1090, 1100] {
            let around = |piece: &str| {
                let before = "x".repeat(place);
                read(&format!("{before}{piece}{}", "y\\t\\\"z\\\\".repeat(200)))
            };
            for kept in ["", "\\n", "\\\\", "\\\\\\\\\\\"", "\\r\\t", "\u{e9}", "\u{1F600}\\n"] {
                assert!(around(kept), "{kept} at {place}");
            }
            for other in ["\\u0041", "\\/", "\\b", "\\f", "\u{7f}", "\\\\\u{7f}", "\\ud83d\\ude00"]
            {
                assert!(!around(other), "{other} at {place}");
            }
        }
        assert!(!read(&"nothing in it is escaped ".repeat(100)));
    }

    #[test]
    fn a_beginning_ends_between_characters_and_escapes() {
        let inside = "a\\n\\\\\\\"\u{20ac}b";
        let whole = Quoted::Escaped(inside);
        let text = json::unescaped(inside).into_owned();
        for size in 0..=inside.len() + 1 {
            let start = whole.beginning(size);
            assert!(
                start.held().0.len() <= size && start.held().0.len() + 3 > size.min(inside.len())
            );
            assert!(text.starts_with(&*start.text()), "{size}: {start:?}");
        }
        assert_eq!(whole.beginning(inside.len()).text(), text);
        assert_eq!(Quoted::Text("a\\b".into()).beginning(2).text(), "a\\");
    }
}
