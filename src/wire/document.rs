//! Reads JSON for serde at the speed at which long lines come: whole blocks of a string at a time.
//!
//! It takes exactly what serde_json takes, with two differences: half of a surrogate pair in a
//! string is no error but becomes U+FFFD, and a control byte in a string is always one. Where a
//! line is read more than once, because what it is decides what is read of it, a long string is
//! gone through once: where it ends is remembered. Numbers are serde_json's business.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::Number;
use std::borrow::Cow;
use std::fmt;

use super::json;
use super::quoted::QUOTED;
use crate::base::blocks::{self, BLOCK};

/// The first bytes of a string are gone through by the word, all others by the block.
const SHORT: usize = 2 * BLOCK;
/// A string of so many bytes is gone through once, and later passed over.
const LONG: usize = 1024;
/// So many of them are remembered.
const LONG_MAX: usize = 64;
/// A byte that JSON allows in a string and that we escape.
const DEL: u8 = 127;
/// Containers within containers that a type may be read from; what is passed over has no bound.
const DEPTH_MAX: u32 = 128;
/// The name by which serde_json's raw values ask a deserializer for one.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// One JSON text, to be read as one type or several.
pub struct Document<'a> {
    text: &'a str,
    /// Long strings that were seen, in order.
    long: Vec<Inside>,
}

/// What stands between the quotes of a string.
#[derive(Clone, Copy)]
struct Inside {
    start: usize,
    end: usize,
    escapes: Escapes,
}

/// What stands in a string beside what stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Escapes {
    /// Nothing.
    None,
    /// A backslash and a letter, as we would write it.
    Ours,
    /// Also what we would write otherwise: digits, a slash, a DEL as it is.
    Others,
}

/// Not JSON, or not of the type that was asked for. Nobody is told which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not JSON of this type")
    }
}

impl std::error::Error for Unreadable {}

impl serde::de::Error for Unreadable {
    fn custom<T: fmt::Display>(_: T) -> Unreadable {
        Unreadable
    }
}

type Result<T> = std::result::Result<T, Unreadable>;

/// Reads a text as a type, once.
///
/// # Errors
/// It is not JSON, or of another type.
pub fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    Document::new(text).read().ok_or(Unreadable)
}

/// Reads bytes as a type, once.
///
/// # Errors
/// They are no UTF-8, not JSON, or of another type.
pub fn read_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    read(std::str::from_utf8(bytes).map_err(|_| Unreadable)?)
}

impl<'a> Document<'a> {
    /// Takes a text, which may be anything.
    pub fn new(text: &'a str) -> Document<'a> {
        Document { text, long: Vec::new() }
    }

    /// Reads the whole text as a type. `None`: it is not JSON, or of another type.
    pub fn read<T: Deserialize<'a>>(&mut self) -> Option<T> {
        let mut place = Place { text: self.text, at: 0, depth: 0, long: &mut self.long };
        let value = T::deserialize(&mut place).ok()?;
        place.peek().is_none().then_some(value)
    }

    /// Whether the text is JSON at all.
    pub fn is_json(&mut self) -> bool {
        self.read::<IgnoredAny>().is_some()
    }
}

/// A place in a text. `at` never stands within a character.
struct Place<'a, 'b> {
    text: &'a str,
    at: usize,
    depth: u32,
    long: &'b mut Vec<Inside>,
}

