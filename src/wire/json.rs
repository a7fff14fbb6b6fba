//! Writes JSON straight into a byte buffer: no tree, no allocation beyond the buffer.
//!
//! What is written is one line of ASCII control-free UTF-8, so it may stand in an SSE `data:`
//! field as it is. The writer remembers the largest member it wrote, so that an event that turns
//! out too large can be cut without being built again.

use super::quoted::Quoted;
use crate::base::blocks::{self, BLOCK};
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::Range;

use serde::de::Error as _;
use serde_json::Value;

/// Writes one JSON object. Members appear in the order of the calls; names are trusted ASCII.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
    /// A member of more bytes is not written but taken out.
    member_size_max: usize,
    /// Memory for what is taken out.
    room: Option<&'a mut Vec<u8>>,
    largest: Largest,
}

/// The largest member of an object.
#[derive(Debug, Default)]
pub struct Largest {
    /// Its name.
    pub name: &'static str,
    /// Where its value stands.
    pub value: Range<usize>,
    /// The value, if it was taken out: then an empty string stands in its place.
    pub taken_out: Option<LargeValue>,
}

/// The value of a member that is too large to be written where it belongs.
#[derive(Debug, PartialEq, Eq)]
pub struct LargeValue {
    /// The text of a string, or JSON.
    pub bytes: Vec<u8>,
    /// Which of them.
    pub is_text: bool,
}

impl LargeValue {
    /// Of JSON: a string becomes its text. It takes the memory of `bytes`, if that is enough.
    pub fn of(json: &str, mut bytes: Vec<u8>) -> LargeValue {
        let inside = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        match inside {
            Some(inside) => bytes = unescape(inside, bytes),
            None => {
                bytes.clear();
                raw(&mut bytes, json);
            }
        }
        LargeValue { bytes, is_text: inside.is_some() }
    }
}

/// Writes one JSON array.
pub struct Array<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