impl<'a> Place<'a, '_> {
    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// The next byte that is no space, without taking it.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes().get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                byte => return byte.copied(),
            }
        }
    }

    /// Takes the next byte that is no space if it is this one.
    fn take(&mut self, byte: u8) -> bool {
        let is_it = self.peek() == Some(byte);
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.take(byte) { Ok(()) } else { Err(Unreadable) }
    }

    /// Takes a string.
    fn string(&mut self) -> Result<Inside> {
        self.expect(b'"')?;
        let start = self.at;
        let known = match self.long.is_empty() {
            true => Err(0),
            false => self.long.binary_search_by_key(&start, |inside| inside.start),
        };
        let inside = match known {
            Ok(number) => self.long[number],
            Err(number) => {
                let inside = inside(self.bytes(), start).ok_or(Unreadable)?;
                if inside.end - start >= LONG && self.long.len() < LONG_MAX {
                    self.long.insert(number, inside);
                }
                inside
            }
        };
        self.at = inside.end + 1;
        Ok(inside)
    }

    /// Takes a name and its colon.
    fn name(&mut self) -> Result<()> {
        self.string()?;
        self.expect(b':')
    }

    /// Takes a number, or one of the three words. Returns it.
    fn scalar(&mut self) -> Result<&'a str> {
        let first = self.peek();
        let (start, bytes) = (self.at, self.bytes());
        let length = match first {
            Some(b't') if bytes[start..].starts_with(b"true") => 4,
            Some(b'f') if bytes[start..].starts_with(b"false") => 5,
            Some(b'n') if bytes[start..].starts_with(b"null") => 4,
            Some(b'-' | b'0'..=b'9') => number_length(&bytes[start..]).ok_or(Unreadable)?,
            _ => return Err(Unreadable),
        };
        self.at += length;
        Ok(&self.text[start..self.at])
    }

    /// Passes over a value, however deep it is. Returns it.
    fn skip(&mut self) -> Result<&'a str> {
        self.peek();
        let start = self.at;
        // The brackets that are to close what is open. Takes no memory unless something is.
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    if !self.take(b'}') {
                        open.push(b'}');
                        self.name()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    if !self.take(b']') {
                        open.push(b']');
                        continue;
                    }
                }
                Some(b'"') => {
                    self.string()?;
                }
                _ => {
                    self.scalar()?;
                }
            }
            // A value has ended, and whatever ends with it.
            loop {
                let Some(close) = open.last() else { return Ok(&self.text[start..self.at]) };
                if self.take(b',') {
                    if *close == b'}' {
                        self.name()?;
                    }
                    break;
                }
                self.expect(*close)?;
                open.pop();
            }
        }
    }

    /// Takes a string, without its quotes and escapes.
    fn text(&mut self) -> Result<Cow<'a, str>> {
        let Inside { start, end, escapes } = self.string()?;
        let inside = &self.text[start..end];
        Ok(match escapes {
            Escapes::None => Cow::Borrowed(inside),
            Escapes::Ours | Escapes::Others => json::unescaped(inside),
        })
    }

    /// Takes a number.
    fn number(&mut self) -> Result<Number> {
        serde_json::from_str(self.scalar()?).map_err(|_| Unreadable)
    }

    /// Goes into a container that opens with this bracket, one deeper.
    fn enter(&mut self, open: u8) -> Result<()> {
        self.expect(open)?;
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(Unreadable) } else { Ok(()) }
    }

    /// Goes out of a container by this bracket.
    fn leave(&mut self, close: u8) -> Result<()> {
        self.depth -= 1;
        self.expect(close)
    }
}

/// The inside of the string that begins at `start`, behind its quote. `None`: it does not end, or
/// holds what no string holds.
fn inside(bytes: &[u8], start: usize) -> Option<Inside> {
    let (mut at, mut escapes) = (start, Escapes::None);
    // Most strings are short, and not worth a block's time.
    while at < start + SHORT
        && let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk)
    {
        let Some(plain) = blocks::first_string_mark(word) else {
            at += word.len();
            continue;
        };
        at += plain;
        match bytes[at] {
            b'"' => return Some(Inside { start, end: at, escapes }),
            b'\\' => at += escape(&bytes[at..], &mut escapes)?,
            _ => return None,
        }
    }
    if memchr::memchr(DEL, &bytes[start..at.min(bytes.len())]).is_some() {
        escapes = Escapes::Others; // Words do not tell of it.
    }
    let from = at;
    let mut is_escaped = false; // What stands here.
    while let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<BLOCK>) {
        // A backslash before what is not escaped is the second of two: no plain block begins here.
        if is_escaped || bytes[at - 1] != b'\\' {
            let before = bytes[at - 1..].first_chunk()?;
            if blocks::is_plain(before, block) {
                at += BLOCK;
                is_escaped = bytes[at - 1] == b'\\';
                continue;
            }
        }
        at -= usize::from(std::mem::take(&mut is_escaped));
        let start_of_block = at;
        let mut marks = blocks::string_marks(bytes[at..].first_chunk()?);
        while marks != 0 {
            let next = start_of_block + marks.trailing_zeros() as usize;
            marks &= marks - 1;
            if next < at {
                continue; // It is what is escaped.
            }
            match bytes[next] {
                b'"' => {
                    return Some(Inside {
                        start,
                        end: next,
                        escapes: seen(bytes, from, next, escapes),
                    });
                }
                b'\\' => at = next + escape(&bytes[next..], &mut escapes)?,
                DEL => escapes = Escapes::Others,
                _ => return None,
            }
        }
        at = at.max(start_of_block + BLOCK);
    }
    at -= usize::from(is_escaped);
    loop {
        match bytes.get(at)? {
            b'"' => {
                return Some(Inside { start, end: at, escapes: seen(bytes, from, at, escapes) });
            }
            b'\\' => at += escape(&bytes[at..], &mut escapes)?,
            0..32 => return None,
            byte => {
                at += 1;
                if *byte == DEL {
                    escapes = Escapes::Others;
                }
            }
        }
    }
}

/// What stands in a string, given what was seen of it: plain blocks are not asked one by one.
fn seen(bytes: &[u8], from: usize, end: usize, escapes: Escapes) -> Escapes {
    match escapes {
        Escapes::None if memchr::memchr(b'\\', &bytes[from..end]).is_some() => Escapes::Ours,
        seen => seen,
    }
}

/// The length of the escape at the start of `bytes`, which is noted.
#[inline(always)]
fn escape(bytes: &[u8], escapes: &mut Escapes) -> Option<usize> {
    let length = escape_length(bytes)?;
    let is_ours = matches!(bytes[1], b'n' | b'"' | b't' | b'r' | b'\\');
    *escapes = (*escapes).max(if is_ours { Escapes::Ours } else { Escapes::Others });
    Some(length)
}

/// The length of the escape at the start of `bytes`.
#[inline(always)]
fn escape_length(bytes: &[u8]) -> Option<usize> {
    // One test for all eight: which comes next cannot be foreseen.
    let letter = *bytes.get(1)?;
    if letter == b'u' {
        let digits = bytes.get(2..6)?;
        return digits.iter().all(u8::is_ascii_hexdigit).then_some(6);
    }
    IS_LETTER[letter as usize].then_some(2)
}

/// Whether this may stand behind a backslash, without digits.
static IS_LETTER: [bool; 256] = {
    let mut table = [false; 256];
    let letters = b"\"\\/bfnrt";
    let mut number = 0;
    while number < letters.len() {
        table[letters[number] as usize] = true;
        number += 1;
    }
    table
};

/// The length of the number at the start of `bytes` (RFC 8259, section 6).
fn number_length(bytes: &[u8]) -> Option<usize> {
    let digits =
        |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(sign);
    if whole == 0 || whole > 1 && bytes[sign] == b'0' {
        return None;
    }
    let mut at = sign + whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        if exponent == 0 {
            return None;
        }
        at += 1 + sign + exponent;
    }
    Some(at)
}

impl<'de> Deserializer<'de> for &mut Place<'de, '_> {
    type Error = Unreadable;

    // Each type asks for what it wants, and only the reading of that is compiled for it: whoever
    // wants any value makes the compiler write all of the readings.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.peek() {
            Some(b'{') => self.deserialize_map(visitor),
            Some(b'[') => self.deserialize_seq(visitor),
            Some(b'"') => self.deserialize_str(visitor),
            Some(b't' | b'f') => self.deserialize_bool(visitor),
            Some(b'n') => self.deserialize_unit(visitor),
            _ => self.deserialize_f64(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.enter(b'{')?;
        let value = visitor.visit_map(Members { place: &mut *self, is_first: true })?;
        self.leave(b'}')?;
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_map(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.enter(b'[')?;
        let value = visitor.visit_seq(Elements { place: &mut *self, is_first: true })?;
        self.leave(b']')?;
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.text()? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_str(&self.text()?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.scalar()? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(Unreadable),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.scalar()? == "null" { visitor.visit_unit() } else { Err(Unreadable) }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let number = self.number()?;
        if let Some(number) = number.as_u64() {
            visitor.visit_u64(number)
        } else if let Some(number) = number.as_i64() {
            visitor.visit_i64(number)
        } else {
            visitor.visit_f64(number.as_f64().ok_or(Unreadable)?)
        }
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.peek() == Some(b'n') {
            self.scalar()?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.skip()?;
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        if name == RAW_VALUE {
            return visitor.visit_map(Raw(Some(self.skip()?)));
        }
        if name == QUOTED {
            let Inside { start, end, escapes } = self.string()?;
            let inside = &self.text[start..end];
            return match escapes {
                Escapes::None => visitor.visit_borrowed_str(inside),
                // Of a shorter one is not known whether there is a DEL in it.
                Escapes::Ours if inside.len() >= LONG => {
                    visitor.visit_newtype_struct(BorrowedStrDeserializer::new(inside))
                }
                Escapes::Ours | Escapes::Others => {
                    visitor.visit_string(json::unescaped(inside).into_owned())
                }
            };
        }
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u128 f32 char bytes byte_buf unit_struct tuple_struct enum
    }
}

/// The members of an object.
struct Members<'p, 'a, 'b> {
    place: &'p mut Place<'a, 'b>,
    is_first: bool,
}

impl Members<'_, '_, '_> {
    /// Goes to the next name. Returns whether there is one.
    fn advance(&mut self) -> Result<bool> {
        if self.place.peek() == Some(b'}') {
            return Ok(false);
        }
        if !std::mem::take(&mut self.is_first) {
            self.place.expect(b',')?;
        }
        if self.place.peek() == Some(b'"') { Ok(true) } else { Err(Unreadable) }
    }
}

impl<'a> MapAccess<'a> for Members<'_, 'a, '_> {
    type Error = Unreadable;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        if !self.advance()? {
            return Ok(None);
        }
        let name = seed.deserialize(&mut *self.place)?;
        self.place.expect(b':')?;
        Ok(Some(name))
    }

    #[inline(never)] // Once for each type, not for each member of one.
    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(&mut *self.place)
    }
}