/// Appends an object to `out`; `members` writes what is in it.
pub fn object(out: &mut Vec<u8>, members: impl FnOnce(&mut Object<'_>)) {
    let mut object = Object::begin(out);
    members(&mut object);
    object.end();
}

impl<'a> Object<'a> {
    /// Opens an object; [`Object::end`] closes it.
    pub fn begin(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        let (member_size_max, largest) = (usize::MAX, Largest::default());
        Object { out, empty: true, member_size_max, room: None, largest }
    }

    /// The same, and the first string or JSON of more bytes than that is taken out, so that it is
    /// not written only to be cut out again. It takes `room` for its memory, if that suits it.
    pub fn begin_within(
        out: &'a mut Vec<u8>,
        member_size_max: usize,
        room: &'a mut Vec<u8>,
    ) -> Object<'a> {
        Object { member_size_max, room: Some(room), ..Object::begin(out) }
    }

    /// Closes the object. Returns its largest member, which is the one taken out if there is one.
    pub fn end(self) -> Largest {
        self.out.push(b'}');
        self.largest
    }

    /// Whether a value of this size is to be taken out.
    fn is_large(&self, size: usize) -> bool {
        size > self.member_size_max && self.largest.taken_out.is_none()
    }

    /// Memory that may do for so many bytes.
    fn room_for(&mut self, size: usize) -> Vec<u8> {
        let room = self.room.take().map(std::mem::take).unwrap_or_default();
        // What is kept is counted by the memory that it takes: not much more than it needs.
        if room.capacity() / 8 * 7 > size { Vec::new() } else { room }
    }

    fn take_out(&mut self, name: &'static str, taken_out: LargeValue) {
        self.member(name, |out| out.extend_from_slice(b"\"\""));
        let end = self.out.len();
        self.largest = Largest { name, value: end - 2..end, taken_out: Some(taken_out) };
    }

    fn member(&mut self, name: &'static str, value: impl FnOnce(&mut Vec<u8>)) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        let start = self.out.len();
        value(self.out);
        let range = start..self.out.len();
        if range.len() > self.largest.value.len() && self.largest.taken_out.is_none() {
            self.largest = Largest { name, value: range, taken_out: None };
        }
    }

    /// A string member.
    pub fn string(&mut self, name: &'static str, value: &str) {
        self.text(name, Cow::Borrowed(value));
    }

    /// The same of text that may be nobody else's: if it is large, it is not copied again.
    pub fn text(&mut self, name: &'static str, value: Cow<'_, str>) {
        if self.is_large(value.len()) {
            let bytes = value.into_owned().into_bytes();
            return self.take_out(name, LargeValue { bytes, is_text: true });
        }
        self.member(name, |out| string(out, &value));
    }

    /// The same of text that may still be as it stood in JSON.
    pub fn quoted(&mut self, name: &'static str, value: Quoted<'_>) {
        match value {
            Quoted::Text(text) => self.text(name, text),
            Quoted::Escaped(inside) if self.is_large(inside.len()) => {
                let bytes = unescape(inside, self.room_for(inside.len()));
                self.take_out(name, LargeValue { bytes, is_text: true });
            }
            Quoted::Escaped(inside) => self.member(name, |out| {
                out.reserve(inside.len() + 2);
                out.push(b'"');
                out.extend_from_slice(inside.as_bytes());
                out.push(b'"');
            }),
        }
    }

    /// A string member, or null.
    pub fn string_or_null(&mut self, name: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.string(name, value),
            None => self.null(name),
        }
    }

    /// A string member that is left out if there is none.
    pub fn optional(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(name, value);
        }
    }

    /// A string member from anything that can be displayed.
    pub fn display(&mut self, name: &'static str, value: impl fmt::Display) {
        self.member(name, |out| display(out, value));
    }

    /// The same, or null.
    pub fn display_or_null(&mut self, name: &'static str, value: Option<impl fmt::Display>) {
        match value {
            Some(value) => self.display(name, value),
            None => self.null(name),
        }
    }

    /// A whole number.
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.member(name, |out| number(out, value));
    }

    /// A whole number that may be negative.
    pub fn integer(&mut self, name: &'static str, value: i64) {
        self.member(name, |out| write_display(out, value));
    }

    /// A whole number, or null.
    pub fn number_or_null(&mut self, name: &'static str, value: Option<u64>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.null(name),
        }
    }

    /// A number with a fraction; null if it is not finite.
    pub fn float(&mut self, name: &'static str, value: f64) {
        if value.is_finite() {
            self.member(name, |out| write_display(out, value));
        } else {
            self.null(name);
        }
    }

    /// True or false.
    pub fn bool(&mut self, name: &'static str, value: bool) {
        self.member(name, |out| out.extend_from_slice(if value { b"true" } else { b"false" }));
    }

    /// Null.
    pub fn null(&mut self, name: &'static str) {
        self.member(name, |out| out.extend_from_slice(b"null"));
    }

    /// A member that is JSON already. Line ends between its tokens are taken out.
    pub fn raw(&mut self, name: &'static str, value: &str) {
        if self.is_large(value.len()) {
            let room = self.room_for(value.len());
            return self.take_out(name, LargeValue::of(value, room));
        }
        self.member(name, |out| raw(out, value));
    }

    /// The same of what must stay where it is: it is never the member that is cut, so that who writes
    /// it sees to its size.
    pub fn raw_uncut(&mut self, name: &'static str, value: &str) {
        let largest = std::mem::take(&mut self.largest);
        self.member(name, |out| raw(out, value));
        self.largest = largest;
    }

    /// A member that is an object.
    pub fn object(&mut self, name: &'static str, members: impl FnOnce(&mut Object<'_>)) {
        self.member(name, |out| object(out, members));
    }

    /// A member that is an array.
    pub fn array(&mut self, name: &'static str, elements: impl FnOnce(&mut Array<'_>)) {
        self.member(name, |out| {
            out.push(b'[');
            let mut array = Array { out, empty: true };
            elements(&mut array);
            array.out.push(b']');
        });
    }

    /// A number member whose name is not known at compile time. For maps.
    pub fn entry(&mut self, name: &str, value: u64) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        string(self.out, name);
        self.out.push(b':');
        number(self.out, value);
    }
}

impl Array<'_> {
    fn element(&mut self, value: impl FnOnce(&mut Vec<u8>)) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        value(self.out);
    }

    /// The bytes of everything that was written so far, what stands before it among it.
    pub fn size(&self) -> usize {
        self.out.len()
    }

    /// A string element.
    pub fn string(&mut self, value: &str) {
        self.element(|out| string(out, value));
    }

    /// A string element from anything that can be displayed.
    pub fn display(&mut self, value: impl fmt::Display) {
        self.element(|out| display(out, value));
    }

    /// An element that is JSON already.
    pub fn raw(&mut self, value: &str) {
        self.element(|out| raw(out, value));
    }

    /// An object element.
    pub fn object(&mut self, members: impl FnOnce(&mut Object<'_>)) {
        self.element(|out| object(out, members));
    }
}

/// Appends a JSON string (RFC 8259, section 7), quotes included.
pub fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    escaped(out, value);
    out.push(b'"');
}

/// Bytes that are copied in one go. A copy of a known, small size is two instructions; one of any
/// size is a call that costs more than the few bytes between two escapes.
const STRIDE: usize = 16;
/// Bytes of a text, escaped, that are put together before they are appended.
const PIECE: usize = 8 * BLOCK;

/// Appends the inside of a JSON string. U+2028 and U+2029 are fine in JSON and in SSE.
fn escaped(out: &mut Vec<u8>, value: &str) {
    out.reserve(value.len() + 2);
    let mut bytes = value.as_bytes();
    if bytes.len() >= BLOCK {
        bytes = escaped_blocks(out, bytes);
    }
    for byte in bytes {
        match LETTERS[*byte as usize] {
            0 => out.push(*byte),
            _ => {
                let mut room = [0; ESCAPE_MAX];
                let length = escaped_byte(&mut room, *byte);
                out.extend_from_slice(&room[..length]);
            }
        }
    }
}

/// The same for all whole blocks. Returns what is behind them.
fn escaped_blocks<'a>(out: &mut Vec<u8>, mut bytes: &'a [u8]) -> &'a [u8] {
    // It is zeroed each time, so it is no larger than it has to be.
    let mut room = [0; PIECE + ESCAPE_MAX * BLOCK];
    while bytes.len() >= BLOCK {
        let (mut at, mut end) = (0, 0);
        while end <= PIECE - STRIDE
            && let Some(block) = bytes[at..].first_chunk::<BLOCK>()
        {
            let mut marks = blocks::string_marks(block);
            let mut done = 0;
            while marks != 0 {
                let plain = marks.trailing_zeros() as usize;
                copy_run(&mut room[end..], &bytes[at + done..], plain - done);
                end += plain - done;
                end += escaped_byte(&mut room[end..], block[plain]);
                done = plain + 1;
                marks &= marks - 1;
            }
            copy_run(&mut room[end..], &bytes[at + done..], BLOCK - done);
            (at, end) = (at + BLOCK, end + BLOCK - done);
        }
        out.extend_from_slice(&room[..end]);
        bytes = &bytes[at..];
    }
    bytes
}

/// Copies a run of bytes, and perhaps some more behind it: what comes next covers those.
#[inline(always)]
fn copy_run(to: &mut [u8], from: &[u8], length: usize) {
    let mut done = 0;
    while done < length {
        let (to, from) = (&mut to[done..], &from[done..]);
        match (to.first_chunk_mut::<STRIDE>(), from.first_chunk::<STRIDE>()) {
            (Some(to), Some(from)) => *to = *from,
            _ => return to[..length - done].copy_from_slice(&from[..length - done]),
        }
        done += STRIDE;
    }
}

/// A block, and what a copy from its last byte, or to it, takes behind it.
const WINDOW: usize = BLOCK + STRIDE;

/// Copies a run that begins within a block and does not leave it, to no later a place of another,
/// and perhaps some bytes more: what comes next covers those. Without a loop, since how often that
/// would run cannot be foreseen, and by places of which the compiler sees that they are within.
#[inline(always)]
fn copy_in_window(
    to: &mut [u8; WINDOW],
    place: usize,
    from: &[u8; WINDOW],
    start: usize,
    length: usize,
) {
    let mut copy = |done: usize| {
        let (place, start) = ((place + done) % BLOCK, (start + done) % BLOCK);
        to[place..place + STRIDE].copy_from_slice(&from[start..start + STRIDE]);
    };
    copy(0);
    if length > STRIDE {
        copy(STRIDE);
        if length > 2 * STRIDE {
            copy(2 * STRIDE);
            if length > 3 * STRIDE {
                copy(3 * STRIDE);
            }
        }
    }
}