/// The elements of an array.
struct Elements<'p, 'a, 'b> {
    place: &'p mut Place<'a, 'b>,
    is_first: bool,
}

impl Elements<'_, '_, '_> {
    /// Goes to the next element. Returns whether there is one.
    fn advance(&mut self) -> Result<bool> {
        let is_first = std::mem::take(&mut self.is_first);
        if self.place.peek() == Some(b']') {
            return Ok(false);
        }
        if !is_first {
            self.place.expect(b',')?;
        }
        Ok(true)
    }
}

impl<'a> SeqAccess<'a> for Elements<'_, 'a, '_> {
    type Error = Unreadable;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if !self.advance()? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.place).map(Some)
    }
}

/// A raw value, in the shape in which serde_json wants it: an object of one member.
struct Raw<'a>(Option<&'a str>);

impl<'a> MapAccess<'a> for Raw<'a> {
    type Error = Unreadable;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        match self.0 {
            Some(_) => seed.deserialize(RAW_VALUE.into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(BorrowedStrDeserializer::new(self.0.take().ok_or(Unreadable)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }

        fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
            all[self.below(all.len())]
        }

        fn string(&mut self, out: &mut String) {
            out.push('"');
            for _ in 0..[0, 3, 20, 200][self.below(4)] {
                out.push_str(self.of(&[
                    "a",
                    "bc",
                    "plain words ",
                    "\u{e9}",
                    "\u{1F600}",
                    "\\n",
                    "\\\\",
                    "\\\"",
                    "\\/",
                    "\\u00e9",
                    "\\ud83d\\ude00",
                    "\\u2028",
                    "\u{7f}",
                    "{",
                    "]",
                    ",",
                    ":",
                ]));
            }
            out.push('"');
        }

        fn value(&mut self, depth: usize, out: &mut String) {
            out.push_str(self.of(&["", "", " ", "\t", "\r\n"]));
            match self.below(if depth == 0 { 3 } else { 5 }) {
                0 => self.string(out),
                1 => out.push_str(self.of(&["true", "false", "null", "0", "-0", "17", "-1.5e3"])),
                2 => out.push_str(self.of(&["1E+2", "0.25", "18446744073709551615", "1e400"])),
                kind => {
                    let (open, close) = if kind == 3 { ('{', '}') } else { ('[', ']') };
                    out.push(open);
                    for number in 0..self.below(4) {
                        if number > 0 {
                            out.push(',');
                        }
                        if kind == 3 {
                            self.string(out);
                            out.push_str(self.of(&[":", " : "]));
                        }
                        self.value(depth - 1, out);
                    }
                    out.push_str(self.of(&["", " "]));
                    out.push(close);
                }
            }
            out.push_str(self.of(&["", "", " ", "\n"]));
        }
    }

    /// What serde_json makes of a text, as one type.
    fn theirs<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
        serde_json::from_str(text).ok()
    }

    fn compare(text: &str) {
        // Half of a surrogate pair is the one thing in which we are to differ.
        let whole = theirs::<Value>(text);
        if whole.is_some() || !text.contains("\\u") && !text.contains("\\U") {
            assert_eq!(Document::new(text).read::<Value>(), whole, "{text:?}");
        }
        let is_json = theirs::<IgnoredAny>(text).is_some();
        let mut document = Document::new(text);
        for reading in ["first", "again, its long strings known"] {
            assert_eq!(document.is_json(), is_json, "{reading}: {text:?}");
            let raw = document.read::<&RawValue>().map(RawValue::get);
            assert_eq!(raw, theirs::<&RawValue>(text).map(RawValue::get), "{reading}: {text:?}");
        }
        let ours = Document::new(text).read::<Vec<&RawValue>>();
        let ours = ours.map(|all| all.into_iter().map(RawValue::get).collect::<Vec<_>>());
        let all = theirs::<Vec<&RawValue>>(text);
        assert_eq!(ours, all.map(|all| all.into_iter().map(RawValue::get).collect()), "{text:?}");
    }

    #[test]
    fn reads_what_serde_json_reads_and_refuses_what_it_refuses() {
        let mut random = Random(7);
        for _ in 0..4000 {
            let mut text = String::new();
            random.value(3, &mut text);
            compare(&text);
            // Damaged anywhere: a byte changed, left out or doubled, or the end gone.
            for _ in 0..6 {
                let mut bytes = text.clone().into_bytes();
                let at = random.below(bytes.len());
                let damage = b"\"\\{}[],:u0 e.-+tn\x01\x1f\x7f/9a";
                let byte = damage[random.below(damage.len())];
                match random.below(4) {
                    0 => bytes[at] = byte,
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, byte),
                    _ => bytes.truncate(at),
                }
                if let Ok(text) = std::str::from_utf8(&bytes) {
                    compare(text);
                }
            }
        }
    }

    #[test]
    fn every_byte_in_every_place_of_a_long_string_is_judged_alike() {
        for place in 0..3 * BLOCK {
            for byte in 0..128u8 {
                let mut text = String::from("[\"");
                text.extend(std::iter::repeat_n('x', place));
                text.push(char::from(byte));
                text.push_str("nthen some more of it\\\\\", 1]");
                compare(&text);
                text.truncate(place + 4);
                compare(&text);
            }
        }
    }

    #[test]
    fn rows_of_backslashes_are_counted_wherever_a_block_ends() {
        for place in SHORT - 2..SHORT + 2 * BLOCK + 2 {
            for count in 0..6 {
                let before = format!("{}{}", "x".repeat(place), "\\".repeat(count));
                for behind in ["\"", "n", "x", "u0041", "\u{7f}", "\u{1}"] {
                    for rest in ["", "y", &"y\\n\\t".repeat(40)] {
                        compare(&format!("[\"{before}{behind}{rest}\",1]"));
                    }
                }
            }
        }
    }

    #[test]
    fn a_type_is_read_from_what_it_is_and_from_nothing_else() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Point {
            x: u64,
            y: Option<f64>,
            far: bool,
        }
        let read = |text| Document::new(text).read::<Point>();
        let point = |x, y, far| Some(Point { x, y, far });
        assert_eq!(read(r#"{"x":1,"far":true}"#), point(1, None, true));
        assert_eq!(read(r#"{"\u0078":1,"y":-2,"far":false}"#), point(1, Some(-2.0), false));
        assert_eq!(read(r#"{"x":1,"y":-2,"far":false,"z":[{}]}"#), point(1, Some(-2.0), false));
        for other in [
            r#"[1,2,true]"#,
            r#"{"x":"1","far":true}"#,
            r#"{"x":-1,"far":true}"#,
            r#"{"x":1.5,"far":true}"#,
            r#"{"x":1,"far":1}"#,
            r#"{"x":1,"far":null}"#,
            r#"{"x":1,"y":"2","far":true}"#,
            r#"{"x":null,"far":true}"#,
        ] {
            assert_eq!(read(other), None, "{other}");
        }
        assert_eq!(Document::new("[1]").read::<String>(), None);
        assert_eq!(Document::new("\"a\"").read::<Vec<u64>>(), None);
        assert_eq!(Document::new("{}").read::<Vec<u64>>(), None);
        assert_eq!(Document::new("null").read::<()>(), Some(()));
        assert_eq!(Document::new("0").read::<()>(), None);
    }

    #[test]
    fn half_a_surrogate_pair_is_a_character_that_is_not_known() {
        let read = |text| Document::new(text).read::<String>();
        assert_eq!(read("\"a\\ud83d\\u0041\\ude00b\"").as_deref(), Some("a\u{fffd}A\u{fffd}b"));
        assert_eq!(read("\"\\ud83d\\uDE00\"").as_deref(), Some("\u{1F600}"));
        assert_eq!(read("\"\\ud83\""), None);
        assert_eq!(read("\"a\u{1}\""), None, "a control byte is none of a string");
    }

    #[test]
    fn what_is_passed_over_may_be_as_deep_as_it_likes_and_what_is_read_may_not() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Document::new(&deep).is_json());
        assert_eq!(Document::new(&deep).read::<Value>(), None);
        let fair = format!("{}{}", "[".repeat(127), "]".repeat(127));
        assert!(Document::new(&fair).read::<Value>().is_some());
    }
}