/// The longest escape that we write.
const ESCAPE_MAX: usize = "\\u0000".len();

/// Writes a byte that cannot stand as it is to the start of `out`. Returns the length.
#[inline(always)]
fn escaped_byte(out: &mut [u8], byte: u8) -> usize {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let letter = LETTERS[byte as usize];
    let (high, low) = (HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]);
    out[..ESCAPE_MAX].copy_from_slice(&[b'\\', letter, b'0', b'0', high, low]);
    if letter == b'u' { 6 } else { 2 }
}

/// What stands behind the backslash for a byte that we escape; 0 for those that we do not.
static LETTERS: [u8; 256] = {
    let mut letters = [0; 256];
    let mut control = 0;
    while control < 32 {
        letters[control] = b'u';
        control += 1;
    }
    letters[127] = b'u';
    letters[b'"' as usize] = b'"';
    letters[b'\\' as usize] = b'\\';
    letters[b'\n' as usize] = b'n';
    letters[b'\r' as usize] = b'r';
    letters[b'\t' as usize] = b't';
    letters
};

/// What a letter behind a backslash stands for; 0 for the one that digits follow.
static MEANINGS: [u8; 256] = {
    let mut meanings = [0; 256];
    let mut letter = 0;
    while letter < 256 {
        meanings[letter] = letter as u8;
        letter += 1;
    }
    meanings[b'n' as usize] = b'\n';
    meanings[b't' as usize] = b'\t';
    meanings[b'r' as usize] = b'\r';
    meanings[b'b' as usize] = 8;
    meanings[b'f' as usize] = 12;
    meanings[b'u' as usize] = 0;
    meanings
};

/// The text of a JSON string, given what stands between its quotes, which is valid JSON. Half of a
/// surrogate pair, which JSON can hold and text cannot, becomes U+FFFD.
pub fn unescaped(inside: &str) -> Cow<'_, str> {
    if memchr::memchr(b'\\', inside.as_bytes()).is_none() {
        return Cow::Borrowed(inside);
    }
    // Whole characters in, whole characters out: nothing is lost here.
    Cow::Owned(String::from_utf8(unescape(inside, Vec::new())).unwrap_or_default())
}

/// The same text, as bytes, in memory that may have held something else.
#[inline(never)] // Stays in this floor, which is compiled for speed.
pub fn unescape(inside: &str, mut out: Vec<u8>) -> Vec<u8> {
    let bytes = inside.as_bytes();
    // Never longer than what it stands for. What is there already need not be zeroed.
    match out.capacity() < bytes.len() {
        true => out = vec![0; bytes.len()],
        false => out.resize(bytes.len(), 0),
    }
    let (mut at, mut end) = (0, 0);
    'blocks: while let Some(from) = bytes[at..].first_chunk::<WINDOW>()
        && let Some(to) = out[end..].first_chunk_mut::<WINDOW>()
    {
        let Some(block) = from.first_chunk() else { break };
        let mut marks = blocks::backslashes(block);
        let (mut read, mut written) = (0, 0);
        while marks != 0 {
            let next = marks.trailing_zeros() as usize;
            marks &= marks - 1;
            let Some(plain) = next.checked_sub(read) else { continue }; // It is what is escaped.
            copy_in_window(to, written, from, read, plain);
            written += plain;
            let meaning = MEANINGS[from[next % BLOCK + 1] as usize];
            if meaning == 0 {
                (at, end) = (at + next, end + written);
                let (read, written) = unicode_escape(&mut out[end..], &bytes[at..]);
                (at, end) = (at + read, end + written);
                continue 'blocks;
            }
            to[written % BLOCK] = meaning;
            (read, written) = (next + 2, written + 1);
        }
        let rest = BLOCK.saturating_sub(read);
        if rest > 0 {
            copy_in_window(to, written, from, read, rest);
        }
        (at, end) = (at + read + rest, end + written + rest);
    }
    while let Some(byte) = bytes.get(at) {
        let (read, written) = match byte {
            b'\\' => escape(&mut out[end..], &bytes[at..]),
            byte => {
                out[end] = *byte;
                (1, 1)
            }
        };
        (at, end) = (at + read, end + written);
    }
    out.truncate(end);
    out
}

/// Writes what the escape at the start of `bytes` stands for to the start of `out`. Returns the
/// lengths of both.
#[inline(always)]
fn escape(out: &mut [u8], bytes: &[u8]) -> (usize, usize) {
    // By a table: which letter comes next cannot be foreseen, so that branches would be slow.
    let Some(letter) = bytes.get(1) else { return (1, 0) };
    match MEANINGS[*letter as usize] {
        0 => unicode_escape(out, bytes),
        meaning => {
            out[0] = meaning;
            (2, 1)
        }
    }
}

fn unicode_escape(out: &mut [u8], bytes: &[u8]) -> (usize, usize) {
    let unit = |from: usize| -> Option<u32> {
        let escape = bytes.get(from..from + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        let digits = std::str::from_utf8(&escape[2..]).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(0) else { return (2, 0) };
    let second =
        unit(6).filter(|low| (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(low));
    let (code, length) = match second {
        Some(low) => (0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00), 12),
        None => (first, 6),
    };
    let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    (length, character.encode_utf8(out).len())
}

/// Appends JSON text. A carriage return or newline can stand only between tokens, never in a
/// string, and would end an SSE field there: both become spaces. Half a surrogate pair becomes a
/// character, as [`mend_halves`] does it.
fn raw(out: &mut Vec<u8>, value: &str) {
    let start = out.len();
    out.extend_from_slice(value.as_bytes());
    if memchr::memchr2(b'\r', b'\n', value.as_bytes()).is_some() {
        for byte in &mut out[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
    }
    mend_halves(&mut out[start..]);
}

/// Puts U+FFFD in the place of each escape in JSON text that is half a surrogate pair. The grammar
/// lets it pass (RFC 8259 §8.2), and strict readers refuse the whole text for it: it stands for
/// nothing. Both escapes are of one length.
pub fn mend_halves(json: &mut [u8]) {
    let unit = |json: &[u8], at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let hex =
            |value: u16, digit: &u8| Some(value << 4 | char::from(*digit).to_digit(16)? as u16);
        digits.iter().try_fold(0, hex)
    };
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&json[at..], b"\\u") {
        at += found;
        let before = json[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        let low = (0xdc00..0xe000).contains(&unit(json, at + 6).unwrap_or_default());
        at += match unit(json, at) {
            _ if before % 2 == 1 => 2, // The backslash is what is escaped.
            Some(0xd800..0xdc00) if low => 12,
            Some(0xd800..0xe000) => {
                json[at..at + 6].copy_from_slice(b"\\ufffd");
                6
            }
            _ => 2,
        };
    }
}

/// No fewer values than a JSON text has, however nested: what stands outside of its strings is
/// counted, and nothing is understood. Whatever reads a text into a tree takes some hundred bytes for
/// each.
pub fn count_values(json: &[u8]) -> usize {
    let (mut count, mut at) = (1, 0);
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b',' | b'[' | b'{' => count += 1,
            b'"' => at = after_string(json, at),
            _ => {}
        }
    }
    count
}

/// Where a string ends of which the first mark stands before `at`.
fn after_string(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        at += 1; // What is escaped ends nothing.
    }
    json.len()
}

/// Reads bytes that should be JSON, as any value.
///
/// # Errors
/// They are no UTF-8, or no JSON: says what stands where.
pub fn value(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    // From text alone, so that the code that reads a value stands in the binary once.
    serde_json::from_str(std::str::from_utf8(bytes).map_err(serde_json::Error::custom)?)
}

/// What a text says whose value should be an object.
#[derive(Debug, PartialEq)]
pub enum Members {
    /// Members of different names.
    Once(serde_json::Map<String, Value>),
    /// Two of this name: which one counts is where parsers disagree.
    Doubled(String),
    /// It is no object.
    None,
}

/// Reads a text whose value should be an object.
///
/// # Errors
/// As [`value`] does.
pub fn object_of(bytes: &[u8]) -> Result<Members, serde_json::Error> {
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Members;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
            let (mut members, mut doubled) = (serde_json::Map::new(), None);
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                if doubled.is_none() && members.contains_key(&name) {
                    doubled = Some(name.clone());
                }
                members.insert(name, value);
            }
            Ok(doubled.map_or(Members::Once(members), Members::Doubled))
        }
    }
    let text = std::str::from_utf8(bytes).map_err(serde_json::Error::custom)?;
    if !text.trim_ascii_start().starts_with('{') {
        return value(bytes).map(|_| Members::None);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let members = serde::Deserializer::deserialize_map(&mut reader, Visitor)?;
    reader.end()?;
    Ok(members)
}

/// A value's JSON text. What `Value` itself displays also comes indented, which nobody asks for.
pub fn text(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default() // Any `Value` has a JSON form.
}

/// Appends a whole number in decimal.
pub fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn display(out: &mut Vec<u8>, value: impl fmt::Display) {
    struct Escaped<'a>(&'a mut Vec<u8>);
    impl fmt::Write for Escaped<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            escaped(self.0, text);
            Ok(())
        }
    }
    out.push(b'"');
    // Writing to a Vec cannot fail; a Display that does leaves its string short, not broken.
    let _ = write!(Escaped(out), "{value}");
    out.push(b'"');
}

/// Appends something whose display needs no escaping.
fn write_display(out: &mut Vec<u8>, value: impl fmt::Display) {
    struct Plain<'a>(&'a mut Vec<u8>);
    impl fmt::Write for Plain<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    let _ = write!(Plain(out), "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_to_be_cut_is_never_the_largest() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.string("a", "some words");
        object.raw_uncut("b", &format!("[{}]", ["1"; 100].join(",")));
        object.number("c", 7);
        let largest = object.end();
        assert_eq!((largest.name, &out[largest.value]), ("a", &b"\"some words\""[..]));
    }

    #[test]
    fn every_character_survives_the_trip_and_none_ends_a_line() {
        let all: String = (0..0x3000u32).filter_map(char::from_u32).chain(['\u{1F600}']).collect();
        let mut out = Vec::new();
        string(&mut out, &all);
        assert!(!out.iter().any(|byte| *byte < 32 || *byte == 127));
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), all);
    }

    #[test]
    fn what_was_escaped_by_anybody_is_read_back() {
        let all: String = (0..0x3000u32).filter_map(char::from_u32).chain(['\u{1F600}']).collect();
        for start in 0..2 * BLOCK {
            let text: String = all.chars().skip(start).take(600).collect();
            let text = text.as_str();
            let mut out = Vec::new();
            string(&mut out, text);
            let ours = std::str::from_utf8(&out[1..out.len() - 1]).unwrap();
            assert_eq!(unescaped(ours), text);
        }
        for inside in [
            "",
            "plain",
            "\\\\",
            "a\\/b\\b\\f\\n\\r\\t\\\"",
            "\\u0041\\u00e9\\ud83d\\ude00!",
            "\\uD83D\\uDE00",
            "0123456789abcd\\ud83d\\ude00 over the end of a block",
            "0123456789abcde\\\\0123456789abcdef",
        ] {
            let whole: String = serde_json::from_str(&format!("\"{inside}\"")).unwrap();
            assert_eq!(unescaped(inside), whole, "{inside}");
        }
        assert_eq!(unescaped("a\\ud83db\\ude00\\ud83d\\u0041"), "a\u{fffd}b\u{fffd}\u{fffd}A");
        for cut in ["\\", "\\u", "\\u12", "x\\uzzzz", "\\ud83d\\u12"] {
            unescaped(cut); // Not JSON: any text will do.
        }
    }

    #[test]
    fn an_object_parses_back_to_its_members() {
        let mut out = Vec::new();
        object(&mut out, |object| {
            object.string("a", "x\n\"y\"");
            object.number("b", u64::MAX);
            object.float("c", 0.25);
            object.float("nan", f64::NAN);
            object.raw("d", "{\"k\":\r\n[1,2]}");
            object.array("e", |array| {
                array.object(|object| object.bool("t", true));
                array.string("s");
            });
            object.display("f", format_args!("{}\u{7}", 1));
            object.string_or_null("g", None);
            object.optional("h", None);
        });
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let want = serde_json::json!({"a": "x\n\"y\"", "b": u64::MAX, "c": 0.25, "nan": null,
            "d": {"k": [1, 2]}, "e": [{"t": true}, "s"], "f": "1\u{7}", "g": null});
        assert_eq!(value, want);
        assert!(memchr::memchr2(b'\r', b'\n', &out).is_none());
    }

    #[test]
    fn half_a_surrogate_pair_becomes_a_character_and_nothing_else_changes() {
        for (given, expected) in [
            (r#""\ud800""#, r#""\ufffd""#),
            (
                r#"["\uDFFF\uD83D","x\udc00\ud83d\ude00"]"#,
                r#"["\ufffd\ufffd","x\ufffd\ud83d\ude00"]"#,
            ),
            (r#""\ud83d\ud83d\ude00\ude00""#, r#""\ufffd\ud83d\ude00\ufffd""#),
            (r#""\\ud800 \\\ud800 \\\\ud800""#, r#""\\ud800 \\\ufffd \\\\ud800""#),
            (r#"{"\ud83dx":"\ud83d\\ude00"}"#, r#"{"\ufffdx":"\ufffd\\ude00"}"#),
            (r#""\u0041\ue000\ud7ff\n\uD83D\uDE00""#, r#""\u0041\ue000\ud7ff\n\uD83D\uDE00""#),
            (r#""\ud8"#, r#""\ud8"#),
            (r#""\ud800"#, r#""\ufffd"#),
            ("", ""),
        ] {
            let mut out = b"before ".to_vec();
            raw(&mut out, given);
            assert_eq!(std::str::from_utf8(&out[7..]), Ok(expected), "{given}");
        }
    }

    #[test]
    fn an_object_has_each_member_once() {
        let read = |text: &str| object_of(text.as_bytes());
        let doubled = |name: &str| Members::Doubled(name.to_owned());
        assert_eq!(read(r#"{"a":1,"b":2,"a":1,"b":2}"#).unwrap(), doubled("a"));
        assert_eq!(read(r#" {"a":1,"\u0061":2}"#).unwrap(), doubled("a"), "however it is written");
        let once = read("\n{\"a\":{\"b\":1},\"b\":[1.5,-2,null]}").unwrap();
        let Value::Object(want) = serde_json::json!({"a": {"b": 1}, "b": [1.5, -2, null]}) else {
            unreachable!()
        };
        assert_eq!(once, Members::Once(want));
        for other in ["[1]", "7", " null", "\"{\""] {
            assert_eq!(read(other).unwrap(), Members::None, "{other}");
        }
        for bad in ["", "{", "{\"a\":1,}", "{\"a\":1} x", "[1", "{\"a\":1,\"a\"}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(object_of(b"{\"\xff\":1}").is_err());
    }

    #[test]
    fn the_largest_member_is_found_where_it_stands() {
        let mut out = b"before ".to_vec();
        let mut object = Object::begin(&mut out);
        object.string("small", "x");
        object.string("large", "a long one");
        object.number("n", 1);
        let Largest { name, value, taken_out } = object.end();
        assert_eq!((name, &out[value], taken_out), ("large", &b"\"a long one\""[..], None));
    }

    #[test]
    fn the_first_member_that_is_too_large_is_take_out() {
        let text = |bytes: &str| LargeValue { bytes: bytes.into(), is_text: true };
        let json = |bytes: &str| LargeValue { bytes: bytes.into(), is_text: false };
        type Write = fn(&mut Object<'_>);
        let cases: [(Write, LargeValue); 4] = [
            (|object| object.quoted("a", Quoted::Escaped("1\\n3456")), text("1\n3456")),
            (|object| object.string("a", "1\n34567"), text("1\n34567")),
            (|object| object.raw("a", "\"1\\n345\""), text("1\n345")),
            (|object| object.raw("a", "[1,\r\n2]"), json("[1,  2]")),
        ];
        for (write, expected) in cases {
            let mut out = Vec::new();
            let mut room = Vec::new();
            let mut object = Object::begin_within(&mut out, 6, &mut room);
            object.string("fits", "123456");
            write(&mut object);
            object.string("another", "1234567");
            let Largest { name, value, taken_out } = object.end();
            assert_eq!((name, &out[value], taken_out), ("a", &b"\"\""[..], Some(expected)));
            assert_eq!(out, b"{\"fits\":\"123456\",\"a\":\"\",\"another\":\"1234567\"}");
        }
    }
}
